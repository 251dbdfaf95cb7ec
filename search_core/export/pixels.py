"""A trained child that takes raw pixels: the module that is registered, and that a process with this project loads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_core.network.chain import ChildNetwork


class PixelChild(nn.Module):
    """A child with its normalisation inside; it evaluates, trains on and moves to a GPU as any module.

    Args:
        child: without an auxiliary head.
        mean: of each channel of pixels in [0, 1].
        std: standard deviation, likewise.
        classes: names of the logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, child: ChildNetwork, mean: Sequence[float], std: Sequence[float], classes: Sequence[str]
    ) -> None:
        super().__init__()
        self.child, self.classes = child, tuple(classes)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), float32 in [0, 1]."""
        logits: Tensor = self.child((images - self.mean) / self.std)
        return logits

    def pixels(self, normalised: Tensor) -> Tensor:
        """Images in [0, 1] of those that batches of the data set hold."""
        return normalised * self.std + self.mean
