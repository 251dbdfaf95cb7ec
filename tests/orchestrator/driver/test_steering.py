"""Requests to a study: decided once, carried out to the end whoever is killed, refused with the rule."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.budget import BudgetWatch
from orchestrator.driver.forking import explored, forked_values, keep_fork_point, own_records
from orchestrator.driver.searcher import tell
from orchestrator.driver.steering import Steering, ask
from orchestrator.errors import OrchestratorError
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.decisions import Decisions, Ending, pending, post
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs, trial_label
from orchestrator.files.lock import driver_lock
from orchestrator.jobs import Parent
from orchestrator.study.lineage import FORK as FORK_TAG
from orchestrator.study.lineage import taken_over
from orchestrator.study.records import num_open
from orchestrator.study.study import Study
from orchestrator.study_file.sweep import SweepEntry, suggest
from orchestrator.study_file.sweep_check import checked_values
from orchestrator.study_file.yaml_file import dump_yaml
from search_core.errors import OptionsError
from tests.orchestrator.tiny import ONE_OBJECTIVE, made_up_record, opened_study, snas, tiny_spec, written_journal

SWEEP = {
    "penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1]},
    "temperature.kind": {"choice": ["linear", "exponential"]},
    "temperature.rate": {"uniform": [0.1, 0.9], "when": {"temperature.kind": "exponential"}},
}


FORK = ("trial", "fork", "steered", 0, "--epoch")


@pytest.mark.parametrize(
    ("entry", "value", "up", "down"),
    [
        ({"log_uniform": [1.0e-5, 1.0e-1]}, 1.0e-2, 1.25e-2, 0.8e-2),
        ({"log_uniform": [1.0e-5, 1.0e-1]}, 0.9e-1, 0.72e-1, 0.72e-1),
        ({"uniform": [0, 1]}, 0.0, 0.1, 0.1),
        ({"int": [1, 3]}, 2, 3, 1),
        ({"choice": ["a", "b", "c"]}, "b", "c", "a"),
        ({"choice": [0.1, 0.2]}, 0.2, 0.2, 0.1),
        ({"choice": [None]}, None, None, None),
    ],
)
def test_settings_nearby_stay_in_the_range(entry: dict[str, Any], value: Any, up: Any, down: Any) -> None:
    sweep = {"penalty.strength": SweepEntry.from_data(entry), "seed": SweepEntry.from_data({"int": [0, 9]})}
    found = [explored(sweep, {"penalty.strength": value, "seed": 3}, iter(draws).__next__) for draws in ([0.0], [0.9])]
    assert [list(settings) for settings in found] == [["penalty.strength"]] * 2, "the seed is the parent's"
    assert [settings["penalty.strength"] for settings in found] == [pytest.approx(up), pytest.approx(down)]


def begun(root: Path, *ends: str | None, **changes: Any) -> Study:
    """A study with a trial for each of these ends; None is one that is unfinished."""
    study = Study(tiny_spec(**{"name": "steered", "sweep": SWEEP, "objectives": ONE_OBJECTIVE, **changes}), Runs(root))
    study.folder.path.mkdir(parents=True)
    study.folder.spec_file.write_text(dump_yaml(study.spec.resolved()), encoding="utf-8")
    stored = opened_study(study.spec, study.runs.optuna_url())
    for number, end in enumerate(ends):
        suggest(stored.ask(), study.spec.sweep)
        file = study.folder.journal("search", trial_label(number))
        records = [made_up_record(0, child_val_error=0.5, seconds=3.0, gpu_hours=0.5)]
        written_journal(file, records, end, "" if end in (None, "complete") else "as the test wants it")
        if end is not None:
            tell(stored, study.spec, number, Journal(file))
    return study


def checkpointed(study: Study, trial: int, *epochs: int) -> None:
    folder = CheckpointFolder(study.folder.checkpoints(study.spec, "search", trial_label(trial)))
    for epoch in epochs:
        folder.save(epoch, {"epoch": epoch}, None)


def test_own_records_are_those_of_all_that_have_begun_whatever_is_queued_before(tmp_path: Path) -> None:
    study = begun(tmp_path, "complete")
    stored = study.optuna_study
    parent = {"trial": 0, "epoch": 1}
    stored.enqueue_trial(stored.trials[0].params, user_attrs={FORK_TAG: parent})
    late = stored._storage.create_new_trial(stored._study_id)  # as another asks for a trial before the queued one runs
    assert late
    records = [made_up_record(0, child_val_error=0.4)]
    written_journal(study.folder.journal("search", "0002"), records)
    assert {label: len(own) for label, own in own_records(study)} == {"0000": 1, "0002": 1}
    written_journal(study.folder.journal("search", "0001"), [*records, made_up_record(1, child_val_error=0.3)])
    stored.ask()
    assert {label: len(own) for label, own in own_records(study)} == {"0000": 1, "0001": 1, "0002": 1}


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in Study.load("steered", study.runs).optuna_study.get_trials(deepcopy=False)]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One trial is complete, one unfinished; for tests that change nothing of it."""
    study = begun(tmp_path_factory.mktemp("half"), "complete", None)
    checkpointed(study, 0, 1, 2)  # the second is ahead of the journal
    return study


