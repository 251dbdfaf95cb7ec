"""Searches and retrainings that look like real ones, made from a seed in milliseconds, without PyTorch.

Alpha drifts to values that depend on the edge, on the operation's cost and on eta; the distribution sharpens, so the
entropy falls and the gap between supernet and child closes, unless the strategy relaxes without noise (`darts`).
Shape suffixes: T epochs, E edges, O operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from dashboards.history import History, history_table, parquet_bytes, read_history
from dashboards.pictures.cell_layout import cell_edges
from search_core.search.temperature import TemperatureOptions, temperature_at
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, CellType, Edge, Genotype

CLASSES, PIXELS = 10, 32 * 32
#: Kernel area and number of (depthwise, pointwise) pairs of each operation with weights.
_CONVS = {"sep_conv_3x3": (9, 2), "sep_conv_5x5": (25, 2), "dil_conv_3x3": (9, 1), "dil_conv_5x5": (25, 1)}


@dataclass(frozen=True, kw_only=True)
class GeneratedSearch:
    """One search.

    Attributes:
        number: of the trial.
        seed: of the study; searches of one seed agree on which edges and operations are good.
        epochs: reported; fewer than `planned` if it was stopped, failed or still runs.
        planned: epochs asked for.
        eta: penalty strength.
        strategy: `snas`, or one that never closes its gap.
        temperature: kind of the schedule and its last value.
        end: how it ended; None while it runs.
        reason: why it ended early.
        nodes: intermediate nodes per cell.
        cells: of the network.
        channels: of its first cell.
        start_s: unix seconds.
    """

    number: int
    seed: int
    epochs: int
    planned: int
    eta: float
    strategy: str = "snas"
    temperature: tuple[Literal["constant", "linear", "exponential", "cosine"], float] = ("linear", 0.03)
    end: str | None = "complete"
    reason: str = ""
    nodes: int = 4
    cells: int = 8
    channels: int = 16
    start_s: float = 1.79e9

    @property
    def alphas(self) -> dict[CellType, np.ndarray]:
        """Architecture parameters per cell type, (T, E, O)."""
        return _distributions(self)[0]

    @property
    def probabilities(self) -> dict[CellType, np.ndarray]:
        """Softmax of alpha, (T, E, O)."""
        return _distributions(self)[1]

    @property
    def entropies(self) -> dict[CellType, np.ndarray]:
        """Nats per edge, (T, E)."""
        return {cell_type: -(p * np.log(p + 1e-30)).sum(-1) for cell_type, p in self.probabilities.items()}

    @property
    def credits(self) -> dict[CellType, np.ndarray]:
        """Credit per edge, (T, E): large while the loss still falls, larger on edges that matter."""
        fade = np.exp(-np.arange(self.epochs) / (0.3 * self.planned))[:, None]
        found = {}
        for index, cell_type in enumerate(CELL_TYPES):
            noise = self._random(20 + index).normal(0, 0.004, (self.epochs, len(cell_edges(self.nodes))))
            found[cell_type] = 0.05 * fade * self._quality(index).max(-1)[None] - 0.03 * fade + noise
        return found

    @property
    def resource_credits(self) -> dict[CellType, np.ndarray]:
        """Minus the penalty's share per edge, (T, E), of penalties that sum logarithms of multiply-adds."""
        costs = np.log1p(operation_costs(self)["madds"])
        return {cell_type: -self.eta * (p * costs).sum(-1) for cell_type, p in self.probabilities.items()}

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """All metrics of `EpochReport`, (T,) each."""
        return _search_metrics(self)

    @cached_property
    def seconds_since_start(self) -> np.ndarray:
        """When each epoch was over, (T,)."""
        return np.cumsum(self.metrics["seconds"]) + 5.0

    @property
    def end_s(self) -> float | None:
        """Unix seconds; None while it runs."""
        last = float(self.seconds_since_start[-1]) if self.epochs else 5.0
        return None if self.end is None else self.start_s + last + 2.0

    def genotype(self, epoch: int = -1) -> Genotype:
        """The architecture that an epoch derives; its edges are the most probable operations."""
        kept: dict[CellType, tuple[Edge, ...]] = {}
        for cell_type in CELL_TYPES:
            best = [PRIMITIVES[index] for index in self.probabilities[cell_type][epoch].argmax(-1)]
            edges = zip(best, cell_edges(self.nodes), strict=True)
            kept[cell_type] = tuple(Edge(primitive, *nodes) for primitive, nodes in edges if primitive != "none")
        concat = tuple(range(2, self.nodes + 2))
        return Genotype(kept["normal"], concat, kept["reduce"], concat)

    def records(self, *, cells: bool = True) -> list[dict[str, Any]]:
        """Plain data as from `EpochReport.to_dict`, with the `time` of the journal; cells and genotypes where asked."""
        columns = {name: values.tolist() for name, values in self.metrics.items()}
        times = (self.start_s + self.seconds_since_start).tolist()
        found: list[dict[str, Any]] = [
            {"time": times[epoch], "epoch": epoch, "metrics": {name: values[epoch] for name, values in columns.items()}}
            for epoch in range(self.epochs)
        ]
        if cells:
            tables = {"alpha": self.alphas, "probabilities": self.probabilities}
            tables |= {"entropy": self.entropies, "credit": self.credits, "resource_credit": self.resource_credits}
            plain = {key: {kind: rows.tolist() for kind, rows in table.items()} for key, table in tables.items()}
            for epoch, record in enumerate(found):
                record["genotype"] = self.genotype(epoch).to_dict()
                record["cells"] = {
                    kind: {key: table[kind][epoch] for key, table in plain.items()} for kind in CELL_TYPES
                }
        return found

    def history(self) -> History:
        """All of it, as it comes back from the file."""
        return read_history(parquet_bytes(history_table(self.records(), PRIMITIVES)), f"history of trial {self.number}")

    def curves(self) -> History:
        """Metrics alone."""
        return History(epochs=1 + np.arange(self.epochs), metrics=self.metrics)

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.number, stream])

    def _quality(self, index: int) -> np.ndarray:
        """How much each operation on each edge is worth, (E, O): common to the study, but for noise."""
        shape = (len(cell_edges(self.nodes)), len(PRIMITIVES))
        shared = np.random.default_rng([self.seed, 10_000_000, index]).normal(0, 0.8, shape)
        return shared + self._random(index).normal(0, 0.35, shape)

    def _alpha(self, index: int) -> np.ndarray:
        shape = (self.epochs, len(cell_edges(self.nodes)), len(PRIMITIVES))
        random = self._random(10 + index)
        expense = np.log1p(operation_costs(self)["madds"])
        expense = expense / expense.max()
        # Costly operations also fit better; eta works against them, over five decades.
        pull = 1.2 - 3.2 * np.sqrt(self.eta / (self.eta + 5e-3))
        target = (4.0 if self.strategy == "snas" else 1.2) * (self._quality(index) + pull * expense)
        target[:, 0] -= 1.2 * pull
        steps = np.arange(self.epochs)
        ruin = 16.0 * (steps / max(self.epochs, 1)) ** 2 if self.end == "collapsed" else np.zeros(self.epochs)
        progress = (1 - np.exp(-2.5 * steps / self.planned))[:, None, None]
        wander = np.cumsum(random.normal(0, 0.02, shape), axis=0)
        alpha = random.normal(0, 1e-3, shape[1:])[None] + target[None] * progress + wander
        alpha[..., 0] += ruin[:, None]
        return alpha

    @property
    def schedule(self) -> TemperatureOptions:
        """Temperature schedule."""
        kind, end = self.temperature
        return TemperatureOptions(kind=kind, start=1.0, end=end)


