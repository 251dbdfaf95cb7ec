"""The passes of `packed_product` over pixels: sums for moments, the weighted sum, and their backward passes.

Maps lie side by side, (N, H, W, B, K, C) with any distances from edge to edge and from map to map. Sums over pixels are
formed in chunks, which `fold` adds up. Products are those of float32 numbers, without TF32.

Shape suffixes: as in `search_core.kernels.packed_product`; T chunks of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from search_core.kernels.gpu import launch as launching
from search_core.kernels.gpu.depthwise import flat, strides_of

_BLOCK, _BLOCK_OF_SUMS = 32, 16  # pixels that a program has in registers at once
_MAX_CHUNKS, _MIN_CHUNK = 64, 512  # parts of a sum over pixels; smaller ones take less memory than their sums
STEP = 16  # channels that a product takes at once: more do not fit the registers


@triton.jit
def _rows(pointer, pixel, num_pixels, stride, channel, C: tl.constexpr):
    """Pixels of a map as float32, (pixels, channels); 0 outside."""
    mask = (pixel < num_pixels)[:, None] & (channel < C)[None, :]
    at = pointer + pixel.to(tl.int64)[:, None] * stride + channel[None, :]
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def matrix_of(pointer, row, column, of_row, of_column, C: tl.constexpr):
    """Rows and columns of a matrix, (rows, columns); 0 outside."""
    mask = (row < C)[:, None] & (column < C)[None, :]
    return tl.load(pointer + row[:, None] * of_row + column[None, :] * of_column, mask=mask, other=0.0)


@triton.jit
def _store_sums(squares_ptr, sums_ptr, squares, sums, place, channel, C: tl.constexpr):
    known = channel < C
    at = squares_ptr + place * C * C + channel[:, None] * C + channel[None, :]
    tl.store(at, squares, mask=known[:, None] & known[None, :])
    tl.store(sums_ptr + place * C + channel, sums, mask=known)


@triton.jit
def _flags(keep_ptr, number, pixel, num_pixels, size, num_images, KEEPS: tl.constexpr):
    """Drop path's flag of one term for every pixel, 1 without drop path."""
    if KEEPS:
        at = keep_ptr + number * num_images + pixel // size
        return tl.load(at, mask=pixel < num_pixels, other=0).to(tl.float32)
    return tl.full(pixel.shape, 1.0, tl.float32)


@triton.jit
def sums_kernel(
    packed_ptr, shifts_ptr, sums_ptr, grams_ptr, num_maps, num_pixels, pixels_of_a_chunk, stride, of_edge, of_map,
    C: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk (axis 0) of one map (axis 1): sums of shifted values, and of their products with each other."""
    number, channel = tl.program_id(1), tl.arange(0, PADDED)
    z_ptr = packed_ptr + (number // num_maps).to(tl.int64) * of_edge + number % num_maps * of_map
    shift = tl.load(shifts_ptr + number * C + channel, mask=channel < C, other=0.0)
    sums, grams = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED, PADDED), tl.float32)
    start = tl.program_id(0) * pixels_of_a_chunk
    for first in range(start, start + pixels_of_a_chunk, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        z = _rows(z_ptr, pixel, num_pixels, stride, channel, C) - shift[None, :]
        z = tl.where((pixel < num_pixels)[:, None], z, 0.0)
        sums += tl.sum(z, 0)
        grams = tl.dot(tl.trans(z), z, grams, input_precision="ieee")
    _store_sums(grams_ptr, sums_ptr, grams, sums, tl.program_id(0) * tl.num_programs(1) + number, channel, C)


@triton.jit
def add_kernel(
    packed_ptr, matrices_ptr, gains_ptr, biases_ptr, features, factors_ptr, bases, keep_ptr, total_ptr, num_pixels,
    size, num_images, stride, of_edge, of_map, factors_edge, factors_map,
    C: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr, MAPS: tl.constexpr, FEATURES: tl.constexpr,
    BASES: tl.constexpr, KEEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels (axis 0) of one edge (axis 1): the sum of all its terms and its base."""
    pixel, channel, edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED), tl.program_id(1)
    known = channel < C
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for base in tl.static_range(BASES):
        if edge == base:
            total = _rows(bases[base], pixel, num_pixels, C, channel, C)
    for position in range(MAPS):
        number = edge * MAPS + position
        z_ptr = packed_ptr + edge.to(tl.int64) * of_edge + position * of_map
        flags = _flags(keep_ptr, edge * (MAPS + FEATURES) + position, pixel, num_pixels, size, num_images, KEEPS)
        gains = tl.load(gains_ptr + number * C + channel, mask=known, other=0.0)
        for first in range(0, PADDED, STEP):
            inner = first + tl.arange(0, STEP)
            z = _rows(z_ptr, pixel, num_pixels, stride, inner, C) * flags[:, None]
            folded = matrix_of(matrices_ptr + number * C * C, inner, channel, 1, C, C) * gains[None, :]
            total = tl.dot(z, folded, total, input_precision="ieee")
        total -= flags[:, None] * tl.load(biases_ptr + number * C + channel, mask=known, other=0.0)[None, :]
    for position in tl.static_range(FEATURES):
        number = edge * (MAPS + FEATURES) + MAPS + position
        flags = _flags(keep_ptr, number, pixel, num_pixels, size, num_images, KEEPS)
        factor = tl.load(factors_ptr + edge * factors_edge + position * factors_map)
        total += (factor * flags)[:, None] * _rows(features[position], pixel, num_pixels, C, channel, C)
    place = total_ptr + (edge.to(tl.int64) * num_pixels + pixel)[:, None] * C + channel[None, :]
    tl.store(place, total, mask=(pixel < num_pixels)[:, None] & known[None, :])


