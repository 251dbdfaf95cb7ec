"""Options of the two optimisers that every weight-sharing strategy has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from search_core.errors import require


@dataclass(frozen=True, kw_only=True)
class ThetaOptions:
    """SGD for the operation weights theta, with a cosine learning rate over the search.

    Attributes:
        lr: learning rate of the first epoch, above 0.
        lr_min: learning rate that the cosine approaches at the end, in [0, `lr`].
        momentum: in [0, 1).
        weight_decay: 0 or above.
        grad_clip: maximal norm of the gradient, above 0.

    Raises:
        OptionsError: if a value is out of range.
    """

    lr: float = 0.025
    lr_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3.0e-4
    grad_clip: float = 5.0

    def __post_init__(self) -> None:
        require(
            ("lr", self.lr > 0 and math.isfinite(self.lr), f"must be a finite number above 0, got {self.lr}"),
            (
                "lr_min",
                0 <= self.lr_min <= self.lr,
                f"must be in [0, `lr`] with `lr` {self.lr}, got {self.lr_min}",
                "lr",
            ),
            ("momentum", 0 <= self.momentum < 1, f"must be in [0, 1), got {self.momentum}"),
            ("weight_decay", self.weight_decay >= 0, f"must be at least 0, got {self.weight_decay}"),
            ("grad_clip", self.grad_clip > 0, f"must be above 0, got {self.grad_clip}"),
        )


@dataclass(frozen=True, kw_only=True)
class AlphaOptions:
    """Adam for the architecture parameters alpha.

    Attributes:
        lr: learning rate, above 0.
        betas: decay of the two moments, each in [0, 1).
        weight_decay: 0 or above.
        grad_clip: maximal norm of the gradient of both cells' alpha together, above 0 (10 in the SNAS authors'
            command); None leaves it as it is.

    Raises:
        OptionsError: if a value is out of range.
    """

    lr: float = 3.0e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1.0e-3
    grad_clip: float | None = None

    def __post_init__(self) -> None:
        require(
            ("lr", self.lr > 0 and math.isfinite(self.lr), f"must be a finite number above 0, got {self.lr}"),
            (
                "grad_clip",
                self.grad_clip is None or self.grad_clip > 0,
                f"must be above 0, got {self.grad_clip}",
            ),
            ("betas", all(0 <= beta < 1 for beta in self.betas), f"must each be in [0, 1), got {list(self.betas)}"),
            ("weight_decay", self.weight_decay >= 0, f"must be at least 0, got {self.weight_decay}"),
        )
