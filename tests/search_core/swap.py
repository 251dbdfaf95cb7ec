"""An operation of a plug-in, for tests: its weights depend on the stride, and `together` is its fast form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Swap(nn.Module):
    """Turns images upside down; with a factor a channel where it halves them."""

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1)) if stride == 2 else 1.0
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].flip(2) * self.scale

    @staticmethod
    def together(modules: Sequence[Swap], x: Tensor) -> list[Tensor]:
        flipped = x[:, :, :: modules[0].stride, :: modules[0].stride].flip(2)
        return [flipped * module.scale for module in modules]
