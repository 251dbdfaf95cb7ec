r"""Pointwise convolutions with their batch norm, weighted and summed into nodes, as one differentiable operation.

Batch norm of `y = W z` without scale and shift needs of z only the mean `mu` and the covariance `S`: the mean of y is
`W mu`, its variance `diag(W S W')`. So y is never formed: with `r = (diag(W S W') + eps)^(-1/2)` and the weight w of
the operation in the mixture,

    out = sum_k V_k z_k + b_k    with    V = w diag(r) W,   b = -V mu.

Backward, with g the gradient of out, P pixels, `D = sum_p g z'`, `d = sum_p g` and `T = D - d mu'`:

    t      = rowsum(T * W)                 the derivative by w r, row by row
    dw     = r . t                         dr = w t,    dvar = -r^3 dr / 2
    dW     = w diag(r) T + 2 diag(dvar) W S
    dS     = W' diag(dvar) W,              dmu = -V' d
    dz     = V' g + 2/P dS (z - mu) + dmu / P

Only z is kept for it. The covariance is summed from values shifted by the mean of the batch's first image, because
`E[z z'] - mu mu'` cancels when the mean is large against the deviation.

Shape suffixes: B edges, K maps that go through a matrix, Q features that are only scaled, N images, H rows, W columns,
C channels (in and out); G is 1 where all edges share a map, else B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from search_core.kernels.backend import FLAGS, check_layout, kind_of, num_parts, over_images, use_native, use_triton
from search_core.kernels.fold import Folded, Moments, fold, unfold
from search_core.kernels.packed_product import PackedSum

_MAX_TRITON_CHANNELS = 64


class Statistics(NamedTuple):
    """Mean and biased variance of every normalised product, each (K, B, C)."""

    mean: Tensor
    variance: Tensor


def normalised_sum(
    maps_GNHWC: Sequence[Tensor],
    matrices_KBCC: Tensor,
    weights_BK: Tensor,
    *,
    features_NHWC: Sequence[Tensor] = (),
    factors_BQ: Tensor | None = None,
    bases_NHWC: Sequence[Tensor | None] | None = None,
    statistics: Statistics | None = None,
    keep_BON: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Statistics]:
    """`out_b = base_b + sum_q factor_bq feature_q + sum_k w_bk batch_norm(W_kb z_kb)` for every edge b.

    Args:
        maps_GNHWC: the K maps z, each for all edges or shared by them, contiguous on CPU.
        matrices_KBCC: the pointwise weights W, (output, input).
        weights_BK: mixture weights w.
        features_NHWC: the Q features.
        factors_BQ: their factors; needed with features.
        bases_NHWC: what the outputs are added to, None for nothing.
        statistics: statistics to normalise with (evaluation); None for those of the batch.
        keep_BON: drop path, uint8, the K maps first, then the Q features: where it is 0 the term is left out.

    Returns:
        The B outputs, each (N, H, W, C), and the statistics of the batch (or the given ones), without gradient.
    """
    factors_BQ = weights_BK.new_empty((len(weights_BK), 0)) if factors_BQ is None else factors_BQ
    bases = tuple(bases_NHWC) if bases_NHWC is not None else (None,) * len(weights_BK)
    return _apply(
        maps_GNHWC, matrices_KBCC, weights_BK, factors_BQ, features_NHWC, bases, statistics, keep_BON, stacked=False
    )


def normalised_products(
    maps_BNHWC: Sequence[Tensor], matrices_BKCC: Tensor, weights_BK: Tensor, statistics: Statistics | None
) -> tuple[Sequence[Tensor], Statistics]:
    """`out_kb = w_bk batch_norm(W_kb z_kb)`: terms of `normalised_sum` by themselves, each (B, N, H, W, C)."""
    num_maps, factors = len(maps_BNHWC), weights_BK.new_empty((len(weights_BK), 0))
    matrices = matrices_BKCC.transpose(0, 1)
    if _fits_triton(matrices):
        return _apply(maps_BNHWC, matrices, weights_BK, factors, (), (), statistics, None, stacked=True)
    if use_native(maps_BNHWC[0]):
        results = []
        for k, z in enumerate(maps_BNHWC):
            given, weights = statistics and Statistics(*(v[k : k + 1] for v in statistics)), weights_BK[:, k : k + 1]
            none = (None,) * len(weights)
            results.append(_apply([z], matrices[k : k + 1], weights, factors, (), none, given, None, stacked=True))
        batch = Statistics(*(torch.cat(values) for values in zip(*(own for _, own in results), strict=True)))
        return [between for (between,), _ in results], batch
    # All at once, as if on edges of their own.
    matrices, joined = matrices_BKCC.flatten(0, 1).unsqueeze(0), torch.stack(list(maps_BNHWC), 1).flatten(0, 1)
    given = statistics and Statistics(*(values.transpose(0, 1).flatten(0, 1)[None] for values in statistics))
    weights, none = weights_BK.reshape(-1, 1), (None,) * len(joined)
    factors = weights.new_empty((len(joined), 0))
    (between,), batch = _apply([joined], matrices, weights, factors, (), none, given, None, stacked=True)
    apart = (values[0].unflatten(0, (-1, num_maps)).transpose(0, 1) for values in batch)
    return between.unflatten(0, (-1, num_maps)).unbind(1), Statistics(*apart)


def _apply(
    maps: Sequence[Tensor], matrices: Tensor, weights: Tensor, factors: Tensor, features: Sequence[Tensor],
    bases: Sequence[Tensor | None], statistics: Statistics | None, keep: Tensor | None, *, stacked: bool,
) -> tuple[tuple[Tensor, ...], Statistics]:  # fmt: skip
    """In the code that runs there. `stacked`: each map has one output (B, N, H, W, C)."""
    like = maps[0][0] if maps else features[0]
    function: type[Function] = _NativeSum if use_native(features[0] if features else like) else PackedSum
    if maps and _fits_triton(matrices):
        from search_core.kernels.gpu.normalised_sum import TritonSum

        function = TritonSum
    with torch.autocast(like.device.type, enabled=False):  # what is cheap in half precision, and right, is cast inside
        results = function.apply(
            like.shape, keep, statistics, stacked, len(maps), matrices, weights, factors, *maps, *features, *bases
        )
    num_outputs = len(maps) if stacked else len(bases)
    return results[:num_outputs], statistics or Statistics(*results[num_outputs:])


def _fits_triton(matrices: Tensor) -> bool:
    """Wider matrices do not fit the registers of a program."""
    return use_triton(matrices) and matrices.shape[-1] <= _MAX_TRITON_CHANNELS


class _Terms(NamedTuple):
    """What a sum is made of, as in `normalised_sum`."""

    maps: Sequence[Tensor]
    features: Sequence[Tensor]
    factors: Tensor
    keep: Tensor | None


class _NativeSum(Function):
    """With Numba."""

    @staticmethod
    def forward(
        ctx: Any, size: torch.Size, keep: Tensor | None, given: Statistics | None, stacked: bool, num_maps: int,
        matrices: Tensor, weights: Tensor, factors: Tensor, *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        num_edges = len(weights)
        maps, features = tensors[:num_maps], tensors[num_maps : len(tensors) - num_edges]
        bases = tensors[len(tensors) - num_edges :]
        terms = _Terms(maps, features, factors.contiguous(), keep)  # type: ignore[arg-type]
        moments = _moments(terms.maps, matrices) if given is None else None
        folded = fold(matrices, weights.t(), moments, given)
        shapes = [torch.Size((num_edges, *size))] if stacked else [size] * num_edges
        results = tuple(matrices.new_empty(shape) for shape in shapes)
        outputs: Sequence[Tensor] = results[0].unbind() if stacked else results
        _native_sum(terms, folded.gains.unsqueeze(3) * matrices, -folded.biases, bases, outputs)
        means_in = matrices.new_empty(0) if moments is None else moments.means
        ctx.save_for_backward(matrices, factors, means_in, *folded, *maps, *features)
        ctx.keep, ctx.training, ctx.stacked, ctx.num_maps = keep, given is None, stacked, num_maps
        ctx.has_base = [base is not None for base in bases]
        if given is not None:
            return results
        ctx.mark_non_differentiable(folded.means, folded.variances)
        return *results, folded.means, folded.variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        matrices, factors, means_in, *saved = ctx.saved_tensors
        num = len(Folded._fields)
        folded, tensors = Folded(*saved[:num]), saved[num:]
        terms = _Terms(tensors[: ctx.num_maps], tensors[ctx.num_maps :], factors.contiguous(), ctx.keep)
        of_outputs = gradients[0].unbind() if ctx.stacked else gradients[: len(factors)]
        outputs = [gradient.contiguous() for gradient in of_outputs]
        outer, sums, factor_gradients = _native_reduce(terms, outputs)
        pixels = outputs[0][..., 0].numel()
        unfolded = unfold(outer, sums, matrices, folded, means_in if ctx.training else None, pixels)
        map_gradients, feature_gradients = _native_backward(
            terms, outputs, folded.gains.unsqueeze(3) * matrices, unfolded.own, unfolded.constants
        )
        base_gradients = (gradient if has else None for gradient, has in zip(outputs, ctx.has_base, strict=True))
        return (
            None, None, None, None, None, unfolded.matrices, unfolded.weights.t(), factor_gradients, *map_gradients,
            *feature_gradients, *base_gradients,
        )  # fmt: skip


def _moments(maps: Sequence[Tensor], matrices: Tensor) -> Moments:
    """Of all maps, (K, B, C) and (K, B, C, C)."""
    if not maps:
        return Moments(matrices.new_zeros(matrices.shape[:3]), matrices.new_zeros(matrices.shape))
    shifts = torch.cat([z[:, 0].mean((1, 2)) for z in maps])
    moments = Moments.of_sums(*_native_moments(maps, shifts), shifts, maps[0][0, ..., 0].numel())
    num_edges, lengths = matrices.shape[1], [len(z) for z in maps]
    if sum(lengths) == len(maps) * num_edges:
        return Moments(moments.means.view(matrices.shape[:3]), moments.covariances.view(matrices.shape))
    means = [mean.expand(num_edges, -1) for mean in moments.means.split(lengths)]
    covariances = [covariance.expand(num_edges, -1, -1) for covariance in moments.covariances.split(lengths)]
    return Moments(torch.stack(means), torch.stack(covariances))


Table = npt.NDArray[np.int64]


def _addresses(x: Tensor, *lengths: int) -> Table:
    """Addresses of `x[i, j, ...]`, of shape `lengths`; along a dimension of size 1 all are the same."""
    table = np.array(x.data_ptr(), np.int64)
    for dimension, length in enumerate(lengths):
        step = x.stride(dimension) * x.itemsize if x.shape[dimension] > 1 else 0
        table = table[..., None] + np.arange(length, dtype=np.int64) * step
    return table


def _starts(tensors: Sequence[Tensor | None]) -> Table:
    """Address of each tensor, 0 for None."""
    return np.array([0 if x is None else x.data_ptr() for x in tensors], np.int64)


def _keeps(terms: _Terms, num_edges: int) -> Table:
    """Addresses (B, K + Q) of each term's flags, 0 for none."""
    num_terms = len(terms.maps) + len(terms.features)
    if terms.keep is None:
        return np.zeros((num_edges, num_terms), np.int64)
    return _addresses(terms.keep, num_edges, num_terms)


