"""What the edges of one source of a searchable cell have in common: which maps, with which weights and statistics.

Shape suffixes: as in `search_cell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from search_core.kernels.pools import normalised_pools
from search_core.kernels.product import Statistics
from search_core.primitives.base import Kind
from search_core.primitives.registry import find


class DropPath(NamedTuple):
    """Drop path of one cell (Larsson et al., ICLR 2017).

    Attributes:
        keep_EON: bool, which operations of which images take part, edges ordered as in `cell_edges`.
        scale: factor of those that do, 1 / (1 - probability).
    """

    keep_EON: Tensor
    scale: float


class Layout:
    """What every source with edges of one stride sends, and in which order.

    Attributes:
        twice: separable convolutions, which go through depthwise and pointwise convolution twice.
        once: dilated convolutions.
        maps: primitive of every map that ends in a product with a matrix and a batch norm: `twice`, `once`, then
            `conv_7x1_1x7`, then the two halves of a factorized reduction.
        norms: names of the maps' statistics.
        pools: pools.
        features: primitives of the maps that are only scaled: pools, then the identity.
    """

    def __init__(self, primitives: Sequence[str], stride: int) -> None:
        self.twice = _of_kind(primitives, "separable")
        self.once = _of_kind(primitives, "dilated")
        self.has_factorized_conv = "conv_7x1_1x7" in primitives
        self.is_halved = "skip_connect" in primitives and stride == 2
        self.has_identity = "skip_connect" in primitives and stride == 1
        self.maps = self.twice + self.once + ["conv_7x1_1x7"] * self.has_factorized_conv
        self.norms = [(name, "norm2" if name in self.twice else "norm") for name in self.maps]
        self.norms += [("skip_connect", "norm")] * self.is_halved
        self.maps += ["skip_connect"] * (2 * self.is_halved)
        self.pools = _of_kind(primitives, "pool")
        self.features = self.pools + ["skip_connect"] * self.has_identity
        self.columns = [primitives.index(name) for name in self.maps + self.features]


def _of_kind(primitives: Sequence[str], kind: Kind) -> list[str]:
    return [name for name in primitives if find(name).kind == kind]


@dataclass(frozen=True)
class Source:
    """The weights and statistics of one source's edges; statistics to normalise with are there in evaluation only.

    Attributes:
        kernels: of the first depthwise convolutions, (B, C, K, K), in the order of `Layout.twice` and `once`.
        matrices: first pointwise weights (B, K, C, C) of `twice`.
        second_kernels: of the second depthwise convolutions of `twice`.
        last_matrices: pointwise weights (K, B, C, C) of `Layout.maps`.
        factorized: weights of `conv_7x1_1x7`, if there.
        weights: architecture weights (B, K) of the maps.
        factors: architecture weights (B, Q) of the features.
        keep: flags of drop path (B, K + Q, N).
        statistics: of the first batch norms of `twice`.
        last_statistics: of `Layout.maps`.
        pool_statistics: of the pools, B = 1.
    """

    kernels: list[Tensor]
    matrices: Tensor
    second_kernels: list[Tensor]
    last_matrices: Tensor
    factorized: list[Tensor]
    weights: Tensor
    factors: Tensor
    keep: Tensor | None
    statistics: Statistics | None
    last_statistics: Statistics | None
    pool_statistics: Statistics | None


@dataclass
class Sent:
    """Statistics of one source's batch, as in `Source`."""

    statistics: Statistics | None
    last_statistics: Statistics
    pool_statistics: Statistics | None


def pools(
    x_NHWC: Tensor, stride: int, names: Sequence[str], running: Statistics | None
) -> tuple[list[Tensor], Statistics | None]:
    """Normalised pools of one source, each (N, H, W, C), and its batch's statistics if there are no running ones."""
    if not names:
        return [], None
    given = None if running is None else (running.mean[:, 0], running.variance[:, 0])
    pools, moments = normalised_pools(x_NHWC, names, stride, given)
    return list(pools), None if moments is None else Statistics(*(values.unsqueeze(1) for values in moments))


def factorized_conv(x_NHWC: Tensor, stride: int, rows_BCCK: Tensor, columns_BCCK: Tensor) -> Tensor:
    """1x7 and 7x1 convolutions of relu(x) on every edge, (B, N, H, W, C)."""
    num_edges, channels = rows_BCCK.shape[:2]
    x = functional.relu(x_NHWC.permute(0, 3, 1, 2))
    x = functional.conv2d(x, rows_BCCK.flatten(0, 1), stride=(1, stride), padding=(0, 3))
    x = functional.conv2d(x, columns_BCCK.flatten(0, 1), stride=(stride, 1), padding=(3, 0), groups=num_edges)
    z: Tensor = x.unflatten(1, (num_edges, channels)).permute(1, 0, 3, 4, 2)
    return z.contiguous()


def even_and_odd(x_NHWC: Tensor) -> list[Tensor]:
    """Pixels of even and of odd position, each (1, N, H', W', C); zeros stand in for the odd ones past an odd size."""
    height, width = x_NHWC.shape[1:3]
    even, odd = x_NHWC[:, ::2, ::2], functional.pad(x_NHWC, (0, 0, 0, width % 2, 0, height % 2))[:, 1::2, 1::2]
    return [even.contiguous().unsqueeze(0), odd.contiguous().unsqueeze(0)]
