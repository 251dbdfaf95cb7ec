"""Optuna: the storage, the samplers and the one study behind a study file."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import optuna
import psutil
import sqlalchemy

from dashboards.mlflow_store.databases import sqlite_file
from dashboards.mlflow_store.store_lock import checked_store
from orchestrator.absent import absent
from orchestrator.errors import OrchestratorError, StoreStateError, last_line
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep import grid_points

#: What a storage raises that is away, damaged or something else.
STORAGE_ERRORS = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    OSError,
    ValueError,
    ImportError,
    KeyError,
    RuntimeError,
)
_LOCAL_DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs")

Result = TypeVar("Result")

#: How long a database that was there before may be away, in seconds, and how often a call is tried.
_PATIENCE_S = 300.0
_CALLS = 5


def create_optuna_study(spec: StudySpec, url: str) -> None:
    """Make the Optuna study of a study file.

    Raises:
        optuna.exceptions.DuplicatedStudyError: if the storage has one of this name.
    """
    minimise, maximise = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    directions = [minimise if objective.mode == "min" else maximise for objective in spec.objectives]
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name=spec.name, directions=directions)
    try:
        with warnings.catch_warnings():  # called experimental since 2023
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective.metric for objective in spec.objectives])  # a warm start compares them
    except BaseException:
        with suppress(Exception):  # else its name could not be used again; the storage may be away for this too
            optuna.delete_study(study_name=spec.name, storage=storage)
        raise


def load_optuna_study(spec: StudySpec, url: str) -> optuna.Study:
    """The Optuna study of a study file. From then on, a database that is restarted is waited for.

    Raises:
        KeyError: if the storage has none of this name.
    """
    storage = open_storage(url)
    study = optuna.load_study(storage=storage, study_name=spec.name)
    sqlalchemy.event.listen(storage.engine, "do_connect", _connect_patiently)
    return study


def patiently(call: Callable[[], Result]) -> Result:
    """Do a call to Optuna's storage again if the database was restarted in the middle of it.

    Args:
        call: may be done twice.

    Raises:
        OrchestratorError: if it fails again and again.
    """
    for attempt in range(_CALLS):
        try:
            return call()
        except optuna.exceptions.StorageInternalError as error:
            if attempt == _CALLS - 1:
                raise OrchestratorError(f"Optuna's storage must answer, got: {last_line(error)}") from error
            time.sleep(1)  # then the next call waits until it can connect
    raise AssertionError("the last attempt returns or raises")


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage at an address; an SQLite file that is not there is made.

    Raises:
        StoreStateError: if an older or newer Optuna made it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite:"):
        engine["connect_args"] = {"timeout": 60}
    with absent("pygments"):  # for the error pages of the templates that Optuna's migrations are written with
        import_module("alembic.context")
    with checked_store("Optuna", url) as fault:
        if fault is not None:
            raise StoreStateError(fault)
        storage = optuna.storages.RDBStorage(url, engine_kwargs=engine, skip_compatibility_check=True)
    if (file := sqlite_file(url)) is not None and _is_on_local_disk(file):
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
    return storage


def _is_on_local_disk(file: Path) -> bool:
    """SQLite must not write ahead on a network's disk: its log is shared through memory."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    place = next((str(folder) for folder in (file.resolve(), *file.resolve().parents) if str(folder) in mounts), "/")
    return mounts.get(place) in _LOCAL_DISKS


def _write_ahead(connection: Any, record: Any) -> None:
    """Have SQLite wait for the disk at checkpoints of its log only: safe against kills, and the next trial starts soon.

    A power failure may take the last trials' ends, which the journals have.
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _connect_patiently(dialect: Any, record: Any, positional: Any, named: Any) -> Any:
    """Connect to a database that was there before, for `_PATIENCE_S` seconds."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return dialect.connect(*positional, **named)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def enqueue_grid(study: optuna.Study, spec: StudySpec) -> None:
    """Enqueue the points of sampler `grid` that are not in the storage yet; for the one driver of the study only."""
    if spec.sampler != "grid":
        return
    known = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
    for point in grid_points(spec.sweep, limit=spec.trials):
        if point not in known:
            study.enqueue_trial(point)


def make_sampler(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that suggests trial `number`.

    Each trial has a sampler of its own, seeded by study and trial: a suggestion depends on these and on the results
    that are in the storage by then, not on how often the driver was restarted.
    """
    seed = spec.seed + 7919 * number
    if spec.sampler == "tpe":
        with warnings.catch_warnings():  # `group` is called experimental since 2021
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
    if spec.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if spec.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)
