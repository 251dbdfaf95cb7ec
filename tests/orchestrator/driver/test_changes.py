"""What of a study file may change between run and resume, and how the doctor reports what must not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from orchestrator.doctor.case import Case, read_recorded
from orchestrator.doctor.report import Finding, Notes
from orchestrator.doctor.settings import check_settings
from orchestrator.driver import changes as study_changes
from orchestrator.driver.changes import forbidden_changes, keep_settings, require_unchanged, tracked_settings
from orchestrator.errors import ConfigError
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import suggest
from orchestrator.study_file.yaml_file import dump_yaml
from orchestrator.tracking.run_spec import flatten
from search_core.cost.latency_table import LatencyTable, Place, Timing
from search_core.space.genotype import PUBLISHED
from tests.orchestrator.tiny import (
    ETA,
    ONE_OBJECTIVE,
    RETRAIN,
    SEARCH,
    made_up_record,
    opened_study,
    tiny_spec,
    written_journal,
)

NOWHERE = "sqlite:///nowhere.db"


class Begun:
    """A study as it was begun with a spec, and one trial of it."""

    def __init__(self, root: Path, spec: StudySpec, *, is_kept: bool = True) -> None:
        self.runs = Runs(root)
        self.folder = self.runs.study(spec.name)
        self.folder.path.mkdir()
        self.folder.spec_file.write_text(dump_yaml(spec.resolved()), encoding="utf-8")
        self.optuna: optuna.Study = opened_study(spec, self.runs.optuna_url())
        if is_kept:
            keep_settings(self.optuna, spec, self.folder)
        suggest(self.optuna.ask(), spec.sweep)

    def changes(self, spec: StudySpec) -> dict[str, tuple[Any, Any]]:
        found = forbidden_changes(self.optuna, spec, self.folder, NOWHERE)
        return {difference.key: (difference.before, difference.now) for difference in found}

    def retrained(self) -> None:
        written_journal(self.folder.journal("retrain", "0000-seed0"), [made_up_record(0)])


def searched(**changes: Any) -> dict[str, Any]:
    """A study file with other settings of `search`."""
    return {"search": {**SEARCH, **changes}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trials": 5},
        {"trials": 1},
        {"max_concurrent": 1},
        {"resources": {"cpu": 2.0, "memory_gb": 3.0}},
        {"failure": {"max_failures": 0, "timeout_s": 60.0}},
        {"tracking": {"picture_every": 0}},
        {"retrain": RETRAIN},
        searched(dataset={**SEARCH["dataset"], "root": "/elsewhere", "workers": 0}),
        searched(network={**SEARCH["network"], "recompute": True}),
    ],
)
def test_what_does_not_touch_trials_may_change(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert Begun(tmp_path, tiny_spec()).changes(tiny_spec(**changes)) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (searched(network={**SEARCH["network"], "nodes": 1}), {"search.network.nodes": (2, 1)}),
        (searched(epochs=3), {"search.epochs": (2, 3)}),
        (searched(precision="bfloat16") | {"resources": {"gpu": 1}}, {"search.precision": ("float32", "bfloat16")}),
        (searched(strategy={"kind": "darts"}), {"search.strategy.kind": ("snas", "darts")}),
        (searched(constraints={"params": {"max": 9.0}}), {"search.constraints.params": (None, {"max": 9.0})}),
        ({"seed": 1}, {"seed": (0, 1)}),
        ({"sampler": "random"}, {"sampler": ("tpe", "random")}),
        ({"objectives": ONE_OBJECTIVE}, {"objectives": None}),
        ({"sweep": {"penalty.strength": {"choice": [0.1, 0.2]}}}, {"sweep.penalty.strength": None}),
        ({"sweep": {**ETA, "theta.lr": {"choice": [0.1]}}}, {"sweep.theta.lr": (None, {"choice": [0.1]})}),
        ({"scheduler": "asha"}, {"scheduler.kind": ("none", "asha")}),
        ({"stop": {"patience": 9}}, {"stop.patience": (5, 9)}),
        ({"fork": {"epoch": 1}}, {"fork": (None, {"epoch": 1})}),
        ({"warm_start": {"experiment": "other"}}, {"warm_start": (None, {"experiment": "other", "top": 5})}),
        ({"tracking": {"uri": "http://127.0.0.1:1"}}, {"tracking.uri": (None, "http://127.0.0.1:1")}),
        ({"storage": {"path": "/shared"}}, {"storage.path": (None, "/shared")}),
        ({"seed": 3} | searched(epochs=3, batch_size=8), dict.fromkeys(["seed", "search.epochs", "search.batch_size"])),
    ],
)  # fmt: skip
def test_all_else_is_refused_with_both_values(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, tuple[Any, Any] | None]
) -> None:
    found = Begun(tmp_path, tiny_spec()).changes(tiny_spec(**changes))
    assert set(found) == set(expected)
    assert all(values is None or found[key] == values for key, values in expected.items())


def test_trials_do_not_fall_below_those_that_have_begun(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec())
    begun.optuna.ask()
    assert begun.changes(tiny_spec(trials=2)) == {}
    assert begun.changes(tiny_spec(trials=1)) == {"trials": (3, 1)}


def test_retraining_may_change_until_the_first_has_begun(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec(retrain={**RETRAIN, "seeds": 2}))
    shorter, fewer = {**RETRAIN, "seeds": 2, "lr": 0.5}, {**RETRAIN, "seeds": 1}
    assert begun.changes(tiny_spec(retrain=shorter)) == {}
    begun.retrained()
    assert begun.changes(tiny_spec(retrain=shorter)) == {"retrain.lr": (0.025, 0.5)}
    assert begun.changes(tiny_spec(retrain=fewer)) == {"retrain.seeds": (2, 1)}
    assert list(begun.changes(tiny_spec())) == ["retrain"]
    assert begun.changes(tiny_spec(retrain={**RETRAIN, "seeds": 3, "workers": 2})) == {}


def test_what_moves_with_the_folder_of_runs_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "former").mkdir()
    Begun(tmp_path / "former", tiny_spec(storage={"path": str(tmp_path / "former" / "checkpoints")}))
    runs = Runs((tmp_path / "former").rename(tmp_path / "now"))

    def changes(place: str) -> list[str]:
        spec = tiny_spec(storage={"path": str(tmp_path / place / "checkpoints")})
        found = forbidden_changes(opened_study(spec, runs.optuna_url()), spec, runs.study(spec.name), NOWHERE)
        return [difference.key for difference in found]

    assert changes("former") == [], "before its study file names the new place"
    assert changes("now") == []
    assert changes("elsewhere") == ["storage.path"]


def test_accepted_change_is_what_the_next_is_held_against(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec(retrain=RETRAIN))
    keep_settings(begun.optuna, tiny_spec(retrain={**RETRAIN, "lr": 0.5}), begun.folder)
    begun.retrained()
    assert begun.changes(tiny_spec(retrain={**RETRAIN, "lr": 0.5})) == {}
    assert begun.changes(tiny_spec(retrain=RETRAIN)) == {"retrain.lr": (0.5, 0.025)}


def test_files_that_the_study_names_are_known_by_what_they_hold(tmp_path: Path) -> None:
    table = LatencyTable(
        place=Place(device="cpu", name="x", torch_version="2"),
        dtype="float32",
        batch_size=1,
        parts={"stem": Timing(median_ms=1.0, lower_ms=1.0, upper_ms=1.0)},
    )
    one, moved = tmp_path / "one.json", tmp_path / "moved.json"
    one.write_text(table.to_json())
    begun = Begun(tmp_path, tiny_spec(**searched(latency={"table": str(one)})))
    one.rename(moved)
    there = tiny_spec(**searched(latency={"table": str(moved)}))
    assert begun.changes(there) == {}
    moved.write_text(replace(table, batch_size=8).to_json())
    ((key, (before, now)),) = begun.changes(there).items()
    assert (key, before == now) == ("search.latency.table", False)
    assert before.startswith("contents ")
    assert now.startswith("contents ")
    assert begun.changes(tiny_spec())["search.latency.table"] == (str(one), None)


def test_cell_that_the_study_names_must_stay_once_it_is_retrained(tmp_path: Path) -> None:
    cell = tmp_path / "cell.json"
    cell.write_text(PUBLISHED["SNAS_mild"].to_json())
    spec = tiny_spec(sweep={}, trials=0, retrain={**RETRAIN, "genotype": str(cell)})
    begun = Begun(tmp_path, spec)
    cell.write_text(PUBLISHED["DARTS_V2"].to_json())
    assert begun.changes(spec) == {}
    begun.retrained()
    assert list(begun.changes(spec)) == ["retrain.genotype"]


def test_setting_that_a_later_version_brings_has_its_default(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec())
    kept = begun.optuna.user_attrs[study_changes.ATTRIBUTE]
    del kept["file"]["search"]["precision"], kept["file"]["stop"]
    begun.optuna.set_user_attr(study_changes.ATTRIBUTE, kept)
    assert begun.changes(tiny_spec(max_concurrent=1)) == {}
    assert list(begun.changes(tiny_spec(stop={"patience": 9}))) == ["stop.patience"]


def test_study_that_was_begun_before_settings_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held against the parameters that MLflow has, if it has them, and against Optuna's objectives."""
    begun = Begun(tmp_path, tiny_spec(), is_kept=False)
    other = tiny_spec(objectives=ONE_OBJECTIVE, **searched(epochs=3))
    assert list(begun.changes(other)) == ["objectives"]
    params = {key: str(value) for key, value in tracked_settings(tiny_spec()).items()}
    run = SimpleNamespace(data=SimpleNamespace(params=params))
    monkeypatch.setattr(study_changes, "unit_run", lambda *_: run)
    assert begun.changes(tiny_spec(trials=9)) == {}
    assert list(begun.changes(other)) == ["objectives", "search.epochs"]
    assert list(begun.changes(tiny_spec(sweep={"penalty.strength": {"choice": [1.0]}}))) == ["sweep.penalty.strength"]


