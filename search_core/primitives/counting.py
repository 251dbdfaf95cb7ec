"""Exact counts of the parts that operations are made of.

Counting rules: parameters include batch norm's scale and shift where it has them. Multiply-adds are those of
convolutions and the classifier, for one image. Memory access counts, for every convolution, pool, identity and the
classifier, the elements read, the elements written and the weights, as the SNAS authors' code does; batch norm and
ReLU are taken as fused with the convolution, and `none` moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Height and width in pixels.
Size = tuple[int, int]


class Cost(NamedTuple):
    """Exact counts of one operation or network, for one image."""

    params: int = 0
    madds: int = 0
    memory_access: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of costs, kind by kind."""
    return Cost(*map(sum, zip(*costs, strict=True))) if (costs := tuple(costs)) else Cost()


def halved(size: Size) -> Size:
    """Size after a stride of 2; odd sizes round up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def conv_cost(
    channels_in: int, channels_out: int, kernel: tuple[int, int], size_in: Size, size_out: Size, groups: int = 1
) -> Cost:
    """Cost of a convolution without bias."""
    weights = channels_in // groups * channels_out * kernel[0] * kernel[1]
    pixels_in, pixels_out = size_in[0] * size_in[1], size_out[0] * size_out[1]
    return Cost(weights, weights * pixels_out, channels_in * pixels_in + channels_out * pixels_out + weights)


def norm_cost(channels: int, affine: bool) -> Cost:
    """Cost of a batch norm."""
    return Cost(params=2 * channels if affine else 0)


def moved_cost(channels: int, size_in: Size, size_out: Size) -> Cost:
    """Cost of what only reads and writes: a pool or an identity."""
    return Cost(memory_access=channels * (size_in[0] * size_in[1] + size_out[0] * size_out[1]))


def separable_cost(channels: int, kernel: int, size_in: Size, size_out: Size, affine: bool) -> Cost:
    """Cost of a depthwise and a pointwise convolution with batch norm."""
    return total(
        (
            conv_cost(channels, channels, (kernel, kernel), size_in, size_out, groups=channels),
            conv_cost(channels, channels, (1, 1), size_out, size_out),
            norm_cost(channels, affine),
        )
    )


def factorized_reduce_cost(channels_in: int, channels_out: int, size: Size, affine: bool) -> Cost:
    """Cost of what halves the size by two convolutions side by side."""
    halves = (channels_out // 2, channels_out - channels_out // 2)
    convs = [conv_cost(channels_in, half, (1, 1), size, halved(size)) for half in halves]
    return total((*convs, norm_cost(channels_out, affine)))
