"""`fold` and its backward pass as one kernel each: a program takes the matrices of one map of one edge.

Shape suffixes: as in `search_core.kernels.fold`, with L = (B, K). Matrices are padded to a power of two, 16 at least,
as `tl.dot` wants them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from search_core.kernels.gpu import launch as launching


@triton.jit
def fold_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, grams_ptr, shifts_ptr, matrices_ptr, weights_ptr, means_in_ptr, means_ptr, variances_ptr, scales_ptr,
    gains_ptr, biases_ptr, products_ptr, pixels, epsilon,
    C: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """From sums to statistics and gains."""
    number, row = tl.program_id(0), tl.arange(0, PADDED)
    known = row < C
    vector, both = number * C + row, known[:, None] & known[None, :]
    square = number * C * C + row[:, None] * C + row[None, :]
    matrix = tl.load(matrices_ptr + square, mask=both, other=0.0)
    offsets = tl.load(sums_ptr + vector, mask=known, other=0.0) / pixels
    covariance = tl.load(grams_ptr + square, mask=both, other=0.0) / pixels - offsets[:, None] * offsets[None, :]
    means_in = offsets + tl.load(shifts_ptr + vector, mask=known, other=0.0)
    products = tl.dot(matrix, covariance, input_precision="ieee")
    means = tl.sum(matrix * means_in[None, :], 1)
    variances = tl.maximum(tl.sum(products * matrix, 1), 0.0)
    scales = 1.0 / tl.sqrt(variances + epsilon)
    gains = tl.load(weights_ptr + number) * scales
    tl.store(means_in_ptr + vector, means_in, mask=known)
    tl.store(means_ptr + vector, means, mask=known)
    tl.store(variances_ptr + vector, variances, mask=known)
    tl.store(scales_ptr + vector, scales, mask=known)
    tl.store(gains_ptr + vector, gains, mask=known)
    tl.store(biases_ptr + vector, gains * means, mask=known)
    tl.store(products_ptr + square, products, mask=both)


@triton.jit
def unfold_kernel(  # type: ignore[no-untyped-def]
    outer_ptr, sums_ptr, matrices_ptr, means_in_ptr, scales_ptr, gains_ptr, products_ptr, of_matrices_ptr,
    of_weights_ptr, own_ptr, constants_ptr, num_maps, outer_edge, outer_map, outer_row, sums_edge, sums_map, pixels,
    C: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """From sums of gradients to the gradients of weights, and to what all pixels get."""
    number, row = tl.program_id(0), tl.arange(0, PADDED)
    edge, position, known = number // num_maps, number % num_maps, row < C
    vector, both = number * C + row, known[:, None] & known[None, :]
    square = number * C * C + row[:, None] * C + row[None, :]
    matrix = tl.load(matrices_ptr + square, mask=both, other=0.0)
    means_in = tl.load(means_in_ptr + vector, mask=known, other=0.0)
    scales = tl.load(scales_ptr + vector, mask=known, other=0.0)
    gains = tl.load(gains_ptr + vector, mask=known, other=0.0)
    sums = tl.load(sums_ptr + edge * sums_edge + position * sums_map + row, mask=known, other=0.0)
    at = outer_ptr + edge * outer_edge + position * outer_map + row[:, None] * outer_row + row[None, :]
    outer = tl.load(at, mask=both, other=0.0) - sums[:, None] * means_in[None, :]
    of_gains = tl.sum(outer * matrix, 1) * scales
    tl.store(of_weights_ptr + number, tl.sum(of_gains, 0))
    of_variances = of_gains * scales * gains  # times -2
    products = tl.load(products_ptr + square, mask=both, other=0.0)
    of_matrices = gains[:, None] * outer - of_variances[:, None] * products
    tl.store(of_matrices_ptr + square, of_matrices, mask=both)
    scaled = of_variances[:, None] * matrix * (-1.0 / pixels)
    own = tl.dot(tl.trans(matrix), scaled, input_precision="ieee")
    tl.store(own_ptr + square, own, mask=both)
    of_means = tl.sum((gains * sums)[:, None] * matrix, 0) / pixels
    means_in_again = tl.load(means_in_ptr + vector, mask=known, other=0.0)
    constants = -of_means - tl.sum(means_in_again[:, None] * own, 0)
    tl.store(constants_ptr + vector, constants, mask=known)


def fold(
    sums_BKC: Tensor, grams_BKCC: Tensor, shifts_BKC: Tensor, matrices_BKCC: Tensor, weights_BK: Tensor, pixels: int,
    epsilon: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Means of z, then the fields of `search_core.kernels.fold.Folded`."""
    inputs = [x.contiguous() for x in (sums_BKC, grams_BKCC, shifts_BKC, matrices_BKCC, weights_BK)]
    vectors, products = (
        [matrices_BKCC.new_empty(sums_BKC.shape) for _ in range(6)],
        matrices_BKCC.new_empty(grams_BKCC.shape),
    )
    launching.launch(
        fold_kernel, (weights_BK.numel(),), *inputs, *vectors, products, pixels, epsilon, **_constants(matrices_BKCC)
    )
    return *vectors, products


def unfold(
    outer_BKCC: Tensor, sums_BKC: Tensor, matrices_BKCC: Tensor, means_in_BKC: Tensor, scales_BKC: Tensor,
    gains_BKC: Tensor, products_BKCC: Tensor, pixels: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The fields of `search_core.kernels.fold.Unfolded`."""
    assert outer_BKCC.stride(3) == sums_BKC.stride(2) == 1
    of_matrices, own = (matrices_BKCC.new_empty(matrices_BKCC.shape) for _ in range(2))
    of_weights, constants = gains_BKC.new_empty(gains_BKC.shape[:2]), gains_BKC.new_empty(gains_BKC.shape)
    launching.launch(
        unfold_kernel, (of_weights.numel(),), outer_BKCC, sums_BKC, matrices_BKCC, means_in_BKC, scales_BKC, gains_BKC,
        products_BKCC, of_matrices, of_weights, own, constants, gains_BKC.shape[1], *outer_BKCC.stride()[:3],
        *sums_BKC.stride()[:2], pixels, **_constants(matrices_BKCC),
    )  # fmt: skip
    return of_matrices, of_weights, own, constants


def _constants(matrices_BKCC: Tensor) -> dict[str, int]:
    channels = matrices_BKCC.shape[-1]
    return {"C": channels, "PADDED": max(16, triton.next_power_of_2(channels))}
