"""Recomputes epochs of a study from its checkpoints and compares them with its journals.

Nothing of the study is changed, so a driver may run it meanwhile. What was found is kept as a certificate: a file in
the folder of the study, and an artifact of its run in MLflow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch

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
from orchestrator.tracking.run_spec import environment_tags
from orchestrator.tracking.stored import unit_run
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
        epoch: 0-based; it was recomputed from the checkpoint after so many epochs.
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
        seed: by which trials and epochs were sampled.
        epochs: the recomputed ones.
        machine: where (`machine.machine_facts`); threads are those of each epoch's `machine`.
        code: versions and git commit that recomputed, as tags of runs have them.
        recorded_code: those of the study's run, with which it was begun.
    """

    study: str
    time: float
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
        trials: how many at most, of those that keep a checkpoint with an epoch after it.
        epochs: how many of each at most.
        seed: of the sample.
        say: is called before each epoch.

    Raises:
        OrchestratorError: if no epoch can be recomputed here, or MLflow does not answer.
    """
    with unit_run(study, "study") as (_, run):
        origins = {name: text for name, text in run.data.tags.items() if name.startswith(("version.", "git."))}
    if study.spec.resources.uses_gpu and not torch.cuda.is_available():
        raise OrchestratorError(f"study `{study.spec.name}` must be verified where there is a GPU: its trials had one")
    device = torch.device("cuda" if study.spec.resources.uses_gpu else "cpu")
    images = lru_cache(maxsize=1)(lambda options: load_data(options, device))
    found = []
    for trial, epoch in _sampled(study, trials, epochs, seed):
        say(f"trial {trial.number}: epoch {epoch} from the checkpoint after {epoch} epochs")
        if (of_epoch := _recompute(study, trial, epoch, device, images)) is not None:
            found.append(of_epoch)
    if not found:
        raise OrchestratorError(f"the sampled checkpoints of study `{study.spec.name}` must stay meanwhile: try again")
    certificate = Certificate(
        study=study.spec.name,
        time=time.time(),
        seed=seed,
        epochs=tuple(found),
        machine=machine_facts(device),
        code=environment_tags(),
        recorded_code=origins,
    )
    text = json.dumps(certificate.to_dict(), indent=1)
    write_whole(study.folder.path / CERTIFICATE, text.encode())
    with unit_run(study, "study") as (client, run):
        client.log_text(run.info.run_id, text, CERTIFICATE)
    return certificate


def _sampled(study: Study, trials: int, epochs: int, seed: int) -> list[tuple[TrialRecord, int]]:
    generator = torch.Generator().manual_seed(seed)
    all_trials = {trial.number: trial for trial in study.trials()}
    kept = {number: _kept(study, trial) for number, trial in all_trials.items()}
    usable = {number: [epoch for epoch in kept[number] or () if epoch < all_trials[number].epochs] for number in kept}
    numbers = [number for number, found in usable.items() if found]
    if not numbers:
        lines = [f"trial {number} of {all_trials[number].epochs} epochs {_words(kept[number])}" for number in kept]
        more = [f"{len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
        raise OrchestratorError(
            f"a trial of study `{study.spec.name}` must keep a checkpoint with an epoch after it: "
            f"{'; '.join([*lines[:_MOST_NAMED], *more]) or 'none has begun'}. `storage.keep: {{every: 10}}` keeps more"
        )
    return [
        (all_trials[number], epoch)
        for number in _some(numbers, trials, generator)
        for epoch in _some(usable[number], epochs, generator)
    ]


def _kept(study: Study, trial: TrialRecord) -> list[int] | None:
    """After which epochs a trial keeps a checkpoint; None if its numbers differ whenever it is run."""
    files = CheckpointFolder(study.folder.checkpoints(study.spec, "search", trial_label(trial.number))).files()
    if files:
        options = search_options(study.spec, trial.values)
        if options.penalty.cost == "child_latency" and options.latency.table is None:
            return None
    return sorted(map(epoch_of, files))


def _words(kept: Sequence[int] | None) -> str:
    if kept is None:
        return "measures latencies, which differ from run to run"
    return f"keeps those after {', '.join(map(str, kept))}" if kept else "keeps none"


def _some(items: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    return sorted(items[index] for index in torch.randperm(len(items), generator=generator)[:count].tolist())


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
            state = load(file).state
            search = Search(options, images(options.dataset), device)
            search.load_state_dict(dict(state))
            record = search.run_epoch().to_dict()
        except (DamagedCheckpointError, StateError, NonFiniteLossError) as error:
            return replace(of_epoch, fault=str(error)) if file.is_file() else None
        if search.is_over and study.spec.ground_truth is not None:
            record["scores"] = search.scores()
    values, differences = differing(journal.epochs[epoch], record, None if is_exact else TOLERANCE)
    named = tuple(differences[:_MOST_NAMED])
    return replace(of_epoch, values=values, differing=len(differences), differences=named)
