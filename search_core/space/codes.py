"""The genotypes of a search space as points: what is chosen, and among how many options.

Strategies that choose among genotypes draw, change and list them here; a *code* is the tuple of all choices, each the
index of an option. `EdgeSpace` is the common space of SNAS and DARTS, `BlockSpace` those of NASNet and ENAS,
`ChainSpace` that of NAS.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from search_core.errors import GenotypeError
from search_core.space.chain import Layer, kernel_name, kernel_size
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, cell_edges

if TYPE_CHECKING:
    import torch

#: Index of the chosen option of every choice: those of the normal cell, then the reduction cell's; or layer by layer.
Code = tuple[int, ...]


class GenotypeSpace(ABC):
    """All genotypes that a search may choose.

    Args:
        network: nodes and primitives.
        options: number of options of every choice.

    Attributes:
        edges: all that a cell may have, in the order of `cell_edges`; reports have a row for each.
        primitives: candidate operations; reports have a column for each.
        options: number of options of every choice.
    """

    def __init__(self, network: NetworkOptions, options: Sequence[int]) -> None:
        self.edges, self.primitives = cell_edges(network.nodes), network.operations
        self.options = tuple(options)

    @property
    def num_choices(self) -> int:
        """Length of a code."""
        return len(self.options)

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.options)

    @abstractmethod
    def decode(self, code: Sequence[int]) -> Genotype:
        """The genotype of a code.

        Raises:
            GenotypeError: if the code has another length.
        """

    @abstractmethod
    def encode(self, genotype: Genotype) -> Code:
        """A code of a genotype of this space, which `decode` gives back.

        Raises:
            GenotypeError: if the genotype lies outside.
        """

    def sample(self, generator: torch.Generator) -> Code:
        """A code drawn uniformly: every option of every choice is as likely."""
        return tuple(self.draw(generator).tolist())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """As `sample`, on the generator's device, so that the host need not wait for it."""
        return _integers(self.options, generator)

    def mutate(self, code: Code, probability: float, generator: torch.Generator) -> Code:
        """Each choice is drawn again with a probability (SPOS algorithm 1); it may come out the same.

        Args:
            code: the parent.
            probability: per choice, in [0, 1].
            generator: source of the draws.
        """
        changed = _fractions(len(code), generator) < probability
        fresh = self.sample(generator)
        return tuple(new if change else old for old, new, change in zip(code, fresh, changed.tolist(), strict=True))

    def mutate_one(self, code: Code, generator: torch.Generator) -> Code:
        """One choice becomes another one (Real et al., AAAI 2019: of an input or of an operation)."""
        position = int(_integers((len(code),), generator))
        num_options = self.options[position]
        step = int(_integers((num_options - 1,), generator))
        return (*code[:position], (code[position] + 1 + step) % num_options, *code[position + 1 :])

    def cross(self, first: Code, second: Code, generator: torch.Generator) -> Code:
        """Each choice comes from either parent, as likely from one as from the other (SPOS algorithm 1)."""
        from_first = _fractions(len(first), generator) < 0.5
        return tuple(a if take else b for a, b, take in zip(first, second, from_first.tolist(), strict=True))

    def all(self) -> Iterator[Code]:
        """Every code, the last choice changing fastest."""
        return itertools.product(*map(range, self.options))


