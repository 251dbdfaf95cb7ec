"""The algebra on matrices of channels by which batch norms fold into products; `product` derives it.

Every function works on any number of edges and maps at once.

Shape suffixes: L dimensions of edges and maps, in any order; C channels (in and out).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from search_core.kernels.pools import EPSILON


class Moments(NamedTuple):
    """Means (L, C) and biased covariances (L, C, C) of maps z."""

    means: Tensor
    covariances: Tensor

    @classmethod
    def of_sums(cls, sums_LC: Tensor, grams_LCC: Tensor, shifts_LC: Tensor, pixels: int) -> Moments:
        """From sums over pixels of `z - shift` and of its products with itself; overwrites them."""
        offsets = sums_LC.div_(pixels)
        covariances = torch.addcmul(grams_LCC.div_(pixels), offsets.unsqueeze(-1), offsets.unsqueeze(-2), value=-1)
        return cls(offsets + shifts_LC, covariances)


class Folded(NamedTuple):
    """What the batch norm of `y = W z`, times the weight w, is folded into.

    Attributes:
        means: (L, C) of y.
        variances: (L, C) of y, biased.
        scales: r, (L, C).
        gains: `w r`, (L, C): `V = diag(w r) W`.
        biases: `-b = w r * means`, (L, C).
        products: `W S`, (L, C, C); empty in evaluation.
    """

    means: Tensor
    variances: Tensor
    scales: Tensor
    gains: Tensor
    biases: Tensor
    products: Tensor


def fold(
    matrices_LCC: Tensor, weights_L: Tensor, moments: Moments | None, given: tuple[Tensor, Tensor] | None
) -> Folded:
    """Fold batch norms by the moments of what comes in, or by given statistics (evaluation) of what goes out."""
    if given is None:
        assert moments is not None
        means = (matrices_LCC @ moments.means.unsqueeze(-1)).squeeze(-1)
        products = matrices_LCC @ moments.covariances
        variances = (products * matrices_LCC).sum(-1).clamp_min_(0)  # rounding may leave less
    else:
        (means, variances), products = given, matrices_LCC.new_empty(0)
    scales = (variances + EPSILON).rsqrt_()
    gains = weights_L.unsqueeze(-1) * scales
    return Folded(means, variances, scales, gains, gains * means, products)


class Unfolded(NamedTuple):
    """Gradients through a fold.

    Attributes:
        matrices: (L, C, C) of W.
        weights: (L) of w.
        own: `2/P dS`, (L, C, C): by what z goes into its own gradient; none in evaluation.
        constants: (L, C) that all pixels get; none in evaluation.
    """

    matrices: Tensor
    weights: Tensor
    own: Tensor | None
    constants: Tensor | None


def unfold(
    outer_LCC: Tensor, sums_LC: Tensor, matrices_LCC: Tensor, folded: Folded, means_in_LC: Tensor | None, pixels: int
) -> Unfolded:
    """The backward pass of a fold and of the products with what it gave.

    Args:
        outer_LCC: D, sum over pixels of `g z'`.
        sums_LC: d, sum over pixels of g.
        matrices_LCC: W.
        folded: what the forward pass gave.
        means_in_LC: means of z; none in evaluation.
        pixels: P.
    """
    gains = folded.gains
    if means_in_LC is not None:
        outer_LCC = torch.addcmul(outer_LCC, sums_LC.unsqueeze(-1), means_in_LC.unsqueeze(-2), value=-1)
    of_rows = (outer_LCC * matrices_LCC).sum(-1)
    if means_in_LC is None:
        of_rows = torch.addcmul(of_rows, sums_LC, folded.means, value=-1)
    of_gains = of_rows.mul_(folded.scales)
    of_weights, of_matrices = of_gains.sum(-1), gains.unsqueeze(-1) * outer_LCC
    if means_in_LC is None:
        return Unfolded(of_matrices, of_weights, None, None)
    of_variances = (of_gains * folded.scales * gains).unsqueeze(-1)  # times -2
    of_matrices.addcmul_(of_variances, folded.products, value=-1)
    own = matrices_LCC.transpose(-2, -1) @ (of_variances * matrices_LCC).mul_(-1 / pixels)
    of_means = (gains * sums_LC).unsqueeze(-2) @ matrices_LCC
    constants = (means_in_LC.unsqueeze(-2) @ own).add_(of_means, alpha=1 / pixels).neg_().squeeze(-2)
    return Unfolded(of_matrices, of_weights, own, constants)
