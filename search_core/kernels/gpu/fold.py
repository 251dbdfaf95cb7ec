"""`fold` and its backward pass as one kernel each: a program takes the matrices of one map of one edge.

Shape suffixes: as in `search_core.kernels.fold`, with L = (B, K); T chunks of pixels, whose sums are added up here.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from search_core.kernels.gpu import launch as launching
from search_core.kernels.gpu.product import STEP, constants_of, matrix_of


@triton.jit
def fold_kernel(
    sums_ptr, grams_ptr, shifts_ptr, matrices_ptr, weights_ptr, means_in_ptr, means_ptr, variances_ptr, scales_ptr,
    gains_ptr, biases_ptr, products_ptr, num_chunks, num_maps, weights_edge, weights_map,
    pixels, epsilon,
    C: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """From sums to statistics and gains."""
    number, row = tl.program_id(0), tl.arange(0, PADDED)
    edge, position, known = number // num_maps, number % num_maps, row < C
    vector, square = number * C + row, number * C * C
    offsets = tl.zeros((PADDED,), tl.float32)
    for chunk in range(num_chunks):
        offsets += tl.load(sums_ptr + chunk * tl.num_programs(0) * C + vector, mask=known, other=0.0)
    offsets = offsets / pixels
    means, products = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED, PADDED), tl.float32)
    for first in range(0, PADDED, STEP):  # rows of S
        inner = first + tl.arange(0, STEP)
        sums, grams = tl.zeros((STEP,), tl.float32), tl.zeros((STEP, PADDED), tl.float32)
        for chunk in range(num_chunks):
            at = chunk * tl.num_programs(0) * C
            sums += tl.load(sums_ptr + at + number * C + inner, mask=inner < C, other=0.0)
            grams += matrix_of(grams_ptr + at * C + square, inner, row, C, 1, C)
        covariance = grams / pixels - (sums / pixels)[:, None] * offsets[None, :]
        columns = matrix_of(matrices_ptr + square, row, inner, C, 1, C)
        products = tl.dot(columns, covariance, products, input_precision="ieee")
        shift = tl.load(shifts_ptr + number * C + inner, mask=inner < C, other=0.0)
        means += tl.sum(columns * (sums / pixels + shift)[None, :], 1)
    means_in = offsets + tl.load(shifts_ptr + vector, mask=known, other=0.0)
    variances = tl.maximum(tl.sum(products * matrix_of(matrices_ptr + square, row, row, C, 1, C), 1), 0.0)
    scales = 1.0 / tl.sqrt(variances + epsilon)
    gains = tl.load(weights_ptr + edge * weights_edge + position * weights_map) * scales
    tl.store(means_in_ptr + vector, means_in, mask=known)
    tl.store(means_ptr + vector, means, mask=known)
    tl.store(variances_ptr + vector, variances, mask=known)
    tl.store(scales_ptr + vector, scales, mask=known)
    tl.store(gains_ptr + vector, gains, mask=known)
    tl.store(biases_ptr + vector, gains * means, mask=known)
    at = products_ptr + square + row[:, None] * C + row[None, :]
    tl.store(at, products, mask=known[:, None] & known[None, :])


@triton.jit
def unfold_kernel(
    outer_ptr, sums_ptr, matrices_ptr, means_in_ptr, scales_ptr, gains_ptr, products_ptr, of_matrices_ptr,
    of_weights_ptr, own_ptr, constants_ptr, num_chunks, pixels,
    C: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """From sums of gradients to the gradients of weights, and to what all pixels get."""
    number, row = tl.program_id(0), tl.arange(0, PADDED)
    known, vector, square = row < C, number * C, number * C * C
    means_in = tl.load(means_in_ptr + vector + row, mask=known, other=0.0)
    own, of_means = tl.zeros((PADDED, PADDED), tl.float32), tl.zeros((PADDED,), tl.float32)
    of_weight = 0.0
    for first in range(0, PADDED, STEP):  # rows of W
        inner = first + tl.arange(0, STEP)
        there = inner < C
        sums, outer = tl.zeros((STEP,), tl.float32), tl.zeros((STEP, PADDED), tl.float32)
        for chunk in range(num_chunks):
            at = chunk * tl.num_programs(0) * C
            sums += tl.load(sums_ptr + at + vector + inner, mask=there, other=0.0)
            outer += matrix_of(outer_ptr + at * C + square, inner, row, C, 1, C)
        outer -= sums[:, None] * means_in[None, :]
        matrix = matrix_of(matrices_ptr + square, inner, row, C, 1, C)
        scales = tl.load(scales_ptr + vector + inner, mask=there, other=0.0)
        gains = tl.load(gains_ptr + vector + inner, mask=there, other=0.0)
        of_gains = tl.sum(outer * matrix, 1) * scales
        of_weight += tl.sum(of_gains, 0)
        of_variances = of_gains * scales * gains  # times -2
        products = matrix_of(products_ptr + square, inner, row, C, 1, C)
        of_matrices = gains[:, None] * outer - of_variances[:, None] * products
        at = of_matrices_ptr + square + inner[:, None] * C + row[None, :]
        tl.store(at, of_matrices, mask=there[:, None] & known[None, :])
        scaled = of_variances[:, None] * matrix * (-1.0 / pixels)
        own = tl.dot(tl.trans(matrix), scaled, own, input_precision="ieee")
        of_means += tl.sum((gains * sums)[:, None] * matrix, 0)
    tl.store(of_weights_ptr + number, of_weight)
    at = own_ptr + square + row[:, None] * C + row[None, :]
    tl.store(at, own, mask=known[:, None] & known[None, :])
    constants = -of_means / pixels - tl.sum(means_in[:, None] * own, 0)
    tl.store(constants_ptr + vector + row, constants, mask=known)


def fold(
    sums_TBKC: Tensor, grams_TBKCC: Tensor, shifts_BKC: Tensor, matrices_BKCC: Tensor, weights_BK: Tensor, pixels: int,
    epsilon: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Means of z, then the fields of `search_core.kernels.fold.Folded`."""
    vectors = [matrices_BKCC.new_empty(matrices_BKCC.shape[:3]) for _ in range(6)]
    products = matrices_BKCC.new_empty(matrices_BKCC.shape)
    launching.launch(
        fold_kernel, (weights_BK.numel(),), sums_TBKC, grams_TBKCC, shifts_BKC, matrices_BKCC, weights_BK, *vectors,
        products, len(sums_TBKC), weights_BK.shape[1], *weights_BK.stride(), pixels, epsilon,
        **constants_of(matrices_BKCC), STEP=STEP,
    )  # fmt: skip
    return *vectors, products


def unfold(
    outer_TBKCC: Tensor, sums_TBKC: Tensor, matrices_BKCC: Tensor, means_in_BKC: Tensor, scales_BKC: Tensor,
    gains_BKC: Tensor, products_BKCC: Tensor, pixels: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The fields of `search_core.kernels.fold.Unfolded`."""
    of_matrices, own = (matrices_BKCC.new_empty(matrices_BKCC.shape) for _ in range(2))
    of_weights, constants = gains_BKC.new_empty(gains_BKC.shape[:2]), gains_BKC.new_empty(gains_BKC.shape)
    launching.launch(
        unfold_kernel, (of_weights.numel(),), outer_TBKCC, sums_TBKC, matrices_BKCC, means_in_BKC, scales_BKC,
        gains_BKC, products_BKCC, of_matrices, of_weights, own, constants, len(sums_TBKC), pixels,
        **constants_of(matrices_BKCC), STEP=STEP,
    )  # fmt: skip
    return of_matrices, of_weights, own, constants
