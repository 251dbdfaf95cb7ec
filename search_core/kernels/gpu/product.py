"""The passes of `normalised_sum` over pixels: sums for moments, the weighted sum, and their backward passes.

Maps and gradients are read where they are: a kernel gets the address of each. Sums over pixels are formed in chunks,
which `fold` adds up. Products are those of float32 numbers, without TF32.

Shape suffixes: as in `search_core.kernels.product`; T chunks of pixels. Where `Terms.apart`, every map has an output
of its own, (B, N, H, W, C); else every edge has one, the sum of its terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from search_core.kernels.gpu import launch as launching
from search_core.kernels.gpu.depthwise import flat, strides_of

_BLOCK, _BLOCK_OF_SUMS = 32, 16  # pixels that a program has in registers at once
_NUMBERS_OF_FEATURES = 2048  # of a program
_MAX_CHUNKS, _MIN_CHUNK = 64, 512  # parts of a sum over pixels; smaller ones take less memory than their sums
STEP = 16  # channels that a product takes at once: more do not fit the registers


@triton.jit
def _chosen(tensors, of_edges, own, edge, NUM: tl.constexpr):
    """Where the part of an edge begins in one of several tensors; `of_edges` are 0 where all edges share it."""
    pointer = tensors[0] + edge.to(tl.int64) * of_edges[0]
    for other in tl.static_range(1, NUM):
        pointer = tl.where(own == other, tensors[other] + edge.to(tl.int64) * of_edges[other], pointer)
    return pointer


@triton.jit
def _stride(strides, own, NUM: tl.constexpr):
    """From pixel to pixel of one of several tensors."""
    stride = strides[0]
    for other in tl.static_range(1, NUM):
        stride = tl.where(own == other, strides[other], stride)
    return stride


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
    shifts_ptr, maps, of_edges, sums_ptr, grams_ptr, num_pixels, pixels_of_a_chunk, size,
    C: tl.constexpr, PADDED: tl.constexpr, MAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk (axis 0) of one map (axis 1): sums of shifted values, and of their products with each other.

    The shift is the mean of pixels that are spread over the first image: sums of what is near its mean do not cancel.
    """
    number, channel = tl.program_id(1), tl.arange(0, PADDED)
    z_ptr = _chosen(maps, of_edges, number % MAPS, number // MAPS, MAPS)
    spread = (tl.arange(0, BLOCK) * (size // BLOCK + 1) + size // (2 * BLOCK)) % size
    shift = tl.sum(_rows(z_ptr, spread, num_pixels, C, channel, C), 0) / BLOCK
    if tl.program_id(0) == 0:
        tl.store(shifts_ptr + number * C + channel, shift, mask=channel < C)
    sums, grams = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED, PADDED), tl.float32)
    start = tl.program_id(0) * pixels_of_a_chunk
    for first in range(start, start + pixels_of_a_chunk, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        z = _rows(z_ptr, pixel, num_pixels, C, channel, C) - shift[None, :]
        z = tl.where((pixel < num_pixels)[:, None], z, 0.0)
        sums += tl.sum(z, 0)
        grams = tl.dot(tl.trans(z), z, grams, input_precision="ieee")
    _store_sums(grams_ptr, sums_ptr, grams, sums, tl.program_id(0) * tl.num_programs(1) + number, channel, C)


@triton.jit
def add_kernel(
    total_ptr, matrices_ptr, gains_ptr, biases_ptr, maps, of_edges, features, factors_ptr, bases, keep_ptr, num_pixels,
    size, num_images, factors_edge, factors_map,
    C: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr, MAPS: tl.constexpr, FEATURES: tl.constexpr,
    BASES: tl.constexpr, KEEPS: tl.constexpr, APART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels (axis 0) of one output (axis 1): all its terms and its base."""
    pixel, channel, own = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED), tl.program_id(1)
    known, edge, begin, end = channel < C, own, 0, MAPS
    if APART:  # by map, then edge
        num_edges = tl.num_programs(1) // MAPS
        edge, begin, end = own % num_edges, own // num_edges, own // num_edges + 1
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for base in tl.static_range(BASES):
        if edge == base:
            total = _rows(bases[base], pixel, num_pixels, C, channel, C)
    for position in range(begin, end):
        number = edge * MAPS + position
        z_ptr = _chosen(maps, of_edges, position, edge, MAPS)
        flags = _flags(keep_ptr, edge * (MAPS + FEATURES) + position, pixel, num_pixels, size, num_images, KEEPS)
        gains = tl.load(gains_ptr + number * C + channel, mask=known, other=0.0)
        for first in range(0, PADDED, STEP):
            inner = first + tl.arange(0, STEP)
            z = _rows(z_ptr, pixel, num_pixels, C, inner, C) * flags[:, None]
            folded = matrix_of(matrices_ptr + number * C * C, inner, channel, 1, C, C) * gains[None, :]
            total = tl.dot(z, folded, total, input_precision="ieee")
        total -= flags[:, None] * tl.load(biases_ptr + number * C + channel, mask=known, other=0.0)[None, :]
    for position in tl.static_range(FEATURES):
        number = edge * (MAPS + FEATURES) + MAPS + position
        flags = _flags(keep_ptr, number, pixel, num_pixels, size, num_images, KEEPS)
        factor = tl.load(factors_ptr + edge * factors_edge + position * factors_map)
        total += (factor * flags)[:, None] * _rows(features[position], pixel, num_pixels, C, channel, C)
    place = total_ptr + (own.to(tl.int64) * num_pixels + pixel)[:, None] * C + channel[None, :]
    tl.store(place, total, mask=(pixel < num_pixels)[:, None] & known[None, :])


@triton.jit
def reduce_kernel(
    sums_ptr, outer_ptr, maps, of_edges, gradients, edge_strides, strides, keep_ptr, num_terms, num_pixels,
    pixels_of_a_chunk, size, num_images,
    C: tl.constexpr, PADDED: tl.constexpr, MAPS: tl.constexpr, NUM: tl.constexpr, KEEPS: tl.constexpr,
    APART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk (axis 0) of one map (axis 1): sums of the gradient, and of its products with the map."""
    number, channel = tl.program_id(1), tl.arange(0, PADDED)
    edge, position = number // MAPS, number % MAPS
    own = position if APART else edge
    z_ptr = _chosen(maps, of_edges, position, edge, MAPS)
    g_ptr, stride = _chosen(gradients, edge_strides, own, edge, NUM), _stride(strides, own, NUM)
    sums, outer = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED, PADDED), tl.float32)
    start = tl.program_id(0) * pixels_of_a_chunk
    for first in range(start, start + pixels_of_a_chunk, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        flags = _flags(keep_ptr, edge * num_terms + position, pixel, num_pixels, size, num_images, KEEPS)
        g = _rows(g_ptr, pixel, num_pixels, stride, channel, C) * flags[:, None]
        sums += tl.sum(g, 0)
        z = _rows(z_ptr, pixel, num_pixels, C, channel, C)
        outer = tl.dot(tl.trans(g), z, outer, input_precision="ieee")
    _store_sums(outer_ptr, sums_ptr, outer, sums, tl.program_id(0) * tl.num_programs(1) + number, channel, C)


@triton.jit
def maps_kernel(
    of_maps_ptr, matrices_ptr, gains_ptr, own_ptr, constants_ptr, maps, of_edges, gradients, edge_strides, strides,
    keep_ptr, num_terms, num_pixels, size, num_images,
    C: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr, MAPS: tl.constexpr, NUM: tl.constexpr,
    KEEPS: tl.constexpr, APART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels (axis 0) of one map (axis 1): its gradient."""
    pixel, channel, number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED), tl.program_id(1)
    edge, position, known = number // MAPS, number % MAPS, channel < C
    flags = _flags(keep_ptr, edge * num_terms + position, pixel, num_pixels, size, num_images, KEEPS)
    which = position if APART else edge
    z_ptr = _chosen(maps, of_edges, position, edge, MAPS)
    g_ptr, stride = _chosen(gradients, edge_strides, which, edge, NUM), _stride(strides, which, NUM)
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for first in range(0, PADDED, STEP):
        inner = first + tl.arange(0, STEP)
        gains = tl.load(gains_ptr + number * C + inner, mask=inner < C, other=0.0)
        scaled = _rows(g_ptr, pixel, num_pixels, stride, inner, C) * flags[:, None] * gains[None, :]
        matrix = matrix_of(matrices_ptr + number * C * C, inner, channel, C, 1, C)
        total = tl.dot(scaled, matrix, total, input_precision="ieee")
        z = _rows(z_ptr, pixel, num_pixels, C, inner, C)
        own = matrix_of(own_ptr + number * C * C, inner, channel, C, 1, C)
        total = tl.dot(z, own, total, input_precision="ieee")
    total += tl.load(constants_ptr + number * C + channel, mask=known, other=0.0)[None, :]
    of_map = (position * (tl.num_programs(1) // MAPS) + edge).to(tl.int64)
    place = of_maps_ptr + (of_map * num_pixels + pixel)[:, None] * C + channel[None, :]
    tl.store(place, total, mask=(pixel < num_pixels)[:, None] & known[None, :])


@triton.jit
def features_kernel(
    of_features_ptr, sums_ptr, gradients, strides, features, factors_ptr, keep_ptr, num_terms, num_pixels, size,
    num_images, factors_edge, factors_map,
    C: tl.constexpr, PADDED: tl.constexpr, NUM: tl.constexpr, FEATURES: tl.constexpr, KEEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels: gradients of all features, and its part of the gradients of their factors."""
    pixel, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)
    mask = (pixel < num_pixels)[:, None] & (channel < C)[None, :]
    for position in tl.static_range(FEATURES):
        feature = _rows(features[position], pixel, num_pixels, C, channel, C)
        total = tl.zeros((BLOCK, PADDED), tl.float32)
        for edge in tl.static_range(NUM):
            number = edge * num_terms + num_terms - FEATURES + position
            flags = _flags(keep_ptr, number, pixel, num_pixels, size, num_images, KEEPS)
            g = _rows(gradients[edge], pixel, num_pixels, strides[edge], channel, C) * flags[:, None]
            total += tl.load(factors_ptr + edge * factors_edge + position * factors_map) * g
            place = sums_ptr + (tl.program_id(0) * NUM + edge) * FEATURES + position
            tl.store(place, tl.sum(tl.sum(g * feature, 1), 0))
        place = of_features_ptr + (pixel.to(tl.int64) + position * num_pixels)[:, None] * C + channel[None, :]
        tl.store(place, total, mask=mask)


class Terms(NamedTuple):
    """What outputs are made of, as in `search_core.kernels.product.normalised_sum`; maps contiguous, of one type."""

    maps: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    factors: Tensor
    keep: Tensor | None
    apart: bool

    @property
    def size(self) -> tuple[int, int, int]:
        """Pixels, pixels of an image, images."""
        _, num_images, height, width, _ = self.maps[0].shape
        return num_images * height * width, height * width, num_images

    @property
    def constants(self) -> dict[str, int]:
        """What most kernels know when they are compiled."""
        flags = {"KEEPS": self.keep is not None, "APART": self.apart}
        return constants_of(self.maps[0]) | {"MAPS": len(self.maps)} | flags

    @property
    def of_edges(self) -> tuple[int, ...]:
        """Of each map from edge to edge."""
        return tuple(strides_of(z)[0] for z in self.maps)


def sums(terms: Terms, num_edges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (T, B, K, C) of `z - shift` and (T, B, K, C, C) of its products with itself, and the shifts (B, K, C)."""
    sums, grams, chunk = _chunks(terms, num_edges)
    shifts, (num_pixels, size, _) = sums.new_empty(sums.shape[1:]), terms.size
    launching.launch(
        sums_kernel, (len(sums), num_edges * len(terms.maps)), shifts, terms.maps, terms.of_edges, sums, grams,
        num_pixels, chunk, size, **constants_of(terms.maps[0]), MAPS=len(terms.maps), BLOCK=_BLOCK_OF_SUMS,
    )  # fmt: skip
    return sums, grams, shifts


def add_up(
    terms: Terms, matrices: Tensor, gains: Tensor, biases: Tensor, bases: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Outputs, each (N, H, W, C) or, apart, (B, N, H, W, C)."""
    num_edges, num_maps, _ = gains.shape
    shape, num_pixels = terms.maps[0].shape[1:], terms.size[0]
    total = gains.new_empty((num_maps, num_edges, *shape) if terms.apart else (num_edges, *shape))
    own: list[Tensor] = []
    if any(base is not None for base in bases):
        own = [torch.zeros_like(total[0]) if base is None else base.contiguous() for base in bases]
    launching.launch(
        add_kernel, (triton.cdiv(num_pixels, _BLOCK), total[..., 0, 0, 0, 0].numel()), total, matrices, gains, biases,
        terms.maps, terms.of_edges, terms.features, terms.factors, tuple(own), _or(terms.keep, total), *terms.size,
        *terms.factors.stride(), **terms.constants, STEP=STEP, FEATURES=len(terms.features), BASES=len(own),
        BLOCK=_BLOCK,
    )  # fmt: skip
    return total.unbind()


def reduce(terms: Terms, gradients: tuple[Tensor, ...], num_edges: int) -> tuple[Tensor, Tensor]:
    """Sums (T, B, K, C, C) of the gradients' products with each map, and (T, B, K, C) of the gradients."""
    sums, outer, chunk = _chunks(terms, num_edges)
    num_pixels, *sizes = terms.size
    launching.launch(
        reduce_kernel, (len(sums), num_edges * len(terms.maps)), sums, outer, terms.maps, terms.of_edges,
        *_addressed(gradients), _or(terms.keep, sums), _num_terms(terms), num_pixels, chunk, *sizes, **terms.constants,
        NUM=len(gradients), BLOCK=_BLOCK_OF_SUMS,
    )  # fmt: skip
    return outer, sums


def of_maps(
    terms: Terms, gradients: tuple[Tensor, ...], matrices: Tensor, gains: Tensor, own: Tensor, constants: Tensor
) -> list[Tensor]:
    """Gradients of the maps, summed over edges that share one."""
    num_edges, num_maps, _ = gains.shape
    result = terms.maps[0].new_empty((num_maps, num_edges, *terms.maps[0].shape[1:]))
    launching.launch(
        maps_kernel, (triton.cdiv(terms.size[0], _BLOCK), num_edges * num_maps), result, matrices, gains, own,
        constants, terms.maps, terms.of_edges, *_addressed(gradients), _or(terms.keep, gains), _num_terms(terms),
        *terms.size, **terms.constants, NUM=len(gradients), STEP=STEP, BLOCK=_BLOCK,
    )  # fmt: skip
    pairs = zip(result.unbind(), terms.maps, strict=True)
    return [of_map.sum(0, keepdim=True) if len(z) < num_edges else of_map for of_map, z in pairs]


def of_features(terms: Terms, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradients of factors (B, Q) and of the Q features."""
    (num_pixels, *_), features, known = terms.size, terms.features, constants_of(terms.maps[0])
    result = features[0].new_empty((len(features), *features[0].shape))
    block = _NUMBERS_OF_FEATURES // known["PADDED"]
    num_blocks = triton.cdiv(num_pixels, block)
    sums = terms.factors.new_empty((num_blocks, len(gradients), len(features)), dtype=torch.float32)
    _, _, strides = _addressed(gradients)
    launching.launch(
        features_kernel, (num_blocks,), result, sums, gradients, strides, features, terms.factors,
        _or(terms.keep, sums), _num_terms(terms), *terms.size, *terms.factors.stride(), **known, NUM=len(gradients),
        FEATURES=len(features), KEEPS=terms.keep is not None, BLOCK=block,
    )  # fmt: skip
    return sums.sum(0), result.unbind()


def by_edge(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of outputs as the passes take them: (1 or, apart, B, N, H, W, C), from pixel to pixel at one stride."""
    return tuple(flat(gradient if gradient.dim() == 5 else gradient.unsqueeze(0)) for gradient in gradients)


def _addressed(gradients: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[int, ...], tuple[int, ...]]:
    """Gradients, and of each what lies between edges and between pixels."""
    of_edges, of_pixels = zip(*map(strides_of, gradients), strict=True)
    return gradients, of_edges, of_pixels


def _num_terms(terms: Terms) -> int:
    return len(terms.maps) + len(terms.features)


def _or(keep: Tensor | None, other: Tensor) -> Tensor:
    """A kernel gets an address, even of what it does not read."""
    return other if keep is None else keep


def _chunks(terms: Terms, num_edges: int) -> tuple[Tensor, Tensor, int]:
    """Room for sums (T, B, K, C) and (T, B, K, C, C), and the pixels of a chunk."""
    num_pixels, channels = terms.size[0], terms.maps[0].shape[-1]
    chunk = max(triton.cdiv(num_pixels, _MAX_CHUNKS * _BLOCK) * _BLOCK, _MIN_CHUNK)
    shape = (triton.cdiv(num_pixels, chunk), num_edges, len(terms.maps), channels)
    sums = terms.maps[0].new_empty(shape, dtype=torch.float32)
    return sums, terms.maps[0].new_empty((*shape, channels), dtype=torch.float32), chunk


def constants_of(x: Tensor) -> dict[str, int]:
    """Channels, and to how many they are padded: `tl.dot` takes 16 at least."""
    return {"C": x.shape[-1], "PADDED": max(16, triton.next_power_of_2(x.shape[-1]))}