class CellSpace(GenotypeSpace):
    """A space of two cells, which have the same choices.

    Args:
        network: nodes and primitives.
        options: number of options of each choice in one cell.
    """

    def __init__(self, network: NetworkOptions, options: Sequence[int]) -> None:
        super().__init__(network, len(CELL_TYPES) * tuple(options))

    def decode(self, code: Sequence[int]) -> Genotype:
        """As `GenotypeSpace.decode`."""
        if len(code) != self.num_choices:
            raise GenotypeError(f"a code must have {self.num_choices} choices, got {len(code)}")
        half = self.num_choices // len(CELL_TYPES)
        return self._decode({"normal": code[:half], "reduce": code[half:]})

    def encode(self, genotype: Genotype) -> Code:
        """As `GenotypeSpace.encode`."""
        return tuple(itertools.chain.from_iterable(self._encode(genotype, cell_type) for cell_type in CELL_TYPES))

    @abstractmethod
    def _decode(self, choices: Mapping[CellType, Sequence[int]]) -> Genotype:
        """The genotype of the choices in both cells."""

    @abstractmethod
    def _encode(self, genotype: Genotype, cell_type: CellType) -> Sequence[int]:
        """The choices of one cell."""

    @abstractmethod
    def heaviest(self, weights_EO: Mapping[CellType, torch.Tensor]) -> Code:
        """The code whose operations weigh most.

        Args:
            weights_EO: of every operation on every edge, per cell type.
        """


class EdgeSpace(CellSpace):
    """The common space (SNAS, DARTS): one choice of primitive per edge, `none` included; all nodes are the output."""

    def __init__(self, network: NetworkOptions) -> None:
        super().__init__(network, (len(network.primitives),) * len(cell_edges(network.nodes)))
        self._concat = tuple(range(2, network.nodes + 2))

    def _decode(self, choices: Mapping[CellType, Sequence[int]]) -> Genotype:
        kept: dict[CellType, tuple[Edge, ...]] = {}
        for cell_type, own in choices.items():
            names = [self.primitives[choice] for choice in own]
            kept[cell_type] = tuple(
                Edge(name, *nodes) for name, nodes in zip(names, self.edges, strict=True) if name != "none"
            )
        return Genotype(kept["normal"], self._concat, kept["reduce"], self._concat)

    def _encode(self, genotype: Genotype, cell_type: CellType) -> Sequence[int]:
        if genotype.concat(cell_type) != self._concat:
            raise GenotypeError(f"{cell_type}_concat: must be {self._concat}, got {genotype.concat(cell_type)}")
        if genotype.stacked(cell_type):
            raise GenotypeError(f"{cell_type}_stacked: must be empty, got {genotype.stacked(cell_type)}")
        chosen = {(edge.source, edge.target): edge.primitive for edge in genotype.edges(cell_type)}
        names = [chosen.get(nodes, "none") for nodes in self.edges]
        strange = set(chosen) - set(self.edges) or set(names) - set(self.primitives)
        if strange or len(chosen) != len(genotype.edges(cell_type)):
            raise GenotypeError(f"{cell_type}: must have one operation of the search space per edge, got {chosen}")
        return [self.primitives.index(name) for name in names]

    def heaviest(self, weights_EO: Mapping[CellType, torch.Tensor]) -> Code:
        """As `CellSpace.heaviest`."""
        return tuple(choice for cell_type in CELL_TYPES for choice in weights_EO[cell_type].argmax(-1).tolist())


