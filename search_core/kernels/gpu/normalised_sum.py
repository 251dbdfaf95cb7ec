"""The product of `search_core.kernels.product` with Triton's kernels, as one differentiable operation.

Shape suffixes: as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from search_core.kernels import fold as algebra
from search_core.kernels.backend import defined
from search_core.kernels.fold import Folded, Unfolded
from search_core.kernels.gpu import fold, product
from search_core.kernels.gpu.product import Terms
from search_core.kernels.pools import EPSILON


class TritonSum(Function):
    """See `product.normalised_sum` and, apart, `product.normalised_products`."""

    @staticmethod
    def forward(
        ctx: Any, size: torch.Size, keep: Tensor | None, given: tuple[Tensor, Tensor] | None, apart: bool,
        num_maps: int, matrices: Tensor, weights: Tensor, factors: Tensor, *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Outputs, then in training the statistics of the batch."""
        num_edges = len(weights)
        first_base = len(tensors) - (0 if apart else num_edges)
        maps, features, bases = tensors[:num_maps], tensors[num_maps:first_base], tensors[first_base:]
        matrices = matrices.transpose(0, 1).contiguous()
        terms = Terms(_alike(maps), tuple(map(Tensor.contiguous, features)), factors, keep, apart)  # type: ignore[arg-type]
        if given is not None:
            means_in = matrices.new_empty(0)
            folded = algebra.fold(matrices, weights, None, (given[0].transpose(0, 1), given[1].transpose(0, 1)))
        else:
            sums = product.sums(terms, num_edges)
            means_in, *fields = fold.fold(*sums, matrices, weights, terms.size[0], EPSILON)
            folded = Folded(*fields)
        outputs = product.add_up(terms, matrices, folded.gains, folded.biases, bases)
        ctx.save_for_backward(matrices, factors, means_in, *folded, *terms.maps, *terms.features)
        ctx.keep, ctx.training, ctx.apart, ctx.num_maps = keep, given is None, apart, num_maps
        ctx.has_base = [base is not None for base in bases]
        if given is not None:
            return outputs
        means, variances = folded.means.transpose(0, 1), folded.variances.transpose(0, 1)
        ctx.mark_non_differentiable(means, variances)
        ctx.set_materialize_grads(False)  # else zeros are made for these, too
        return *outputs, means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all that `forward` got."""
        matrices, factors, means_in, *saved = ctx.saved_tensors
        num = len(Folded._fields)
        folded, tensors = Folded(*saved[:num]), saved[num:]
        terms = Terms(tuple(tensors[: ctx.num_maps]), tuple(tensors[ctx.num_maps :]), factors, ctx.keep, ctx.apart)
        sent = product.by_edge(defined(gradients[: ctx.num_maps if ctx.apart else len(matrices)]))
        unfolded = _unfold(terms, sent, matrices, folded, means_in if ctx.training else None)
        own, constants = unfolded.own, unfolded.constants
        if own is None or constants is None:  # in evaluation
            own, constants = torch.zeros_like(matrices), torch.zeros_like(folded.gains)
        of_maps = product.of_maps(terms, sent, matrices, folded.gains, own, constants)
        of_factors: Tensor | None = None
        of_features: Sequence[Tensor] = ()
        if terms.features:
            of_factors, of_features = product.of_features(terms, sent)
        of_bases = (gradient[0] if has else None for gradient, has in zip(sent, ctx.has_base, strict=False))
        return (
            None, None, None, None, None, unfolded.matrices.transpose(0, 1), unfolded.weights, of_factors, *of_maps,
            *of_features, *of_bases,
        )  # fmt: skip


def _alike(maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of one type, that of all in which nothing is lost: halves of a reduction may be of float32 beside bfloat16."""
    dtype = reduce(torch.promote_types, (z.dtype for z in maps))
    return tuple(z.to(dtype).contiguous() for z in maps)


def _unfold(
    terms: Terms, gradients: tuple[Tensor, ...], matrices: Tensor, folded: Folded, means_in: Tensor | None
) -> Unfolded:
    outer, sums = product.reduce(terms, gradients, len(matrices))
    if means_in is None:
        return algebra.unfold(outer.sum(0), sums.sum(0), matrices, folded, None, terms.size[0])
    return Unfolded(
        *fold.unfold(
            outer, sums, matrices, means_in, folded.scales, folded.gains, folded.products, terms.size[0]
        )
    )  # fmt: skip
