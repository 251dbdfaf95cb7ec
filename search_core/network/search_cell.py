"""One cell of the supernet, computed source by source: what all edges of a source have in common is done once.

Published supernets run every operation of every edge by itself. Here the edges that leave a node share its pools, its
ReLU and its padding, their convolutions run together, and what arrives at a node is one sum (see `kernels.product`).
The mathematics is the same.

Shape suffixes: E edges (in this file ordered by source, then target), O operations, B edges of one source, K maps that
end in a pointwise convolution, C channels, N images, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.kernels.depthwise import relu_depthwise
from search_core.kernels.product import Statistics, normalised_products, normalised_sum
from search_core.network.blocks import CellInputs, FrozenNorms
from search_core.network.cell_sources import DropPath, Layout, Sent, Source, even_and_odd, factorized_conv, pools
from search_core.network.edge_weights import EdgeWeights
from search_core.network.own_operations import OwnOperations
from search_core.primitives.builtin import POOLS
from search_core.primitives.registry import find
from search_core.space.plan import CellPlan, NetworkOptions, cell_edges, edges_by_source


class SearchCell(nn.Module):
    """All candidate operations between all nodes of a cell (SNAS section 2.1).

    `operations[name]` holds what a primitive has of weights and statistics, stacked over edges in the order of
    `edges_by_source`. A pool has one set of statistics a source, since all edges of a source pool the same pixels; the
    skip of a reduction cell has weights on the edges from the two input nodes only.

    Args:
        plan: the cell's place in the stack.
        options: nodes and primitives.
    """

    one: Tensor
    order_E: Tensor
    droppable_EO: Tensor

    def __init__(self, plan: CellPlan, options: NetworkOptions) -> None:
        super().__init__()
        self.plan, self.primitives, self.num_nodes = plan, options.operations, options.nodes
        edges = edges_by_source(options.nodes)
        self.lengths = [sum(edge[0] == source for edge in edges) for source in range(options.nodes + 1)]
        self.strides = [plan.edge_geometry(source)[1] for source in range(options.nodes + 1)]
        self.layouts = {stride: Layout(self.primitives, stride) for stride in set(self.strides)}
        self.inputs = CellInputs(plan, affine=False)
        self.operations = self._build_operations()
        positions = {edge: position for position, edge in enumerate(cell_edges(options.nodes))}
        self.own = OwnOperations(self.primitives, plan.channels, self.lengths, self.strides)
        kinds = [find(name).kind for name in self.primitives]
        droppable = [
            [kind != "none" and not (kind == "skip" and self.strides[source] == 1) for kind in kinds]
            for source, _ in edges
        ]
        self.register_buffer("order_E", torch.tensor([positions[edge] for edge in edges]), persistent=False)
        self.register_buffer("droppable_EO", torch.tensor(droppable), persistent=False)
        self.register_buffer("one", torch.ones(1, 1), persistent=False)
        for stride, layout in self.layouts.items():
            self.register_buffer(f"columns_{stride}", torch.tensor(layout.columns, dtype=torch.long), persistent=False)
        self.follows_statistics = True
        #: Of running statistics, as in `torch.nn.BatchNorm2d`.
        self.momentum = 0.1

    def forward(
        self, before_previous: Tensor, previous: Tensor, z_EO: Tensor, drop_path: DropPath | None = None
    ) -> Tensor:
        """Concatenation of all intermediate nodes, (N, nodes * channels, *size_out).

        Args:
            before_previous: output of the cell before the previous one.
            previous: output of the previous cell.
            z_EO: architecture weights, edges ordered as in `cell_edges`.
            drop_path: which operations to leave out.
        """
        inputs = self.inputs(before_previous, previous)  # in half precision under autocast; nodes never are
        nodes = [x.permute(0, 2, 3, 1).contiguous().to(z_EO.dtype) for x in inputs]
        sums: list[Tensor | None] = [None] * self.num_nodes
        sent, of_own = [], self._own_factors(z_EO, drop_path)
        for number, source in enumerate(self._sources(z_EO, drop_path)):
            if number >= 2:
                complete = sums[number - 2]
                assert complete is not None
                nodes.append(complete)
            targets = slice(-self.lengths[number], None)
            if of_own:
                sums[targets] = self.own.added(number, nodes[number], of_own[number], sums[targets])
            if self.layouts[self.strides[number]].columns:
                sums[targets], batch = self._send(nodes[number], self.strides[number], source, sums[targets])
                sent.append(batch)
        outputs = [node for node in sums if node is not None]
        if self.training and self.follows_statistics:
            self._follow(sent, outputs[0][..., 0].numel())
        return torch.cat(outputs, dim=3).permute(0, 3, 1, 2)

    def weights_of(self, primitive: str, edge: int) -> dict[str, Tensor]:
        """Weights and statistics of one operation, slices of this cell's, named as in the primitive's module.

        Args:
            primitive: one of the cell's.
            edge: position in `edges_by_source`.
        """
        if primitive in self.own.names:
            return self.own.state_of(primitive, edge)
        row = edges_by_source(self.num_nodes)[edge][0] if primitive in POOLS else edge
        operation = self.operations[primitive]
        assert isinstance(operation, EdgeWeights)
        return operation.state_of(row)

    def frozen_statistics(self) -> AbstractContextManager[None]:
        """Leave running statistics alone inside: what is computed there was computed before."""
        return _FrozenStatistics(self)

    def _build_operations(self) -> nn.ModuleDict:
        built = {
            (edge, name): find(name).module(self.plan.channels, self.strides[edge[0]], affine=False)
            for edge in cell_edges(self.num_nodes)
            for name in self.primitives
            if find(name).kind != "own"
        }
        operations = nn.ModuleDict()
        for name in (name for name in self.primitives if find(name).kind != "own"):
            of_edges = [built[edge, name] for edge in edges_by_source(self.num_nodes)]
            if name in POOLS:
                of_edges = [built[(source, max(source + 1, 2)), name] for source in range(self.num_nodes + 1)]
            if with_state := [operation for operation in of_edges if operation.state_dict()]:
                operations[name] = EdgeWeights(with_state)
        return operations

    # What a source needs, cut from what the cell has: once per cell, so that each weight gets its gradient in one piece

    def _sources(self, z_EO: Tensor, drop_path: DropPath | None) -> list[Source]:
        layout = self.layouts[self.strides[-1]]  # for what does not depend on the stride
        kernels = [self._split(name, "depthwise1.weight") for name in layout.twice]
        kernels += [self._split(name, "depthwise.weight") for name in layout.once]
        matrices = self._matrices([(name, "pointwise1.weight") for name in layout.twice])
        second_kernels = [self._split(name, "depthwise2.weight") for name in layout.twice]
        factorized = [
            self._split("conv_7x1_1x7", f"{name}.weight", None)
            for name in ("conv_1x7", "conv_7x1")
            if layout.has_factorized_conv
        ]
        statistics = self._running([(name, "norm1") for name in layout.twice])
        last_matrices, last_statistics = self._last_matrices(), self._last_statistics()
        pool_statistics = self._running([(name, "norm") for name in layout.pools], [1] * len(self.lengths))
        weights, factors, keep = self._architecture(z_EO, drop_path)
        return [
            Source(
                kernels=[split[number] for split in kernels],
                matrices=matrices[number],
                second_kernels=[split[number] for split in second_kernels],
                last_matrices=last_matrices[number],
                factorized=[split[number] for split in factorized],
                weights=weights[number],
                factors=factors[number],
                keep=keep[number],
                statistics=statistics[number],
                last_statistics=last_statistics[number],
                pool_statistics=pool_statistics[number],
            )
            for number in range(len(self.lengths))
        ]

    def _split(self, primitive: str, name: str, squeezed: int | None = 2) -> tuple[Tensor, ...]:
        """A stacked convolution weight by source, without its dimension of size 1 if told which."""
        weight: Tensor = self.operations[primitive].get_parameter(name)
        if squeezed is not None:
            weight = weight.squeeze(squeezed)
        by_source: tuple[Tensor, ...] = weight.split(self.lengths)
        return by_source

    def _matrices(self, names: Sequence[tuple[str, str]], more: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """(B, K, C, C) of every source: pointwise weights, then `more` (E, C, C)."""
        weights = [self.operations[primitive].get_parameter(name).flatten(2) for primitive, name in names]
        if not weights and not more:
            channels = self.plan.channels
            stacked = next(self.inputs.parameters()).new_empty((sum(self.lengths), 0, channels, channels))
        else:
            stacked = torch.stack([*weights, *more], 1)
        by_source: tuple[Tensor, ...] = stacked.split(self.lengths)
        return by_source

    def _last_matrices(self) -> list[Tensor]:
        """(K, B, C, C) of every source."""
        layout, channels = self.layouts[self.strides[-1]], self.plan.channels
        names = [(name, "pointwise2.weight") for name in layout.twice]
        names += [(name, "pointwise.weight") for name in layout.once]
        like, more = next(self.inputs.parameters()), []
        if layout.has_factorized_conv:  # a batch norm without a matrix is one of the unit matrix
            unit = torch.eye(channels, dtype=like.dtype, device=like.device)
            more.append(unit.expand(sum(self.lengths), -1, -1))
        by_source = [of_source.transpose(0, 1) for of_source in self._matrices(names, more)]
        if 2 in self.layouts and self.layouts[2].is_halved:
            halves = self._halves().split(self.lengths[:2], dim=1)
            by_source[:2] = [torch.cat(pair) for pair in zip(by_source[:2], halves, strict=True)]
        return by_source

    def _halves(self) -> Tensor:
        """Weights (2, F, C, C) of the factorized reductions: even and odd pixels give one half of the channels each."""
        channels, operation = self.plan.channels, self.operations["skip_connect"]
        even, odd = (operation.get_parameter(f"{name}.weight").flatten(2) for name in ("conv_even", "conv_odd"))
        even = functional.pad(even, (0, 0, 0, channels - even.shape[1]))
        return torch.stack([even, functional.pad(odd, (0, 0, channels - odd.shape[1], 0))])

    def _architecture(
        self, z_EO: Tensor, drop_path: DropPath | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """Weights of maps, factors of features and flags of drop path of every source, in the order of its layout."""
        z_EO = z_EO[self.order_E]
        keep_EON = None
        if drop_path is not None:
            keep_EON = drop_path.keep_EON[self.order_E] | ~self.droppable_EO.unsqueeze(2)
            z_EO = torch.where(self.droppable_EO, z_EO * drop_path.scale, z_EO)
        weights, factors, keep = [], [], []
        columns = {stride: self.get_buffer(f"columns_{stride}") for stride in self.layouts}
        z_by_stride = {stride: z_EO.index_select(1, columns[stride]).split(self.lengths) for stride in self.layouts}
        for number, (stride, length) in enumerate(zip(self.strides, self.lengths, strict=True)):
            num_maps = len(self.layouts[stride].maps)
            z_BT = z_by_stride[stride][number]
            of_maps, of_features = z_BT.split([num_maps, z_BT.shape[1] - num_maps], dim=1)
            weights.append(of_maps)
            factors.append(of_features)
            first = sum(self.lengths[:number])
            kept = None if keep_EON is None else keep_EON[first : first + length].index_select(1, columns[stride])
            keep.append(None if kept is None else kept.to(torch.uint8).contiguous())
        return weights, factors, keep

    def _own_factors(self, z_EO: Tensor, drop_path: DropPath | None) -> list[Tensor]:
        if not self.own.names:
            return []
        ordered = drop_path and drop_path._replace(keep_EON=drop_path.keep_EON[self.order_E])
        return self.own.factors(z_EO[self.order_E], ordered)

    # Forward

    def _send(
        self, x_NHWC: Tensor, stride: int, source: Source, bases: Sequence[Tensor | None]
    ) -> tuple[Sequence[Tensor], Sent]:
        """What has arrived at the source's targets, `bases` and the source's share."""
        layout = self.layouts[stride]
        maps, statistics = self._separable(x_NHWC, stride, source)
        if layout.has_factorized_conv:
            maps.append(factorized_conv(x_NHWC, stride, *source.factorized))
        if layout.is_halved:
            maps += even_and_odd(functional.relu(x_NHWC))
        features, pool_statistics = pools(x_NHWC, stride, layout.pools, source.pool_statistics)
        if layout.has_identity:
            features.append(x_NHWC)
        outputs, last_statistics = normalised_sum(
            maps,
            source.last_matrices,
            source.weights,
            features_NHWC=features,
            factors_BQ=source.factors,
            bases_NHWC=bases,
            statistics=source.last_statistics,
            keep_BON=source.keep,
        )
        return outputs, Sent(statistics, last_statistics, pool_statistics)

    def _separable(self, x_NHWC: Tensor, stride: int, source: Source) -> tuple[list[Tensor], Statistics | None]:
        """Separable and dilated convolutions up to their last pointwise product: depthwise for all at once."""
        layout = self.layouts[stride]
        if not source.kernels:
            return [], None
        dilations = [1] * len(layout.twice) + [2] * len(layout.once)
        maps = list(relu_depthwise(x_NHWC.unsqueeze(0), source.kernels, dilations, stride))
        if not layout.twice:
            return maps, None
        num = len(layout.twice)
        ones = self.one.expand(len(source.matrices), num)
        between, batch = normalised_products(maps[:num], source.matrices, ones, source.statistics)
        for position, kernel in enumerate(source.second_kernels):
            (maps[position],) = relu_depthwise(between[position], [kernel], [1], 1)
        return maps, batch

    # Running statistics. The two maps of a factorized reduction are halves of one norm: each is zero where the other
    # has channels, so mean and variance of the whole are their sums.

    def _statistics(self, norms: Sequence[tuple[str, str]], kind: str) -> list[Tensor]:
        return [self.operations[primitive].get_buffer(f"{norm}.running_{kind}") for primitive, norm in norms]

    def _running(
        self, norms: Sequence[tuple[str, str]], lengths: Sequence[int] | None = None
    ) -> list[Statistics | None]:
        """What to normalise with in evaluation, (K, B, C) for every source; in training the batch has its own."""
        lengths = self.lengths if lengths is None else lengths
        if self.training or not norms:
            return [None] * len(lengths)
        means, variances = (torch.stack(self._statistics(norms, kind)) for kind in ("mean", "var"))
        return [Statistics(*pair) for pair in zip(means.split(lengths, 1), variances.split(lengths, 1), strict=True)]

    def _last_statistics(self) -> list[Statistics | None]:
        layout = self.layouts[self.strides[-1]]
        running = self._running([norm for norm in layout.norms if norm[0] != "skip_connect"])
        if self.training or not (2 in self.layouts and self.layouts[2].is_halved):
            return running
        half = self.plan.channels // 2
        (mean,), (variance,) = (self._statistics([("skip_connect", "norm")], kind) for kind in ("mean", "var"))
        even = functional.pad(mean[:, :half], (0, self.plan.channels - half))
        means = torch.stack([even, mean - even]).split(self.lengths[:2], 1)
        variances = torch.stack([variance, variance]).split(self.lengths[:2], 1)
        for number, halves in enumerate(zip(means, variances, strict=True)):
            before = running[number]
            running[number] = Statistics(
                *(halves if before is None else (torch.cat(pair) for pair in zip(before, halves, strict=True)))
            )
        return running

    def _follow(self, sent: Sequence[Sent], num_values: int) -> None:
        """Move running statistics towards those of the batch, the variance without bias, as `torch.nn.BatchNorm2d`."""
        unbiased = (1.0, num_values / max(num_values - 1, 1))
        for kind, position, factor in zip(("mean", "var"), (0, 1), unbiased, strict=True):
            running: list[Tensor] = []
            batch: list[Tensor] = []
            layout = self.layouts[self.strides[-1]]
            own = [norm for norm in layout.norms if norm[0] != "skip_connect"]
            first = [source.statistics[position] for source in sent if source.statistics is not None]
            if first:
                running += self._statistics([(name, "norm1") for name in layout.twice], kind)
                batch += torch.cat(first, dim=1).unbind()
            if own:
                running += self._statistics(own, kind)
                batch += torch.cat([source.last_statistics[position][: len(own)] for source in sent], dim=1).unbind()
            if 2 in self.layouts and self.layouts[2].is_halved:
                running += self._statistics([("skip_connect", "norm")], kind)
                batch.append(torch.cat([source.last_statistics[position][-2:].sum(0) for source in sent[:2]]))
            pools = [source.pool_statistics for source in sent if source.pool_statistics is not None]
            if pools:
                running += self._statistics([(name, "norm") for name in layout.pools], kind)
                batch += torch.cat([pool[position] for pool in pools], dim=1).unbind()
            if running:
                # As torch's batch norm, without a trace in autograd: a graph may still hold these tensors.
                targets = [statistic.data for statistic in running]
                torch._foreach_lerp_(targets, list(torch._foreach_mul(batch, factor)), self.momentum)


class _FrozenStatistics(AbstractContextManager[None]):
    """See `SearchCell.frozen_statistics`; can be entered again, for one forward pass may be recomputed twice.

    It nests: a cell may be recomputed while the whole network is frozen.
    """

    def __init__(self, cell: SearchCell) -> None:
        self._cell, self._norms = cell, (FrozenNorms(cell.inputs), FrozenNorms(cell.own))
        self._followed = True

    def __enter__(self) -> None:
        self._followed, self._cell.follows_statistics = self._cell.follows_statistics, False
        for norms in self._norms:
            norms.__enter__()

    def __exit__(self, *_: object) -> None:
        for norms in self._norms:
            norms.__exit__()
        self._cell.follows_statistics = self._followed