class BlockSpace(CellSpace):
    """The spaces of NASNet (Zoph et al., CVPR 2018, section 3) and ENAS (Pham et al., ICML 2018, section 2.3).

    Five choices make a node of `nasnet`, in the order of NASNet's five steps: its first input, its second input, both
    among all earlier nodes and the cell's inputs, the operation on the first, that on the second, and whether both are
    added or stacked. In `enas` the last is missing: both are added. Both inputs may be the same node. Nodes that no
    node reads are the output; a cell's inputs are not, whether read or not.

    Two codes may name one genotype up to the order of its edges: both inputs of a node trade places.
    """

    def __init__(self, network: NetworkOptions) -> None:
        self._operations = tuple(name for name in network.primitives if name != "none")
        self._nodes, self._combinations = range(2, network.nodes + 2), (2,) * (network.space == "nasnet")
        num_operations = len(self._operations)
        blocks = [(node, node, num_operations, num_operations, *self._combinations) for node in self._nodes]
        super().__init__(network, tuple(itertools.chain.from_iterable(blocks)))

    def _decode(self, choices: Mapping[CellType, Sequence[int]]) -> Genotype:
        cells: dict[str, tuple[Edge, ...] | tuple[int, ...]] = {}
        for cell_type, own in choices.items():
            edges: list[Edge] = []
            stacked = []
            step = len(own) // len(self._nodes)
            for node in self._nodes:
                first, second, first_operation, second_operation, *is_stacked = own[(node - 2) * step :][:step]
                edges.append(Edge(self._operations[first_operation], first, node))
                edges.append(Edge(self._operations[second_operation], second, node))
                stacked += [node] * sum(is_stacked)
            cells |= {cell_type: tuple(edges), f"{cell_type}_concat": _loose_ends(edges, self._nodes)}
            cells[f"{cell_type}_stacked"] = tuple(stacked)
        return Genotype(**cells)  # type: ignore[arg-type]

    def _encode(self, genotype: Genotype, cell_type: CellType) -> Sequence[int]:
        edges, stacked = genotype.edges(cell_type), genotype.stacked(cell_type)
        code: list[int] = []
        for node in self._nodes:
            own = [edge for edge in edges if edge.target == node]
            if len(own) != 2 or any(edge.primitive not in self._operations for edge in own):
                raise GenotypeError(f"{cell_type}: node {node} must have two operations of the search space, got {own}")
            code += [*(edge.source for edge in own), *(self._operations.index(edge.primitive) for edge in own)]
            code += [int(node in stacked)] * len(self._combinations)
        if len(edges) != 2 * len(self._nodes) or (stacked and not self._combinations):
            rule = f"must have {len(self._nodes)} nodes, and none stacked but in the space nasnet"
            raise GenotypeError(f"{cell_type}: {rule}, got edges {edges}, stacked {stacked}")
        loose = _loose_ends(edges, self._nodes)
        if genotype.concat(cell_type) != loose:
            raise GenotypeError(f"{cell_type}_concat: must be {loose}, got {genotype.concat(cell_type)}")
        return code

    def heaviest(self, weights_EO: Mapping[CellType, torch.Tensor]) -> Code:
        """As `CellSpace.heaviest`; both inputs of a node are the same, and stacked where that is possible."""
        code: list[int] = []
        columns = [self.primitives.index(name) for name in self._operations]
        for cell_type in CELL_TYPES:
            weights = dict(zip(self.edges, weights_EO[cell_type][:, columns].tolist(), strict=True))
            for node in self._nodes:
                rows = ((source, weights[source, node]) for source in range(node))
                found = [(weight, source, operation) for source, row in rows for operation, weight in enumerate(row)]
                _, source, operation = max(found, key=itemgetter(0))
                code += [source, source, operation, operation, *(1 for _ in self._combinations)]
        return tuple(code)


