"""A study begins or is resumed: everything is checked before anything is written, then the driver runs.

Apart from `study`, whose readers need neither the driver nor what it imports: Ray, MLflow and PyTorch.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import torch
from mlflow.exceptions import MlflowException

from dashboards.mlflow_store.databases import sqlite_file
from dashboards.mlflow_store.mlflow_access import run_of
from orchestrator.cluster.preflight import Needs, preflight
from orchestrator.driver.changes import keep_settings, require_unchanged, tracked_settings
from orchestrator.driver.driver import Driver
from orchestrator.driver.progress import StudyView
from orchestrator.driver.steering import write_study_file
from orchestrator.errors import OrchestratorError, StudyInterrupted
from orchestrator.files.lock import driver_lock
from orchestrator.files.plugin_copies import COPIES, with_copies, write_copies
from orchestrator.files.relocation import relocate
from orchestrator.sampling.samplers import STORAGE_ERRORS, create_optuna_study, open_storage
from orchestrator.sampling.warm_start import check_warm_start
from orchestrator.stores import store_error
from orchestrator.study.records import IMAGES
from orchestrator.study.study import Study
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.sweep_check import strategy_corners
from orchestrator.study_file.yaml_file import dump_yaml
from orchestrator.tracking.run_spec import dataset_input, run_tags
from orchestrator.tracking.tracker import STUDY_FOLDER, Tracker
from search_core.cost.constraints import ChildLimits
from search_core.cost.latency_measure import latency_of_children
from search_core.cost.latency_table import LatencyTable, table_for
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_target import WholeCost
from search_core.data.datasets import ImageData, check_batch_size, load_data
from search_core.errors import DataError, require
from search_core.search.child_search import check_estimate
from search_core.search.options import SearchOptions
from search_core.space.cell_files import load_genotype
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkSize
from search_core.strategies.multi_trial.options import MultiTrialOptions
from search_core.strategies.weight_sharing.options import SposOptions
from search_core.training.held_out import SearchImages
from search_core.training.retrain import check_recipe

#: What the images of a study are known by, in the tags of its parent run.
_IMAGES = ("dataset.digest", "dataset.split_digest")


def run_study(
    study: Study, view: StudyView | None = None, *, address: str | None = None, settings: Sequence[str] = ()
) -> None:
    """Do all of a study that is not done yet: searches, retrainings, summary.

    Everything that can be checked is checked before anything is written.

    Args:
        study: new, or begun before.
        view: shows progress; default: nothing is shown.
        address: Ray cluster; None starts one on this machine.
        settings: with which `study` was loaded, beside its file.

    Raises:
        DataError: if the data set cannot be read.
        OptionsError: if the recipe does not fit the images.
        LatencyError: if the latency table cannot be read or lacks a part of the search space.
        ConstraintsError: if a strategy chooses genotypes and none keeps the hard limits.
        GenotypeError: if the cell that the study file names cannot be read.
        ConfigError: if the study began with other settings.
        OrchestratorError: if a store or the cluster cannot be reached, if the images are not those that the study
            began with, or if another driver runs the study.
        StudyInterrupted: if a signal stopped it.
        StudyPaused: if a user paused it.
        StudyFailed: if all searches or all retrainings failed.
    """
    view = view or StudyView()
    if relocate(study.runs, study.spec.tracking.uri, view.note) and study.exists:
        study = type(study).load(study.spec.name, study.runs, settings)  # its file may have changed
    if not study.exists:
        study = _with_copies(study)
    else:
        require_unchanged(study.optuna_study, study.spec, study.folder, study.tracking_uri)
    view.step(f"loading the images of {study.spec.search.dataset.title}")
    data = load_data(study.spec.search.dataset, torch.device("cpu"))
    _check_work(study, data)
    for warning in data.warnings():
        view.warn(warning)
    for note in _graph_notes(study):
        view.note(note)
    if address is not None:  # before anything begins: a study that is refused leaves nothing behind
        view.step("checking the nodes of the Ray cluster")
        preflight(address, Needs.of(study.spec, study.runs, data.digest))
    if not study.exists:
        _check_repeatable(study, data)
        _check_new(study)
    view.step("opening the stores of Optuna and MLflow")
    tracker = _tracker(study, data)
    if study.exists:
        _check_images(study, tracker, data)
    else:
        _begin(study, tracker)
    with driver_lock(study.folder.lock_file, study.spec.name):
        now = type(study).load(study.spec.name, study.runs, settings)
        study = study if now.spec == study.spec else now  # a command may have added trials meanwhile
        if settings:
            write_study_file(study)
        keep_settings(study.optuna_study, study.spec, study.folder)
        if study.images != data.sizes:
            study.optuna_study.set_user_attr(IMAGES, data.sizes)
        try:
            parent = tracker.open_study(study.spec.name, _study_params(study, data), study.folder.spec_file)
            Driver(study, tracker, view, parent, data).run(address)
        except (OrchestratorError, KeyboardInterrupt) as error:
            with suppress(MlflowException):
                tracker.suspend()
            if isinstance(error, KeyboardInterrupt):
                raise StudyInterrupted(study.resume_hint) from error
            raise


def _with_copies(study: Study) -> Study:
    """A new study that names the copies which its folder will have of files of Python."""
    settings = study.spec.resolved()
    copied = with_copies(settings, study.folder.path)
    return study if copied == settings else dataclasses.replace(study, spec=parse_study(copied))


def _check_work(study: Study, data: ImageData) -> None:
    """Build what the trials will build, small and unused, so that a misfit shows before anything begins."""
    if study.spec.num_trials:
        check_batch_size(study.spec.search.batch_size, data)
        search = study.spec.search
        anywhere = dataclasses.replace(search.latency, same_device=False)  # the trials may run elsewhere
        size = NetworkSize(search.network, data.input_shape, data.num_classes)
        table = table_for(anywhere, size, torch.device("cpu"))
        corners = list(strategy_corners(search, study.spec.sweep))
        if not _sweeps_limits(study):
            latency = latency_of_children(anywhere, table, size, torch.device("cpu"), is_measured=False)
            limits = ChildLimits(search.constraints, size, latency)
            if any(map(_keeps_limits, corners)):
                limits.sample(genotype_space(search.network), torch.Generator().manual_seed(search.seed))
            _check_targets(study, limits, size, table)
        for options in corners:
            if isinstance(options.strategy, MultiTrialOptions):
                check_estimate(options, data)
            else:
                fraction = options.strategy.held_out_fraction
                SearchImages.of(data, fraction, batch_size=options.batch_size, recalibration_batches=1)
    if study.spec.retrain is not None:
        check_recipe(study.spec.retrain, data, study.spec.retrain.workers)
        if study.spec.retrain.genotype is not None:
            load_genotype(study.spec.retrain.genotype)


def _check_targets(study: Study, limits: ChildLimits, size: NetworkSize, table: LatencyTable | None) -> None:
    """Refuse costs to aim at that no child has, all of them at once."""
    corners = strategy_corners(study.spec.search, study.spec.sweep, "penalty.")
    targets = dict.fromkeys(target for options in corners if (target := options.penalty.target) is not None)
    if targets:
        costs, space = CostTable(size, latency=table), genotype_space(study.spec.search.network)
        require(*(WholeCost.of(target, costs, limits, space).rule() for target in targets))


def _graph_notes(study: Study) -> set[str]:
    """Why searches of a study on GPUs go without CUDA graphs, each reason once."""
    if not (study.spec.num_trials and study.spec.resources.uses_gpu):
        return set()
    corners = strategy_corners(study.spec.search, study.spec.sweep)
    return {options.graph_note for options in corners if options.graph_note is not None}


def _check_repeatable(study: Study, data: ImageData) -> None:
    """Refuse a function of a user's that gives other images when it is called again, as every worker does."""
    if study.spec.search.dataset.is_function:
        again = load_data(study.spec.search.dataset, torch.device("cpu"))
        if again.digest != data.digest:
            raise DataError(
                f"{data.name} must return the same images whenever it is called, got digest {data.digest[:12]}, then "
                f"{again.digest[:12]}: seed its random numbers, and sort what it lists"
            )