@pytest.mark.slow
def test_commands_on_a_study_that_does_not_run(tmp_path: Path) -> None:
    study = begun(tmp_path, "complete", "failed", None)

    def said(*words: object) -> str:
        done = snas(*words, "--runs", tmp_path)
        assert done.code == 0, done.said
        return done.said

    assert "the study has 5 trials now; `snas study resume steered" in said(
        "study", "extend", "steered", "--trials", "+2"
    )
    assert "trial 1 is tried again" in said("trial", "retry", "steered", 1)
    assert "trial 2 is cancelled" in said("trial", "cancel", "steered", 2)
    assert "queued penalty.strength=0.01" in said("study", "enqueue", "steered", "--set", "penalty.strength=0.01")
    fresh = Study.load("steered", study.runs)
    assert fresh.spec.trials == 6, "the queued trial is one of those that were left"
    assert states(study) == ["COMPLETE", "FAIL", "PRUNED", "WAITING", "WAITING"]
    assert (Journal(study.folder.journal("search", "0002")).end, fresh.trials()[2].state) == ("cancelled", "cancelled")
    queued = fresh.optuna_study.get_trials(deepcopy=False)
    assert queued[3].system_attrs["fixed_params"] == queued[1].params
    assert fresh.num_open_trials() == 3
    assert [entry["kind"] for entry in Decisions(study.folder.decisions_file).entries] == [
        "extend",
        "retry",
        "cancel",
        "enqueue",
    ]
    assert pending(study.folder.requests) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("study", "extend", "steered", "--trials", "20"), "--trials must be + and a number of at least 1, as in +20"),
        (("study", "pause", "steered"), "must be running to be paused: no driver is at work"),
        (("trial", "cancel", "steered", 0), "trial 0 must be running or unfinished to be cancelled, it is complete"),
        (("trial", "cancel", "steered", 7), "the study must have trial 7, it has 2"),
        (
            ("trial", "retry", "steered", 0),
            "trial 0 must have failed or been stopped to be tried again, it is complete",
        ),
        (("trial", "retry", "steered", 1), "it is unfinished"),
        (("study", "enqueue", "steered", "--set", "penalty.strength=2"), "must be log_uniform in [1e-05, 0.1], got 2"),
        (("study", "enqueue", "steered", "--set", "penalty.cost=mix"), "`penalty.cost` must be a swept key"),
        (
            ("study", "enqueue", "steered", "--set", "temperature.rate=0.5"),
            "must be given with `temperature.kind` expo",
        ),
        (("study", "enqueue", "steered", "--set", "penalty.strength"), "must have the form key=value"),
        ((*FORK, 1, "--set", "penalty.strength=2"), "must be log_uniform in [1e-05, 0.1], got 2"),
        ((*FORK, 1), "at least one `--set KEY=VALUE` must be given"),
        ((*FORK, 1, "--set", "seed=1"), "`seed` must be a swept key of penalty, temperature, constraints (penalty.str"),
        ((*FORK, 2, "--set", "penalty.strength=0.01"), "--epoch must be below 2, after which trial 0 is over, got 2"),
        (
            (*FORK[:3], 1, *FORK[4:], 1, "--trials", 2),
            "whole checkpoint after epoch 1, kept are none; `storage.keep.ev",
        ),
        ((*FORK[:3], 7, *FORK[4:], 1, "--trials", 2), "the study must have trial 7, it has 2"),
    ],
)
def test_refused(words: tuple[object, ...], rule: str, half: Study) -> None:
    done = snas(*words, "--runs", half.runs.root)
    assert done.code == 2
    assert rule in done.said
    assert pending(half.folder.requests) == []
    assert states(half) == ["COMPLETE", "RUNNING"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("extend", {"more": 4}),
        ("retry", {"trial": 0}),
        ("cancel", {"trial": 1}),
        ("fork", {"trial": 0, "epoch": 1, "values": {"penalty.strength": 0.1}, "count": 2}),
    ],
)
def test_killed_between_decision_and_deed(kind: Any, facts: dict[str, Any], tmp_path: Path) -> None:
    study = begun(tmp_path, "failed", None)
    checkpointed(study, 0, 1)
    request = post(study.folder.requests, kind, **facts)
    text = request.file.read_text(encoding="utf-8")
    first = Steering(Study.load("steered", study.runs))
    first._carry_out = lambda decision: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.take()
    for _ in range(2):  # the second time as if it was killed before the request was gone
        request.file.write_text(text, encoding="utf-8")
        assert [decision["kind"] for decision in Steering(Study.load("steered", study.runs)).take()] == [kind]
    fresh = Study.load("steered", study.runs)
    assert fresh.spec.trials == {"extend": 7, "retry": 4, "cancel": 3, "fork": 5}[kind]
    left = {"cancel": ["PRUNED"], "retry": ["RUNNING", "WAITING"], "fork": ["RUNNING", "WAITING", "WAITING"]}
    assert states(study) == ["FAIL", *left.get(kind, ["RUNNING"])]
    assert len(Decisions(study.folder.decisions_file).entries) == 1