@dataclass(frozen=True, kw_only=True)
class GeneratedRetraining:
    """One training of a found cell from scratch; attributes as in `GeneratedSearch`."""

    search: GeneratedSearch
    seed: int
    epochs: int
    planned: int
    end: str | None = "complete"
    reason: str = ""
    start_s: float = 1.79e9
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Tag `snas.unit`."""
        return f"retrain-{self.search.number:04d}-seed{self.seed}"

    @property
    def end_s(self) -> float | None:
        """Unix seconds; None while it runs."""
        return None if self.end is None else self.start_s + 60.0 * self.epochs + 5.0

    def history(self) -> History:
        """All of it, as it comes back from the file."""
        return read_history(parquet_bytes(history_table(self.records(), ())), f"history of {self.label}")

    def records(self) -> list[dict[str, Any]]:
        """Plain data as from `RetrainReport.to_dict`, with the `time` of the journal."""
        random = np.random.default_rng([self.search.seed, self.search.number, self.seed, 7])
        progress = (np.arange(self.epochs) + 1) / self.planned
        best = 1 - 0.75 * float(self.search.metrics["child_val_error"][-1]) + float(random.normal(0, 0.004))
        accuracy = best - (best - 1 / CLASSES) * np.exp(-6 * progress) + random.normal(0, 0.006, self.epochs)
        accuracy = np.clip(accuracy, 0, 0.999)
        columns = {
            "train_loss": -np.log(np.clip(accuracy + 0.03 * progress, 1e-3, 0.999)),
            "train_accuracy": np.clip(accuracy + 0.03 * progress, 0, 1),
            "val_loss": -1.1 * np.log(accuracy),
            "val_accuracy": accuracy,
            "lr": 0.0125 * (1 + np.cos(np.pi * progress)),
            "drop_path": 0.2 * progress,
            "seconds": np.full(self.epochs, 60.0),
        }
        records: list[dict[str, Any]] = [
            {
                "time": self.start_s + 60.0 * (epoch + 1),
                "epoch": epoch,
                "metrics": {name: float(values[epoch]) for name, values in columns.items()},
            }
            for epoch in range(self.epochs)
        ]
        if self.end == "complete":
            size = {name: 4.4 * float(self.search.metrics[f"child_{name}"][-1]) for name in ("params", "madds")}
            records[-1]["metrics"] |= {"test_accuracy": float(accuracy[-1]) - 0.004, **size}
        return records


@lru_cache(maxsize=4)  # not with the search: a thousand searches of 150 epochs would keep half a gigabyte
def _distributions(search: GeneratedSearch) -> tuple[dict[CellType, np.ndarray], dict[CellType, np.ndarray]]:
    alphas = {cell_type: search._alpha(index) for index, cell_type in enumerate(CELL_TYPES)}
    powers = {cell_type: np.exp(alpha - alpha.max(-1, keepdims=True)) for cell_type, alpha in alphas.items()}
    return alphas, {cell_type: power / power.sum(-1, keepdims=True) for cell_type, power in powers.items()}


def operation_costs(search: GeneratedSearch) -> dict[str, np.ndarray]:
    """Parameters, multiply-adds and memory access of every operation in all cells of a type together, (O,)."""
    depth = [
        sum(cell >= border for border in (search.cells // 3, 2 * search.cells // 3)) for cell in range(search.cells)
    ]
    columns: dict[str, list[float]] = {"params": [], "madds": [], "memory_access": []}
    for primitive in PRIMITIVES:
        params = madds = moved = 0.0
        for halvings in depth:
            channels, pixels = search.channels * 2**halvings, PIXELS / 4**halvings
            area, pairs = _CONVS.get(primitive, (0, 0))
            weights = pairs * (area * channels + channels**2) if pairs else 0
            params += weights + 2 * channels * (pairs or primitive.endswith("pool_3x3"))
            madds += weights * pixels
            moved += 0 if primitive == "none" else 2 * channels * pixels * max(1, 2 * pairs) + weights
        for name, value in zip(columns, (params, madds, moved), strict=True):
            columns[name].append(value / 2)  # half of the edges' work in each of the two cell types
    return {name: np.array(values) for name, values in columns.items()}


def _search_metrics(search: GeneratedSearch) -> dict[str, np.ndarray]:
    steps, random = np.arange(search.epochs), search._random(30)
    temperature = np.array([temperature_at(search.schedule, step, search.planned) for step in steps])
    chosen = {kind: p.argmax(-1) for kind, p in search.probabilities.items()}
    entropy = {kind: values.sum(-1) for kind, values in search.entropies.items()}
    total = entropy["normal"] + entropy["reduce"]
    costs = operation_costs(search)
    bases = {"params": 20_000.0, "madds": 6.0e6, "memory_access": 9.0e5}
    child = {
        name: np.round(bases[name] + sum(cost[best].sum(-1) for best in chosen.values()))
        for name, cost in costs.items()
    }
    expected = {
        name: sum((p * cost).sum((-1, -2)) for p in search.probabilities.values()) for name, cost in costs.items()
    }
    edges = {kind: (best > 0).sum(-1).astype(float) for kind, best in chosen.items()}
    most = 2 * len(cell_edges(search.nodes)) * math.log(len(PRIMITIVES))
    softness = total / most * (1.0 if search.strategy == "snas" else 2.0)
    gap = 0.5 * softness * (0.15 + 0.85 * temperature) + random.normal(0, 0.006, search.epochs)
    capacity = np.log10(child["params"]) - math.log10(bases["params"])
    ceiling = 0.955 - 0.16 * np.exp(-1.6 * capacity) + float(random.normal(0, 0.006))
    progress = 1 - np.exp(-5.0 * (steps + 1) / search.planned)
    supernet = 1 / CLASSES + (ceiling - 1 / CLASSES) * progress + random.normal(0, 0.006, search.epochs)
    supernet = np.clip(supernet, 0.05, 0.995)
    accuracy = np.clip(supernet - gap, 0.02, 0.995)
    train = np.clip(supernet + 0.02 * progress, 0.05, 0.999)
    seconds = 24.0 + 10.0 * random.random(search.epochs)
    nodes = {kind: np.minimum(values, float(search.nodes)) for kind, values in edges.items()}
    return {
        "supernet_val_accuracy": supernet,
        "child_val_accuracy": accuracy,
        "child_val_error": 1 - accuracy,
        "child_val_accuracy_recalibrated": np.clip(supernet - 0.5 * gap, 0.02, 0.995),
        "discretization_gap": supernet - accuracy,
        "train_loss": -np.log(train),
        "train_accuracy": train,
        "train_penalty": search.eta * np.log1p(expected["madds"]),
        "supernet_val_loss": -np.log(supernet),
        "child_val_loss": -np.log(accuracy),
        "entropy_normal": entropy["normal"],
        "entropy_reduce": entropy["reduce"],
        "entropy_total": total,
        "temperature": temperature,
        "eta": np.full(search.epochs, search.eta),
        **{f"expected_cost_{name}": values for name, values in expected.items()},
        **{f"child_{name}": values for name, values in child.items()},
        "edges_normal": edges["normal"],
        "edges_reduce": edges["reduce"],
        "nodes_normal": nodes["normal"],
        "nodes_reduce": nodes["reduce"],
        "seconds": seconds,
        "images_per_s": 25_000 / seconds,
    }
