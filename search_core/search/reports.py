"""What a search says after every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from search_core.cost.counts import NetworkCost
from search_core.search.temperature import temperature_at
from search_core.space.code_space import Code
from search_core.space.genotype import CellType, Genotype
from search_core.strategies.weight_sharing.options import WeightSharingOptions

if TYPE_CHECKING:  # what computes needs PyTorch; names of metrics do not
    from search_core.search.options import SearchOptions


@dataclass(frozen=True, kw_only=True)
class CellReport:
    """The distribution over one cell type after an epoch; rows are edges in the order of `cell_edges`.

    Attributes:
        alpha: architecture parameters, E rows of O values.
        probabilities: probability of every operation, E rows of O values.
        entropy: nats, per edge.
        credit: mean task credit of the epoch's steps, per edge, nats (SNAS section 2.3).
        resource_credit: mean of minus eta times the edge's share of the penalty, likewise (SNAS section 2.4); the
            paper's credit of an edge is the sum of both.
    """

    alpha: tuple[tuple[float, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]
    entropy: tuple[float, ...]
    credit: tuple[float, ...]
    resource_credit: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """State of a search after one epoch. Accuracies and errors are fractions in [0, 1].

    In a multi-trial search there is no supernet: an epoch trains a number of children, each independently. The child is
    the best of all so far by its accuracy on held-out training images; it stands for the supernet too, so that the gap
    is 0; `train_*` are those of its last epoch; `seconds` is the sum over the epoch's children; and the distribution is
    that of what is proposed now, with log probabilities as alpha. Of chains (`nas_chain`), whose costs are no sums over
    edges, `expected_cost_*` are means of the whole children of the epoch, and there is no reduction cell.

    Attributes:
        epoch: 0-based.
        supernet_val_accuracy: of the supernet, one architecture sample per batch at the current temperature.
        child_val_accuracy: of the derived child with inherited weights and statistics, without any training.
        child_val_error: 1 - `child_val_accuracy`, or 1 - `child_val_accuracy_recalibrated` for a strategy whose paper
            judges children so (`WeightSharingOptions.recalibrates`).
        child_val_accuracy_recalibrated: as `child_val_accuracy`, batch norm statistics recomputed on training data.
        discretization_gap: `supernet_val_accuracy - child_val_accuracy`.
        train_loss: mean task loss of the epoch's steps, nats.
        train_accuracy: over the epoch's steps.
        train_penalty: mean of eta * C(Z) over the epoch's steps.
        supernet_val_loss: nats.
        child_val_loss: nats.
        entropy_normal: total over the normal cell's edges, nats.
        entropy_reduce: total over the reduction cell's edges, nats.
        entropy_total: of both.
        temperature: lambda of this epoch.
        eta: penalty strength of this epoch.
        expected_cost_params: expected parameters of the searchable operations.
        expected_cost_madds: expected multiply-adds of the searchable operations, one image.
        expected_cost_memory_access: expected elements moved by the searchable operations, one image.
        child_params: parameters of the derived child at the search's size, as `snas profile` counts them.
        child_madds: multiply-adds likewise, one image.
        child_memory_access: elements moved likewise, one image.
        edges_normal: kept edges of the normal cell.
        edges_reduce: kept edges of the reduction cell.
        nodes_normal: intermediate nodes of the normal cell that an input still reaches.
        nodes_reduce: likewise for the reduction cell.
        seconds: wall time of the epoch, validation included.
        images_per_s: training images per second of training time.
        genotype: the derived architecture.
        cells: the distribution over each cell type; a chain has no reduction cell.
        child_latency_ms: milliseconds of the derived child by `latency.table`; None without a table.
        pruned_kl: nats, on held-out images: `D(p || q) + D(q || p)` of the predictions p of the whole one-shot network
            and q of a child drawn at random, mean over the draws of the epoch (Bender et al., ICML 2018, section 4.2);
            None for all strategies but `one_shot`.
        supernet_val_accuracy_recalibrated: as `supernet_val_accuracy`, batch norm statistics recomputed on training
            data under samples of the last temperature; None before the last epoch, and in a multi-trial search.
            Strategies that normalise by the batch itself have the same as without.
        discretization_gap_recalibrated: `supernet_val_accuracy_recalibrated - child_val_accuracy_recalibrated`;
            likewise.
        children: code and score of each child that was trained independently in this epoch, NaN if its training failed;
            empty for strategies whose children share their weights.
        choices: what the child has chosen beside the genotype, see `Strategy.choices`.
    """

    epoch: int
    supernet_val_accuracy: float
    child_val_accuracy: float
    child_val_error: float
    child_val_accuracy_recalibrated: float
    discretization_gap: float
    train_loss: float
    train_accuracy: float
    train_penalty: float
    supernet_val_loss: float
    child_val_loss: float
    entropy_normal: float
    entropy_reduce: float
    entropy_total: float
    temperature: float
    eta: float
    expected_cost_params: float
    expected_cost_madds: float
    expected_cost_memory_access: float
    child_params: int
    child_madds: int
    child_memory_access: int
    edges_normal: int
    edges_reduce: int
    nodes_normal: int
    nodes_reduce: int
    seconds: float
    images_per_s: float
    genotype: Genotype
    cells: dict[CellType, CellReport]
    child_latency_ms: float | None = None
    pruned_kl: float | None = None
    supernet_val_accuracy_recalibrated: float | None = None
    discretization_gap_recalibrated: float | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    children: tuple[tuple[Code, float], ...] = ()

    def metrics(self) -> dict[str, float]:
        """All numbers of the report by name, without `epoch`; optional ones if there are any."""
        values = {name: getattr(self, name) for name in (*METRICS, *OPTIONAL_METRICS, *FINAL_METRICS)}
        return {name: float(value) for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `epoch`, `metrics`, `genotype`, `cells`; `choices` and `children` if there are any."""
        record = {
            "epoch": self.epoch,
            "metrics": self.metrics(),
            "genotype": self.genotype.to_dict(),
            "cells": {cell_type: vars(cell) for cell_type, cell in self.cells.items()},
        }
        if self.choices:
            record["choices"] = self.choices
        if self.children:
            record["children"] = [
                {"code": list(code), "score": score if math.isfinite(score) else None} for code, score in self.children
            ]
        return record