@triton.jit
def reduce_kernel(
    packed_ptr, gradient_ptr, keep_ptr, sums_ptr, outer_ptr, num_maps, num_terms, num_pixels, pixels_of_a_chunk, size,
    num_images, stride, of_edge, of_map, gradient_edge, gradient_stride,
    C: tl.constexpr, PADDED: tl.constexpr, KEEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk (axis 0) of one map (axis 1): sums of the gradient, and of its products with the map."""
    number, channel = tl.program_id(1), tl.arange(0, PADDED)
    edge, position = number // num_maps, number % num_maps
    z_ptr = packed_ptr + edge.to(tl.int64) * of_edge + position * of_map
    g_ptr = gradient_ptr + edge.to(tl.int64) * gradient_edge
    sums, outer = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED, PADDED), tl.float32)
    start = tl.program_id(0) * pixels_of_a_chunk
    for first in range(start, start + pixels_of_a_chunk, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        flags = _flags(keep_ptr, edge * num_terms + position, pixel, num_pixels, size, num_images, KEEPS)
        g = _rows(g_ptr, pixel, num_pixels, gradient_stride, channel, C) * flags[:, None]
        sums += tl.sum(g, 0)
        z = _rows(z_ptr, pixel, num_pixels, stride, channel, C)
        outer = tl.dot(tl.trans(g), z, outer, input_precision="ieee")
    _store_sums(outer_ptr, sums_ptr, outer, sums, tl.program_id(0) * tl.num_programs(1) + number, channel, C)


@triton.jit
def maps_kernel(
    packed_ptr, gradient_ptr, keep_ptr, matrices_ptr, gains_ptr, own_ptr, constants_ptr, of_packed_ptr, num_maps,
    num_terms, num_pixels, size, num_images, stride, of_edge, of_map, gradient_edge, gradient_stride,
    C: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr, KEEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels (axis 0) of one map (axis 1): its gradient."""
    pixel, channel, number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED), tl.program_id(1)
    edge, position, known = number // num_maps, number % num_maps, channel < C
    flags = _flags(keep_ptr, edge * num_terms + position, pixel, num_pixels, size, num_images, KEEPS)
    g_ptr = gradient_ptr + edge.to(tl.int64) * gradient_edge
    z_ptr = packed_ptr + edge.to(tl.int64) * of_edge + position * of_map
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for first in range(0, PADDED, STEP):
        inner = first + tl.arange(0, STEP)
        gains = tl.load(gains_ptr + number * C + inner, mask=inner < C, other=0.0)
        scaled = _rows(g_ptr, pixel, num_pixels, gradient_stride, inner, C) * flags[:, None] * gains[None, :]
        matrix = matrix_of(matrices_ptr + number * C * C, inner, channel, C, 1, C)
        total = tl.dot(scaled, matrix, total, input_precision="ieee")
        z = _rows(z_ptr, pixel, num_pixels, stride, inner, C)
        own = matrix_of(own_ptr + number * C * C, inner, channel, C, 1, C)
        total = tl.dot(z, own, total, input_precision="ieee")
    total += tl.load(constants_ptr + number * C + channel, mask=known, other=0.0)[None, :]
    place = of_packed_ptr + (number.to(tl.int64) * num_pixels + pixel)[:, None] * C + channel[None, :]
    tl.store(place, total, mask=(pixel < num_pixels)[:, None] & known[None, :])


