"""The search spaces that a network may name: what is chosen, and among how many options.

Strategies that choose among genotypes draw, change and list them here; a *code* is the tuple of all choices, each the
index of an option. `EdgeSpace` is the common space of SNAS and DARTS, `BlockSpace` those of NASNet and ENAS,
`ChoiceBlockSpace` one of choice blocks, `ChainSpace` that of NAS.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from search_core.errors import GenotypeError
from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import CellSpace, Code, GenotypeSpace, loose_ends
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, cell_edges

if TYPE_CHECKING:
    import torch


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
        self._operations = tuple(name for name in network.operations if name != "none")
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
            cells |= {cell_type: tuple(edges), f"{cell_type}_concat": loose_ends(edges, self._nodes)}
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
        loose = loose_ends(edges, self._nodes)
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


class ChoiceBlockSpace(CellSpace):
    """Cells of choice blocks (Bender et al., ICML 2018, section 3.1): up to two inputs, up to two operations.

    Four choices make a node: two inputs among all earlier nodes and the cell's inputs, and two operations. Twice the
    same is one. Each operation is on each input, all are added, and all nodes are the output. So several codes name one
    genotype: `encode` gives that in which the lower choice comes first.
    """

    def __init__(self, network: NetworkOptions) -> None:
        self._operations = tuple(name for name in network.operations if name != "none")
        self._nodes, num_operations = range(2, network.nodes + 2), len(self._operations)
        blocks = ((node, node, num_operations, num_operations) for node in self._nodes)
        super().__init__(network, tuple(itertools.chain.from_iterable(blocks)))

    def _decode(self, choices: Mapping[CellType, Sequence[int]]) -> Genotype:
        cells = {name: tuple(self._edges(own)) for name, own in choices.items()}
        return Genotype(cells["normal"], tuple(self._nodes), cells["reduce"], tuple(self._nodes))

    def _edges(self, choices: Sequence[int]) -> Iterator[Edge]:
        for node in self._nodes:
            *inputs, first, second = choices[4 * (node - 2) :][:4]
            for source, operation in itertools.product(sorted({*inputs}), sorted({first, second})):
                yield Edge(self._operations[operation], source, node)

    def _encode(self, genotype: Genotype, cell_type: CellType) -> Sequence[int]:
        code: list[int] = []
        for node in self._nodes:
            own = [edge for edge in genotype.edges(cell_type) if edge.target == node]
            names = {edge.primitive for edge in own}
            inputs = sorted({edge.source for edge in own})
            operations = [place for place, name in enumerate(self._operations) if name in names]
            if not (1 <= len(inputs) <= 2 and 1 <= len(operations) <= 2):
                raise GenotypeError(f"{cell_type}: node {node} must have one or two inputs and operations, got {own}")
            code += [inputs[0], inputs[-1], operations[0], operations[-1]]
        whole = (tuple(self._edges(code)), tuple(self._nodes), ())
        if (genotype.edges(cell_type), genotype.concat(cell_type), genotype.stacked(cell_type)) != whole:
            rule = "must have each operation of a node on each of its inputs, in their order, and all nodes as output"
            raise GenotypeError(f"{cell_type}: {rule}, got {genotype.edges(cell_type)}")
        return code

    def heaviest(self, weights_EO: Mapping[CellType, torch.Tensor]) -> Code:
        """As `CellSpace.heaviest`: two inputs and two operations, the heaviest of each by their sums over the other."""
        code: list[int] = []
        columns = [self.primitives.index(name) for name in self._operations]
        for cell_type in CELL_TYPES:
            for node in self._nodes:
                own_SO = weights_EO[cell_type][[target == node for _, target in self.edges]][:, columns]
                for sums in (own_SO.sum(1), own_SO.sum(0)):
                    code += sorted(sums.argsort(descending=True)[:2].tolist())
        return tuple(code)


def genotype_space(network: NetworkOptions) -> GenotypeSpace:
    """The space that a network names."""
    if network.space == "nas_chain":
        return ChainSpace(network)
    if network.space == "choice_blocks":
        return ChoiceBlockSpace(network)
    return EdgeSpace(network) if network.space == "darts" else BlockSpace(network)
