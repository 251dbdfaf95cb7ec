"""Data frames of a study, and the page that shows what to do with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.searcher import tell
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs, trial_label
from orchestrator.study.study import Study
from orchestrator.study_file.sweep import suggest
from orchestrator.study_file.yaml_file import dump_yaml
from tests.orchestrator.tiny import RETRAIN, made_up_record, opened_study, retrain_records, tiny_spec, written_journal

RECORDS = [
    made_up_record(
        epoch,
        child_val_error=0.5,
        child_val_accuracy=0.5,
        child_madds=9.0,
        child_params=7.0,
        discretization_gap=0.1 * epoch,
        seconds=2.0,
    )
    for epoch in range(2)
]
PAGE = Path(__file__).parents[3] / "docs" / "notebook.md"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two trials of two epochs that are over, one that failed, and a retraining."""
    runs = Runs(tmp_path_factory.mktemp("frames") / "runs")
    sweep = {"penalty.strength": {"uniform": [0.0, 1.0]}, "temperature.kind": {"choice": ["linear", "cosine"]}}
    study = Study(tiny_spec(name="digits-quickstart", sweep=sweep, retrain=RETRAIN), runs)
    study.folder.path.mkdir(parents=True)
    study.folder.spec_file.write_text(dump_yaml(study.spec.resolved()), encoding="utf-8")
    stored = opened_study(study.spec, runs.optuna_url())
    for number in range(3):
        suggest(stored.ask(), study.spec.sweep)
        file, records = study.folder.journal("search", trial_label(number)), RECORDS if number < 2 else []
        written_journal(file, records, *(("complete",) if number < 2 else ("failed", "no luck")))
        tell(stored, study.spec, number, Journal(file))
    for job in study.retrain_jobs():
        written_journal(study.folder.journal("retrain", job.label), retrain_records(1), "complete")
    return study


def test_frames_have_the_numbers_of_the_journals(study: Study) -> None:
    trials, epochs, retrains = study.trials_dataframe(), study.epochs_dataframe(), study.retrains_dataframe()
    last = RECORDS[-1]["metrics"]
    assert list(trials["state"]) == ["complete", "complete", "failed"]
    assert trials["child_madds"].tolist()[:2] == [last["child_madds"]] * 2
    assert trials.loc[2, "reason"] == "no luck"
    values = [record.values["penalty.strength"] for record in study.trials()]
    assert trials["penalty.strength"].tolist() == values
    assert [*zip(epochs["trial"], epochs["epoch"], strict=True)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert epochs["penalty.strength"].tolist() == [values[0]] * 2 + [values[1]] * 2
    reported = Journal(study.folder.journal("search", "0001")).epochs[1]["time"]
    assert epochs.loc[3, "time"].timestamp() == pytest.approx(reported, abs=1e-5)
    assert [*retrains["trial"]] == [0], "both trials found one cell"
    assert retrains["test_accuracy"].tolist() == [0.625]


def test_frames_of_a_study_without_a_trial(tmp_path: Path) -> None:
    study = Study(tiny_spec(retrain=RETRAIN), Runs(tmp_path))
    opened_study(study.spec, study.runs.optuna_url())
    frames = (study.trials_dataframe(), study.epochs_dataframe(), study.retrains_dataframe())
    assert [len(frame) for frame in frames] == [0, 0, 0]
    assert all("trial" in frame for frame in frames)


def test_page_does_what_it_says(study: Study, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(study.runs.root.parent)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert "0.625" in capsys.readouterr().out
    assert set(names["trials"]["trial"]) == {0, 1, 2}
    assert names["cell"].normal
