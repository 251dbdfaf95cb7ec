"""A real study that is steered while it runs, while it does not, and across a killed driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from dashboards.formatting import HOURS
from dashboards.mlflow_store.mlflow_store import MlflowStore
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.decisions import Decisions, pending, post
from orchestrator.files.layout import Runs
from orchestrator.jobs import Parent
from orchestrator.study.study import Study
from tests.integration.studies import CLOCKS, StudyProcess
from tests.orchestrator.tiny import ONE_OBJECTIVE, SEARCH, Outcome, runs_of, snas, study_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EPOCHS = 20
STEERED: dict[str, Any] = study_data(
    name="steered",
    search={**SEARCH, "epochs": EPOCHS},
    sweep={"penalty.strength": {"uniform": [0.0, 0.1]}},
    objectives=ONE_OBJECTIVE,
    trials=2,
    max_concurrent=2,
    resources={"cpu": 0.5},
    storage={"keep": {"every": 5}},
)


class Steered(StudyProcess):
    """A study, and commands on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, STEERED)
        self._stopped = ExitStack()

    def hold(self, trial: int) -> None:
        """Stop it after its first epoch, since it must not end while commands are tried."""
        self._stopped.enter_context(self.held(1, (trial,)))

    def let_go(self) -> None:
        self._stopped.close()

    def said(self, *words: object, code: int = 0) -> str:
        done: Outcome = snas(*words, "--runs", self.runs)
        assert done.code == code, done.said
        return done.said

    @property
    def study(self) -> Study:
        return Study.load("steered", Runs(self.runs))

    @property
    def kinds(self) -> list[str]:
        return [entry["kind"] for entry in Decisions(self.study.folder.decisions_file).entries]


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steered]:
    process = Steered(tmp_path_factory.mktemp("steered"))
    try:
        process.start()
        process.hold(0)
        process.wait_until(lambda: process.journal(1).epochs != [])
        yield process
    finally:
        process.let_go()
        process.kill()


def test_while_it_runs(steered: Steered) -> None:
    steered.said("trial", "cancel", "steered", 1)
    cancelled = steered.journal(1)
    assert (cancelled.end, cancelled.reason) == ("cancelled", "cancelled by a user")
    assert "3 trials" in steered.said("study", "enqueue", "steered", "--set", "penalty.strength=0.05")
    steered.hold(2)
    assert "values: identical" in steered.said("study", "verify", "steered", "--epochs", 1)
    assert steered.study.trials()[2].values == {"penalty.strength": 0.05}
    assert "4 trials" in steered.said("study", "extend", "steered", "--trials", "+1")
    assert "must have failed or been stopped" in steered.said("trial", "retry", "steered", 0, code=2)


def test_notes_and_marks_of_people(steered: Steered) -> None:
    steered.said("trial", "note", "steered", 0, "looks odd")
    steered.said("trial", "star", "steered", 0)
    steered.said("trial", "tag", "steered", 0, "paper=yes", "round=2")
    steered.said("trial", "tag", "steered", 0, "round=")
    assert "must not begin with snas." in steered.said("trial", "tag", "steered", 0, "snas.end=x", code=2)
    steered.client.set_tag(run_named(steered, "trial-0000").info.run_id, "mlflow.note.content", "edited by a person")
    steered.client.set_tag(run_named(steered, "steered").info.run_id, "mlflow.note.content", "mine")


def test_paused_and_whole(steered: Steered) -> None:
    steered.let_go()
    steered.said("study", "pause", "steered")
    steered.finish()
    assert "paused by a user" in steered.log
    report = steered.said("study", "doctor", "steered")
    assert "the searches rest: paused by a user" in report
    assert "paused" in steered.said("study", "show", "steered")
    assert [trial.state for trial in steered.study.trials()][:2] == ["running", "cancelled"]


def test_killed_with_requests_underway(steered: Steered) -> None:
    before = [list(steered.journal(number).epochs) for number in (0, 2)]
    steered.resume()
    with steered.held(max(len(before[0]), 5) + 1, (0, 2)):
        eta = steered.study.trials()[0].values["penalty.strength"]
        fork = ("trial", "fork", "steered", 0, "--set", f"penalty.strength={eta!r}", "--epoch")
        refused = steered.said(*fork, 1, code=2)
        assert "must have a whole checkpoint after epoch 1, kept are those after" in refused
        kept = refused.partition("kept are those after ")[2].partition(";")[0]
        assert "5" in kept.replace(",", " ").split(), "and the latest, of which the worker may not have thinned out any"
        assert "1 trial forked from trial 0 after 5 epochs" in steered.said(*fork, 5)
        post(steered.study.folder.requests, "retry", trial=1)
        steered.kill()
    assert "steered" in steered.said("study", "doctor", "steered", code=1), "trials are unfinished, nothing else"
    steered.said("study", "enqueue", "steered", "--set", "penalty.strength=0.01")
    assert pending(steered.study.folder.requests) == []
    assert steered.study.spec.trials == 6
    for number, epochs in zip((0, 2), before, strict=True):
        assert steered.journal(number).epochs[: len(epochs)] == epochs


