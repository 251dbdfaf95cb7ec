"""Everything that defines a search: the options of `search`, apart from it, as they need no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from search_core.cost.constraints import Constraints
from search_core.cost.latency_options import LatencyOptions
from search_core.cost.penalty_options import PenaltyOptions
from search_core.data.dataset_options import DatasetOptions
from search_core.errors import Rule, literal_rules, require
from search_core.search.temperature import TemperatureOptions
from search_core.space.chain import ChainOptions
from search_core.space.plan import NetworkOptions
from search_core.strategies.multi_trial.options import DepthGrowth, MultiTrialOptions, RlNasOptions
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.registry import StrategyOptions
from search_core.strategies.weight_sharing.options import SnasOptions

#: Settings that earlier versions did not have, and the value at which they change nothing.
_LATER = (
    ("network.space", "darts"),
    ("network.chain", asdict(ChainOptions())),
    ("dataset.colour_jitter", False),
    ("alpha.grad_clip", None),
    ("penalty.target", None),
    ("strategy.drop_path", 0.0),
    ("strategy.auxiliary_weight", 0.0),
    ("strategy.stop_margin", None),
    ("strategy.paths", "edges"),
    ("strategy.encoding", "choices"),
    ("strategy.layers", 8),
    ("strategy.weight_norm", False),
    ("strategy.mutation", "any"),
    ("strategy.growth", asdict(DepthGrowth())),
    ("strategy.estimate.morphism", False),
    ("strategy.estimate.widths", ()),
    ("strategy.estimate.stop.startup", 10),
    ("strategy.estimate.stop.confidence", 0.95),
)
#: Sections of the options in which a forked search may differ from the one whose state it continues.
FORK_SECTIONS = ("penalty", "temperature", "constraints")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Everything that defines one search; the `search` section of a study file mirrors it.

    Attributes:
        dataset: images, splits and augmentation.
        network: size of the searchable network.
        strategy: the search algorithm and its own options.
        temperature: schedule of the concrete distribution's temperature.
        penalty: the resource penalty.
        theta: optimiser of the operation weights.
        alpha: optimiser of the architecture parameters.
        constraints: hard limits on the child.
        latency: where the latency of children comes from.
        epochs: passes over the training images, at least 1.
        batch_size: images a step, at least 2.
        recalibration_batches: training batches from which the child's BN statistics are recomputed, at least 1.
        cuda_graph: replay training steps from a CUDA graph on a GPU, where small kernels wait for their launches:
            `auto` where it is possible; `true` refuses a search in which it is not.
        precision: type of the searchable network's convolutions and products on a GPU; statistics, nodes and weights
            stay float32. Child networks are evaluated in float32.
        seed: seed of initial weights, data order, augmentation and architecture samples; a study sets its own.

    Raises:
        OptionsError: if a value is out of range.
    """

    dataset: DatasetOptions = field(default_factory=DatasetOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    # Read by pydantic, which the orchestrator validates study files with: `kind` says which options these are.
    strategy: StrategyOptions = field(default_factory=SnasOptions, metadata={"discriminator": "kind"})
    temperature: TemperatureOptions = field(default_factory=TemperatureOptions)
    penalty: PenaltyOptions = field(default_factory=PenaltyOptions)
    theta: ThetaOptions = field(default_factory=ThetaOptions)
    alpha: AlphaOptions = field(default_factory=AlphaOptions)
    constraints: Constraints = field(default_factory=Constraints)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    epochs: int = 150
    batch_size: int = 64
    recalibration_batches: int = 16
    cuda_graph: Literal[True, False, "auto"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        kind, on_gpu = self.strategy.kind, self.strategy.on_gpu
        require(
            *literal_rules(self),
            *(
                ("cuda_graph", self.cuda_graph is not True, f"must be auto or false, got true: {obstacle}", cause)
                for obstacle, cause in self._obstacles_to_graph()
            ),
            (
                "precision",
                self.precision == "float32" or self.precision in on_gpu,
                f"must be float32 with strategy {kind}, got {self.precision}",
                "strategy.kind",
            ),
            *self._space_rules(),
            *self._latency_rules(),
            *self._target_rules(),
            ("epochs", self.epochs >= 1, f"must be at least 1, got {self.epochs}"),
            ("batch_size", self.batch_size >= 2, f"must be at least 2, got {self.batch_size}"),
            (
                "recalibration_batches",
                self.recalibration_batches >= 1,
                f"must be at least 1, got {self.recalibration_batches}",
            ),
            ("seed", 0 <= self.seed < 2**31, f"must be in [0, 2^31), got {self.seed}"),
        )

    def _space_rules(self) -> Iterator[Rule]:
        """Who can search which space: relaxed and shared operations are those of edges."""
        space, kind, spaces = self.network.space, self.strategy.kind, self.strategy.spaces
        rule = f"must be {' or '.join(spaces)} with strategy {kind}, got {space}"
        yield "network.space", space in spaces, rule, "strategy.kind"
        rule = f"must be left out with `network.space` {space}: a table knows cells whose nodes are all the output"
        yield "latency.table", space == "darts" or self.latency.table is None, rule, "network.space"
        if isinstance(self.strategy, MultiTrialOptions):  # other spaces have no move that keeps the function
            is_morph, mutation = self.strategy.estimate.morphism, getattr(self.strategy, "mutation", "any")
            rule = f"must be false with `network.space` {space}, got {is_morph}"
            yield "strategy.estimate.morphism", space == "darts" or not is_morph, rule, "network.space"
            rule = f"must be any with `network.space` {space}, got {mutation}"
            yield "strategy.mutation", space == "darts" or mutation == "any", rule, "network.space"
            if space in spaces:
                yield from self._chain_rules(self.strategy)

    def _chain_rules(self, strategy: MultiTrialOptions) -> Iterator[Rule]:
        """What goes with chains of layers, and what with cells alone."""
        is_chain, estimate = self.network.space == "nas_chain", strategy.estimate
        of_cells = {"init_channels": None, "cells": None, "widths": (), "inherit": False, "drop_path": 0.0}
        for name, unused in of_cells.items():
            value = getattr(estimate, name)
            rule = f"must be left out with `network.space` nas_chain, whose children have no cells, got {value}"
            yield f"strategy.estimate.{name}", not is_chain or value == unused, rule, "network.space"
        if isinstance(strategy, RlNasOptions):
            growth, most = strategy.growth, self.network.nodes
            rule = f"must be left out with `network.space` {self.network.space}: only chains grow, got {growth.every}"
            yield "strategy.growth.every", is_chain or growth.every is None, rule, "network.space"
            rule = f"must be at most `network.nodes` {most}, got {growth.start}"
            yield "strategy.growth.start", growth.every is None or growth.start <= most, rule, "network.nodes"

    def _latency_rules(self) -> Iterator[Rule]:
        """Rules over several sections: what needs the table, and what a penalty on whole children excludes."""
        is_whole = self.penalty.cost == "child_latency"
        needed = {"penalty.cost latency": self.penalty.cost == "latency"}
        needed["constraints.latency_ms"] = self.constraints.latency_ms is not None
        needed["penalty.target"] = self.penalty.target is not None and self.penalty.target.latency_ms is not None
        for what, is_asked in needed.items():
            rule = f"must be given for `{what}`: the file that `snas latency measure` writes"
            yield "latency.table", not is_asked or self.latency.table is not None, rule, what.split()[0]
        one_sample = isinstance(self.strategy, SnasOptions) and self.strategy.sample_per == "batch"
        rule = "must be snas with `sample_per` batch for `penalty.cost` child_latency, which looks at the sampled child"
        rule += f", got {self.strategy.kind}"
        yield "strategy.kind", not is_whole or one_sample, rule, "penalty.cost", "strategy"

    def _target_rules(self) -> Iterator[Rule]:
        """A cost to aim at needs a penalty, and costs that are sums over edges."""
        target, kind, space = self.penalty.target, self.strategy.kind, self.network.space
        rule = f"must be left out with strategy {kind}, which has no penalty that eta could steer"
        yield "penalty.target", target is None or "penalty" in self.strategy.uses, rule, "strategy.kind"
        rule = f"must be left out with `network.space` {space}: its costs are no sums over edges"
        yield "penalty.target", target is None or space == "darts", rule, "network.space"

    @property
    def has_graph(self) -> bool:
        """Whether a search on a GPU is to replay its training steps from a CUDA graph."""
        return self.cuda_graph is not False and not any(self._obstacles_to_graph())

    @property
    def graph_note(self) -> str | None:
        """Why a search on a GPU goes without a graph though `auto` would have one; None if it does not."""
        obstacle = next(self._obstacles_to_graph(), None)
        return None if obstacle is None or self.cuda_graph is False else f"no CUDA graph of a step: {obstacle[0]}"

    def _obstacles_to_graph(self) -> Iterator[tuple[str, str]]:
        """Each with the option that it comes from."""
        if self.strategy.no_graph:
            yield f"strategy {self.strategy.kind} {self.strategy.no_graph}", "strategy.kind"
        if isinstance(self.strategy, SnasOptions) and self.strategy.drop_path > 0:
            yield "`strategy.drop_path` draws between kernels", "strategy.drop_path"
        if self.penalty.cost == "child_latency":
            yield "`penalty.cost` child_latency asks for the child between kernels", "penalty.cost"


def defining(options: SearchOptions) -> dict[str, Any]:
    """Plain data of all that decides what a search computes; where files lie and who reads them does not.

    Settings of later versions that change nothing are left out, so that states of earlier versions still fit.
    """
    plain = asdict(options)
    for name in ("root", "workers"):
        del plain["dataset"][name]
    for place, unused in _LATER:
        *sections, name = place.split(".")
        section = plain
        for key in sections:
            section = section.get(key, {})
        if section.get(name, ...) == unused:
            del section[name]
    return plain