def test_refusal_names_lines_values_and_what_to_do(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec())
    other = tiny_spec(seed=4, **searched(epochs=3))
    begun.folder.spec_file.write_text(dump_yaml(other.resolved()))
    with pytest.raises(ConfigError) as caught:
        require_unchanged(begun.optuna, other, begun.folder, NOWHERE)
    first, second = caught.value.faults
    assert (first.line, first.place, second.place) == (2, "seed", "search.epochs")
    assert first.message == (
        "must stay 0, with which the study ran, got 4; put it back, or run the file as another study (`--name`)"
    )


# --- the doctor


def settings_findings(begun: Begun, now: StudySpec, runs: Mapping[str, Mapping[str, object]]) -> list[Finding]:
    """What the doctor says of a study whose file holds `now`.

    Args:
        begun: the study.
        now: its file.
        runs: parameters of MLflow runs by their unit.
    """
    found = [
        SimpleNamespace(data=SimpleNamespace(tags={"snas.unit": unit}, params={k: str(v) for k, v in params.items()}))
        for unit, params in runs.items()
    ]
    trials = tuple(begun.optuna.get_trials())
    labels = [f"{trial.number:04d}" for trial in trials]
    case = Case(
        study=Study(now, begun.runs),
        is_running=False,
        trials=trials,
        searches={label: read_recorded(begun.folder, "search", label) for label in labels},
        retrains={},
        trunk=None,
        truth={},
        jobs=(),
    )
    notes = Notes()
    store: Any = SimpleNamespace(runs=found)
    check_settings(case, store, notes)
    return notes.findings