def _map_addresses(maps: Sequence[Tensor], num_edges: int) -> Table:
    """(B, K)."""
    return np.array([_addresses(z, num_edges) for z in maps], np.int64).reshape(len(maps), num_edges).T


def _native_moments(maps: Sequence[Tensor], shifts: Tensor) -> tuple[Tensor, Tensor]:
    from search_core.kernels import native_product

    num_images, channels = maps[0].shape[1], maps[0].shape[-1]
    parts = num_parts(num_images, maps[0][0].numel())
    sums = shifts.new_zeros((parts, *shifts.shape))
    grams = shifts.new_zeros((parts, *shifts.shape, channels))
    addresses = np.concatenate([_addresses(z, len(z)) for z in maps])
    over_images(
        native_product.moments, num_images, parts, addresses, shifts.numpy(), sums.numpy(), grams.numpy(),
        maps[0][0, 0, ..., 0].numel(), channels, *kind_of(maps[0]),
    )  # fmt: skip
    return sums.sum(0), grams.sum(0)


def _native_sum(
    terms: _Terms, folded: Tensor, biases: Tensor, bases: Sequence[Tensor | None], outputs: Sequence[Tensor]
) -> None:
    from search_core.kernels import native_product

    num_edges, num_maps, size = len(bases), len(terms.maps), outputs[0].shape
    transposed, biases, keeps = folded.transpose(2, 3).contiguous(), biases.contiguous(), _keeps(terms, num_edges)
    check_layout(outputs[0], *terms.maps, *terms.features, *bases, *outputs, transposed, biases, terms.factors)
    columns = (
        _map_addresses(terms.maps, num_edges),
        _addresses(transposed, num_maps, num_edges).T,
        _addresses(biases, num_maps, num_edges).T,
        keeps[:, :num_maps],
    )
    over_images(
        native_product.forward, size[0], num_parts(size[0], outputs[0].numel()),
        np.stack([_starts(outputs), _starts(bases)], axis=1), np.stack(columns, axis=2), _starts(terms.features),
        np.ascontiguousarray(keeps[:, num_maps:]), terms.factors.numpy(), size[1] * size[2], size[3], FLAGS,
        *kind_of(outputs[0]),
    )  # fmt: skip


