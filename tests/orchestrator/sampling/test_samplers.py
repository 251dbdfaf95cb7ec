"""Optuna's storage and samplers, without Ray."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator.files.layout import Runs
from orchestrator.sampling import samplers
from orchestrator.sampling.samplers import enqueue_grid, make_sampler
from orchestrator.study_file.spec import StudySpec
from tests.orchestrator.tiny import ONE_OBJECTIVE, TWO_OBJECTIVES, opened_study, tiny_spec

GRID = {"temperature.kind": {"choice": ["linear", "cosine"]}, "seed": {"int": [0, 2]}}
POINTS = [{"temperature.kind": kind, "seed": seed} for kind in ("linear", "cosine") for seed in (0, 1, 2)]


def enqueued(spec: StudySpec, url: str) -> list[object]:
    """Points that wait in the storage after a driver has opened it."""
    study = opened_study(spec, url)
    enqueue_grid(study, spec)
    return [trial.system_attrs["fixed_params"] for trial in study.get_trials(states=(TrialState.WAITING,))]


def test_study_is_created_once_and_found_again(tmp_path: Path) -> None:
    url = Runs(tmp_path).optuna_url()
    first = opened_study(tiny_spec(objectives=TWO_OBJECTIVES), url)
    first.tell(first.ask(), [0.5, 100.0])
    again = opened_study(tiny_spec(objectives=TWO_OBJECTIVES), url)
    assert [trial.values for trial in again.trials] == [[0.5, 100.0]]
    other = opened_study(tiny_spec(name="other", objectives=ONE_OBJECTIVE), url)
    assert other.trials == []


def test_study_that_cannot_be_named_leaves_no_name_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*words: object) -> None:
        raise optuna.exceptions.StorageInternalError("away")

    url = Runs(tmp_path).optuna_url()
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "set_metric_names", away)
        with pytest.raises(optuna.exceptions.StorageInternalError, match="away"):
            samplers.create_optuna_study(tiny_spec(), url)
    samplers.create_optuna_study(tiny_spec(), url)
    assert samplers.load_optuna_study(tiny_spec(), url).metric_names == ["child_val_error", "child_madds"]


def test_directions_follow_the_objectives(tmp_path: Path) -> None:
    objectives = [{"metric": "child_val_accuracy", "mode": "max"}, {"metric": "child_madds", "mode": "min"}]
    study = opened_study(tiny_spec(objectives=objectives), Runs(tmp_path).optuna_url())
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_grid_is_enqueued_once_also_when_reopened(tmp_path: Path) -> None:
    spec, url = tiny_spec(sampler="grid", sweep=GRID, trials=20), Runs(tmp_path).optuna_url()
    assert enqueued(spec, url) == POINTS
    assert enqueued(spec, url) == POINTS
    opened_study(spec, url).ask()
    assert enqueued(spec, url) == POINTS[1:]


def test_grid_stops_at_the_number_of_trials(tmp_path: Path) -> None:
    spec = tiny_spec(sampler="grid", sweep=GRID, trials=4)
    assert enqueued(spec, Runs(tmp_path).optuna_url()) == POINTS[:4]


def test_grid_is_completed_if_the_driver_was_killed_while_it_enqueued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, url = tiny_spec(sampler="grid", sweep=GRID, trials=20), Runs(tmp_path).optuna_url()
    monkeypatch.setattr(samplers, "grid_points", lambda sweep, limit: POINTS[:2])
    assert enqueued(spec, url) == POINTS[:2]
    monkeypatch.undo()
    assert enqueued(spec, url) == POINTS


def test_only_the_sampler_grid_enqueues(tmp_path: Path) -> None:
    assert enqueued(tiny_spec(sampler="random", sweep=GRID), Runs(tmp_path).optuna_url()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("nsga2", optuna.samplers.NSGAIISampler),
        ("gp", optuna.samplers.GPSampler),
        ("random", optuna.samplers.RandomSampler),
        ("grid", optuna.samplers.RandomSampler),  # the points wait in the storage
    ],
)
def test_sampler_is_the_one_of_the_study_file(name: str, kind: type) -> None:
    spec = tiny_spec(sampler=name, sweep=GRID)
    assert type(make_sampler(spec, 0)) is kind


def test_sampler_depends_on_the_seed_and_the_trial() -> None:
    def first_value(seed: int, number: int) -> float:
        study = optuna.create_study(sampler=make_sampler(tiny_spec(seed=seed, sampler="random"), number))
        return study.ask().suggest_float("x", 0, 1)

    assert first_value(0, 0) == first_value(0, 0)
    assert len({first_value(seed, number) for seed in (0, 1) for number in range(3)}) == 6
