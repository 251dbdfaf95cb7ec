"""Numba kernels for products of feature maps (N, P, C) with small matrices (C, C); P pixels of an image.

They take tables of addresses, a row per map, so that one call serves all edges of a source. Nothing is stored per pixel
beyond what the caller asked for: statistics, products and gradients are formed on pixels that are in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from search_core.kernels.native_depthwise import keep_alive
from search_core.kernels.tiles import (
    add,
    add_scalars,
    add_vectors,
    broadcast,
    kernel,
    load,
    pointer,
    store,
    subtract,
    zeros,
)

_BLOCK = 32  # pixels that are worked on at a time: two maps of 64 channels fit the first cache

#: Columns of `outputs`: addresses of the output (N, P, C) and of what is added to it, likewise, or 0.
OUTPUT, BASE = range(2)
#: Columns of `terms` (outputs, terms): addresses of the map (N, P, C), its matrix (C_in, C_out), its bias (C) and which
#: images take part, uint8 (N), or 0 for all.
MAP, MATRIX, BIAS, KEEP = range(4)
#: Columns of `maps` of the backward kernel: addresses of the map, of the matrix (C, C) and the constant (C) that its
#: own statistics contribute, of its gradient, and the range of rows in `uses`.
SOURCE, OWN_MATRIX, OWN_CONSTANT, GRADIENT, FIRST_USE, LAST_USE = range(6)
#: Columns of `uses`: addresses of the output's gradient (N, P, C), of the matrix (C_out, C_in) and of `KEEP`.
OUTPUT_GRADIENT, TRANSPOSED, USE_KEEP = range(3)


@njit(inline="always")
def _is_kept(address: int, image: int, flags: Any) -> bool:
    return address == 0 or pointer(address, flags)[image] != 0


@njit(inline="always")
def _outer_tile(
    left: Any, right: Any, pixels: int, out: Any, channels: int, i: int, j: int,
    rows: int, lanes: Any,
) -> None:  # fmt: skip
    tile = zeros(out, rows, lanes)  # sums of a block first: one running sum over all pixels would lose digits
    for p in range(pixels):
        factor = load(right, p * channels + j, 0, 1, lanes)
        tile = add_scalars(tile, left, p * channels + i, 1, factor)
    at = i * channels + j
    store(out, at, channels, add(tile, load(out, at, channels, rows, lanes)))


@njit(inline="always")
def _outer(left: Any, right: Any, pixels: int, out: Any, channels: int, lanes: Any) -> None:
    """`out[i, j] += sum_p left[p, i] right[p, j]`."""
    i = 0
    while i + 8 <= channels:
        for j in range(0, channels, len(lanes)):
            _outer_tile(left, right, pixels, out, channels, i, j, 8, lanes)
        i += 8
    while i < channels:
        for j in range(0, channels, len(lanes)):
            _outer_tile(left, right, pixels, out, channels, i, j, 4, lanes)
        i += 4


@kernel
def moments(
    part: int, first: int, last: int, maps: Any, shifts: Any, sums: Any, grams: Any, pixels: int, channels: int,
    like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Sums and Gram matrices of shifted maps over the images `first` to `last` - 1.

    Args:
        part: which part of the results to write.
        first: first image.
        last: image after the last one.
        maps: (M,) addresses of maps.
        shifts: (M, C), subtracted from every pixel.
        sums: (parts, M, C), zeros.
        grams: (parts, M, C, C), zeros.
        pixels: P.
        channels: C, a multiple of the lanes, which are a multiple of 4.
        like: an array of the tensors' dtype.
        lanes: a tuple as long as a register.
    """
    scratch = np.zeros(_BLOCK * channels, like.dtype)
    shifted = pointer(scratch.ctypes.data, like)
    one = broadcast(like, 1.0, lanes)
    for m in range(len(maps)):
        source = pointer(maps[m] + first * pixels * channels * like.itemsize, like)
        shift = pointer(shifts[m].ctypes.data, like)
        total, gram = pointer(sums[part, m].ctypes.data, like), pointer(grams[part, m].ctypes.data, like)
        for begin in range(0, (last - first) * pixels, _BLOCK):
            size = min(_BLOCK, (last - first) * pixels - begin)
            for c in range(0, channels, len(lanes)):
                offset, summed = load(shift, c, 0, 1, lanes), load(total, c, 0, 1, lanes)
                for p in range(size):
                    row = subtract(load(source, (begin + p) * channels + c, 0, 1, lanes), offset)
                    store(shifted, p * channels + c, 0, row)
                    summed = add_vectors(summed, shifted, p * channels + c, 0, one)
                store(total, c, 0, summed)
            _outer(shifted, shifted, size, gram, channels, lanes)
    keep_alive(scratch)