def _sweeps_limits(study: Study) -> bool:
    """Whether trials differ in their hard limits or in what children cost: then each is judged on its own."""
    sections = ("constraints.", "network.", "dataset.", "latency.")
    return any(key.startswith(sections) for key in study.spec.sweep)


def _check_images(study: Study, tracker: Tracker, data: ImageData) -> None:
    """Refuse other images than those the study began with: its trials could not be compared."""
    try:
        # None: a driver was killed before it made the run, and nothing was searched.
        if (run := run_of(tracker.client, tracker.experiment_id, "study")) is not None:
            before, now = run.data.tags, run_tags(data)
            _check_folder(study, Path(before.get(STUDY_FOLDER, study.folder.path)))
            for tag in _IMAGES:
                if before.get(tag, now[tag]) != now[tag]:
                    raise OrchestratorError(
                        f"the images of study `{study.spec.name}` must be those it began with "
                        f"({tag.removeprefix('dataset.')} {before[tag]}), got {now[tag]}"
                    )
    except MlflowException as error:
        raise store_error(f"the MLflow store {tracker.tracking_uri}", error) from error


def _check_folder(study: Study, began: Path) -> None:
    """Refuse a copy that shares a store with the study it was copied from, which is still there."""
    runs, spec = study.runs, study.spec
    addresses = (runs.tracking_uri(spec.tracking.uri), runs.optuna_url(spec.storage.url))
    shared = [url for url in addresses if (file := sqlite_file(url)) is None or file.parent != runs.root]
    original = began / study.folder.spec_file.name
    if shared and original.is_file() and not original.samefile(study.folder.spec_file):
        raise OrchestratorError(
            f"{study.folder.path} must not be resumed while the study it was copied from is in {began}, as both would "
            f"write to {' and '.join(shared)}: resume that one, or delete its study.yaml"
        )


