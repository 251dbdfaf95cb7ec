"""ReLU and all depthwise convolutions of a source in one kernel, and its two backward passes.

Sums are in float32, in an order that does not change from run to run: no atomic additions.

Shape suffixes: as in `search_core.kernels.depthwise`. A program takes a block of pixels (N, H and W flat) of all
channels, padded to a power of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from search_core.kernels.gpu import launch as launching

_NUMBERS_OF_A_PROGRAM = 512
_MAX_CHUNKS = 64  # parts of a sum over pixels


@triton.jit
def pixel_at(row, column, image, height, width, is_known):
    """Numbers of pixels, and which of them there are."""
    inside = is_known & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return (image * height + row) * width + column, inside


@triton.jit
def _rectified(x_ptr, pixel, inside, stride, channel, known):
    """ReLU of pixels, NaN included, as float32; 0 outside."""
    at = x_ptr + pixel[:, None] * stride + channel[None, :]
    x = tl.load(at, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
    return tl.where(x <= 0, 0.0, x)


@triton.jit
def _convolve(
    x_ptr, weight_ptr, output_ptr, num_pixels, height, width, rows, columns, x_stride,
    C: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    pixel, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)
    image, row, column = pixel // (rows * columns), pixel // columns % rows, pixel % columns
    known = channel < C
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for i in range(K):  # unrolled, both need more registers than there are
        for j in tl.static_range(K):
            y, x = row * STRIDE + (i - K // 2) * DILATION, column * STRIDE + (j - K // 2) * DILATION
            source, inside = pixel_at(y, x, image, height, width, pixel < num_pixels)
            weight = tl.load(weight_ptr + channel * (K * K) + i * K + j, mask=known, other=0.0).to(tl.float32)
            total += _rectified(x_ptr, source, inside, x_stride, channel, known) * weight[None, :]
    place = output_ptr + pixel[:, None] * C + channel[None, :]
    tl.store(place, total, mask=(pixel < num_pixels)[:, None] & known[None, :])


@triton.jit
def forward_kernel(
    x_ptr, weights, outputs, num_pixels, height, width, rows, columns, x_edge, x_stride,
    C: tl.constexpr, PADDED: tl.constexpr, KERNELS: tl.constexpr, DILATIONS: tl.constexpr, NUM: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of output pixels of one edge (axis 1) and one convolution (axis 2)."""
    edge = tl.program_id(1).to(tl.int64)
    for conv in tl.static_range(NUM):
        if tl.program_id(2) == conv:
            _convolve(
                x_ptr + edge * x_edge, weights[conv] + edge * C * KERNELS[conv] * KERNELS[conv],
                outputs[conv] + edge * num_pixels * C, num_pixels, height, width, rows, columns, x_stride,
                C, PADDED, KERNELS[conv], DILATIONS[conv], STRIDE, BLOCK,
            )  # fmt: skip


@triton.jit
def _convolve_back(
    total, gradient_ptr, weight_ptr, pixel, image, row, column, num_pixels, rows, columns, stride, channel, known,
    K: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Add what one convolution of one edge sends back to pixels of its input."""
    for i in range(K):
        for j in tl.static_range(K):
            y, x = row - (i - K // 2) * DILATION, column - (j - K // 2) * DILATION
            is_read = (pixel < num_pixels) & (y >= 0) & (x >= 0) & (y % STRIDE == 0) & (x % STRIDE == 0)
            source, inside = pixel_at(y // STRIDE, x // STRIDE, image, rows, columns, is_read)
            at = gradient_ptr + source[:, None] * stride + channel[None, :]
            gradient = tl.load(at, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
            weight = tl.load(weight_ptr + channel * (K * K) + i * K + j, mask=known, other=0.0).to(tl.float32)
            total += gradient * weight[None, :]
    return total


@triton.jit
def backward_kernel(
    x_ptr, weights, gradients, edge_strides, strides, of_x_ptr, num_edges, num_pixels, height, width, rows, columns,
    x_edge, x_stride,
    C: tl.constexpr, PADDED: tl.constexpr, KERNELS: tl.constexpr, DILATIONS: tl.constexpr, NUM: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of input pixels of one input (axis 1): the gradient, from all convolutions of `num_edges` edges."""
    pixel, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)
    image, row, column = pixel // (height * width), pixel // width % height, pixel % width
    known, own = channel < C, tl.program_id(1).to(tl.int64)
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for number in range(num_edges):
        edge = own * num_edges + number
        for conv in tl.static_range(NUM):
            total = _convolve_back(
                total, gradients[conv] + edge * edge_strides[conv],
                weights[conv] + edge * C * KERNELS[conv] * KERNELS[conv], pixel, image, row, column, num_pixels, rows,
                columns, strides[conv], channel, known, KERNELS[conv], DILATIONS[conv], STRIDE,
            )  # fmt: skip
    mask = (pixel < num_pixels)[:, None] & known[None, :]
    at = x_ptr + own * x_edge + pixel[:, None] * x_stride + channel[None, :]
    x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    place = of_x_ptr + own * num_pixels * C + pixel[:, None] * C + channel[None, :]
    tl.store(place, tl.where(x <= 0, 0.0, total), mask=mask)


