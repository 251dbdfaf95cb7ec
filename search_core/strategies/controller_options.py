"""A controller and how it learns: the options of `controller`, apart from it, as they need no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_core.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ControllerOptions:
    """A controller and how it learns.

    Attributes:
        hidden: units of the LSTM, which has one layer, at least 1.
        init: initial parameters are uniform in [-`init`, `init`], above 0.
        lr: learning rate of Adam, above 0.
        temperature: divides the logits, above 0; default: not at all.
        tanh_constant: c in `c tanh(logits)`, which keeps every choice possible, above 0; default: no tanh.
        entropy: weight of the entropy (nats of a whole sequence) beside the reward, 0 or above.
        baseline_decay: share of the old baseline that stays when rewards come in, in [0, 1).

    Raises:
        OptionsError: if a value is out of range.
    """

    hidden: int = 100
    init: float = 0.1
    lr: float = 3.5e-4
    temperature: float | None = None
    tanh_constant: float | None = None
    entropy: float = 0.0
    baseline_decay: float = 0.95

    def __post_init__(self) -> None:
        positive = {"init": self.init, "lr": self.lr, "temperature": self.temperature}
        positive["tanh_constant"] = self.tanh_constant
        require(
            ("hidden", self.hidden >= 1, f"must be at least 1, got {self.hidden}"),
            *(
                (name, value is None or (value > 0 and math.isfinite(value)), f"must be above 0, got {value}")
                for name, value in positive.items()
            ),
            ("entropy", self.entropy >= 0 and math.isfinite(self.entropy), f"must be at least 0, got {self.entropy}"),
            ("baseline_decay", 0 <= self.baseline_decay < 1, f"must be in [0, 1), got {self.baseline_decay}"),
        )

    def scaled(self, logits: Tensor) -> Tensor:
        """`c tanh(logits / temperature)` (Bello et al., 2016; ENAS section 3.1), as far as the options ask for it."""
        if self.temperature is not None:
            logits = logits / self.temperature
        return logits if self.tanh_constant is None else self.tanh_constant * logits.tanh()
