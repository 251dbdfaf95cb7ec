"""Recomputes epochs of a study, first ones and those after a checkpoint, and compares them with its journals.

Nothing of the study is changed, so a driver may run it meanwhile. What was found is kept as a certificate: a file in
the folder of the study, and an artifact of its run in MLflow.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from dashboards.formatting import counted
from orchestrator.doctor.same_numbers import Difference, differing
from orchestrator.errors import OrchestratorError
from orchestrator.files.checkpoint import CheckpointFolder, DamagedCheckpointError, epoch_of, load
from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label
from orchestrator.files.whole_file import write_whole
from orchestrator.machine import machine_facts, with_threads
from orchestrator.study.records import TrialRecord
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from orchestrator.tracking.run_spec import environment_tags, user_tags
from orchestrator.tracking.stored import opened_run, store_file
from search_core.data.datasets import ImageData, load_data
from search_core.errors import NonFiniteLossError, StateError
from search_core.search.search import Search

CERTIFICATE = "verification.json"
#: On another machine, or on a GPU, sums are formed in another order. Of 32 epochs on digits with weights off by half a
#: bit, or with two threads in place of one, the worst difference was 0.021.
TOLERANCE = 0.05
_MOST_NAMED = 20  # trials in a message; differences of an epoch in a certificate

Verdict = Literal["identical", "within tolerance", "different"]


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """An epoch that was recomputed.

    Attributes:
        trial: its number.
        epoch: 0-based; it was recomputed from the checkpoint after so many epochs, the first one from the seed.
        machine: where it was computed before (`machine.machine_facts`); None if the journal does not say.
        is_exact: whether it must be the same bit for bit: on an equal machine without a GPU.
        values: how many were compared.
        differing: how many differ.
        differences: the first of these.
        fault: why nothing could be compared; empty if it could.
    """

    trial: int
    epoch: int
    machine: Mapping[str, Any] | None
    is_exact: bool
    values: int = 0
    differing: int = 0
    differences: tuple[Difference, ...] = ()
    fault: str = ""

    @property
    def verdict(self) -> Verdict:
        """What the comparison says."""
        if self.fault or self.differing:
            return "different"
        return "identical" if self.is_exact else "within tolerance"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was compared, by which code on which machine, and what came out.

    Attributes:
        study: its name.
        time: unix seconds at the end.
        user: who asked for it; empty if the system has no name for them.
        seed: by which trials and epochs were sampled.
        epochs: the recomputed ones.
        machine: where (`machine.machine_facts`); threads are those of each epoch's `machine`.
        code: versions and git commit that recomputed, as tags of runs have them.
        recorded_code: those of the study's run, with which it was begun.
    """

    study: str
    time: float
    user: str
    seed: int
    epochs: tuple[Recomputed, ...]
    machine: Mapping[str, Any]
    code: Mapping[str, str]
    recorded_code: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        """The worst of all epochs."""
        found = {epoch.verdict for epoch in self.epochs}
        order: tuple[Verdict, ...] = ("different", "within tolerance", "identical")
        return next(verdict for verdict in order if verdict in found)

    @property
    def values(self) -> int:
        """How many values were compared."""
        return sum(epoch.values for epoch in self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        epochs = [{**asdict(epoch), "verdict": epoch.verdict} for epoch in self.epochs]
        facts = {"verdict": self.verdict, "values": self.values, "tolerance": TOLERANCE}
        return {**asdict(self), **facts, "epochs": epochs}


def verify(
    study: Study, *, trials: int, epochs: int, seed: int, say: Callable[[str], object] = lambda line: None
) -> Certificate:
    """Recompute sampled epochs in this process, and keep the certificate.

    Args:
        study: running or not.
        trials: how many at most, of those that have an epoch that can be recomputed.
        epochs: how many of each at most.
        seed: of the sample.
        say: is called before each epoch.

    Raises:
        OrchestratorError: if no epoch can be recomputed here, or MLflow does not answer.
    """
    with opened_run(study, "study") as (_, run):
        origins = {name: text for name, text in run.data.tags.items() if name.startswith(("version.", "git."))}
    if study.spec.resources.uses_gpu and not torch.cuda.is_available():
        raise OrchestratorError(f"study `{study.spec.name}` must be verified where there is a GPU: its trials had one")
    device = torch.device("cuda" if study.spec.resources.uses_gpu else "cpu")
    images = lru_cache(maxsize=1)(lambda options: load_data(options, device))
    found = []
    for trial, epoch in _sampled(study, trials, epochs, seed):
        start = f"the checkpoint after {counted(epoch, 'epoch')}" if epoch else "the seed"
        say(f"trial {trial.number}: epoch {epoch + 1} from {start}")
        if (of_epoch := _recompute(study, trial, epoch, device, images)) is not None:
            found.append(of_epoch)
    if not found:
        raise OrchestratorError(f"the sampled checkpoints of study `{study.spec.name}` must stay meanwhile: try again")
    certificate = Certificate(
        study=study.spec.name,
        time=time.time(),
        user=user_tags().get("mlflow.user", ""),
        seed=seed,
        epochs=tuple(found),
        machine=machine_facts(device),
        code=environment_tags(),
        recorded_code=origins,
    )
    file = study.folder.path / CERTIFICATE
    draft = file.with_suffix(f".{os.getpid()}.tmp")  # another may be written at once
    write_whole(file, json.dumps(certificate.to_dict(), indent=1).encode(), draft)
    with opened_run(study, "study") as (_, run):
        store_file(study.tracking_uri, run.info.artifact_uri, file)
    return certificate


def _sampled(study: Study, trials: int, epochs: int, seed: int) -> list[tuple[TrialRecord, int]]:
    generator = torch.Generator().manual_seed(seed)
    usable, others = dict[int, tuple[TrialRecord, list[int]]](), list[str]()
    for trial in study.trials():
        fault, found = _recomputable(study, trial)
        if found:
            usable[trial.number] = trial, found
        else:
            others.append(f"trial {trial.number} {fault}")
    if not usable:
        more = [f"{len(others) - _MOST_NAMED} more"] if len(others) > _MOST_NAMED else []
        raise OrchestratorError(
            f"a trial of study `{study.spec.name}` must have an epoch that can be recomputed: "
            f"{'; '.join([*others[:_MOST_NAMED], *more]) or 'none has begun'}"
        )
    return [
        (usable[number][0], epoch)
        for number in _some(usable, trials, generator)
        for epoch in _some(usable[number][1], epochs, generator)
    ]


def _recomputable(study: Study, trial: TrialRecord) -> tuple[str, list[int]]:
    """Epochs of a trial that can be recomputed, and why there are none if so."""
    label = trial_label(trial.number)
    if trial.epochs == 0:
        return "has no epoch yet", []
    if study.folder.order_log(label).is_file():
        return "trains its children one by one", []
    options = search_options(study.spec, trial.values)
    if options.penalty.cost == "child_latency" and options.latency.table is None:
        return "measures latencies, which differ from run to run", []
    kept = map(epoch_of, CheckpointFolder(study.folder.checkpoints(study.spec, "search", label)).files())
    begun = [0] if trial.parent is None and study.spec.fork is None else []  # else another computed it
    found = [epoch for epoch in {*begun, *kept} if epoch < trial.epochs]
    return "took over its first epochs, and later ones need `storage.keep: {every: 10}`", found


def _some(items: Iterable[int], count: int, generator: torch.Generator) -> list[int]:
    ordered = sorted(items)
    return sorted(ordered[index] for index in torch.randperm(len(ordered), generator=generator)[:count].tolist())


def _recompute(
    study: Study, trial: TrialRecord, epoch: int, device: torch.device, images: Callable[[Any], ImageData]
) -> Recomputed | None:
    """The comparison of one epoch; None if a driver has dropped the checkpoint meanwhile."""
    label = trial_label(trial.number)
    journal = Journal(study.folder.journal("search", label))
    machine = journal.machine_of(epoch)
    with with_threads(None if machine is None else machine["threads"]):
        is_exact = machine == machine_facts(device) and device.type == "cpu"
        of_epoch = Recomputed(trial=trial.number, epoch=epoch, machine=machine, is_exact=is_exact)
        file = CheckpointFolder(study.folder.checkpoints(study.spec, "search", label)).file(epoch)
        options = search_options(study.spec, trial.values)
        try:
            state = dict(load(file).state) if epoch else None
            search = Search(options, images(options.dataset), device)
            if state is not None:
                search.load_state_dict(state)
            record = search.run_epoch().to_dict()
        except (DamagedCheckpointError, StateError, NonFiniteLossError) as error:
            return replace(of_epoch, fault=str(error)) if epoch == 0 or file.is_file() else None
        if search.is_over and study.spec.ground_truth is not None:
            record["scores"] = search.scores()
    values, differences = differing(journal.epochs[epoch], record, None if is_exact else TOLERANCE)
    named = tuple(differences[:_MOST_NAMED])
    return replace(of_epoch, values=values, differing=len(differences), differences=named)
