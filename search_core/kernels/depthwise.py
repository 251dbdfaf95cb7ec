"""All depthwise convolutions that leave one source, as one differentiable operation.

Shape suffixes: B edges, N images, H rows, W columns, C channels; G is 1 where all edges share their input, else B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from search_core.kernels.backend import (
    autocast_dtype,
    check_layout,
    kind_of,
    num_parts,
    over_images,
    use_native,
    use_triton,
)


def relu_depthwise(
    x_GNHWC: Tensor, weights_BCKK: Sequence[Tensor], dilations: Sequence[int], stride: int
) -> tuple[Tensor, ...]:
    """Depthwise convolutions of relu(x), zero padded so that stride 1 keeps the size.

    Every candidate operation with a depthwise convolution begins with ReLU. Neither relu(x) nor a padded copy is stored
    for the backward pass.

    Args:
        x_GNHWC: one input for all edges (G = 1) or one for each, contiguous.
        weights_BCKK: for each convolution the weights of all edges, of kernel sizes K 3, 5 or 7.
        dilations: dilation of each convolution, 1 or 2.
        stride: 1 or 2; odd sizes round up.

    Returns:
        For each convolution (B, N, ceil(H / stride), ceil(W / stride), C).

    Raises:
        ValueError: if a kernel has another size.
    """
    if any(weight.shape[-1] not in (3, 5, 7) for weight in weights_BCKK):
        raise ValueError(f"kernels must be of 3, 5 or 7 pixels, got {[weight.shape[-1] for weight in weights_BCKK]}")
    if not use_native(x_GNHWC) and (dtype := autocast_dtype(x_GNHWC.device)) is not None:
        x_GNHWC, weights_BCKK = x_GNHWC.to(dtype), [weight.to(dtype) for weight in weights_BCKK]
    return _ReluDepthwise.apply(x_GNHWC, tuple(dilations), stride, *weights_BCKK)  # type: ignore[no-any-return]


class _ReluDepthwise(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dilations: tuple[int, ...], stride: int, *weights: Tensor) -> tuple[Tensor, ...]:
        weights = tuple(weight.contiguous() for weight in weights)
        ctx.save_for_backward(x, *weights)
        ctx.dilations, ctx.stride, (forward, ctx.backward_of) = dilations, stride, _passes(x)
        return forward(x, dilations, stride, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        x_gradient, weight_gradients = ctx.backward_of(x, ctx.dilations, ctx.stride, weights, gradients)
        return x_gradient, None, None, *weight_gradients


def _passes(x: Tensor) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., tuple[Tensor, list[Tensor]]]]:
    """Forward and backward pass in the code that runs on x."""
    if use_native(x):
        return _native_forward, _native_backward
    if use_triton(x):
        from search_core.kernels.gpu import depthwise

        return depthwise.forward, depthwise.backward
    return _torch_forward, _torch_backward


def _native_forward(x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    from search_core.kernels import native_depthwise

    _, num_images, height, width, channels = x.shape
    size = (num_images, -(-height // stride), -(-width // stride), channels)
    outputs = tuple(x.new_empty((len(weight), *size)) for weight in weights)
    jobs = _jobs(x, dilations, weights, outputs, weights, 0)
    radius = _radius(dilations, weights)
    parts = num_parts(num_images, x[0].numel())
    over_images(
        native_depthwise.forward, num_images, parts, _addresses(x), jobs, height, width, channels, stride, radius,
        *kind_of(x),
    )  # fmt: skip
    return outputs


def _native_backward(
    x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    from search_core.kernels import native_depthwise

    _, num_images, height, width, channels = x.shape
    gradients = [gradient.contiguous() for gradient in gradients]
    parts = num_parts(num_images, x[0].numel())
    sums = [weight.new_empty((parts, *weight.shape)) for weight in weights]
    jobs = _jobs(x, dilations, weights, gradients, [partial[0] for partial in sums], 1)
    x_gradient = torch.empty_like(x)
    over_images(
        native_depthwise.backward, num_images, parts, _addresses(x), _addresses(x_gradient), jobs, height, width,
        channels, stride, _radius(dilations, weights), *kind_of(x),
    )  # fmt: skip
    return x_gradient, [partial.sum(0) for partial in sums]


def _jobs(
    x: Tensor, dilations: Sequence[int], weights: Sequence[Tensor], outputs: Sequence[Tensor],
    weight_gradients: Sequence[Tensor], parts: int,
) -> np.ndarray[Any, np.dtype[np.int64]]:  # fmt: skip
    """One row per edge and convolution, ordered by input; columns as in `native_depthwise`."""
    check_layout(x, x, *weights, *outputs)
    rows = []
    for edge in range(len(weights[0])):
        for weight, dilation, output, gradient in zip(weights, dilations, outputs, weight_gradients, strict=True):
            rows.append(
                (
                    edge if len(x) > 1 else 0,
                    weight.shape[-1],
                    dilation,
                    weight.data_ptr() + edge * weight.stride(0) * weight.itemsize,
                    output.data_ptr() + edge * output.stride(0) * output.itemsize,
                    gradient.data_ptr() + edge * gradient.stride(0) * gradient.itemsize,
                    parts * gradient.numel(),
                )
            )
    return np.array(rows, np.int64)


def _addresses(x: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return x.data_ptr() + np.arange(len(x), dtype=np.int64) * (x.stride(0) * x.itemsize)


def _radius(dilations: Sequence[int], weights: Sequence[Tensor]) -> int:
    return max(weight.shape[-1] // 2 * dilation for weight, dilation in zip(weights, dilations, strict=True))


# The same with torch's own convolutions: the edges' channels side by side


def _side_by_side(x_GNHWC: Tensor, num_edges: int) -> Tensor:
    """(N, B * C, H, W), channels last."""
    x_GNHWC = x_GNHWC.expand(num_edges, -1, -1, -1, -1)
    return x_GNHWC.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def _apart(x_NBCHW: Tensor, num_edges: int) -> Tensor:
    """(N, B * C, H, W) back to (B, N, H, W, C), without a copy where x is channels last."""
    num_images, channels, height, width = x_NBCHW.shape
    x_NHWBC = x_NBCHW.permute(0, 2, 3, 1).reshape(num_images, height, width, num_edges, channels // num_edges)
    return x_NHWBC.permute(3, 0, 1, 2, 4)


def _torch_forward(x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    num_edges = len(weights[0])
    rectified = _side_by_side(x.relu(), num_edges)
    return tuple(
        _apart(
            functional.conv2d(
                rectified,
                weight.flatten(0, 1).unsqueeze(1),
                stride=stride,
                padding=weight.shape[-1] // 2 * dilation,
                dilation=dilation,
                groups=rectified.shape[1],
            ),
            num_edges,
        )
        for weight, dilation in zip(weights, dilations, strict=True)
    )


def _torch_backward(
    x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    num_edges = len(weights[0])
    rectified = _side_by_side(x.relu(), num_edges)
    of_inputs, weight_gradients = [], []
    for weight, dilation, gradient in zip(weights, dilations, gradients, strict=True):
        padding = weight.shape[-1] // 2 * dilation
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            _side_by_side(gradient, num_edges), rectified, weight.flatten(0, 1).unsqueeze(1), None, [stride] * 2,
            [padding] * 2, [dilation] * 2, False, [0, 0], rectified.shape[1], [True, True, False],
        )  # fmt: skip
        of_inputs.append(of_input)
        weight_gradients.append(of_weight.view_as(weight))
    total = of_inputs[0]
    for of_input in of_inputs[1:]:
        total += of_input
    per_edge = _apart(total, num_edges)
    if len(x) < num_edges:
        per_edge = per_edge.sum(0, keepdim=True)
    return torch.ops.aten.threshold_backward(per_edge, x, 0), weight_gradients
