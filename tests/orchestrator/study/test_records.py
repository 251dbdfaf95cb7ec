"""What is known of a study: front, ranks, what is retrained, the rows of the final table."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from orchestrator.driver.searcher import tell
from orchestrator.files.journal import End, Journal
from orchestrator.files.layout import TRUNK, Runs, StudyFolder, trial_label
from orchestrator.jobs import RetrainJob
from orchestrator.sampling.ranking import best_trials, ranked_trials
from orchestrator.study.records import (
    FORK_SHARE,
    FRONT_METRICS,
    ForkSavings,
    TrialRecord,
    fork_savings,
    front_rows,
    read_retrains,
    read_trials,
    retrain_jobs,
)
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep import suggest
from search_core.space.choices import Bits, CellChoices
from search_core.space.genotype import PUBLISHED, Genotype
from tests.orchestrator.tiny import (
    ONE_OBJECTIVE,
    RETRAIN,
    TWO_OBJECTIVES,
    cell_of,
    made_up_record,
    opened_study,
    tiny_spec,
)


class Known:
    """A study whose trials ended as the test says."""

    def __init__(self, folder: Path, spec: StudySpec) -> None:
        self.spec, self.folder = spec, Runs(folder).study(spec.name)
        self.study: optuna.Study = opened_study(spec, Runs(folder).optuna_url())

    def journal(self, number: int) -> Journal:
        return Journal(self.folder.journal("search", trial_label(number)))

    def add(
        self,
        error: float,
        madds: float = 100.0,
        *,
        end: End | None = "complete",
        cell: str = "sep_conv_3x3",
        choices: dict[str, Any] | None = None,
    ) -> int:
        """One more trial of two epochs; `end` None leaves it running."""
        trial = self.study.ask()
        suggest(trial, self.spec.sweep)
        journal = self.journal(trial.number)
        shared = dict.fromkeys(FRONT_METRICS, 0.25)
        journal.append_epoch(made_up_record(0, cell_of("max_pool_3x3"), child_val_error=0.99, child_madds=1.0))
        metrics = {**shared, "child_val_error": error, "child_madds": madds}
        journal.append_epoch(made_up_record(1, cell_of(cell), **metrics) | ({"choices": choices} if choices else {}))
        if end is not None:
            journal.finish(end, "" if end == "complete" else "a reason")
            tell(self.study, self.spec, trial.number, journal)
        return trial.number

    @property
    def trials(self) -> list[TrialRecord]:
        return read_trials(self.study, self.folder)

    @property
    def jobs(self) -> list[RetrainJob]:
        return retrain_jobs(self.study, self.spec, self.folder)


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., Known]:
    def make(**changes: Any) -> Known:
        defaults = {"objectives": TWO_OBJECTIVES, "sampler": "random", "trials": 9, "retrain": RETRAIN}
        return Known(tmp_path, tiny_spec(**{**defaults, **changes}))

    return make


def finish_retrain(folder: StudyFolder, label: str, accuracy: float) -> None:
    journal = Journal(folder.journal("retrain", label))
    journal.append_epoch({"epoch": 0, "metrics": {"val_accuracy": 0.5, "test_accuracy": accuracy}})
    journal.finish("complete")


def test_trials_are_read_from_storage_and_journals(known: Callable[..., Known]) -> None:
    study = known()
    study.add(0.5, cell="dil_conv_3x3")
    study.add(0.4, end="failed")
    study.add(0.6, end=None)
    study.study.enqueue_trial({"penalty.strength": 1e-3})
    first, failed, running = study.trials
    assert (first.number, first.state, first.epochs, first.reason) == (0, "complete", 2, "")
    assert first.metrics["child_val_error"] == 0.5
    assert first.genotype is not None
    assert Genotype.from_dict(first.genotype) == cell_of("dil_conv_3x3")
    assert first.values == study.study.trials[0].params
    assert (failed.state, failed.reason, failed.on_front) == ("failed", "a reason", False)
    assert (running.state, running.epochs, running.on_front) == ("running", 2, False)


@pytest.mark.parametrize("objectives", [ONE_OBJECTIVE, TWO_OBJECTIVES])
def test_stopped_trial_is_shown_as_stopped(known: Callable[..., Known], objectives: list[dict[str, str]]) -> None:
    study = known(objectives=objectives)
    study.add(0.5, end="stopped")
    assert [(trial.state, trial.reason) for trial in study.trials] == [("stopped", "a reason")]


def test_collapsed_trial_is_shown_as_collapsed_and_on_no_front(known: Callable[..., Known]) -> None:
    study = known()
    study.add(0.9, 0.0, end="collapsed")
    study.add(0.5)
    assert [(trial.state, trial.on_front) for trial in study.trials] == [("collapsed", False), ("complete", True)]


def test_faults_that_a_trial_survived_are_counted(known: Callable[..., Known]) -> None:
    study = known()
    study.add(0.5, end=None)
    for event in ("restart", "hang", "restart"):
        study.journal(0).note(event, "no report")  # type: ignore[arg-type]
    study.journal(0).finish("complete")
    assert [trial.survived for trial in study.trials] == [{"restart": 2, "hang": 1}]


@pytest.mark.parametrize(
    ("gpu", "hours", "kind"), [(0.25, 2 * 90 * 0.25 / 3600, "GPU"), (0.0, 2 * 90 * 4 / 3600, "CPU")]
)
def test_savings_of_a_fork_are_what_its_other_trials_would_have_reserved(
    known: Callable[..., Known], gpu: float, hours: float, kind: str
) -> None:
    study = known(fork={"epoch": 1})
    for _ in range(3):
        study.add(0.5)
    study.study.ask()  # has not begun, and saved nothing yet
    assert fork_savings(study.study, study.spec, study.folder) is None, "not before the shared epochs are over"
    trunk = Journal(study.folder.journal("trunk", TRUNK))
    trunk.append_epoch(made_up_record(0, seconds=90.0))
    trunk.finish("complete")
    study.study.set_user_attr(FORK_SHARE, {"cpu": 4.0, "gpu": gpu, "memory_gb": None})
    assert fork_savings(study.study, study.spec, study.folder) == ForkSavings(1, 3, pytest.approx(hours), kind)  # type: ignore[arg-type]
    assert fork_savings(study.study, known(name="other").spec, study.folder) is None, "only with a fork"


def test_fork_of_one_trial_saves_nothing(known: Callable[..., Known]) -> None:
    study = known(fork={"epoch": 1})
    trunk = Journal(study.folder.journal("trunk", TRUNK))
    trunk.append_epoch(made_up_record(0, seconds=90.0))
    study.study.set_user_attr(FORK_SHARE, {"cpu": 4.0, "gpu": 0.0, "memory_gb": None})
    for count in (0, 1):
        savings = fork_savings(study.study, study.spec, study.folder)
        assert savings is not None
        assert (savings.trials, savings.hours) == (count, 0.0)
        study.add(0.5)


def test_front_holds_what_no_other_trial_beats_in_both(known: Callable[..., Known]) -> None:
    study = known()
    assert best_trials(study.study) == []
    study.add(0.5, 100)
    study.add(0.3, 200)
    study.add(0.5, 150)  # beaten by 0
    study.add(0.1, 300, end="failed")
    study.add(0.2, 400)
    assert [trial.number for trial in best_trials(study.study)] == [0, 1, 4]
    assert [trial.number for trial in study.trials if trial.on_front] == [0, 1, 4]


def test_front_of_one_objective_is_the_best_complete_trial(known: Callable[..., Known]) -> None:
    study = known(objectives=[{"metric": "child_val_error", "mode": "max"}])
    study.add(0.9, end="stopped")
    assert best_trials(study.study) == []
    study.add(0.4)
    study.add(0.7)
    study.add(0.95, end="failed")
    assert [trial.number for trial in best_trials(study.study)] == [2]


@pytest.mark.parametrize(("mode", "order"), [("min", [1, 3, 0, 2]), ("max", [2, 0, 1, 3])])
def test_trials_are_ranked_by_the_first_objective(known: Callable[..., Known], mode: str, order: list[int]) -> None:
    objectives = [{"metric": "child_val_error", "mode": mode}, {"metric": "child_madds", "mode": "min"}]
    study = known(objectives=objectives)
    for error in (0.5, 0.3, 0.7, 0.3):
        study.add(error)
    study.add(0.0 if mode == "min" else 1.0, end="failed")
    assert [trial.number for trial in ranked_trials(study.study)] == order


def test_retrain_jobs_are_the_front_with_every_seed(known: Callable[..., Known]) -> None:
    study = known(seed=7, retrain={**RETRAIN, "seeds": 2})
    assert study.jobs == []
    study.add(0.5, 100, cell="skip_connect")
    study.add(0.6, 200, cell="max_pool_3x3")  # beaten
    study.add(0.3, 200, cell="sep_conv_3x3")
    assert [(job.trial, job.genotype, job.seed) for job in study.jobs] == [
        (0, cell_of("skip_connect"), 7),
        (0, cell_of("skip_connect"), 8),
        (2, cell_of("sep_conv_3x3"), 7),
        (2, cell_of("sep_conv_3x3"), 8),
    ]
    assert [job.label for job in study.jobs] == ["0000-seed7", "0000-seed8", "0002-seed7", "0002-seed8"]


def test_cell_that_several_trials_found_is_retrained_once(known: Callable[..., Known]) -> None:
    study = known()
    study.add(0.5, 100, cell="skip_connect")
    study.add(0.4, 200, cell="sep_conv_3x3")
    study.add(0.3, 300, cell="skip_connect")
    assert [trial.number for trial in best_trials(study.study)] == [0, 1, 2]
    assert [job.trial for job in study.jobs] == [0, 1]


def test_cells_with_other_channels_or_bits_are_other_cells(known: Callable[..., Known]) -> None:
    study = known(retrain={**RETRAIN, "top": "all"})
    narrow, wide = CellChoices((0.5,) * 3, (Bits(2, 4),) * 3), CellChoices((1.0,) * 3, (Bits(2, 4),) * 3)
    for choices in (narrow, wide, narrow):
        study.add(0.5, choices={**choices.to_dict(), "channels": [2, 4, 8], "bit_operations": 7})
    study.add(0.5, choices={"channels": [2, 4, 8], "bits": [2, 2, 2], "bit_operations": 7})  # of an earlier version
    assert [(job.trial, job.choices) for job in study.jobs] == [(0, narrow), (1, wide), (3, None)]
    assert len({job.genotype for job in study.jobs}) == 1
    cells = [trial.cell for trial in study.trials]
    assert cells[0] == cells[2]
    assert len(set(cells)) == 3


def test_retrain_jobs_are_the_top_trials(known: Callable[..., Known]) -> None:
    study = known(retrain={**RETRAIN, "top": 2})
    for error, cell in ((0.5, "skip_connect"), (0.2, "sep_conv_3x3"), (0.3, "dil_conv_3x3")):
        study.add(error, cell=cell)
    assert [job.trial for job in study.jobs] == [1, 2]


def test_retrain_job_of_a_named_cell(known: Callable[..., Known]) -> None:
    study = known(sweep={}, trials=0, retrain={**RETRAIN, "genotype": "SNAS_mild", "seeds": 2}, seed=3)
    assert [(job.trial, job.genotype) for job in study.jobs] == [(None, PUBLISHED["SNAS_mild"])] * 2
    assert [job.label for job in study.jobs] == ["cell-seed3", "cell-seed4"]


def test_retrains_are_read_from_their_journals(known: Callable[..., Known]) -> None:
    study = known(retrain={**RETRAIN, "seeds": 3})
    study.add(0.5)
    finish_retrain(study.folder, "0000-seed0", 0.75)
    Journal(study.folder.journal("retrain", "0000-seed1")).finish("failed", "the worker died")
    done, failed, open_one = read_retrains(study.jobs, study.folder)
    assert (done.label, done.trial, done.seed, done.state, done.epochs) == ("0000-seed0", 0, 0, "complete", 1)
    assert done.metrics["test_accuracy"] == 0.75
    assert (failed.state, failed.reason, failed.metrics) == ("failed", "the worker died", {})
    assert (open_one.state, open_one.epochs) == ("running", 0)


def test_front_rows_show_what_was_asked_found_and_retrained(known: Callable[..., Known]) -> None:
    sweep = {
        "penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1]},
        "temperature.kind": {"choice": ["cosine"]},
    }
    study = known(sweep=sweep, retrain={**RETRAIN, "seeds": 2})
    study.add(0.5, 100, cell="skip_connect")
    study.add(0.3, 200, cell="sep_conv_3x3")
    study.add(0.3, 300, cell="dil_conv_3x3")  # beaten
    finish_retrain(study.folder, "0001-seed0", 0.75)
    finish_retrain(study.folder, "0001-seed1", 0.25)
    rows = front_rows(study.trials, read_retrains(study.jobs, study.folder), study.spec)
    assert [row["trial"] for row in rows] == [1, 0], "by the first objective"
    best, cheap = rows
    assert best["eta"] == study.study.trials[1].params["penalty.strength"]
    assert best["temperature"] == f"cosine to {study.spec.search.temperature.end:.2f}"
    assert best["supernet_val_accuracy"] == 0.25
    assert (best["child_madds"], cheap["child_madds"]) == (200, 100)
    assert best["test_accuracy"] == 0.5
    assert best["test_accuracy_sd"] == pytest.approx(math.sqrt(0.125))  # sample standard deviation of 3/4 and 1/4
    assert (cheap["test_accuracy"], cheap["test_accuracy_sd"]) == (None, None)
    assert Genotype.from_dict(best["genotype"]) == cell_of("sep_conv_3x3")


def test_front_rows_share_the_retraining_of_a_cell_that_several_trials_found(known: Callable[..., Known]) -> None:
    study = known()
    study.add(0.5, 100, cell="skip_connect")
    study.add(0.4, 200, cell="sep_conv_3x3")
    study.add(0.3, 300, cell="skip_connect")
    finish_retrain(study.folder, "0000-seed0", 0.75)
    rows = front_rows(study.trials, read_retrains(study.jobs, study.folder), study.spec)
    assert [(row["trial"], row["test_accuracy"]) for row in rows] == [(2, 0.75), (1, None), (0, 0.75)]


def test_front_rows_put_the_largest_first_where_more_is_better(known: Callable[..., Known]) -> None:
    objectives = [{"metric": "child_val_error", "mode": "max"}, {"metric": "child_madds", "mode": "min"}]
    study = known(objectives=objectives, retrain=None)
    study.add(0.3, 100)
    study.add(0.7, 200)
    assert [row["trial"] for row in front_rows(study.trials, [], study.spec)] == [1, 0]