def _native_reduce(terms: _Terms, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    from search_core.kernels import native_product

    num_edges, num_maps, num_features = len(gradients), len(terms.maps), len(terms.features)
    num_images, height, width, channels = gradients[0].shape
    check_layout(terms.factors, *gradients)
    like, lanes = kind_of(gradients[0])
    parts = num_parts(num_images, gradients[0].numel())
    outer = gradients[0].new_zeros((parts, num_edges, num_maps, channels, channels))
    sums = gradients[0].new_zeros((parts, num_edges, num_maps, channels))
    factors = gradients[0].new_zeros((parts, num_edges, num_features, len(lanes)))
    keeps, addresses = _keeps(terms, num_edges), _map_addresses(terms.maps, num_edges)
    columns = (addresses, np.zeros_like(addresses), np.zeros_like(addresses), keeps[:, :num_maps])
    over_images(
        native_product.reduce, num_images, parts, _starts(gradients), np.stack(columns, axis=2),
        _starts(terms.features), np.ascontiguousarray(keeps[:, num_maps:]), outer.numpy(), sums.numpy(),
        factors.numpy(), height * width, channels, FLAGS, like, lanes,
    )  # fmt: skip
    return outer.sum(0).transpose(0, 1), sums.sum(0).transpose(0, 1), factors.sum((0, 3))


def _native_backward(
    terms: _Terms, gradients: Sequence[Tensor], folded: Tensor, own: Tensor | None, constants: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    from search_core.kernels import native_product

    num_edges, num_maps = len(gradients), len(terms.maps)
    num_images, height, width, channels = gradients[0].shape
    own = torch.zeros_like(folded) if own is None else own
    constants = folded.new_zeros(folded.shape[:3]) if constants is None else constants
    folded, keeps = folded.contiguous(), _keeps(terms, num_edges)
    map_gradients = [torch.empty_like(z) for z in terms.maps]
    feature_gradients = [torch.empty_like(feature) for feature in terms.features]
    alive = [  # until the kernel has read them
        (own[k], constants[k]) if len(z) > 1 else (own[k].sum(0, keepdim=True), constants[k].sum(0, keepdim=True))
        for k, z in enumerate(terms.maps)
    ]
    maps, uses = [np.zeros((0, 6), np.int64)], [np.zeros((0, 3), np.int64)]
    used = 0
    for k, z in enumerate(terms.maps):
        num_uses = num_edges if len(z) == 1 else 1  # of each of its maps
        first = used + np.arange(len(z)) * num_uses
        tensors = (z, *alive[k], map_gradients[k])
        maps.append(np.stack([*(_addresses(x, len(z)) for x in tensors), first, first + num_uses], axis=1))
        uses.append(np.stack([_starts(gradients), _addresses(folded[k], num_edges), keeps[:, k]], axis=1))
        used += num_edges
    over_images(
        native_product.backward, num_images, num_parts(num_images, gradients[0].numel()), np.concatenate(maps),
        np.concatenate(uses), _starts(gradients), _starts(feature_gradients), np.ascontiguousarray(keeps[:, num_maps:]),
        terms.factors.numpy(), height * width, channels, FLAGS, *kind_of(gradients[0]),
    )  # fmt: skip
    return map_gradients, feature_gradients
