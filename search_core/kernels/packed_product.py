"""The product of `product` with torch's own operations: on a GPU each launches a kernel, so as few as can be.

All maps of a source lie side by side, pixel by pixel, and go through one batched matrix product a purpose.

Shape suffixes: as in `product`; P pixels, X = (B, K) flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from search_core.kernels.backend import defined
from search_core.kernels.fold import Folded, Moments, Unfolded, fold, unfold


class PackedSum(Function):
    """See `product.normalised_sum`."""

    @staticmethod
    def forward(
        ctx: Any, size: torch.Size, keep: Tensor | None, given: tuple[Tensor, Tensor] | None, stacked: bool,
        num_maps: int, matrices: Tensor, weights: Tensor, factors: Tensor, *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Outputs, then in training the statistics of the batch."""
        num_edges = len(weights)
        maps, features = tensors[:num_maps], tensors[num_maps : len(tensors) - num_edges]
        bases = tensors[len(tensors) - num_edges :]
        matrices = matrices.transpose(0, 1).contiguous()
        packed = _packed(maps, matrices, size)  # type: ignore[arg-type]
        if given is not None:
            means, variances = (values.transpose(0, 1) for values in given)
            means_in, folded = matrices.new_empty(0), fold(matrices, weights, None, (means, variances))
        else:
            moments = _moments(packed, matrices.dtype)
            means_in, folded = moments.means, fold(matrices, weights, moments, None)
        terms = _Terms(packed, features, factors, keep)  # type: ignore[arg-type]
        total = _add_up(terms, matrices, folded, bases, stacked)
        ctx.save_for_backward(matrices, factors, means_in, *folded, packed, *features)
        ctx.keep, ctx.training, ctx.stacked = keep, given is None, stacked
        ctx.lengths, ctx.has_base = [len(z) for z in maps if z is not None], [base is not None for base in bases]
        results = (total,) if stacked else total.unbind()
        if given is not None:
            return results
        means, variances = folded.means.transpose(0, 1), folded.variances.transpose(0, 1)
        ctx.mark_non_differentiable(means, variances)
        ctx.set_materialize_grads(False)  # else zeros are made for these, too
        return *results, means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all that `forward` got."""
        matrices, factors, means_in, *saved = ctx.saved_tensors
        num = len(Folded._fields)
        folded, packed, features = Folded(*saved[:num]), saved[num], saved[num + 1 :]
        stacked = gradients[0] if ctx.stacked else torch.stack(defined(gradients[: len(matrices)]))
        terms = _Terms(packed, features, factors, ctx.keep)
        unfolded, of_packed = _backward(terms, stacked, matrices, folded, means_in if ctx.training else None)
        of_factors: Tensor | None = None
        of_features: Sequence[Tensor] = ()
        if features:
            of_factors, of_features = _features_backward(stacked, factors, torch.stack(features), ctx.keep)
        of_bases = (gradient if has else None for gradient, has in zip(stacked, ctx.has_base, strict=True))
        return (
            None, None, None, None, None, unfolded.matrices.transpose(0, 1), unfolded.weights, of_factors,
            *_of_maps(of_packed, ctx.lengths), *of_features, *of_bases,
        )  # fmt: skip


class _Terms(NamedTuple):
    """What a sum is made of, as in `normalised_sum`; the maps side by side."""

    packed: Tensor
    features: Sequence[Tensor]
    factors: Tensor
    keep: Tensor | None


def _add_up(terms: _Terms, matrices: Tensor, folded: Folded, bases: Sequence[Tensor | None], stacked: bool) -> Tensor:
    """Outputs (B, N, H, W, C)."""
    packed, features, factors, keep = terms
    size = torch.Size((*packed.shape[:3], packed.shape[5]))
    total, beta = _start(bases, size, matrices, stacked), int(any(base is not None for base in bases))
    right = _folded_matrices(folded.gains, matrices).transpose(1, 2)
    _add_products(total, _side_by_side(_kept(packed, keep)), right, beta=beta)
    total -= _biases(folded.biases, keep)
    if features:
        _add_features(total, factors, torch.stack(list(features)), keep)
    return total


def _backward(
    terms: _Terms, stacked: Tensor, matrices: Tensor, folded: Folded, means_in: Tensor | None
) -> tuple[Unfolded, Tensor]:
    """Gradients of matrices and weights, and of the maps side by side."""
    packed, keep, rows, num_maps = terms.packed, terms.keep, stacked.flatten(1, 3), matrices.shape[1]
    kept = _side_by_side(_kept(packed, keep)).to(rows.dtype)
    outer = torch.bmm(rows.transpose(1, 2), kept).unflatten(2, (num_maps, matrices.shape[3])).transpose(1, 2)
    unfolded = unfold(outer, _sums(stacked, keep, num_maps), matrices, folded, means_in, rows.shape[1])
    of_packed = torch.empty_like(packed, memory_format=torch.contiguous_format)
    right = _folded_matrices(folded.gains, matrices).to(packed.dtype)
    _side_by_side(of_packed).baddbmm_(rows.to(packed.dtype), right, beta=0)
    if keep is not None:
        of_packed *= _flags(keep, num_maps)
    if unfolded.own is not None and unfolded.constants is not None:
        _each(of_packed).baddbmm_(_each(packed), unfolded.own.flatten(0, 1).to(packed.dtype))
        of_packed += unfolded.constants
    return unfolded, of_packed


# Views of maps side by side, (N, H, W, B, K, C)


def _packed(maps: Sequence[Tensor], matrices_BKCC: Tensor, size: torch.Size) -> Tensor:
    num_edges = len(matrices_BKCC)
    if not maps:
        return matrices_BKCC.new_empty((*size[:3], num_edges, 0, size[3]))
    by_pixel = [z.expand(num_edges, -1, -1, -1, -1).permute(1, 2, 3, 0, 4) for z in maps]
    return by_pixel[0].unsqueeze(4) if len(maps) == 1 else torch.stack(by_pixel, dim=4)


def _each(packed: Tensor) -> Tensor:
    """(X, P, C)."""
    return packed.flatten(0, 2).flatten(1, 2).transpose(0, 1)


def _side_by_side(packed: Tensor) -> Tensor:
    """(B, P, K * C)."""
    return packed.flatten(0, 2).flatten(2).transpose(0, 1)


def _of_maps(packed: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """(B, N, H, W, C) for each map, summed over edges that shared it."""
    maps = [z.permute(3, 0, 1, 2, 4) for z in packed.unbind(4)]
    return [z.sum(0, keepdim=True) if length < len(z) else z for z, length in zip(maps, lengths, strict=True)]


# Drop path: flags (B, K + Q, N)


def _flags(keep: Tensor, num_maps: int) -> Tensor:
    return keep[:, :num_maps].permute(2, 0, 1)[:, None, None, :, :, None]


def _kept(packed: Tensor, keep: Tensor | None) -> Tensor:
    return packed if keep is None else packed * _flags(keep, packed.shape[4])


# Forward


def _moments(packed: Tensor, dtype: torch.dtype) -> Moments:
    shifts = packed[0].mean((0, 1), dtype=dtype)
    shifted = packed - shifts  # in the type of the weights, whatever that of the maps
    rows = _each(shifted)
    grams = torch.bmm(rows.transpose(1, 2), rows).unflatten(0, shifts.shape[:2])
    return Moments.of_sums(shifted.sum((0, 1, 2)), grams, shifts, rows.shape[1])


def _start(bases: Sequence[Tensor | None], size: torch.Size, like: Tensor, stacked: bool) -> Tensor:
    """Outputs (B, N, H, W, C) before anything is added; where there is no base, what they hold is not read."""
    if all(base is None for base in bases):
        if stacked:  # pixel by pixel, as convolutions take it
            return like.new_empty((*size[:3], len(bases), size[3])).permute(3, 0, 1, 2, 4)
        return like.new_empty((len(bases), *size))
    return torch.stack([like.new_zeros(size) if base is None else base for base in bases])


def _folded_matrices(gains_BKC: Tensor, matrices_BKCC: Tensor) -> Tensor:
    """V of all maps side by side, (B, C, K * C)."""
    num_edges, num_maps, channels = gains_BKC.shape
    folded = matrices_BKCC.new_empty((num_edges, channels, num_maps, channels))
    torch.mul(gains_BKC.transpose(1, 2).unsqueeze(3), matrices_BKCC.transpose(1, 2), out=folded)
    return folded.flatten(2)


def _add_products(total: Tensor, left_BPD: Tensor, right_BDC: Tensor, *, beta: int) -> None:
    """`beta * total + left @ right`; the product is taken in the type of the maps."""
    rows, right_BDC = total.flatten(1, 3), right_BDC.to(left_BPD.dtype)
    if left_BPD.dtype == total.dtype:
        rows.baddbmm_(left_BPD, right_BDC, beta=beta)
    elif beta:
        rows += left_BPD @ right_BDC
    else:
        rows.copy_(left_BPD @ right_BDC)


def _biases(biases_BKC: Tensor, keep: Tensor | None) -> Tensor:
    """Summed over the maps that are kept: (B, 1 or N, 1, 1, C)."""
    num_maps, biases = biases_BKC.shape[1], biases_BKC
    if keep is not None:
        biases = keep[:, :num_maps].transpose(1, 2).to(biases.dtype) @ biases
    elif num_maps != 1:
        biases = biases.sum(1, keepdim=True)
    return biases[:, :, None, None]


def _add_features(total: Tensor, factors_BQ: Tensor, features: Tensor, keep: Tensor | None) -> None:
    """Add features (Q, N, H, W, C) times their factors."""
    if keep is None:
        total.flatten(1).addmm_(factors_BQ, features.flatten(1))
    else:
        factors_NBQ = factors_BQ * keep[:, -len(features) :].permute(2, 0, 1)
        total.flatten(2).transpose(0, 1).baddbmm_(factors_NBQ, features.flatten(2).transpose(0, 1))


# Backward


def _sums(gradients: Tensor, keep: Tensor | None, num_maps: int) -> Tensor:
    """d of every map, (B, K, C)."""
    if keep is None:
        return gradients.sum((1, 2, 3)).unsqueeze(1).expand(-1, num_maps, -1)
    return keep[:, :num_maps].to(gradients.dtype) @ gradients.sum((2, 3))


def _features_backward(
    gradients: Tensor, factors_BQ: Tensor, features: Tensor, keep: Tensor | None
) -> tuple[Tensor, Sequence[Tensor]]:
    """Gradients of factors (B, Q) and of the Q features."""
    if keep is None:
        rows = gradients.flatten(1)
        return rows @ features.flatten(1).t(), (factors_BQ.t() @ rows).view_as(features).unbind()
    flags_NBQ = keep[:, -len(features) :].permute(2, 0, 1)
    rows_NBX, features_NQX = gradients.flatten(2).transpose(0, 1), features.flatten(2).transpose(0, 1)
    of_factors = (rows_NBX @ features_NQX.transpose(1, 2) * flags_NBQ).sum(0)
    of_features = (factors_BQ * flags_NBQ).transpose(1, 2) @ rows_NBX
    return of_factors, of_features.unflatten(2, features.shape[2:]).unbind(1)
