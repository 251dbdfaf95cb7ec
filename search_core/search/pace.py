"""How long a search, a child or a retraining takes, from some of its steps.

Two lengths of an epoch are measured, over shares s < l of all images. What recurs with the images, training and
validation, grows with the share, and the rest (building the child, 16 batches for its statistics, a checkpoint) does
not, so a whole epoch takes `T(1) = T(s) + (T(l) - T(s)) (1 - s) / (l - s)`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_core.data.datasets import ImageData
from search_core.data.splits import DerivedSplit, Split
from search_core.search.child_recipe import child_recipe
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.search.options import SearchOptions
from search_core.search.search import Search
from search_core.space.codes import genotype_space
from search_core.space.genotype import Genotype
from search_core.strategies.multi_trial.options import MultiTrialOptions
from search_core.strategies.weight_sharing.options import SposOptions
from search_core.training.retrain import Retrain
from search_core.training.retrain_options import RetrainOptions

#: Training steps of the short and the long epochs; a CUDA graph is recorded within a long one.
_SHORT, _LONG = 2, 8
_REPEATS = 2

Work = Search | ChildTraining | Retrain


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long one unit takes: a search, a child, or a retraining. Seconds, without starts of processes.

    Attributes:
        load_s: what a process needs once, before its first unit: reading the images, compiling kernels.
        build_s: what each unit needs before its first epoch.
        epoch_s: a whole epoch with its checkpoint, a prediction from each long epoch that was measured, rising.
        last_s: what the last epoch takes more: the choice of SPOS, the test of a retraining.
        state_bytes: size of a checkpoint.
    """

    load_s: float
    build_s: float
    epoch_s: tuple[float, ...]
    last_s: float
    state_bytes: int

    def unit_s(self, epochs: int) -> tuple[float, float, float]:
        """Seconds of a unit of this many epochs: by the fastest epoch measured, their median and the slowest."""
        rest = self.build_s + self.last_s
        return tuple(rest + epochs * one for one in (self.epoch_s[0], median(self.epoch_s), self.epoch_s[-1]))  # type: ignore[return-value]


def merged(paces: Sequence[Pace]) -> Pace:
    """One pace of several that were measured side by side: all their epochs, the medians of the rest."""
    epochs = sorted(one for pace in paces for one in pace.epoch_s)
    rest = {name: median(getattr(pace, name) for pace in paces) for name in ("load_s", "build_s", "last_s")}
    return Pace(**rest, epoch_s=tuple(epochs), state_bytes=max(pace.state_bytes for pace in paces))


def search_pace(options: SearchOptions, load: Callable[[], ImageData], device: torch.device) -> Pace:
    """Measure a search; of a multi-trial one a child that is drawn at random.

    Args:
        options: the search.
        load: reads its images onto `device`.
        device: where it runs.

    Raises:
        DataError, OptionsError, LatencyError, ConstraintsError: as the search.
        NonFiniteLossError: if its loss is not finite within the steps.
    """
    strategy = options.strategy
    if isinstance(strategy, MultiTrialOptions):
        return _child_pace(options, load, device)
    whole = 1
    if isinstance(strategy, SposOptions):  # its last epoch judges as many children in each generation
        whole, strategy = strategy.generations, replace(strategy, generations=1)

    def build(data: ImageData, epochs: int) -> Work:
        return Search(replace(options, epochs=epochs, strategy=strategy), data, device)

    has_graph = options.has_graph and device.type == "cuda"
    pace = _measured(build, load, options.batch_size, has_graph)
    return replace(pace, last_s=whole * pace.last_s)


