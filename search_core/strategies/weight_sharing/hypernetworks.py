"""Hypernetworks of SMASH: from the architecture of a child to its pointwise weights (Brock et al., ICLR 2018).

Shape suffixes: E edges, O operations, F features of the hypernetwork, S slots, C channels; K channels, R rows and M
columns of an encoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.randomness import seeded_weights
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.genotype import Edge
from search_core.space.plan import edges_by_source
from search_core.strategies.weight_sharing.ranked_draws_options import SmashOptions
from search_core.transfer import uploaded

#: Slope of the hypernetwork's LeakyReLU below 0, as in the authors' code.
_SLOPE = 0.02


class Slot(NamedTuple):
    """Place of one pointwise convolution in the supernet.

    Attributes:
        cell: index in the stack.
        primitive: the operation that it belongs to.
        edge: position in `edges_by_source`.
        name: of its weight in the operation.
    """

    cell: int
    primitive: str
    edge: int
    name: str


class HyperNetwork(nn.Module, ABC):
    """Maps a code to the weights (C, C, 1, 1) of the child's pointwise convolutions (SMASH section 3.2).

    Scales of the weights do not matter: batch norm follows every pointwise convolution.

    Args:
        supernet: has the slots.
        weight_norm: whether the weights are normalised, see `normalised`.
    """

    def __init__(self, supernet: Supernet, *, weight_norm: bool) -> None:
        super().__init__()
        self.space, self._weight_norm = genotype_space(supernet.options), weight_norm
        self._plans = supernet.plan.cells
        self._edges = {edge: row for row, edge in enumerate(edges_by_source(supernet.options.nodes))}
        self._slots = list(slots(supernet))
        self._names: dict[str, list[str]] = defaultdict(list)  # pointwise weights of each primitive
        for slot in self._slots:
            if slot.name not in self._names[slot.primitive]:
                self._names[slot.primitive].append(slot.name)

    @abstractmethod
    def matrices_of(self, code: Code) -> dict[str, Tensor]:
        """Weights (C, C) of a child by their names there, as the hypernetwork makes them."""

    def forward(self, code: Code) -> dict[str, Tensor]:
        """Pointwise weights (C, C, 1, 1) of a child by their names there; none if it has no such convolution."""
        made = self.matrices_of(code)
        if self._weight_norm:
            made = {name: normalised(matrix) for name, matrix in made.items()}
        return {name: matrix[..., None, None] for name, matrix in made.items()}

    def slots_of(self, code: Code) -> dict[str, Slot]:
        """Where the pointwise weights of a child lie in the supernet, by their names in the child."""
        return {
            f"cells.{index}.operations.{number}.{name}": Slot(
                index, edge.primitive, self._edges[edge.source, edge.target], name
            )
            for index, number, edge in self._kept(code)
            for name in self._names.get(edge.primitive, ())
        }

    def _kept(self, code: Code) -> Iterator[tuple[int, int, Edge]]:
        """Kept edges of all cells of a child: index of the cell, number among the cell's, edge."""
        genotype = self.space.decode(code)
        for index, plan in enumerate(self._plans):
            for number, edge in enumerate(genotype.edges(plan.cell_type)):
                yield index, number, edge