def sums(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (T, B, K, C) of `z - shift` and (T, B, K, C, C) of its products with itself, and the shifts (B, K, C)."""
    shifts = packed[0].mean((0, 1), dtype=torch.float32)
    sums, grams, chunk = _chunks(packed)
    launching.launch(
        sums_kernel, (len(sums), packed.shape[3] * packed.shape[4]), packed, shifts, sums, grams,
        packed.shape[4], packed[..., 0, 0, 0].numel(), chunk, *packed.stride()[2:5], **constants_of(packed),
        BLOCK=_BLOCK_OF_SUMS,
    )  # fmt: skip
    return sums, grams, shifts


def add_up(
    packed: Tensor, matrices: Tensor, gains: Tensor, biases: Tensor, features: Sequence[Tensor], factors: Tensor,
    bases: Sequence[Tensor | None], keep: Tensor | None,
) -> Tensor:  # fmt: skip
    """Outputs (B, N, H, W, C)."""
    num_images, height, width, num_edges, num_maps, channels = packed.shape
    total, num_pixels = gains.new_empty((num_edges, num_images, height, width, channels)), num_images * height * width
    own: list[Tensor] = []
    if any(base is not None for base in bases):
        own = [torch.zeros_like(total[0]) if base is None else base.contiguous() for base in bases]
    launching.launch(
        add_kernel, (triton.cdiv(num_pixels, _BLOCK), num_edges), packed, matrices, gains, biases,
        tuple(feature.contiguous() for feature in features), factors, tuple(own), total if keep is None else keep,
        total, num_pixels, height * width, num_images, *packed.stride()[2:5], *factors.stride(), **constants_of(packed),
        STEP=STEP, MAPS=num_maps, FEATURES=len(features), BASES=len(own), KEEPS=keep is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return total


def reduce(packed: Tensor, gradients: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums (T, B, K, C, C) of the gradient's products with each map, and (T, B, K, C) of the gradient."""
    gradients, (sums, outer, chunk) = flat(gradients), _chunks(packed)
    launching.launch(
        reduce_kernel, (len(sums), packed.shape[3] * packed.shape[4]), packed, gradients,
        packed if keep is None else keep, sums, outer, packed.shape[4], 0 if keep is None else keep.shape[1],
        packed[..., 0, 0, 0].numel(), chunk, packed.shape[1] * packed.shape[2], len(packed), *packed.stride()[2:5],
        *strides_of(gradients), **constants_of(packed), KEEPS=keep is not None,
        BLOCK=_BLOCK_OF_SUMS,
    )  # fmt: skip
    return outer, sums


def of_maps(
    packed: Tensor, gradients: Tensor, keep: Tensor | None, matrices: Tensor, gains: Tensor, own: Tensor,
    constants: Tensor,
) -> Tensor:  # fmt: skip
    """Gradients of maps side by side, of the shape of `packed`."""
    gradients = flat(gradients)
    num_images, height, width, num_edges, num_maps, channels = packed.shape
    result = packed.new_empty((num_edges, num_maps, num_images, height, width, channels))
    num_pixels = num_images * height * width
    launching.launch(
        maps_kernel, (triton.cdiv(num_pixels, _BLOCK), num_edges * num_maps), packed, gradients,
        packed if keep is None else keep, matrices, gains, own, constants, result, num_maps,
        0 if keep is None else keep.shape[1], num_pixels, height * width, num_images, *packed.stride()[2:5],
        *strides_of(gradients), **constants_of(packed), STEP=STEP, KEEPS=keep is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return result.permute(2, 3, 4, 0, 1, 5)


def _chunks(packed: Tensor) -> tuple[Tensor, Tensor, int]:
    """Room for sums (T, B, K, C) and (T, B, K, C, C), and the pixels of a chunk."""
    num_edges, num_maps, channels = packed.shape[3:]
    num_pixels = packed[..., 0, 0, 0].numel()
    chunk = max(triton.cdiv(num_pixels, _MAX_CHUNKS * _BLOCK) * _BLOCK, _MIN_CHUNK)
    shape = (triton.cdiv(num_pixels, chunk), num_edges, num_maps, channels)
    sums = packed.new_empty(shape, dtype=torch.float32)
    return sums, packed.new_empty((*shape, channels), dtype=torch.float32), chunk


def constants_of(x: Tensor) -> dict[str, int]:
    """Channels, and to how many they are padded: `tl.dot` takes 16 at least."""
    return {"C": x.shape[-1], "PADDED": max(16, triton.next_power_of_2(x.shape[-1]))}