def test_forked_values_are_the_parents_but_for_what_is_given_or_drawn() -> None:
    spec = tiny_spec(sweep={**SWEEP, "seed": {"int": [0, 9]}})
    parent = {"penalty.strength": 0.01, "temperature.kind": "exponential", "temperature.rate": 0.5, "seed": 3}
    assert forked_values(spec, parent, {"penalty.strength": 0.1}, 1) == {**parent, "penalty.strength": 0.1}
    assert forked_values(spec, parent, {"penalty.strength": 0.1}, 4) == {"penalty.strength": 0.1, "seed": 3}
    linear = {"temperature.kind": "linear"}
    assert forked_values(spec, parent, linear, 1) == {"penalty.strength": 0.01, "seed": 3, **linear}
    single = tiny_spec(sweep={"penalty.strength": SWEEP["penalty.strength"]})
    with pytest.raises(OrchestratorError, match="--trials must be 1, got 2: `--set` leaves nothing that could differ"):
        forked_values(single, {"penalty.strength": 0.01}, {"penalty.strength": 0.1}, 2)


def test_checkpoint_of_another_epoch_or_a_damaged_one_is_refused_with_those_that_are_kept(tmp_path: Path) -> None:
    study = Study(tiny_spec(name="steered"), Runs(tmp_path))
    checkpointed(study, 0, 5, 6)
    folder = CheckpointFolder(study.folder.checkpoints(study.spec, "search", "0000"))
    journal = Journal(written_journal(tmp_path / "0000.jsonl", [made_up_record(epoch) for epoch in range(6)]))
    with pytest.raises(OrchestratorError, match="whole checkpoint after epoch 4, kept are those after 5, 6; `storage"):
        keep_fork_point(study, Parent(0, 4), journal)
    keep_fork_point(study, Parent(0, 5), journal)
    for file in folder.files():
        file.write_bytes(b"damaged")
    keep_fork_point(study, Parent(0, 5), journal)  # it is there
    with pytest.raises(OrchestratorError, match="whole checkpoint after epoch 6"):
        keep_fork_point(study, Parent(0, 6), journal)
    assert [path.name for path in study.folder.storage(study.spec).glob("fork-*")] == ["fork-0000-0005"]


def test_hours_of_a_parent_are_not_those_of_its_fork(tmp_path: Path) -> None:
    records = [made_up_record(epoch, gpu_hours=epoch + 1.0, train_loss=0.5) for epoch in range(3)]
    journal = Journal(written_journal(tmp_path / "0000.jsonl", records))
    taken = [record["metrics"] for record in taken_over(journal, 2, 1.5)]
    assert taken == [{"gpu_hours": 1.0, "train_loss": 0.5}, {"gpu_hours": 1.5, "train_loss": 0.5}]