def test_budget_ends_it_and_a_larger_one_continues(steered: Steered) -> None:
    steered.start("resume", "steered", "--set", "budget.trials=4")
    steered.finish()
    assert "the budget of 4 trials is spent: no trial begins any more" in steered.log
    assert "whole" in steered.said("study", "doctor", "steered")
    assert "done (the budget of 4 trials is spent)" in steered.said("study", "show", "steered")
    assert run_tags(steered)["snas.ending"] == "the budget of 4 trials is spent"
    steered.start("resume", "steered", "--set", "budget.trials=null", "--set", "budget.hours=0.0000001")
    steered.finish()
    assert "done (the budget of 1e-07 hours is spent)" in steered.said("study", "show", "steered"), "at once"
    steered.said("trial", "fork", "steered", 2, "--epoch", 10, "--set", "penalty.strength=0.09")
    steered.start("resume", "steered", "--set", "budget.hours=24")
    steered.wait_until(lambda: len(steered.journal(6).epochs) > 10)
    steered.kill()
    report = steered.said("study", "doctor", "steered", code=1)
    assert "forked trials 2 ok" in report, "trials are unfinished, nothing else"
    steered.resume()
    steered.finish()
    assert "snas.ending" not in run_tags(steered)


def test_forks_continue_their_parents_exactly(steered: Steered) -> None:
    same, parent = ([exact(epoch) for epoch in steered.journal(number).epochs] for number in (3, 0))
    assert same == parent, "with the values of its parent a forked trial is that search"
    other, parent = (steered.journal(number).epochs for number in (6, 2))
    assert [exact(epoch) for epoch in other[:10]] == [exact(epoch) for epoch in parent[:10]]
    assert [epoch["metrics"]["eta"] for epoch in other] == [0.05] * 10 + [0.09] * 10
    assert [record.parent for record in steered.study.trials()] == [None] * 3 + [
        Parent(0, 5),
        None,
        None,
        Parent(2, 10),
    ]
    tags = run_named(steered, "trial-0006").data.tags
    assert (tags["snas.fork.trial"], tags["snas.fork.epoch"]) == ("2", "10")
    assert "forked from trial 2 after 10 epochs" in tags["mlflow.note.content"]
    assert "forked from trial 2 after 10 epochs" in steered.said("trial", "show", "steered", 6)
    own = sum(epoch["metrics"]["seconds"] for epoch in other[10:]) * 0.5 / 3600
    assert other[-1]["metrics"]["cpu_core_hours"] == pytest.approx(own), "those of the parent are counted there"
    kept = [file.name for file in CheckpointFolder(steered.checkpoints(6)).files()]
    assert kept == ["epoch-0020.pt", "epoch-0015.pt"]
    assert list(steered.checkpoints(6).parent.glob("fork-*")) == [], "no trial needs them any more"


def test_all_agree_at_the_end(steered: Steered) -> None:
    verified = steered.said("study", "verify", "steered", "--trials", 7, "--epochs", 1)
    assert "7 epochs, " in verified
    assert "values: identical" in verified
    assert run_named(steered, "trial-0006").data.tags["machine.threads"] == "1"
    assert "the study is whole" in steered.said("study", "doctor", "steered")
    records = steered.study.trials()
    assert [record.state for record in records] == [
        "complete",
        "cancelled",
        "complete",
        "complete",
        "complete",
        "complete",
        "complete",
    ]
    assert {record.epochs for record in records} - {EPOCHS} == {records[1].epochs}
    retried = next(record for record in records[4:] if record.values == records[1].values)
    again, first = steered.journal(retried.number).epochs, steered.journal(1).epochs
    assert [plain(epoch) for epoch in again[: len(first)]] == [plain(epoch) for epoch in first], "the same search again"
    assert run_tags(steered)["snas.trials"] == "7"
    overview = MlflowStore(f"sqlite:///{steered.runs}/mlflow.db").study("steered").overview
    assert (overview.num_trials, sum(overview.ended.values()), overview.ended["cancelled"]) == (7, 7, 1)
    assert "refused" in steered.kinds, "to try a trial again that runs"


def test_marks_and_edited_descriptions_survive(steered: Steered) -> None:
    tags = run_named(steered, "trial-0000").data.tags
    assert (tags["snas.end"], tags["mlflow.note.content"]) == ("complete", "edited by a person")
    assert run_tags(steered)["mlflow.note.content"] == "mine"
    assert "7 of 7 searches are over" in run_note(steered), "the experiment's own is not edited"
    shown = steered.said("trial", "show", "steered", 0)
    assert "starred, paper=yes" in shown
    assert "looks odd" in shown


def run_named(steered: Steered, name: str) -> Run:
    return next(run for run in runs_of(steered.client, "steered") if run.info.run_name == name)


def run_tags(steered: Steered) -> dict[str, str]:
    return dict(run_named(steered, "steered").data.tags)


def run_note(steered: Steered) -> str:
    experiment = steered.client.get_experiment_by_name("steered")
    return str(experiment.tags["mlflow.note.content"])


def exact(epoch: dict[str, Any]) -> dict[str, Any]:
    clocks = ("time", *CLOCKS, *HOURS)
    return {**epoch, "time": 0.0, "metrics": {k: v for k, v in epoch["metrics"].items() if k not in clocks}}


def plain(epoch: dict[str, Any]) -> dict[str, Any]:
    return {"genotype": epoch["genotype"], "loss": epoch["metrics"]["train_loss"]}
