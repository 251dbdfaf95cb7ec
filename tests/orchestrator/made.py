"""A finished study that the doctor calls whole, made in seconds: real files and stores, no Ray and no workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orchestrator.driver.searcher import tell
from orchestrator.driver.start import _begin, _tracker, run_study
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs, trial_label
from orchestrator.study.study import Study
from orchestrator.study_file.sweep import suggest
from search_core.data.datasets import ImageData, load_data
from search_core.training.retrain import Retrain, RetrainOptions
from tests.orchestrator.tiny import ONE_OBJECTIVE, RETRAIN, real_records, tiny_spec


def made_study(root: Path, name: str = "made", *, retrain: bool = False, **changes: Any) -> Study:
    """A study of two searches of a tiny epoch, and perhaps a retraining, as drivers leave it at its end."""
    section = {"retrain": RETRAIN} if retrain else {}
    study = Study(tiny_spec(name=name, trials=2, objectives=ONE_OBJECTIVE, **section, **changes), Runs(root))
    data = load_data(study.spec.search.dataset, torch.device("cpu"))
    _begin(study, _tracker(study, data))
    for number in range(study.spec.num_trials):
        suggest(study.optuna_study.ask(), study.spec.sweep)
        journal = Journal(study.folder.journal("search", trial_label(number)))
        for record in real_records(study.spec.search.epochs):
            journal.append_epoch(record)
        journal.finish("complete")
        tell(study.optuna_study, study.spec, number, journal)
    for job in study.retrain_jobs():
        _train(study, job.label, job.genotype, data)
    run_study(study)  # nothing is open: MLflow is brought up to the journals
    return study


def _train(study: Study, label: str, genotype: Any, data: ImageData) -> None:
    section = study.spec.retrain
    assert section is not None
    options = RetrainOptions(**{name: getattr(section, name) for name in RetrainOptions.__dataclass_fields__})
    retrain = Retrain(genotype, replace(options), data, torch.device("cpu"), seed=study.spec.seed)
    journal = Journal(study.folder.journal("retrain", label))
    for report in retrain:
        record = report.to_dict()
        if retrain.epoch >= options.epochs:
            record["metrics"] |= retrain.final_metrics()
        journal.append_epoch(record)
    folder = study.folder.checkpoints(study.spec, "retrain", label)
    CheckpointFolder(folder).save(retrain.epoch, retrain.state_dict(), None)
    journal.finish("complete")