@pytest.mark.slow
def test_two_commands_at_once_both_count(tmp_path: Path) -> None:
    study = begun(tmp_path, "complete")
    threads = [threading.Thread(target=ask, args=(study, "extend"), kwargs={"more": 1}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Study.load("steered", study.runs).spec.trials == 5


@pytest.mark.slow
def test_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begun(tmp_path, "complete")
    monkeypatch.setattr("orchestrator.driver.steering._PATIENCE_S", 0.0)
    with driver_lock(study.folder.lock_file, "steered"), pytest.raises(OrchestratorError, match="takes the request"):
        ask(study, "extend", more=1)
    assert len(pending(study.folder.requests)) == 1
    ask(study, "extend", more=1)
    assert Study.load("steered", study.runs).spec.trials == 5, "both"


def test_full_disk_leaves_no_half_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begun(tmp_path, "complete")
    requested = post(study.folder.requests, "extend", more=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        post(study.folder.requests, "extend", more=2)
    assert list(study.folder.requests.iterdir()) == [requested.file]
    monkeypatch.setattr("orchestrator.driver.steering.post", lambda folder, kind, **facts: requested)
    monkeypatch.setattr("orchestrator.files.json_lines.JsonLines.append", full)
    with pytest.raises(OSError, match="No space"):
        ask(study, "extend", more=1)
    assert not requested.file.exists(), "what failed is not done later"


@pytest.mark.slow
def test_request_that_is_none_is_refused_and_gone(tmp_path: Path) -> None:
    study = begun(tmp_path, "complete")
    study.folder.requests.mkdir()
    (study.folder.requests / "0.json").write_text("{", encoding="utf-8")
    (study.folder.requests / "1.json").write_text('{"kind": "extend", "less": 1}', encoding="utf-8")
    assert [decision["kind"] for decision in Steering(study).take()] == ["refused", "refused"]
    assert pending(study.folder.requests) == []


def test_values_are_those_that_optuna_may_draw() -> None:
    sweep = tiny_spec(sweep={**SWEEP, "seed": {"int": [0, 9]}}).sweep
    assert checked_values(sweep, {"penalty.strength": 0.1, "seed": 3}) == {"penalty.strength": 0.1, "seed": 3}
    for values in (
        {"seed": 3.0},
        {"seed": True},
        {"seed": 10},
        {"penalty.strength": "mild"},
        {"temperature.kind": [1]},
    ):
        with pytest.raises(OptionsError):
            checked_values(sweep, values)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"trials": 2}, "the budget of 2 trials is spent"),
        ({"trials": 3}, None),
        ({"gpu_hours": 1.0}, "the budget of 1 GPU hours is spent"),
        ({"gpu_hours": 1.1}, None),
        ({"target": {"metric": "child_val_error", "value": 0.5}}, "trial 0 reached the target: child_val_error 50.00%"),
        ({"target": {"metric": "child_val_error", "value": 0.4}}, None),
        ({"hours": 1.0}, "the budget of 1 hours is spent"),
        ({"hours": 1.2}, None),
    ],
)
def test_budget_is_spent(budget: dict[str, Any], reason: str | None, half: Study, tmp_path: Path) -> None:
    spec = tiny_spec(name="steered", sweep=SWEEP, objectives=ONE_OBJECTIVE, budget=budget, resources={"gpu": 1})
    study, decisions = Study(spec, half.runs), Decisions(tmp_path / "decisions.jsonl")
    for kind, time in (("begin", 0.0), ("end", 1800.0), ("begin", 9000.0), ("end", 11000.0)):
        decisions.append(kind, time=time)
    found = BudgetWatch(study, decisions).spent()
    assert (found.reason if found else None) == reason


@pytest.mark.slow
def test_target_is_looked_at_when_optuna_has_the_end(tmp_path: Path) -> None:
    study = begun(tmp_path, None, budget={"target": {"metric": "child_val_error", "value": 0.5}})
    watch = BudgetWatch(study, Decisions(study.folder.decisions_file))
    journal = Journal(study.folder.journal("search", "0000"))
    journal.finish("complete")
    watch.saw(0, journal)
    assert watch.spent() is None
    tell(study.optuna_study, study.spec, 0, journal)
    assert watch.spent() == Ending("budget", "trial 0 reached the target: child_val_error 50.00%", "finish")


def test_hours_of_a_driver_that_was_killed_last_until_its_last_report(tmp_path: Path) -> None:
    study = begun(tmp_path, None, budget={"hours": 2.0})
    decisions = Decisions(study.folder.decisions_file)
    reported = study.folder.journal("search", "0000").stat().st_mtime
    decisions.append("begin", time=reported - 7300.0)
    watch = BudgetWatch(study, decisions)
    assert watch.spent() is None
    watch.begin()
    assert watch.spent() is not None
    assert [entry["kind"] for entry in decisions.entries] == ["begin", "end", "begin"]


def test_study_is_over_when_its_budget_is(half: Study) -> None:
    found = {
        on_end: num_open(half.optuna_study, half.spec, Ending("budget", "spent", on_end))  # type: ignore[arg-type]
        for on_end in ("finish", "checkpoint")
    }
    assert (half.num_open_trials(), found) == (2, {"finish": 1, "checkpoint": 0})