class Mixture(HyperNetwork):
    """Matrices as mixtures of learned ones, by features of the whole code: `encoding: choices`.

    The features of a slot are `relu(relu(A c + p) M)`, with c the code's one-hot choices of all edges of both cells and
    p learned for the slot: its place in stack, cell and operation. Its matrix is a mixture by these features of F
    learned ones, which all slots of its width share.

    Args:
        supernet: has the slots.
        features: F, at least 1.
        seed: seed of the initial weights.
        weight_norm: as for `HyperNetwork`.
    """

    def __init__(self, supernet: Supernet, features: int, *, seed: int, weight_norm: bool = False) -> None:
        super().__init__(supernet, weight_norm=weight_norm)
        self._rows = {slot: row for row, slot in enumerate(self._slots)}
        widths = sorted({self._plans[slot.cell].channels for slot in self._slots})
        with seeded_weights(seed):  # deviations that keep the mean square of features at 1, of matrices at 1 / C
            choices = self.space.num_choices
            self.choices = _normal(choices, len(self.space.primitives), features, deviation=choices**-0.5)
            self.slots = _normal(len(self._rows), features, deviation=1.0)
            self.mixing = _normal(features, features, deviation=(2 / features) ** 0.5)
            self.matrices = nn.ParameterDict(
                {str(width): _normal(features, width, width, deviation=(features * width) ** -0.5) for width in widths}
            )

    def matrices_of(self, code: Code) -> dict[str, Tensor]:
        """As in `HyperNetwork`."""
        slots, device = self.slots_of(code), self.slots.device
        of_code_F = self.choices[torch.arange(len(code), device=device), uploaded(torch.tensor(code), device)].sum(0)
        rows = uploaded(torch.tensor([self._rows[slot] for slot in slots.values()], dtype=torch.long), device)
        features_SF = functional.relu(functional.relu(of_code_F + self.slots[rows]) @ self.mixing)
        by_width: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for position, (name, slot) in enumerate(slots.items()):
            by_width[self._plans[slot.cell].channels].append((position, name))
        matrices: dict[str, Tensor] = {}
        for width, members in by_width.items():
            own_SF = features_SF[uploaded(torch.tensor([position for position, _ in members]), device)]
            made_SCC = torch.einsum("sf,foi->soi", own_SF, self.matrices[str(width)])
            matrices |= {name: matrix for (_, name), matrix in zip(members, made_SCC, strict=True)}
        return matrices


class MemoryBanks(HyperNetwork):
    """A convolutional network over what each operation reads and writes: `encoding: memory_banks` (SMASH section 3).

    Memory is banks of N channels, N those of the first cells. A node of a cell with m N channels is m banks; an edge
    reads all banks of its source and adds to all of its target. So a pointwise convolution is m x m blocks of N x N
    weights, each from one bank to one bank, and a place of the encoding stands for each block. The encoding (1, K, R,
    M) has one row for each bank that is read, operation by operation in the order of the network, and one column for
    each bank that is written, M those of the widest cells. Its K channels are 1 for the bank that is read, the bank
    that is written, the primitive, the second of its convolutions and the cell of the stack, else -1; places beyond
    the banks of a narrower cell are -1 throughout. A kept edge without such convolutions has rows too, so that what
    surrounds it is told apart. From it go `layers` 3x3 convolutions without bias, each of which reads all before it
    (DenseNet), LeakyReLU between them, and a 1x1 convolution to the N^2 weights of each block.

    As published: banks, encoding by ones and minus ones, a fully convolutional hypernetwork of that kind, blocks of N^2
    weights from one place, generated weights for the 1x1 convolutions alone, others learnt and shared. Not: reads and
    writes follow from the cells of this project, one node each, where the paper draws sets of banks; the entry for the
    place in the network names the cell, not one of three blocks, since here cells repeat and would have equal weights;
    no block of the dense network is halved, no place makes several blocks (depth compression 1) and no noise is added
    to the encoding.

    Args:
        supernet: has the slots.
        features: F, output channels of each 3x3 convolution, at least 1.
        layers: number of these, at least 1.
        seed: seed of the initial weights.
        weight_norm: as for `HyperNetwork`; the hypernetwork's own convolutions too, as in the authors' code.
    """

    def __init__(self, supernet: Supernet, features: int, layers: int, *, seed: int, weight_norm: bool = False) -> None:
        super().__init__(supernet, weight_norm=weight_norm)
        options = supernet.options
        self._bank = options.init_channels
        self._most = max(plan.channels for plan in self._plans) // self._bank
        reads, writes = (options.nodes + 1) * self._most, options.nodes * self._most
        self._ends = list(accumulate((reads, writes, len(options.primitives), 1, options.cells), initial=0))
        widths = [self._ends[-1] + layer * features for layer in range(layers + 1)]
        with seeded_weights(seed):  # the mean square of features stays of the order of 1
            self.convolutions = nn.ParameterList(
                _normal(features, width, 3, 3, deviation=(2 / (9 * width)) ** 0.5) for width in widths[:-1]
            )
            self.blocks = _normal(self._bank**2, widths[-1], 1, 1, deviation=(2 / widths[-1]) ** 0.5)

    def matrices_of(self, code: Code) -> dict[str, Tensor]:
        """As in `HyperNetwork`."""
        if not (slots := self.slots_of(code)):
            return {}
        encoding, rows = self.encode(code)
        x = encoding
        for layer, kernel in enumerate(self.convolutions):
            read = functional.leaky_relu(x, _SLOPE) if layer else x
            x = torch.cat([x, functional.conv2d(read, self._own(kernel), padding=1)], dim=1)
        made = functional.conv2d(functional.leaky_relu(x, _SLOPE), self._own(self.blocks)).squeeze(0)
        return {name: self._matrix(made, rows[name], self._plans[slot.cell].channels) for name, slot in slots.items()}

    def encode(self, code: Code) -> tuple[Tensor, dict[str, int]]:
        """The encoding (1, K, R, M) of a child, and the first row of each of its pointwise weights by name."""
        parts: list[Tensor] = []
        rows: dict[str, int] = {}
        height = 0
        for index, number, edge in self._kept(code):
            banks = self._plans[index].channels // self._bank
            names = self._names.get(edge.primitive, ())
            for name in names:
                rows[f"cells.{index}.operations.{number}.{name}"] = height + names.index(name) * banks
            for second in range(max(len(names), 1)):
                parts.append(self._encode_one(index, edge, banks, second))
                height += banks
        return uploaded(torch.cat(parts, dim=1).unsqueeze(0).to(self.blocks.dtype), self.blocks.device), rows

    def _encode_one(self, index: int, edge: Edge, banks: int, second: int) -> Tensor:
        """Rows of one convolution, (K, banks, M)."""
        reads, writes, primitives, seconds, cells, end = self._ends
        places = torch.arange(banks)
        encoding = torch.full((end, banks, self._most), -1.0)
        own = encoding[:, :, :banks]
        own[reads + edge.source * self._most + places, places] = 1.0
        own[writes + (edge.target - 2) * self._most + places, :, places] = 1.0
        own[primitives + self.space.primitives.index(edge.primitive)] = 1.0
        own[seconds] = 2.0 * second - 1.0
        own[cells + index] = 1.0
        return encoding

    def _matrix(self, made: Tensor, row: int, channels: int) -> Tensor:
        """The matrix (C, C) whose blocks stand at a row and below, with entries of mean square 1 / C or so."""
        banks = channels // self._bank
        blocks = made[:, row : row + banks, :banks].unflatten(0, (self._bank, self._bank))  # out, in, read, written
        matrix: Tensor = blocks.permute(3, 0, 2, 1).reshape(channels, channels) * channels**-0.5
        return matrix

    def _own(self, kernel: Tensor) -> Tensor:
        return normalised(kernel) if self._weight_norm else kernel


