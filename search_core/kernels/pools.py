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

from search_core.kernels.backend import check_layout, defined, kind_of, num_parts, over_images, use_native, use_triton

EPSILON = 1e-5  # of every batch norm, as in `torch.nn.BatchNorm2d`


def normalised_pools(
    x_NHWC: Tensor, names: Sequence[str], stride: int, statistics: tuple[Tensor, Tensor] | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None]:
    """Pools of x, each channel brought to mean 0 and variance 1.

    All edges that leave a source pool the same pixels, so this is done once a source. For the backward pass only the
    normalised pools are kept: the positions of the maxima are found again, and the batch norm's input is not needed
    because its gradient can be written with its output.

    Args:
        x_NHWC: the source, contiguous.
        names: `max_pool_3x3`, `avg_pool_3x3`, or both.
        stride: 1 or 2; odd sizes round up.
        statistics: means and variances (Q, C) to normalise with (evaluation); None for those of the batch.

    Returns:
        Pools, each (N, ceil(H / stride), ceil(W / stride), C), and their batch means and biased variances, each (Q, C),
        none in evaluation. Gradients flow through the pools only.
    """
    results = _NormalisedPools.apply(x_NHWC, tuple(names), stride, *(statistics or ()))
    num = len(names)
    return results[:num], None if statistics else results[num:]