class ChainSpace(GenotypeSpace):
    """Chains of layers (Zoph and Le, ICLR 2017, sections 3.2 to 3.4), `network.nodes` of them or fewer.

    Layer t has t choices of whether it reads each earlier layer (if none, it reads the image), then those of its
    filters' height and width, of its strides over rows and columns and of how many filters it has, as far as there is
    more than one option. So the beginning of a code is the code of a chain of fewer layers, and `decode` takes it; all
    that is drawn here has all layers. Layers that no layer reads are the output.
    """

    def __init__(self, network: NetworkOptions) -> None:
        self.depth, chain = network.nodes, network.chain
        self._values = (chain.heights, chain.widths, chain.strides, chain.strides, chain.filters)
        #: Number of options of those choices that every layer has.
        self.layer_options = tuple(len(values) for values in self._values if len(values) > 1)
        layers = ((*(2,) * layer, *self.layer_options) for layer in range(self.depth))
        super().__init__(network, tuple(itertools.chain.from_iterable(layers)))

    def num_choices_of(self, depth: int) -> int:
        """Length of the code of so many layers."""
        return depth * (depth - 1) // 2 + depth * len(self.layer_options)

    def depth_of(self, num_choices: int) -> int:
        """The inverse.

        Raises:
            GenotypeError: if no chain of this space has such a code.
        """
        lengths = [self.num_choices_of(depth) for depth in range(1, self.depth + 1)]
        if num_choices not in lengths:
            raise GenotypeError(f"a code must have {' or '.join(map(str, lengths))} choices, got {num_choices}")
        return 1 + lengths.index(num_choices)

    def decode(self, code: Sequence[int]) -> Genotype:
        """As `GenotypeSpace.decode`, of the first layers too."""
        edges, layers, rest = [], [], iter(code)
        for node in range(2, 2 + self.depth_of(len(code))):
            sources = [source for source in range(2, node) if next(rest)] or [0]
            own = [values[next(rest) if len(values) > 1 else 0] for values in self._values]
            height, width, *strides, filters = own
            edges += [Edge(kernel_name(height, width), source, node) for source in sources]
            layers.append(Layer(filters, *strides))
        return Genotype(tuple(edges), _loose_ends(edges, range(2, node + 1)), (), (), layers=tuple(layers))

    def encode(self, genotype: Genotype) -> Code:
        """As `GenotypeSpace.encode`."""
        code: list[int] = []
        for node, layer in enumerate(genotype.layers, start=2):
            own = [edge for edge in genotype.normal if edge.target == node]
            code += [int(any(edge.source == source for edge in own)) for source in range(2, node)]
            size = kernel_size(own[0].primitive)
            assert size is not None, "a genotype checks its kernels"
            chosen = (*size, layer.stride_height, layer.stride_width, layer.filters)
            if any(value not in values for value, values in zip(chosen, self._values, strict=True)):
                raise GenotypeError(f"node {node} must be a layer of the search space, got {own[0].primitive}, {layer}")
            pairs = zip(chosen, self._values, strict=True)
            code += [values.index(value) for value, values in pairs if len(values) > 1]
        if not 1 <= len(genotype.layers) <= self.depth or self.decode(code) != genotype:
            rule = "whose layers read the image if no other layer, and are the output if no layer reads them"
            raise GenotypeError(f"must be a chain of 1 to {self.depth} layers {rule}, got {genotype.to_dict()}")
        return tuple(code)

    def largest(self) -> Code:
        """The code of most parameters: all layers read all others, with the most and the largest filters."""
        height, width, *strides, filters = self._values
        most = [max(height), max(width), *map(min, strides), max(filters)]
        own = [values.index(value) for value, values in zip(most, self._values, strict=True) if len(values) > 1]
        return tuple(itertools.chain.from_iterable((*(1,) * layer, *own) for layer in range(self.depth)))


def genotype_space(network: NetworkOptions) -> GenotypeSpace:
    """The space that a network names."""
    if network.space == "nas_chain":
        return ChainSpace(network)
    return EdgeSpace(network) if network.space == "darts" else BlockSpace(network)


def _loose_ends(edges: Sequence[Edge], nodes: Sequence[int]) -> tuple[int, ...]:
    """Nodes that no other reads, at least the last one."""
    read = {edge.source for edge in edges}
    return tuple(node for node in nodes if node not in read)


def _integers(below: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Whole numbers, each drawn uniformly from [0, its bound)."""
    import torch  # not above: a study file is checked without it

    from search_core.transfer import uploaded

    # A draw below a common multiple leaves every remainder as often as any other.
    drawn = torch.randint(math.lcm(*below), (len(below),), generator=generator, device=generator.device)
    return drawn if len(set(below)) == 1 else drawn % uploaded(torch.tensor(below), generator.device)


def _fractions(count: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers drawn uniformly from [0, 1)."""
    import torch  # not above: a study file is checked without it

    return torch.rand(count, generator=generator, device=generator.device)
