"""The 3x3 pools of one source with their parameter-free batch norm, as one differentiable operation.

Shape suffixes: Q pools, N images, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from search_core.kernels.backend import check_layout, kind_of, num_parts, over_images, use_native

EPSILON = 1e-5  # of every batch norm, as in `torch.nn.BatchNorm2d`


def normalised_pools(
    x_NHWC: Tensor, names: Sequence[str], stride: int, statistics: tuple[Sequence[Tensor], Sequence[Tensor]] | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Pools of x, each channel brought to mean 0 and variance 1.

    All edges that leave a source pool the same pixels, so this is done once a source. For the backward pass only the
    normalised pools are kept: the positions of the maxima are found again, and the batch norm's input is not needed
    because its gradient can be written with its output.

    Args:
        x_NHWC: the source, contiguous.
        names: `max_pool_3x3`, `avg_pool_3x3`, or both.
        stride: 1 or 2; odd sizes round up.
        statistics: means and variances (C) of each pool to normalise with (evaluation); None for those of the batch.

    Returns:
        Pools, each (N, ceil(H / stride), ceil(W / stride), C), then their batch means (C) and biased variances (C),
        none in evaluation. Gradients flow through the pools only.
    """
    given = [] if statistics is None else [*statistics[0], *statistics[1]]
    results = _NormalisedPools.apply(x_NHWC, tuple(names), stride, *given)
    num = len(names)
    return results[:num], results[num : 2 * num], results[2 * num :]


class _NormalisedPools(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, names: tuple[str, ...], stride: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.native = use_native(x)
        pools = (_native_pools if ctx.native else _torch_pools)(x, names, stride)
        if given:
            means, variances = given[: len(names)], given[len(names) :]
        else:
            means, variances = (_native_moments if ctx.native else _torch_moments)(pools)
        scales = [(variance + EPSILON).rsqrt() for variance in variances]
        normalised = tuple(
            torch.addcmul(-mean * scale, pool, scale, out=pool)
            for pool, mean, scale in zip(pools, means, scales, strict=True)
        )
        ctx.save_for_backward(x, *normalised, *scales)
        ctx.names, ctx.stride, ctx.training = names, stride, not given
        if given:
            return normalised
        ctx.mark_non_differentiable(*means, *variances)
        return *normalised, *means, *variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        num = len(ctx.names)
        x, *saved = ctx.saved_tensors
        normalised, scales = saved[:num], saved[num:]
        of_pools = [
            _norm_backward(gradient, output, scale) if ctx.training else gradient * scale
            for gradient, output, scale in zip(gradients[:num], normalised, scales, strict=True)
        ]
        backward = _native_pools_backward if ctx.native else _torch_pools_backward
        return backward(x, ctx.names, ctx.stride, of_pools), None, None, *([None] * (0 if ctx.training else 2 * num))


def _norm_backward(gradient: Tensor, output: Tensor, scale: Tensor) -> Tensor:
    """`scale (g - mean(g) - y mean(g y))` of a batch norm y = (x - mean) scale, with y in the place of x."""
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    result, _, _ = torch.ops.aten.native_batch_norm_backward(
        gradient.permute(0, 3, 1, 2), output.permute(0, 3, 1, 2), scale, None, None, zeros, ones, True, EPSILON,
        [True, False, False],
    )  # fmt: skip
    return result.permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def _native_pools(x: Tensor, names: Sequence[str], stride: int) -> list[Tensor]:
    from search_core.kernels import native_pools

    check_layout(x, x)
    num_images, height, width, channels = x.shape
    size = (num_images, -(-height // stride), -(-width // stride), channels)
    pools = {name: x.new_empty(size) for name in names}
    over_images(
        native_pools.forward, num_images, num_parts(num_images, x.numel()), x.data_ptr(), *_addresses(pools), height,
        width, channels, stride, *kind_of(x),
    )  # fmt: skip
    return list(pools.values())


def _native_moments(pools: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Means and biased variances, from values shifted by the first image's mean: squares of those do not cancel."""
    from search_core.kernels import native_pools

    num_images, height, width, channels = pools[0].shape
    parts = num_parts(num_images, pools[0].numel())
    shifts = torch.stack([pool[0].mean((0, 1)) for pool in pools])
    sums, squares = shifts.new_empty((2, parts, len(pools), channels))
    over_images(
        native_pools.moments, num_images, parts, np.array([pool.data_ptr() for pool in pools]), shifts.numpy(),
        sums.numpy(), squares.numpy(), height * width, channels, *kind_of(pools[0]),
    )  # fmt: skip
    count = num_images * height * width
    offsets = sums.sum(0) / count
    return (offsets + shifts).unbind(), (squares.sum(0) / count - offsets.square()).unbind()


def _torch_moments(pools: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    moments = [torch.var_mean(pool.flatten(0, 2), dim=0, correction=0) for pool in pools]
    return tuple(mean for _, mean in moments), tuple(variance for variance, _ in moments)


def _native_pools_backward(x: Tensor, names: Sequence[str], stride: int, gradients: Sequence[Tensor]) -> Tensor:
    from search_core.kernels import native_pools

    num_images, height, width, channels = x.shape
    pools = dict(zip(names, (gradient.contiguous() for gradient in gradients), strict=True))
    result = torch.zeros_like(x)
    check_layout(x, x, result, *pools.values())
    over_images(
        native_pools.backward, num_images, num_parts(num_images, x.numel()), x.data_ptr(), result.data_ptr(),
        *_addresses(pools), height, width, channels, stride, *kind_of(x),
    )  # fmt: skip
    return result


def _addresses(pools: dict[str, Tensor]) -> list[int]:
    """Addresses of the maxima and of the averages, 0 for what is not asked for."""
    return [pools[name].data_ptr() if name in pools else 0 for name in ("max_pool_3x3", "avg_pool_3x3")]


def _torch_pool(x_NCHW: Tensor, name: str, stride: int) -> Tensor:
    if name == "max_pool_3x3":
        return functional.max_pool2d(x_NCHW, 3, stride, 1)
    return functional.avg_pool2d(x_NCHW, 3, stride, 1, count_include_pad=False)


def _torch_pools(x: Tensor, names: Sequence[str], stride: int) -> list[Tensor]:
    return [_torch_pool(x.permute(0, 3, 1, 2), name, stride).permute(0, 2, 3, 1) for name in names]


def _torch_pools_backward(x: Tensor, names: Sequence[str], stride: int, gradients: Sequence[Tensor]) -> Tensor:
    with torch.enable_grad():
        source = x.detach().permute(0, 3, 1, 2).requires_grad_()
        pools = [_torch_pool(source, name, stride) for name in names]
    outputs = [gradient.permute(0, 3, 1, 2) for gradient in gradients]
    (result,) = torch.autograd.grad(pools, source, outputs)
    return result.permute(0, 2, 3, 1).contiguous()
