"""Population-based training as a real study, killed after its first fork and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.files.decisions import Decisions
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from tests.integration.studies import CLOCKS, STUDY, StudyProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EPOCHS = 4
#: As many that errors differ, else none is worse.
IMAGES: dict[str, Any] = {"name": "digits", "train_images": 128, "validation_images": 64}
#: One at a time, so that it is known who has got how far.
SPEC: dict[str, Any] = {
    **STUDY,
    "name": "population",
    "search": {**STUDY["search"], "dataset": IMAGES, "epochs": EPOCHS},
    "sweep": {"penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1]}},
    "sampler": "random",
    "trials": 4,
    "scheduler": {"kind": "pbt", "interval": 2, "quantile": 0.5},
    "max_concurrent": 1,
}


def test_worse_trials_are_replaced_by_forks_of_better_ones_across_a_kill(tmp_path: Path) -> None:
    process = StudyProcess(tmp_path, SPEC)
    folder = Runs(process.runs).study("population")

    def forks() -> list[dict[str, Any]]:
        return [entry for entry in Decisions(folder.decisions_file).entries if entry["kind"] == "fork"]

    process.start()
    process.wait_until(lambda: bool(forks()))
    process.kill()
    process.resume()
    process.finish()

    study = Study.load("population", Runs(process.runs))
    trials = {trial.number: trial for trial in study.trials()}
    assert len(trials) == 4 + len(forks())
    replaced = {fork["of"] for fork in forks()}
    assert [trials[number].state for number in sorted(replaced)] == ["stopped"] * len(forks()), "each once"
    stored = study.optuna_study.get_trials(deepcopy=False)
    parents = {number: parent for number in trials if (parent := study.parent(number)) is not None}
    assert len(parents) == len(forks())
    for number, parent in parents.items():
        child, whole = process.journal(number).epochs, process.journal(parent.trial).epochs
        assert len(child) >= parent.epoch
        for one, other in zip(child[: parent.epoch], whole, strict=False):
            assert without_clocks(one) == without_clocks(other)
        eta, of_parent = (stored[n].params["penalty.strength"] for n in (number, parent.trial))
        assert eta / of_parent == pytest.approx(1.25) or eta / of_parent == pytest.approx(0.8)
    assert process.doctor().code == 0, process.doctor().said


def without_clocks(record: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: value for name, value in record["metrics"].items() if not name.startswith(CLOCKS)}
    return {**record, "metrics": metrics}