@triton.jit
def _correlate(
    x_ptr, gradient_ptr, place_ptr, tap, num_pixels, pixels_of_a_chunk, height, width, rows, columns, x_stride, stride,
    C: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, PADDED)
    known = channel < C
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    start = tl.program_id(0) * pixels_of_a_chunk
    for first in range(start, start + pixels_of_a_chunk, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        image, row, column = pixel // (rows * columns), pixel // columns % rows, pixel % columns
        y, x = row * STRIDE + (tap // K - K // 2) * DILATION, column * STRIDE + (tap % K - K // 2) * DILATION
        source, inside = pixel_at(y, x, image, height, width, pixel < num_pixels)
        at = gradient_ptr + pixel[:, None] * stride + channel[None, :]
        gradient = tl.load(at, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
        total += gradient * _rectified(x_ptr, source, inside, x_stride, channel, known)
    tl.store(place_ptr + channel, tl.sum(total, 0), mask=known)


@triton.jit
def weights_kernel(
    x_ptr, gradients, edge_strides, strides, sums_ptr, num_taps, num_pixels, pixels_of_a_chunk, height, width, rows,
    columns, x_edge, x_stride,
    C: tl.constexpr, PADDED: tl.constexpr, KERNELS: tl.constexpr, DILATIONS: tl.constexpr, FIRSTS: tl.constexpr,
    NUM: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk of pixels (axis 0) of one edge (axis 1): its part of the gradient of one tap (axis 2) of all channels."""
    edge, tap = tl.program_id(1).to(tl.int64), tl.program_id(2)
    place = sums_ptr + ((tl.program_id(0) * tl.num_programs(1) + edge) * num_taps + tap) * C
    for conv in tl.static_range(NUM):
        if (tap >= FIRSTS[conv]) & (tap < FIRSTS[conv] + KERNELS[conv] * KERNELS[conv]):
            _correlate(
                x_ptr + edge * x_edge, gradients[conv] + edge * edge_strides[conv], place, tap - FIRSTS[conv],
                num_pixels, pixels_of_a_chunk, height, width, rows, columns, x_stride, strides[conv],
                C, PADDED, KERNELS[conv], DILATIONS[conv], STRIDE, BLOCK,
            )  # fmt: skip


def forward(x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """As `relu_depthwise`, in one launch."""
    x = flat(x)
    num_images, (rows, columns) = x.shape[1], _size(x, stride)
    outputs = tuple(x.new_empty((len(weight), num_images, rows, columns, x.shape[4])) for weight in weights)
    constants = _constants(x, dilations, stride, weights)
    num_pixels = num_images * rows * columns
    launching.launch(
        forward_kernel, (triton.cdiv(num_pixels, constants["BLOCK"]), len(weights[0]), len(weights)), x,
        tuple(weights), outputs, num_pixels, *x.shape[2:4], rows, columns, *strides_of(x), **constants,
    )  # fmt: skip
    return outputs


def backward(
    x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of x and of the weights, in three launches."""
    x, gradients = flat(x), [flat(gradient) for gradient in gradients]
    num_images, height, width, channels = x.shape[1:]
    constants, num_edges = _constants(x, dilations, stride, weights), len(weights[0])
    strides = zip(*(strides_of(gradient) for gradient in gradients), strict=True)
    sent = (tuple(gradients), *strides)
    sizes = (height, width, *_size(x, stride), *strides_of(x))
    of_x, num_pixels = x.new_empty(x.shape), num_images * height * width
    launching.launch(
        backward_kernel, (triton.cdiv(num_pixels, constants["BLOCK"]), len(x)), x, tuple(weights), *sent, of_x,
        num_edges // len(x), num_pixels, *sizes, **constants,
    )  # fmt: skip
    kernels = constants["KERNELS"]
    firsts = tuple(sum(kernel * kernel for kernel in kernels[:conv]) for conv in range(len(kernels)))
    num_taps, num_pixels = sum(kernel * kernel for kernel in kernels), gradients[0][0, ..., 0].numel()
    chunk = triton.cdiv(triton.cdiv(num_pixels, _MAX_CHUNKS), constants["BLOCK"]) * constants["BLOCK"]
    sums = x.new_empty((triton.cdiv(num_pixels, chunk), num_edges, num_taps, channels), dtype=torch.float32)
    launching.launch(
        weights_kernel, (len(sums), num_edges, num_taps), x, *sent, sums, num_taps, num_pixels, chunk, *sizes,
        **constants, FIRSTS=firsts,
    )  # fmt: skip
    by_conv = sums.sum(0).split([kernel * kernel for kernel in kernels], dim=1)
    of_weights = zip(by_conv, weights, strict=True)
    return of_x, [taps.transpose(1, 2).reshape(weight.shape).to(weight.dtype) for taps, weight in of_weights]


def flat(x_GNHWC: Tensor) -> Tensor:
    """The same, with a fixed distance from pixel to pixel."""
    _, num_images, height, width, _ = x_GNHWC.shape
    _, of_image, of_row, of_pixel, of_channel = x_GNHWC.stride()
    is_flat = of_channel == 1 and of_row == width * of_pixel and (num_images == 1 or of_image == height * of_row)
    return x_GNHWC if is_flat else x_GNHWC.contiguous()


def strides_of(x_GNHWC: Tensor) -> tuple[int, int]:
    """From edge to edge, 0 where all share one, and from pixel to pixel."""
    return x_GNHWC.stride(0) if len(x_GNHWC) > 1 else 0, x_GNHWC.stride(3)


def _size(x_GNHWC: Tensor, stride: int) -> tuple[int, int]:
    return -(-x_GNHWC.shape[2] // stride), -(-x_GNHWC.shape[3] // stride)


def _constants(x: Tensor, dilations: Sequence[int], stride: int, weights: Sequence[Tensor]) -> dict[str, Any]:
    padded = triton.next_power_of_2(x.shape[-1])
    return {
        "C": x.shape[-1],
        "PADDED": padded,
        "KERNELS": tuple(weight.shape[-1] for weight in weights),
        "DILATIONS": tuple(dilations),
        "NUM": len(weights),
        "STRIDE": stride,
        "BLOCK": max(_NUMBERS_OF_A_PROGRAM // padded, 1),
    }
