"""The space of chains of layers (Zoph and Le, ICLR 2017)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from search_core.errors import GenotypeError
from search_core.space.chain import Layer, kernel_name, kernel_size
from search_core.space.code_space import Code, GenotypeSpace, loose_ends
from search_core.space.genotype import Edge, Genotype
from search_core.space.plan import NetworkOptions


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
        return Genotype(tuple(edges), loose_ends(edges, range(2, node + 1)), (), (), layers=tuple(layers))

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
