"""The cell DAG and the plan of a stack of cells: channels and image sizes of everything, before any weight exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from search_core.errors import literal_rules, require
from search_core.primitives.builtin import KNOWN_PRIMITIVES, PRIMITIVES
from search_core.primitives.counting import Size, halved
from search_core.primitives.registry import may_exist, short_name
from search_core.space.chain import ChainOptions
from search_core.space.genotype import CELL_TYPES, CellType, Genotype

Stem = Literal["cifar", "imagenet"]
#: Which cells there are to choose from, see `search_core.space.codes`.
Space = Literal["darts", "nasnet", "enas", "choice_blocks", "nas_chain"]

#: Bit width that stands for values as they are.
FULL_PRECISION = 32


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Size of the searchable network.

    Attributes:
        space: `darts` has one operation on every edge; in `nasnet` and `enas` a node has two inputs, each with an
            operation, and what no node reads is the output; in `nasnet` a node adds or stacks both. In
            `choice_blocks` a node has one or two inputs and one or two operations, each on each input. A child of
            `nas_chain` is a single chain of layers; only `nodes` and `chain` say something of it.
        nodes: intermediate nodes B of a cell (5 in NASNet and ENAS), or layers of a chain.
        cells: cells L in the stack; those at L // 3 and 2 L // 3 are reduction cells.
        init_channels: channels C of the first cells; reduction cells double them.
        primitives: candidate operations of every edge, at least two, without repetition: names, or `file.py:Class` and
            `package.module:Class` of plug-ins. In the spaces of papers two and `none`, which is never chosen: reports
            have there how likely it is that a node does not read another. Left out with `nas_chain`, where they follow
            from `chain`.
        stem: `cifar` (one 3x3 conv) or `imagenet` (three 3x3 convs of stride 2).
        chain: what the layers of `nas_chain` choose from.
        recompute: keep the inputs of cells only and compute the rest again in the backward pass: slower steps, a
            fraction of the memory, the same numbers.

    Raises:
        OptionsError: if a value is out of range.
    """

    space: Space = "darts"
    nodes: int = 4
    cells: int = 8
    init_channels: int = 16
    primitives: tuple[str, ...] = field(default=PRIMITIVES)
    stem: Stem = "cifar"
    chain: ChainOptions = field(default_factory=ChainOptions)
    recompute: bool = False

    def __post_init__(self) -> None:
        names = [short_name(name) for name in self.primitives]
        unknown = [name for name in names if not may_exist(name)]
        distinct = len(set(names)) == len(names)
        require(
            *literal_rules(self),
            ("nodes", self.nodes >= 1, f"must be at least 1, got {self.nodes}"),
            (  # a draw below the least common multiple of 2, 3, ..., 41 fits into 64 bits
                "nodes",
                self.space == "darts" or self.nodes <= 40,
                f"must be at most 40 in the space {self.space}, got {self.nodes}",
                "space",
            ),
            ("cells", self.cells >= 1, f"must be at least 1, got {self.cells}"),
            (
                "init_channels",
                self.init_channels >= 2 and self.init_channels % 2 == 0,
                f"must be an even number of at least 2, got {self.init_channels}",
            ),
            (
                "primitives",
                not unknown,
                f"must be among {', '.join(KNOWN_PRIMITIVES)}, or of plug-ins, got {', '.join(unknown)}",
            ),
            (
                "primitives",
                distinct and len(self.primitives) >= 2,
                f"must be at least two different names, got {list(self.primitives)}",
            ),
            (
                "primitives",
                self.space in ("darts", "nas_chain") or ("none" in self.primitives and len(self.primitives) >= 3),
                f"must be none and at least two others with `space` {self.space}, got {list(self.primitives)}",
                "space",
            ),
            (
                "primitives",
                self.space != "nas_chain" or self.primitives == PRIMITIVES,
                f"must be left out with `space` nas_chain, whose layers choose from `chain`, got {[*self.primitives]}",
                "space",
            ),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkOptions:
        """Read what `dataclasses.asdict` gave, whose tuples may be lists since."""
        chain = ChainOptions(**{name: tuple(values) for name, values in data.get("chain", {}).items()})
        return cls(**{**data, "primitives": tuple(data["primitives"]), "chain": chain})

    @property
    def operations(self) -> tuple[str, ...]:
        """What may sit on an edge: the columns of a search's reports; plug-ins without the folders of their files."""
        return self.chain.operations if self.space == "nas_chain" else tuple(map(short_name, self.primitives))


@dataclass(frozen=True)
class NetworkSize:
    """All that the stack of a network, and so its counts and latency, follows from but for the genotype.

    Attributes:
        network: the searchable network; a child has its cells, channels and stem.
        input_shape: channels, height, width of an image.
        num_classes: number of logits.
    """

    network: NetworkOptions
    input_shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class CellPlan:
    """Place of one cell in the stack. Sizes are (height, width) in pixels.

    Attributes:
        channels_prev_prev: channels of the output of the cell before the previous one (input of node 0).
        channels_prev: channels of the output of the previous cell (input of node 1).
        channels: channels of every node of this cell.
        cell_type: `reduce` cells halve the size on edges from the two input nodes.
        reduction_prev: whether the previous cell halved the size, so that node 0 must be halved too.
        size_prev_prev: size of the input of node 0 before it is adapted.
        size_in: size of both input nodes.
        size_out: size of the intermediate nodes and of the output.
    """

    channels_prev_prev: int
    channels_prev: int
    channels: int
    cell_type: CellType
    reduction_prev: bool
    size_prev_prev: Size
    size_in: Size
    size_out: Size

    def edge_geometry(self, source: int) -> tuple[Size, int]:
        """Input size and stride of an edge that leaves node `source`."""
        if self.cell_type == "reduce":
            return (self.size_in, 2) if source < 2 else (self.size_out, 1)
        return self.size_in, 1


@dataclass(frozen=True)
class StackPlan:
    """A whole network: stem, cells, classifier, and where the auxiliary head sits.

    Attributes:
        size: what the plan is of.
        stem_channels: output channels of the stem.
        cells: the cells, first to last.
        out_channels: channels of the last cell's output.
        auxiliary_cell: index of the cell that feeds the auxiliary head, 2 L // 3.
        auxiliary_channels: channels of that cell's output.
    """

    size: NetworkSize
    stem_channels: int
    cells: tuple[CellPlan, ...]
    out_channels: int
    auxiliary_cell: int
    auxiliary_channels: int


def cell_edges(num_nodes: int) -> tuple[tuple[int, int], ...]:
    """All edges (source, target) of a cell of `num_nodes` intermediate nodes, ordered by target, then source.

    Four nodes give the 14 edges of the papers.
    """
    return tuple((source, target) for target in range(2, num_nodes + 2) for source in range(target))


def edges_by_source(num_nodes: int) -> tuple[tuple[int, int], ...]:
    """The same edges ordered by source, then target: the order of the supernet's weights."""
    return tuple(sorted(cell_edges(num_nodes)))


def plan_supernet(size: NetworkSize) -> StackPlan:
    """Plan of the searchable network: every intermediate node is concatenated."""
    return _plan_stack(size, dict.fromkeys(CELL_TYPES, size.network.nodes))


def plan_child(genotype: Genotype, size: NetworkSize, cell_channels: Sequence[int] | None = None) -> StackPlan:
    """Plan of the child network of a genotype; cells may concatenate different numbers of nodes.

    Args:
        genotype: the architecture.
        size: of the child.
        cell_channels: channels of every cell's nodes; default: doubled by reduction cells.
    """
    num_concat = {cell_type: len(genotype.concat(cell_type)) for cell_type in CELL_TYPES}
    return _plan_stack(size, num_concat, cell_channels)


def _plan_stack(
    network_size: NetworkSize, num_concat: dict[CellType, int], cell_channels: Sequence[int] | None = None
) -> StackPlan:
    """Lay out a stack of cells (SNAS section 4.1, DARTS section 3.1 and appendix A).

    The stem of C initial channels is, for `cifar`, a 3x3 conv to 3 C channels, and for `imagenet` convs of stride 2 to
    C / 2, C and C channels. `num_concat` is the number of nodes that each cell type concatenates.
    """
    network, size = network_size.network, network_size.input_shape[1:]
    cells, init_channels = network.cells, network.init_channels
    if network.stem == "cifar":
        stem_channels = channels_prev_prev = channels_prev = 3 * init_channels
        size_prev_prev, reduction_prev = size, False
    else:
        stem_channels = channels_prev_prev = channels_prev = init_channels
        size_prev_prev = halved(halved(size))
        size, reduction_prev = halved(size_prev_prev), True

    plans, channels = [], init_channels
    auxiliary_cell, auxiliary_channels = 2 * cells // 3, 0
    for index in range(cells):
        is_reduction = index in (cells // 3, 2 * cells // 3)
        channels = channels * 2 if is_reduction else channels
        own_channels = channels if cell_channels is None else cell_channels[index]
        cell_type: CellType = "reduce" if is_reduction else "normal"
        plan = CellPlan(
            channels_prev_prev=channels_prev_prev,
            channels_prev=channels_prev,
            channels=own_channels,
            cell_type=cell_type,
            reduction_prev=reduction_prev,
            size_prev_prev=size_prev_prev,
            size_in=size,
            size_out=halved(size) if is_reduction else size,
        )
        plans.append(plan)
        channels_prev_prev, channels_prev = channels_prev, num_concat[cell_type] * own_channels
        size_prev_prev, size = size, plan.size_out
        reduction_prev = is_reduction
        if index == auxiliary_cell:
            auxiliary_channels = channels_prev
    return StackPlan(network_size, stem_channels, tuple(plans), channels_prev, auxiliary_cell, auxiliary_channels)
