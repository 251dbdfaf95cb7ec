"""Removal of a study, or of the checkpoints of what is over in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow.exceptions import MlflowException

from orchestrator.files.journal import Journal
from orchestrator.files.layout import Phase
from orchestrator.files.lock import driver_lock
from orchestrator.sampling.samplers import STORAGE_ERRORS, open_storage
from orchestrator.stores import store_error
from orchestrator.study.study import Study
from orchestrator.tracking.deletion import Tracked, remove, tracked


@dataclass(frozen=True)
class Deletion:
    """What would be removed.

    Attributes:
        parts: in words, with how many MB each has on disk.
        mb: of all, in units of 10^6 bytes.
        folders: to be removed, checkpoints first.
        found: what MLflow has; None if that stays, or there is nothing.
    """

    parts: tuple[str, ...]
    mb: float
    folders: tuple[Path, ...]
    found: Tracked | None


@contextmanager
def deletion(study: Study, *, checkpoints_only: bool) -> Iterator[Deletion]:
    """What there is to remove; inside, no driver can begin.

    Args:
        study: the study.
        checkpoints_only: whether all but the checkpoints of what is over stays.

    Raises:
        OrchestratorError: if a driver runs the study, or a store does not answer.
    """
    with driver_lock(study.folder.lock_file, study.spec.name):
        yield _over(study) if checkpoints_only else _all_of(study)


def delete(study: Study, planned: Deletion) -> str:
    """Remove it, the study file last: a process that is killed in between leaves a study that can be deleted.

    Returns:
        What is left elsewhere, and how it is removed; empty if nothing is.
    """
    left = ""
    if study.folder.path in planned.folders:
        if planned.found is not None:
            try:
                left = remove(planned.found, study.spec.name)
            except MlflowException as error:
                raise store_error(f"the MLflow store {study.tracking_uri}", error) from error
        _drop_from_optuna(study)
    for folder in planned.folders:
        for entry in folder.iterdir() if folder == study.folder.path else ():
            if entry not in (study.folder.spec_file, study.folder.lock_file):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.rmtree(folder)
    return left


def _all_of(study: Study) -> Deletion:
    try:
        found = tracked(study.tracking_uri, study.spec.name, study.spec.registered_name)
    except MlflowException as error:
        raise store_error(f"the MLflow store {study.tracking_uri}", error) from error
    storage, own = study.folder.storage(study.spec), study.folder.path
    checkpoints = _mb(storage)
    folder = _mb(own) - (checkpoints if storage.is_relative_to(own) else 0.0)
    artifacts = _mb(found.artifacts) if found is not None and found.artifacts is not None else 0.0
    parts = [f"checkpoints ({checkpoints:.1f} MB) in {storage}", f"journals and study file ({folder:.1f} MB) in {own}"]
    parts.append(f"the study in Optuna's storage {study.runs.optuna_url(study.spec.storage.url)}")
    if found is not None:
        models = f", {len(found.versions)} versions of model `{study.spec.registered_name}`" if found.versions else ""
        parts.append(f"{len(found.runs)} runs{models} and artifacts ({artifacts:.1f} MB) in MLflow")
    outside = () if storage.is_relative_to(own) or not storage.is_dir() else (storage,)
    return Deletion(tuple(parts), checkpoints + folder + artifacts, (*outside, own), found)


def _over(study: Study) -> Deletion:
    """Checkpoints that nobody resumes from: of trials and retrainings that are over, models that are logged."""
    folders = []
    phases: tuple[Phase, ...] = ("search", "retrain")
    for phase in phases:
        for file in sorted(study.folder.journal(phase, "any").parent.glob("*.jsonl")):
            if Journal(file).end is not None:
                folders.append(study.folder.checkpoints(study.spec, phase, file.stem))
    there = tuple(folder for folder in folders if folder.is_dir())
    mb = sum(map(_mb, there))
    words = f"checkpoints of {len(there)} trials and retrainings that are over ({mb:.1f} MB)"
    return Deletion((words,), mb, there, None)


def _drop_from_optuna(study: Study) -> None:
    url = study.runs.optuna_url(study.spec.storage.url)
    try:
        optuna.delete_study(study_name=study.spec.name, storage=open_storage(url))
    except KeyError:  # a process that was killed has done it
        pass
    except STORAGE_ERRORS as error:
        raise store_error(f"the Optuna storage {url}", error) from error


def _mb(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) / 1e6
