"""One cell of the supernet, computed source by source: what all edges of a source have in common is done once.

Published supernets run every operation of every edge by itself. Here the edges that leave a node share its pools, its
ReLU and its padding, their convolutions run together, and what arrives at a node is one sum (see `kernels.product`).
The mathematics is the same.

Shape suffixes: E edges (in this file ordered by source, then target), O operations, B edges of one source, K maps that
end in a pointwise convolution, C channels, N images, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.cell import CellPlan, NetworkOptions, cell_edges, edges_by_source
from search_core.edge_weights import EdgeWeights
from search_core.kernels.depthwise import relu_depthwise
from search_core.kernels.pools import normalised_pools
from search_core.kernels.product import Statistics, normalised_sum
from search_core.network import CellInputs
from search_core.primitives import build_primitive

_POOLS = ("max_pool_3x3", "avg_pool_3x3")
_MOMENTUM = 0.1  # of running statistics, as in `torch.nn.BatchNorm2d`


class DropPath(NamedTuple):
    """Drop path of one cell (Larsson et al., ICLR 2017).

    Attributes:
        keep_EON: bool, which operations of which images take part, edges ordered as in `cell_edges`.
        scale: factor of those that do, 1 / (1 - probability).
    """

    keep_EON: Tensor
    scale: float


@dataclass
class _Terms:
    """What one source sends along its edges: maps with a pointwise convolution and batch norm, and ready features.

    `map_primitives` and `feature_primitives` say which operation of Z weighs what; `norms` names the statistics of the
    maps, which for the two maps of a factorized reduction are one.
    """

    maps: list[Tensor] = field(default_factory=list)
    matrices_BCC: list[Tensor] = field(default_factory=list)
    map_primitives: list[str] = field(default_factory=list)
    norms: list[tuple[str, str]] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    feature_primitives: list[str] = field(default_factory=list)

    def add(self, z: Tensor, matrix_BCC: Tensor, primitive: str, norm: str) -> None:
        """One more map."""
        self.maps.append(z)
        self.matrices_BCC.append(matrix_BCC)
        self.map_primitives.append(primitive)
        self.norms.append((primitive, norm))


#: Weights by primitive and name, for each source those of its edges.
_Weights = Mapping[tuple[str, str], tuple[Tensor, ...]]


class SearchCell(nn.Module):
    """All candidate operations between all nodes of a cell (SNAS section 2.1).

    `operations[name]` holds what a primitive has of weights and statistics, stacked over edges in the order of
    `edges_by_source`. A pool has one set of statistics a source, since all edges of a source pool the same pixels; the
    skip of a reduction cell has weights on the edges from the two input nodes only.

    Args:
        plan: the cell's place in the stack.
        options: nodes and primitives.
    """

    order_E: Tensor
    droppable_EO: Tensor

    def __init__(self, plan: CellPlan, options: NetworkOptions) -> None:
        super().__init__()
        self.plan, self.primitives = plan, options.primitives
        self.num_nodes, self.num_sources = options.nodes, options.nodes + 1
        edges = edges_by_source(options.nodes)
        self.lengths = [sum(edge[0] == source for edge in edges) for source in range(self.num_sources)]
        self.inputs = CellInputs(plan, affine=False)
        built = {
            (edge, name): build_primitive(name, plan.channels, self._stride(edge[0]), affine=False)
            for edge in cell_edges(options.nodes)
            for name in options.primitives
        }
        self.operations = nn.ModuleDict()
        for name in options.primitives:
            of_edges = [built[edge, name] for edge in edges]
            if name in _POOLS:
                of_edges = [built[(source, max(source + 1, 2)), name] for source in range(self.num_sources)]
            if with_state := [operation for operation in of_edges if operation.state_dict()]:
                self.operations[name] = EdgeWeights(with_state)
        positions = {edge: position for position, edge in enumerate(cell_edges(options.nodes))}
        droppable = [
            [name != "none" and not (name == "skip_connect" and self._stride(source) == 1) for name in self.primitives]
            for source, _ in edges
        ]
        self.register_buffer("order_E", torch.tensor([positions[edge] for edge in edges]), persistent=False)
        self.register_buffer("droppable_EO", torch.tensor(droppable), persistent=False)
        self._follows_statistics = True

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
        z_EO, keep_EON = self._by_source(z_EO, drop_path)
        weights, z_by_source = self._split_weights(), z_EO.split(self.lengths)
        keep_by_source = [None] * self.num_sources if keep_EON is None else keep_EON.split(self.lengths)
        nodes = [x.permute(0, 2, 3, 1).contiguous() for x in self.inputs(before_previous, previous)]
        sums: list[Tensor | None] = [None] * self.num_nodes
        for source, length in enumerate(self.lengths):
            if source >= 2:
                complete = sums[source - 2]
                assert complete is not None
                nodes.append(complete)
            terms = self._terms(source, nodes[source], weights)
            sums[-length:] = self._send(source, terms, z_by_source[source], keep_by_source[source], sums[-length:])
        return torch.cat([node for node in sums if node is not None], dim=3).permute(0, 3, 1, 2)

    def weights_of(self, primitive: str, edge: int) -> dict[str, Tensor]:
        """Weights and statistics of one operation, slices of this cell's, named as in `build_primitive`'s module.

        Args:
            primitive: one of the cell's.
            edge: position in `edges_by_source`.
        """
        row = edges_by_source(self.num_nodes)[edge][0] if primitive in _POOLS else edge
        operation = self.operations[primitive]
        assert isinstance(operation, EdgeWeights)
        return operation.state_of(row)

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Leave running statistics alone inside: what is computed there was computed before."""
        norms = [module for module in self.inputs.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        self._follows_statistics = False
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            self._follows_statistics = True
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count

    def _stride(self, source: int) -> int:
        return self.plan.edge_geometry(source)[1]

    def _by_source(self, z_EO: Tensor, drop_path: DropPath | None) -> tuple[Tensor, Tensor | None]:
        """Z and the flags of drop path in this file's order of edges, Z scaled for what drop path leaves out."""
        z_EO = z_EO[self.order_E]
        if drop_path is None:
            return z_EO, None
        keep_EON = drop_path.keep_EON[self.order_E] | ~self.droppable_EO.unsqueeze(2)
        return torch.where(self.droppable_EO, z_EO * drop_path.scale, z_EO), keep_EON.to(torch.uint8)

    def _split_weights(self) -> _Weights:
        """All weights, cut by source once: so each gets its gradient in one piece."""
        weights = {}
        for primitive, operation in self.operations.items():
            for name, weight in operation.named_parameters():
                lengths = self.lengths[:2] if primitive == "skip_connect" else self.lengths
                weights[primitive, name.removesuffix(".weight")] = weight.split(lengths)
        return weights

    def _terms(self, source: int, x_NHWC: Tensor, weights: _Weights) -> _Terms:
        terms, stride = _Terms(), self._stride(source)
        self._add_separable(terms, source, x_NHWC, weights)
        if "conv_7x1_1x7" in self.primitives:
            self._add_factorized_conv(terms, source, x_NHWC, weights)
        if "skip_connect" in self.primitives and stride == 2:
            self._add_factorized_reduce(terms, source, x_NHWC, weights)
        self._add_pools(terms, source, x_NHWC)
        if "skip_connect" in self.primitives and stride == 1:
            terms.features.append(x_NHWC)
            terms.feature_primitives.append("skip_connect")
        return terms

    def _add_separable(self, terms: _Terms, source: int, x_NHWC: Tensor, weights: _Weights) -> None:
        """Separable and dilated convolutions: depthwise for all at once; the separable ones go twice."""
        twice = [name for name in self.primitives if name.startswith("sep_conv")]
        once = [name for name in self.primitives if name.startswith("dil_conv")]
        if not twice + once:
            return
        kernels = [weights[name, "depthwise1"][source] for name in twice]
        kernels += [weights[name, "depthwise"][source] for name in once]
        maps = relu_depthwise(
            x_NHWC.unsqueeze(0),
            [kernel.squeeze(2) for kernel in kernels],
            [1] * len(twice) + [2] * len(once),
            self._stride(source),
        )
        for name, z in zip(twice, maps, strict=False):
            between_BNHWC = self._pointwise(name, source, z, weights)
            (z,) = relu_depthwise(between_BNHWC, [weights[name, "depthwise2"][source].squeeze(2)], [1], 1)
            terms.add(z, weights[name, "pointwise2"][source].flatten(2), name, "norm2")
        for name, z in zip(once, maps[len(twice) :], strict=True):
            terms.add(z, weights[name, "pointwise"][source].flatten(2), name, "norm")

    def _pointwise(self, name: str, source: int, z_BNHWC: Tensor, weights: _Weights) -> Tensor:
        """First pointwise convolution and batch norm of a separable convolution, (B, N, H, W, C)."""
        norms, rows = [(name, "norm1")], self._rows(source)
        (output,), statistics = normalised_sum(
            [z_BNHWC],
            weights[name, "pointwise1"][source].flatten(2).unsqueeze(0),
            z_BNHWC.new_ones(len(z_BNHWC), 1),
            statistics=self._running(norms, rows),
            stacked=True,
        )
        self._follow(norms, rows, statistics, z_BNHWC[0, ..., 0].numel())
        return output

    def _add_factorized_conv(self, terms: _Terms, source: int, x_NHWC: Tensor, weights: _Weights) -> None:
        """1x7 and 7x1 convolutions; a batch norm of its own is the product with the unit matrix."""
        num_edges, channels, stride = self.lengths[source], self.plan.channels, self._stride(source)
        x = functional.relu(x_NHWC.permute(0, 3, 1, 2))
        rows = weights["conv_7x1_1x7", "conv_1x7"][source].flatten(0, 1)
        columns = weights["conv_7x1_1x7", "conv_7x1"][source].flatten(0, 1)
        x = functional.conv2d(x, rows, stride=(1, stride), padding=(0, 3))
        x = functional.conv2d(x, columns, stride=(stride, 1), padding=(3, 0), groups=num_edges)
        z_BNHWC = x.unflatten(1, (num_edges, channels)).permute(1, 0, 3, 4, 2).contiguous()
        unit_BCC = torch.eye(channels, dtype=x.dtype, device=x.device).expand(num_edges, -1, -1)
        terms.add(z_BNHWC, unit_BCC, "conv_7x1_1x7", "norm")

    def _add_factorized_reduce(self, terms: _Terms, source: int, x_NHWC: Tensor, weights: _Weights) -> None:
        """The skip of stride 2: even and odd pixels give half of the channels each, and zeros for the other half."""
        x = functional.relu(x_NHWC)
        _, height, width, channels = x.shape
        even, odd = x[:, ::2, ::2], functional.pad(x, (0, 0, 0, width % 2, 0, height % 2))[:, 1::2, 1::2]
        even_BCC = weights["skip_connect", "conv_even"][source].flatten(2)
        odd_BCC = weights["skip_connect", "conv_odd"][source].flatten(2)
        even_BCC = functional.pad(even_BCC, (0, 0, 0, channels - even_BCC.shape[1]))
        odd_BCC = functional.pad(odd_BCC, (0, 0, channels - odd_BCC.shape[1], 0))
        terms.add(even.contiguous().unsqueeze(0), even_BCC, "skip_connect", "norm")
        terms.add(odd.contiguous().unsqueeze(0), odd_BCC, "skip_connect", "norm")

    def _add_pools(self, terms: _Terms, source: int, x_NHWC: Tensor) -> None:
        names = [name for name in self.primitives if name in _POOLS]
        if not names:
            return
        norms, row = [(name, "norm") for name in names], slice(source, source + 1)
        running = self._running(norms, row)
        given = None if running is None else (running.mean[:, 0].unbind(), running.variance[:, 0].unbind())
        pools, means, variances = normalised_pools(x_NHWC, names, self._stride(source), given)
        if running is None:
            statistics = Statistics(torch.stack(means).unsqueeze(1), torch.stack(variances).unsqueeze(1))
            self._follow(norms, row, statistics, pools[0][..., 0].numel())
        terms.features += pools
        terms.feature_primitives += names

    def _send(
        self, source: int, terms: _Terms, z_BO: Tensor, keep_BON: Tensor | None, bases: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """What has arrived at the targets so far, `bases`, with this source's share."""
        primitives = [*terms.map_primitives, *terms.feature_primitives]
        columns = [self.primitives.index(name) for name in primitives]
        weights_BT, num_maps, channels = z_BO[:, columns], len(terms.maps), self.plan.channels
        matrices = terms.matrices_BCC
        rows = self._rows(source)
        outputs, statistics = normalised_sum(
            terms.maps,
            torch.stack(matrices) if matrices else z_BO.new_empty((0, len(z_BO), channels, channels)),
            weights_BT[:, :num_maps],
            features_NHWC=terms.features,
            factors_BQ=weights_BT[:, num_maps:],
            bases_NHWC=bases,
            statistics=self._running(terms.norms, rows),
            keep_BON=None if keep_BON is None else keep_BON[:, columns].contiguous(),
        )
        self._follow(terms.norms, rows, statistics, outputs[0][..., 0].numel())
        return outputs

    # Running statistics. The two maps of a factorized reduction are halves of one norm: both are zero where the other
    # has channels, so the mean and the variance of the whole are their sums.

    def _rows(self, source: int) -> slice:
        """The source's edges among all."""
        return slice(sum(self.lengths[:source]), sum(self.lengths[: source + 1]))

    def _statistics_of(self, norms: Sequence[tuple[str, str]], rows: slice, kind: str) -> list[Tensor]:
        return [self.operations[primitive].get_buffer(f"{norm}.{kind}")[rows] for primitive, norm in norms]

    def _running(self, norms: Sequence[tuple[str, str]], rows: slice) -> Statistics | None:
        """What to normalise with in evaluation, each (K, B, C); None in training, where the batch has its own."""
        if self.training or not norms:
            return None
        means, variances = (self._statistics_of(norms, rows, kind) for kind in ("running_mean", "running_var"))
        for position in range(1, len(norms)):
            if norms[position] == norms[position - 1]:
                half = self.plan.channels // 2
                padding = self.plan.channels - half
                means[position - 1] = functional.pad(means[position - 1][:, :half], (0, padding))
                means[position] = functional.pad(means[position][:, half:], (half, 0))
        return Statistics(torch.stack(means), torch.stack(variances))

    def _follow(self, norms: Sequence[tuple[str, str]], rows: slice, statistics: Statistics, num_values: int) -> None:
        """Move running statistics towards those of a batch, the variance without bias, as `torch.nn.BatchNorm2d`."""
        if not (self.training and self._follows_statistics and norms):
            return
        values: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        unbiased = statistics.variance * (num_values / max(num_values - 1, 1))
        for norm, mean, variance in zip(norms, statistics.mean, unbiased, strict=True):
            before = values.get(norm)
            values[norm] = (mean, variance) if before is None else (before[0] + mean, before[1] + variance)
        running = [
            statistic
            for kind in ("running_mean", "running_var")
            for statistic in self._statistics_of(list(values), rows, kind)
        ]
        batch = [mean for mean, _ in values.values()] + [variance for _, variance in values.values()]
        with torch.no_grad():
            torch._foreach_lerp_(running, batch, _MOMENTUM)