class _NormalisedPools(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, names: tuple[str, ...], stride: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.names, ctx.stride, ctx.training = names, stride, not given
        ctx.native, ctx.on_gpu = use_native(x), not given and use_triton(x)
        if ctx.on_gpu:
            from search_core.kernels.gpu import pools as on_gpu

            pools, means, variances, scales, places = on_gpu.forward(x, names, stride, EPSILON)
            ctx.save_for_backward(x, pools, scales, places)
            ctx.mark_non_differentiable(means, variances)
            ctx.set_materialize_grads(False)
            return *pools.unbind(), means, variances
        pools = (_native_pools if ctx.native else _torch_pools)(x, names, stride)
        means, variances = given or (_native_moments if ctx.native else _torch_moments)(pools)
        scales = (variances + EPSILON).rsqrt_()
        offsets_QC, scales_QC = (values[:, None, None, None] for values in (-means * scales, scales))
        torch.addcmul(offsets_QC, pools, scales_QC, out=pools)
        ctx.save_for_backward(x, pools, scales)
        if given:
            return pools.unbind()
        ctx.mark_non_differentiable(means, variances)
        ctx.set_materialize_grads(False)  # else zeros are made for these, too
        return *pools.unbind(), means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, normalised, scales, *places = ctx.saved_tensors
        of_norms = defined(gradients[: len(ctx.names)])
        if ctx.on_gpu:
            from search_core.kernels.gpu import pools as on_gpu

            x_gradient = on_gpu.backward(x.shape, ctx.names, ctx.stride, of_norms, normalised, scales, *places)
        elif ctx.native:
            of_pools: Sequence[Tensor] = [
                _norm_backward(gradient, output, scale) if ctx.training else gradient * scale
                for gradient, output, scale in zip(of_norms, normalised, scales, strict=True)
            ]
            x_gradient = _native_pools_backward(x, ctx.names, ctx.stride, of_pools)
        else:
            of_pools = _torch_norms_backward(of_norms, normalised, scales, ctx.training)
            x_gradient = _torch_pools_backward(x, ctx.names, ctx.stride, of_pools)
        return x_gradient, None, None, *([None] * (0 if ctx.training else 2))


def _norm_backward(gradient: Tensor, output: Tensor, scale: Tensor) -> Tensor:
    """`scale (g - mean(g) - y mean(g y))` of a batch norm y = (x - mean) scale, with y in the place of x."""
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    result, _, _ = torch.ops.aten.native_batch_norm_backward(
        gradient.permute(0, 3, 1, 2), output.permute(0, 3, 1, 2), scale, None, None, zeros, ones, True, EPSILON,
        [True, False, False],
    )  # fmt: skip
    return result.permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def _native_pools(x: Tensor, names: Sequence[str], stride: int) -> Tensor:
    """(Q, N, H, W, C)."""
    from search_core.kernels import native_pools

    check_layout(x, x)
    num_images, height, width, channels = x.shape
    size = (num_images, -(-height // stride), -(-width // stride), channels)
    pools = x.new_empty((len(names), *size))
    over_images(
        native_pools.forward, num_images, num_parts(num_images, x.numel()), x.data_ptr(),
        *_addresses(dict(zip(names, pools, strict=True))), height, width, channels, stride, *kind_of(x),
    )  # fmt: skip
    return pools


def _native_moments(pools: Tensor) -> tuple[Tensor, Tensor]:
    """Means and biased variances, from values shifted by the first image's mean: squares of those do not cancel."""
    from search_core.kernels import native_pools

    num_images, height, width, channels = pools[0].shape
    parts = num_parts(num_images, pools[0].numel())
    shifts = pools[:, 0].mean((1, 2))
    sums, squares = shifts.new_empty((2, parts, len(pools), channels))
    over_images(
        native_pools.moments, num_images, parts, np.array([pool.data_ptr() for pool in pools]), shifts.numpy(),
        sums.numpy(), squares.numpy(), height * width, channels, *kind_of(pools[0]),
    )  # fmt: skip
    count = num_images * height * width
    offsets = sums.sum(0) / count
    return offsets + shifts, squares.sum(0) / count - offsets.square()


def _torch_moments(pools: Tensor) -> tuple[Tensor, Tensor]:
    variances, means = torch.var_mean(pools, dim=(1, 2, 3), correction=0)
    return means, variances


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


# With torch: the pools side by side, pixel by pixel


def _torch_pools(x: Tensor, names: Sequence[str], stride: int) -> Tensor:
    """(Q, N, H, W, C)."""
    x_NCHW = x.permute(0, 3, 1, 2)
    pools = [
        functional.max_pool2d(x_NCHW, 3, stride, 1)
        if name == "max_pool_3x3"
        else functional.avg_pool2d(x_NCHW, 3, stride, 1, count_include_pad=False)
        for name in names
    ]
    return torch.stack([pool.permute(0, 2, 3, 1) for pool in pools], dim=3).permute(3, 0, 1, 2, 4)


def _torch_norms_backward(
    gradients: Sequence[Tensor], outputs_QNHWC: Tensor, scales_QC: Tensor, training: bool
) -> Sequence[Tensor]:
    stacked = torch.stack(list(gradients), dim=3)
    if training:
        outputs = outputs_QNHWC.permute(1, 2, 3, 0, 4)
        stacked = _norm_backward(stacked.flatten(3), outputs.flatten(3), scales_QC.flatten()).view_as(stacked)
    else:
        stacked *= scales_QC
    return stacked.unbind(3)


def _torch_pools_backward(x: Tensor, names: Sequence[str], stride: int, gradients: Sequence[Tensor]) -> Tensor:
    x_NCHW, window = x.permute(0, 3, 1, 2), ([3, 3], [stride] * 2, [1, 1])
    total: Tensor | None = None
    for name, gradient in zip(names, gradients, strict=True):
        gradient = gradient.contiguous().permute(0, 3, 1, 2)
        if name == "max_pool_3x3":
            _, indices = torch.ops.aten.max_pool2d_with_indices(x_NCHW, *window)
            of_x = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x_NCHW, *window, [1, 1], False, indices)
        else:
            of_x = torch.ops.aten.avg_pool2d_backward(gradient, x_NCHW, *window, False, False, None)
        total = of_x if total is None else total.add_(of_x)
    assert total is not None, "there must be a pool"
    return total.permute(0, 2, 3, 1).contiguous()