@njit(inline="always")
def _product_tile(
    outputs: Any, terms: Any, features: Any, factors: Any, b: int, bias: Any, kept: Any, image: int, p: int, c: int,
    pixels: int, channels: int, rows: int, like: Any, lanes: Any,
) -> None:  # fmt: skip
    offset = image * pixels * channels * like.itemsize
    at = p * channels + c
    tile = load(bias, c, 0, rows, lanes)
    if outputs[b, BASE] != 0:
        tile = add(tile, load(pointer(outputs[b, BASE] + offset, like), at, channels, rows, lanes))
    for q in range(len(features)):
        if kept[len(terms[b]) + q]:
            factor = broadcast(like, factors[b, q], lanes)
            tile = add_vectors(tile, pointer(features[q] + offset, like), at, channels, factor)
    for t in range(len(terms[b])):
        if kept[t]:
            source, matrix = pointer(terms[b, t, MAP] + offset, like), pointer(terms[b, t, MATRIX], like)
            for i in range(channels):
                factor = load(matrix, i * channels + c, 0, 1, lanes)
                tile = add_scalars(tile, source, p * channels + i, channels, factor)
    store(pointer(outputs[b, OUTPUT] + offset, like), at, channels, tile)


@kernel
def forward(
    part: int, first: int, last: int, outputs: Any, terms: Any, features: Any, feature_keeps: Any, factors: Any,
    pixels: int, channels: int, flags: Any, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """`out_b = base_b + sum_q factor_bq feature_q + sum_t (bias_bt + map_bt matrix_bt)`, image by image.

    Args:
        part: not used, every image has its own output.
        first: first image.
        last: image after the last one.
        outputs: (B, columns) addresses.
        terms: (B, T, columns) addresses.
        features: (Q,) addresses of maps that are only scaled.
        feature_keeps: (B, Q) addresses like `KEEP`.
        factors: (B, Q).
        pixels: P.
        channels: C.
        flags: an array of uint8.
        like: an array of the tensors' dtype.
        lanes: a tuple as long as a register.
    """
    num_terms, num_features = terms.shape[1], len(features)
    sums = np.zeros(channels, like.dtype)
    kept = np.zeros(num_terms + num_features, np.bool_)
    bias = pointer(sums.ctypes.data, like)
    for b in range(len(outputs)):
        for image in range(first, last):
            sums[:] = 0
            for t in range(num_terms):
                kept[t] = _is_kept(terms[b, t, KEEP], image, flags)
                if kept[t]:
                    term = pointer(terms[b, t, BIAS], like)
                    for c in range(channels):
                        sums[c] += term[c]
            for q in range(num_features):
                kept[num_terms + q] = _is_kept(feature_keeps[b, q], image, flags)
            for c in range(0, channels, len(lanes)):
                p = 0
                while p + 8 <= pixels:
                    _product_tile(
                        outputs, terms, features, factors, b, bias, kept, image, p, c, pixels, channels, 8, like, lanes
                    )
                    p += 8
                while p < pixels:
                    _product_tile(
                        outputs, terms, features, factors, b, bias, kept, image, p, c, pixels, channels, 1, like, lanes
                    )
                    p += 1
    keep_alive(sums)


@kernel
def reduce(
    part: int, first: int, last: int, gradients: Any, terms: Any, features: Any, feature_keeps: Any, matrices: Any,
    biases: Any, factors: Any, pixels: int, channels: int, flags: Any, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Gradients of matrices, biases and factors, over the images that take part.

    Args:
        part: which part of the results to write.
        first: first image.
        last: image after the last one.
        gradients: (B,) addresses of the outputs' gradients.
        terms: as for `forward`.
        features: as for `forward`.
        feature_keeps: as for `forward`.
        matrices: (parts, B, T, C, C), zeros: gradient of the transposed matrix, (C_out, C_in).
        biases: (parts, B, T, C), zeros.
        factors: (parts, B, Q, lanes), zeros; to be summed over the last dimension.
        pixels: P.
        channels: C.
        flags: as for `forward`.
        like: as for `forward`.
        lanes: as for `forward`.
    """
    num_terms, num_features = terms.shape[1], len(features)
    sums = np.zeros(channels, like.dtype)
    total = pointer(sums.ctypes.data, like)
    one = broadcast(like, 1.0, lanes)
    for b in range(len(gradients)):
        for image in range(first, last):
            offset = image * pixels * channels * like.itemsize
            gradient = pointer(gradients[b] + offset, like)
            for c in range(0, channels, len(lanes)):
                summed = zeros(gradient, 1, lanes)
                for p in range(pixels):
                    summed = add_vectors(summed, gradient, p * channels + c, 0, one)
                store(total, c, 0, summed)
            for t in range(num_terms):
                if _is_kept(terms[b, t, KEEP], image, flags):
                    for c in range(channels):
                        biases[part, b, t, c] += sums[c]
            for q in range(num_features):
                if _is_kept(feature_keeps[b, q], image, flags):
                    feature, target = (
                        pointer(features[q] + offset, like),
                        pointer(factors[part, b, q].ctypes.data, like),
                    )
                    summed = load(target, 0, 0, 1, lanes)
                    for at in range(0, pixels * channels, len(lanes)):
                        factor = load(feature, at, 0, 1, lanes)
                        summed = add_vectors(summed, gradient, at, 0, factor)
                    store(target, 0, 0, summed)
            for begin in range(0, pixels, _BLOCK):
                size = min(_BLOCK, pixels - begin)
                left = pointer(gradients[b] + offset + begin * channels * like.itemsize, like)
                for t in range(num_terms):
                    if _is_kept(terms[b, t, KEEP], image, flags):
                        right = pointer(terms[b, t, MAP] + offset + begin * channels * like.itemsize, like)
                        target = pointer(matrices[part, b, t].ctypes.data, like)
                        _outer(left, right, size, target, channels, lanes)
    keep_alive(sums)


@njit(inline="always")
def _map_gradient_tile(
    maps: Any, uses: Any, m: int, image: int, p: int, c: int, offset: int, channels: int, rows: int, flags: Any,
    like: Any, lanes: Any,
) -> None:  # fmt: skip
    source, own = pointer(maps[m, SOURCE] + offset, like), pointer(maps[m, OWN_MATRIX], like)
    tile = load(pointer(maps[m, OWN_CONSTANT], like), c, 0, rows, lanes)
    for i in range(channels):
        factor = load(own, i * channels + c, 0, 1, lanes)
        tile = add_scalars(tile, source, p * channels + i, channels, factor)
    for u in range(maps[m, FIRST_USE], maps[m, LAST_USE]):
        if _is_kept(uses[u, USE_KEEP], image, flags):
            gradient = pointer(uses[u, OUTPUT_GRADIENT] + offset, like)
            matrix = pointer(uses[u, TRANSPOSED], like)
            for o in range(channels):
                factor = load(matrix, o * channels + c, 0, 1, lanes)
                tile = add_scalars(tile, gradient, p * channels + o, channels, factor)
    store(pointer(maps[m, GRADIENT] + offset, like), p * channels + c, channels, tile)


@kernel
def backward(
    part: int, first: int, last: int, maps: Any, uses: Any, gradients: Any, feature_gradients: Any, feature_keeps: Any,
    factors: Any, pixels: int, channels: int, flags: Any, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Gradients of maps, `own constant + map own_matrix + sum over uses of g matrix`, and of features, `sum factor g`.

    Args:
        part: not used, every image has its own result.
        first: first image.
        last: image after the last one.
        maps: (M, columns).
        uses: (U, columns), where the maps went.
        gradients: (B,) addresses of the outputs' gradients.
        feature_gradients: (Q,) addresses of the features' gradients.
        feature_keeps: (B, Q), as for `forward`.
        factors: (B, Q).
        pixels: P.
        channels: C.
        flags: as for `forward`.
        like: as for `forward`.
        lanes: as for `forward`.
    """
    for image in range(first, last):
        offset = image * pixels * channels * like.itemsize
        for m in range(len(maps)):
            for c in range(0, channels, len(lanes)):
                p = 0
                while p + 8 <= pixels:
                    _map_gradient_tile(maps, uses, m, image, p, c, offset, channels, 8, flags, like, lanes)
                    p += 8
                while p < pixels:
                    _map_gradient_tile(maps, uses, m, image, p, c, offset, channels, 1, flags, like, lanes)
                    p += 1
        for q in range(len(feature_gradients)):
            target = pointer(feature_gradients[q] + offset, like)
            for at in range(0, pixels * channels, len(lanes)):
                summed = zeros(target, 1, lanes)
                for b in range(len(gradients)):
                    if _is_kept(feature_keeps[b, q], image, flags):
                        factor = broadcast(like, factors[b, q], lanes)
                        summed = add_vectors(summed, pointer(gradients[b] + offset, like), at, 0, factor)
                store(target, at, 0, summed)
