"""Fake quantisation: values of few bits in floating point, with straight-through gradients (DoReFa, 2016).

Sources: Zhou et al., "DoReFa-Net", arXiv 1606.06160, sections 2.2 to 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from search_core.primitives.modules import FactorizedReduce
from search_core.space.plan import FULL_PRECISION

#: Activations are clipped here, as in ReLU6, made for few bits (Howard et al., 2017; Sandler et al., CVPR 2018).
CEILING = 6.0
#: Below this, a layer of zeros would be divided by its greatest value.
_SMALLEST = 1e-12


class _Round(torch.autograd.Function):
    """Round to the nearest integer; the gradient passes as if nothing had happened (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def quantise_unit(x: Tensor, bits: int) -> Tensor:
    """`round((2^k - 1) x) / (2^k - 1)`, gradient 1 (DoReFa equations 5 and 6).

    Args:
        x: of any shape, in [0, 1].
        bits: k, at least 1.
    """
    levels = 2**bits - 1
    quantised: Tensor = _Round.apply(x * levels) / levels
    return quantised


def quantise_weights(weights: Tensor, bits: int) -> Tensor:
    """`2 quantise(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1` in [-1, 1], the maximum over the layer (equation 9).

    With one bit `sign(w) E|w|` (equations 7 and 8), whose gradient is 1. The batch norm behind every convolution takes
    the scale out.

    Args:
        weights: of one layer.
        bits: k in [1, 32); `FULL_PRECISION` leaves them as they are.
    """
    if bits == FULL_PRECISION:
        return weights
    if bits == 1:
        scale = weights.detach().abs().mean()
        signs = torch.where(weights.detach() >= 0, scale, -scale)
        return signs + (weights - weights.detach())
    squashed = weights.tanh()
    return 2 * quantise_unit(squashed / (2 * squashed.abs().max().clamp_min(_SMALLEST)) + 0.5, bits) - 1


def quantise_activations(x: Tensor, bits: int, *, signed: bool = False) -> Tensor:
    """`c quantise(clip(x, 0, c) / c)` with c = 6, gradient 1 inside the clip and 0 outside (section 2.4, equation 11).

    DoReFa has c = 1. Nodes here are sums of batch-normalised maps, of which that cuts off so much that small networks
    hardly learn, with 8 bits either.

    Args:
        x: of any shape.
        bits: k in [1, 32); `FULL_PRECISION` leaves them as they are.
        signed: clip to [-c, c] instead, for maps that no ReLU has passed.
    """
    if bits == FULL_PRECISION:
        return x
    if signed:
        return CEILING * (2 * quantise_unit((x.clamp(-CEILING, CEILING) / CEILING + 1) / 2, bits) - 1)
    return CEILING * quantise_unit(x.clamp(0, CEILING) / CEILING, bits)


def quantise_inputs(cell: nn.Module, bits: int) -> None:
    """Let every convolution of a child's cell read quantised inputs, in place.

    Args:
        cell: of a child network.
        bits: as for `quantise_activations`.
    """
    if bits < FULL_PRECISION:
        for convolution, signed in _convolutions(cell):
            convolution.register_forward_pre_hook(partial(_quantised, bits=bits, signed=signed))


def with_quantised_weights(cell: nn.Module, bits: int, *inputs: Any) -> Tensor:
    """The output of a child's cell with the weights of its convolutions quantised; gradients reach the weights kept.

    Args:
        cell: of a child network.
        bits: as for `quantise_weights`.
        *inputs: of its forward pass.
    """
    quantised = {}
    if bits < FULL_PRECISION:
        kept = [(name, weight) for name, weight in cell.named_parameters() if weight.dim() == 4]
        quantised = {name: quantise_weights(weight, bits) for name, weight in kept}
    output: Tensor = torch.func.functional_call(cell, quantised, inputs) if quantised else cell(*inputs)
    return output


def _quantised(_: nn.Module, inputs: tuple[Tensor], *, bits: int, signed: bool) -> tuple[Tensor]:
    return (quantise_activations(inputs[0], bits, signed=signed),)


def _convolutions(cell: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Convolutions of a cell, and whether what they read may be negative: the output of another convolution."""
    for module in cell.modules():
        if isinstance(module, FactorizedReduce):
            yield from ((module.conv_even, False), (module.conv_odd, False))
        if isinstance(module, nn.Sequential):
            before: nn.Module | None = None
            for layer in module:
                if isinstance(layer, nn.Conv2d):
                    yield layer, isinstance(before, nn.Conv2d)
                before = layer