#: Names of the numbers that only some searches report, each after every epoch: with a `latency.table`; of `one_shot`.
OPTIONAL_METRICS: tuple[str, ...] = ("child_latency_ms", "pruned_kl")
#: Names of the numbers that only the last epoch of a search with a supernet reports.
FINAL_METRICS: tuple[str, ...] = ("supernet_val_accuracy_recalibrated", "discretization_gap_recalibrated")
#: Names of the numbers that every epoch of every search reports.
METRICS: tuple[str, ...] = tuple(
    entry.name
    for entry in fields(EpochReport)
    if entry.name not in ("epoch", "genotype", "cells", "choices", "children", *OPTIONAL_METRICS, *FINAL_METRICS)
)


def epoch_report(
    options: SearchOptions,
    epoch: int,
    genotype: Genotype,
    cells: dict[CellType, CellReport],
    *,
    expected_cost: Mapping[str, float],
    child_cost: NetworkCost,
    supernet_val_accuracy: float,
    child_val_accuracy: float,
    child_val_accuracy_recalibrated: float,
    supernet_val_accuracy_recalibrated: float | None = None,
    **measured: Any,
) -> EpochReport:
    """A report with all that follows from options, genotype and distribution.

    Args:
        options: of the search.
        epoch: 0-based.
        genotype: the derived architecture.
        cells: the distribution over each cell type; a chain has no reduction cell.
        expected_cost: of each of `COST_KINDS`.
        child_cost: of the derived child.
        supernet_val_accuracy: as in `EpochReport`, like all others.
        child_val_accuracy: likewise.
        child_val_accuracy_recalibrated: likewise.
        supernet_val_accuracy_recalibrated: likewise.
        **measured: the other attributes of `EpochReport`.
    """
    strategy = options.strategy
    recalibrates = isinstance(strategy, WeightSharingOptions) and strategy.recalibrates
    entropies = {cell_type: sum(cell.entropy) for cell_type, cell in cells.items()}
    return EpochReport(
        epoch=epoch,
        genotype=genotype,
        cells=cells,
        supernet_val_accuracy=supernet_val_accuracy,
        child_val_accuracy=child_val_accuracy,
        child_val_accuracy_recalibrated=child_val_accuracy_recalibrated,
        child_val_error=1.0 - (child_val_accuracy_recalibrated if recalibrates else child_val_accuracy),
        discretization_gap=supernet_val_accuracy - child_val_accuracy,
        supernet_val_accuracy_recalibrated=supernet_val_accuracy_recalibrated,
        discretization_gap_recalibrated=(
            None
            if supernet_val_accuracy_recalibrated is None
            else supernet_val_accuracy_recalibrated - child_val_accuracy_recalibrated
        ),
        entropy_normal=entropies["normal"],
        entropy_reduce=entropies.get("reduce", 0.0),
        entropy_total=sum(entropies.values()),
        temperature=temperature_at(options.temperature, epoch, options.epochs),
        child_params=child_cost.params,
        child_madds=child_cost.madds,
        child_memory_access=child_cost.memory_access,
        edges_normal=len(genotype.normal),
        edges_reduce=len(genotype.reduce),
        nodes_normal=genotype.num_active_nodes("normal"),
        nodes_reduce=genotype.num_active_nodes("reduce"),
        **{f"expected_cost_{kind}": value for kind, value in expected_cost.items()},  # type: ignore[arg-type]
        **measured,
    )