def _check_new(study: Study) -> None:
    """Refuse what can be refused before any store is touched."""
    url = study.runs.optuna_url(study.spec.storage.url)
    try:
        check_warm_start(study.spec, url)
    except STORAGE_ERRORS as error:
        raise store_error(f"the Optuna storage {url}", error) from error
    storage = study.folder.storage(study.spec)
    if storage.exists() and any(storage.iterdir()):  # they would be taken for this study's
        raise OrchestratorError(
            f"the folder {storage} has checkpoints of a study `{study.spec.name}`: choose another --name"
        )


def _begin(study: Study, tracker: Tracker) -> None:
    """Make the study in Optuna's storage and its folder; refuse a name that either store knows already.

    The folder first: a full disk must not leave a study in Optuna's storage, whose name could not be used again.
    """
    name, url = study.spec.name, study.runs.optuna_url(study.spec.storage.url)
    taken = f"has a study `{name}` from elsewhere: choose another --name"
    if tracker.has_run("study"):
        raise OrchestratorError(f"the MLflow store {tracker.tracking_uri} {taken}")
    with _draft(study) as draft:
        try:
            create_optuna_study(study.spec, url)
        except optuna.exceptions.DuplicatedStudyError as error:
            raise OrchestratorError(f"the Optuna storage {url} {taken}") from error
        except STORAGE_ERRORS as error:
            raise store_error(f"the Optuna storage {url}", error) from error
        try:
            draft.replace(study.folder.spec_file)
        except BaseException:
            with suppress(*STORAGE_ERRORS):
                optuna.delete_study(study_name=name, storage=open_storage(url))
            raise


@contextmanager
def _draft(study: Study) -> Iterator[Path]:
    """The study file beside its place; if it does not get there, nothing is left."""
    draft = study.folder.path / f"study-{os.getpid()}.tmp"  # another driver may begin a study of this name
    study.folder.path.mkdir(parents=True, exist_ok=True)
    try:
        settings = study.spec.resolved()
        write_copies(settings)
        draft.write_text(dump_yaml(settings), encoding="utf-8")
        yield draft
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
            shutil.rmtree(study.folder.path / COPIES, ignore_errors=True)
            study.folder.path.rmdir()  # unless it holds anything
        raise


def _tracker(study: Study, data: ImageData) -> Tracker:
    uri = study.tracking_uri
    tags = {"snas.study": study.spec.name, **run_tags(data)}
    try:
        location = study.runs.artifact_location(uri, study.spec.name)
        return Tracker(
            uri,
            study.spec.name,
            artifact_location=location,
            tags=tags,
            dataset=dataset_input(study.spec.search.dataset, data),
            is_new=not study.exists,
        )
    except MlflowException as error:
        raise store_error(f"the MLflow store {uri}", error) from error


def _study_params(study: Study, data: ImageData) -> dict[str, object]:
    sizes = {f"images.{split}": size for split, size in data.sizes.items()}
    return {"name": study.spec.name, "trials": study.spec.num_trials, **tracked_settings(study.spec), **sizes}


def _keeps_limits(search: SearchOptions) -> bool:
    """Whether a search cannot begin without a genotype of full size that keeps the hard limits."""
    strategy = search.strategy
    is_narrow = isinstance(strategy, SposOptions) and min(strategy.channels) < 1  # a child with fewer channels may do
    return "constraints" in strategy.uses and not is_narrow