def params_of(begun: Begun, spec: StudySpec) -> dict[str, dict[str, object]]:
    return {
        f"trial-{trial.number:04d}": flatten(asdict(search_options(spec, trial.params)))
        for trial in begun.optuna.get_trials()
    }


def test_doctor_finds_nothing_in_an_unchanged_study(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec())
    assert settings_findings(begun, tiny_spec(), params_of(begun, tiny_spec())) == []
    moved = tiny_spec(trials=8, **searched(dataset={**SEARCH["dataset"], "workers": 0}))
    assert settings_findings(begun, moved, params_of(begun, tiny_spec())) == []


def test_doctor_names_the_settings_that_changed(tmp_path: Path) -> None:
    begun = Begun(tmp_path, tiny_spec())
    (finding,) = settings_findings(begun, tiny_spec(**searched(epochs=3)), {})
    assert (finding.check, finding.place, finding.severity) == ("settings", "tiny", "error")
    assert finding.message == "`search.epochs` must stay 2, with which the study ran, got 3"
    assert finding.remedy.startswith("put it back")


def test_doctor_names_trials_that_ran_with_other_settings(tmp_path: Path) -> None:
    """As in a study that an earlier version resumed after its file had changed."""
    begun = Begun(tmp_path, tiny_spec(), is_kept=False)
    for _ in range(2):
        suggest(begun.optuna.ask(), tiny_spec().sweep)
    runs = params_of(begun, tiny_spec())
    runs["trial-0000"]["penalty.strength"] = 1.0  # swept: it is Optuna's, not the file's
    runs["trial-0002"] |= {"network.nodes": 1, "epochs": 3}
    runs["trial-0001"] |= {"network.nodes": 1, "epochs": 3}
    (finding,) = settings_findings(begun, tiny_spec(), runs)
    assert (finding.place, finding.severity) == ("trial-0001", "error")
    assert "`search.network.nodes` must stay 1, with which the study ran, got 2" in finding.message
    assert "`search.epochs` must stay 3" in finding.message
    assert finding.message.endswith("(and 1 more: trial-0002)")