def build_hypernetwork(options: SmashOptions, supernet: Supernet, *, seed: int) -> HyperNetwork:
    """The hypernetwork that some options name, with fresh seeded weights."""
    if options.encoding == "memory_banks":
        return MemoryBanks(supernet, options.features, options.layers, seed=seed, weight_norm=options.weight_norm)
    return Mixture(supernet, options.features, seed=seed, weight_norm=options.weight_norm)


def normalised(weight: Tensor) -> Tensor:
    """`sqrt(c) w / |w|` of a weight (c, ...): the simplified weight normalisation of SMASH, times a constant.

    The norm is that of the whole tensor and nothing is learnt beside it, as channel by channel with a learnt scale the
    authors found it unstable. The constant gives outputs the mean square of the inputs.
    """
    norm: Tensor = weight.norm()
    scaled: Tensor = weight * (len(weight) ** 0.5 / norm.clamp_min(torch.finfo(weight.dtype).tiny))
    return scaled


def slots(supernet: Supernet) -> Iterator[Slot]:
    """The pointwise convolutions of all separable and dilated ones."""
    for index, cell in enumerate(supernet.cells):
        assert isinstance(cell, SearchCell)
        for primitive, operation in cell.operations.items():
            for name, stacked in operation.named_parameters():
                if name.startswith("pointwise"):
                    yield from (Slot(index, primitive, edge, name) for edge in range(len(stacked)))


def _normal(*shape: int, deviation: float) -> nn.Parameter:
    return nn.Parameter(deviation * torch.randn(shape))