def _child_pace(options: SearchOptions, load: Callable[[], ImageData], device: torch.device) -> Pace:
    assert isinstance(options.strategy, MultiTrialOptions)
    code = genotype_space(options.network).sample(torch.Generator().manual_seed(options.seed))
    last = options.epochs * options.strategy.children - 1  # `widths` grow
    strategy = options.strategy

    def build(data: ImageData, epochs: int) -> Work:
        estimate = replace(strategy.estimate, epochs=epochs)
        short = replace(strategy, estimate=estimate)  # type: ignore[arg-type]  # `replace` kept its class
        return ChildTraining(replace(options, strategy=short), data, ChildOrder(number=last, code=code), device)

    return _measured(build, load, child_recipe(options).batch_size)


def retrain_pace(
    genotype: Genotype, options: RetrainOptions, load: Callable[[], ImageData], device: torch.device
) -> Pace:
    """Measure the retraining of a cell, its test included; arguments and errors as of `Retrain`."""

    def build(data: ImageData, epochs: int) -> Work:
        return Retrain(genotype, replace(options, epochs=epochs), data, device)

    return _measured(build, load, options.batch_size)


def _measured(
    build: Callable[[ImageData, int], Work], load: Callable[[], ImageData], batch_size: int, has_graph: bool = False
) -> Pace:
    start, share = time.perf_counter(), _Share()
    data = load()
    train, validation, test = (_Shortened(split, share) for split in (data.train, data.validation, data.test))
    short = replace(data, train=train, validation=validation, test=test)
    steps = max(1, data.train.num_batches(batch_size, drop_last=True))  # if there is none, the work refuses it
    shares = [min(1.0, count / steps) for count in (_SHORT, _LONG)]

    def timed(work: Work, part: float) -> float:
        begun, share.value = time.perf_counter(), part
        _epoch(work)
        return time.perf_counter() - begun

    work = build(short, 2 * _REPEATS + 2)  # the last epoch is measured apart
    timed(work, shares[1])
    first_s = time.perf_counter() - start
    pairs = [[timed(work, part) for part in shares] for _ in range(_REPEATS)]
    usual = [median(pair[index] for pair in pairs) for index in (0, 1)]
    builds, lasts = [], []
    for part in shares:
        begun = time.perf_counter()
        again = build(short, 2)
        builds.append(time.perf_counter() - begun)
        timed(again, shares[has_graph])
        lasts.append(timed(again, part))
    epoch_s = sorted(_whole(usual[0], long, *shares) for _, long in pairs)
    return Pace(
        load_s=max(0.0, first_s - builds[0] - usual[1]),
        build_s=median(builds),
        epoch_s=tuple(epoch_s),
        last_s=max(0.0, _whole(*lasts, *shares) - median(epoch_s)),
        state_bytes=_save(work.state_dict()),
    )


def _epoch(work: Work) -> None:
    work.run_epoch()
    if isinstance(work, Retrain) and work.is_over:
        work.final_metrics()
    _save(work.state_dict())


def _save(state: dict[str, Any]) -> int:
    """Write a state as for a checkpoint, and return its bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


def _whole(short_s: float, long_s: float, short: float, long: float) -> float:
    """Seconds of a whole epoch from those of two shares; noise makes none shorter than the long one."""
    if long >= 1:
        return long_s
    return max(long_s, short_s + (long_s - short_s) * (1 - short) / (long - short))


@dataclass
class _Share:
    """Which part of all images the passes take now, in (0, 1]."""

    value: float = 1.0


class _Shortened(DerivedSplit):
    """A split of which passes take a share, but for those that recompute statistics: these are short as they are."""

    def __init__(self, split: Split, share: _Share) -> None:
        super().__init__(split)
        self._share = share

    def _changed(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        return batches

    def _iterate(self, wanted: Any) -> Iterator[tuple[Tensor, Tensor]]:
        if wanted.generator is None:  # a share of the images, as batches of a validation are few
            most = max(1, round(self._share.value * len(self)))
            return self._split.part(np.arange(most))._iterate(wanted._replace(drop_last=False))
        batches = super()._iterate(wanted)
        if wanted.augment is None:
            return batches
        return islice(batches, max(1, round(self._share.value * self.num_batches(wanted.batch_size, True))))
