"""Collapsed searches: when the reports of a search say that its remaining epochs would be wasted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_core.errors import require
from search_core.space.genotype import CELL_TYPES

#: Entropy is judged in this last part of a search, in which every schedule has brought the temperature near its end.
_END_OF_ANNEALING = 0.25
#: An entropy that falls by less than this share of its maximum over `patience` epochs has not fallen.
_LEAST_FALL = 0.01

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StopOptions:
    """When a search counts as collapsed; each rule must hold in `patience` consecutive epochs.

    Attributes:
        none_edges: stop when every edge of both cells has chosen `none`, each with a probability above 1/2. Such a
            child ignores its images, and its supernet hardly sees them; so this rule alone is on by default. While
            probabilities are still wide an argmax of `none` may turn, hence the majority, the patience and the grace.
        skip_share: stop when the share of `skip_connect` among the kept edges of both cells is above it, in [0, 1]; 1
            for never.
        stalled_entropy: stop when, in the last quarter of the epochs, the mean entropy of an edge is still above this
            share of its maximum log(number of primitives), in [0, 1], and over the last `patience` epochs has not
            fallen by 1 % of that maximum; 1 for never.
        patience: consecutive epochs in which a rule must hold, at least 1.
        grace_period: first epochs, which no rule looks at, 0 or above.

    Raises:
        OptionsError: if a value is out of range.
    """

    none_edges: bool = True
    skip_share: float = 1.0
    stalled_entropy: float = 1.0
    patience: int = 5
    grace_period: int = 5

    def __post_init__(self) -> None:
        require(
            *(
                (name, 0 <= value <= 1, f"must be in [0, 1], where 1 means never, got {value}")
                for name, value in (("skip_share", self.skip_share), ("stalled_entropy", self.stalled_entropy))
            ),
            ("patience", self.patience >= 1, f"must be at least 1 epoch, got {self.patience}"),
            ("grace_period", self.grace_period >= 0, f"must be at least 0 epochs, got {self.grace_period}"),
        )


def collapse_reason(options: StopOptions, history: Sequence[Record], epochs: int) -> str | None:
    """Why a search should be stopped now.

    Args:
        options: the rules.
        history: reports so far as `EpochReport.to_dict` gives them, oldest first; only the last `patience + 1` are
            looked at, so a tail of that length is enough.
        epochs: how many the search was asked for.

    Returns:
        One sentence with the numbers, epochs counted from 1; None if the search should continue, also after its last
        epoch, when there is nothing left to stop.
    """
    tail = [record for record in history[-options.patience - 1 :] if record["epoch"] >= options.grace_period]
    judged = tail[-options.patience :]
    if len(judged) < options.patience or judged[-1]["epoch"] >= epochs - 1:
        return None
    span = _span(judged)
    if options.none_edges and all(map(_all_none, judged)):
        return f"every edge chose `none` in {span}"
    if options.skip_share < 1:
        shares = [_skip_share(record) for record in judged]
        if min(shares) > options.skip_share:
            return (
                f"`skip_connect` took {min(shares):.0%} or more of the kept edges in {span}, "
                f"above `stop.skip_share` {options.skip_share:g}"
            )
    if options.stalled_entropy < 1 and judged[-1]["epoch"] >= (1 - _END_OF_ANNEALING) * epochs:
        return _stalled(options, tail)
    return None


def _stalled(options: StopOptions, tail: Sequence[Record]) -> str | None:
    """`tail` begins with the epoch before the judged ones, from which the fall is measured."""
    if len(tail) <= options.patience:
        return None
    shares = [_entropy_share(record) for record in tail]
    if min(shares[1:]) <= options.stalled_entropy or shares[0] - min(shares[1:]) >= _LEAST_FALL:
        return None
    return (
        f"the entropy of an edge stalled at {shares[-1]:.1%} of its maximum in {_span(tail[1:])} of "
        f"{tail[-1]['epoch'] + 1}, above `stop.stalled_entropy` {options.stalled_entropy:g}"
    )


def _span(records: Sequence[Record]) -> str:
    first, last = records[0]["epoch"] + 1, records[-1]["epoch"] + 1
    return f"epoch {last}" if first == last else f"epochs {first} to {last}"


def _all_none(record: Record) -> bool:
    """Whether no edge is kept and each edge's choice, which then is `none`, has the majority of the probability."""
    if any(record["genotype"][cell_type] for cell_type in CELL_TYPES):
        return False
    return all(max(row) > 0.5 for cell in record["cells"].values() for row in cell["probabilities"])


def _skip_share(record: Record) -> float:
    """Share of `skip_connect` among the kept edges of both cells; 0 without any."""
    names = [edge[0] for cell_type in CELL_TYPES for edge in record["genotype"][cell_type]]
    return names.count("skip_connect") / len(names) if names else 0.0


def _entropy_share(record: Record) -> float:
    """Mean entropy of an edge as a share of its maximum, over both cells."""
    entropies: list[float] = [nats for cell in record["cells"].values() for nats in cell["entropy"]]
    num_primitives = len(record["cells"]["normal"]["probabilities"][0])
    return sum(entropies) / len(entropies) / math.log(num_primitives)
