"""How the temperature falls over a search, constant within an epoch (SNAS section 3 and the authors' code)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from search_core.errors import literal_rules, require


@dataclass(frozen=True, kw_only=True)
class TemperatureOptions:
    """How the temperature lambda of the concrete distribution falls over a search.

    With t = epoch / (epochs - 1) in [0, 1]:

    - `constant`: `start` throughout; `end` has no effect.
    - `linear`: `start + (end - start) t`.
    - `exponential`: `start (end / start)^t`, or, when `rate` is given, `max(end, start rate^epoch)`.
    - `cosine`: `end + (start - end) (1 + cos(pi t)) / 2`.
    - `step`: `max(end, start factor^floor(epoch / every))`.

    Attributes:
        kind: the schedule.
        start: temperature of the first epoch, above 0.
        end: temperature of the last epoch (or the floor), in (0, `start`].
        rate: factor per epoch in (0, 1), for `exponential` only.
        factor: factor per step in (0, 1), for `step` only (default 0.5).
        every: epochs between two steps, for `step` only (default 10).

    Raises:
        OptionsError: if a value is out of range or given for another kind.
    """

    kind: Literal["constant", "linear", "exponential", "cosine", "step"] = "linear"
    start: float = 1.0
    end: float = 0.03
    rate: float | None = None
    factor: float | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        kind = self.kind
        end_holds = kind == "constant" or 0 < self.end <= self.start
        require(
            *literal_rules(self),
            (
                "start",
                self.start > 0 and math.isfinite(self.start),
                f"must be a finite number above 0, got {self.start}",
            ),
            ("end", end_holds, f"must be in (0, `start`] with `start` {self.start}, got {self.end}", "start", "kind"),
            ("rate", self.rate is None or kind == "exponential", f"is for kind exponential only, not {kind}", "kind"),
            ("rate", self.rate is None or 0 < self.rate < 1, f"must be in (0, 1), got {self.rate}"),
            ("factor", self.factor is None or kind == "step", f"is for kind step only, not {kind}", "kind"),
            ("factor", self.factor is None or 0 < self.factor < 1, f"must be in (0, 1), got {self.factor}"),
            ("every", self.every is None or kind == "step", f"is for kind step only, not {kind}", "kind"),
            ("every", self.every is None or self.every >= 1, f"must be at least 1 epoch, got {self.every}"),
        )


def temperature_at(options: TemperatureOptions, epoch: int, epochs: int) -> float:
    """Temperature of `epoch` (0-based) in a search of `epochs`; formulas in `TemperatureOptions`."""
    progress = epoch / max(epochs - 1, 1)
    start, end = options.start, options.end
    if options.kind == "constant":
        return start
    if options.kind == "linear":
        return start + (end - start) * progress
    if options.kind == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    if options.kind == "step":
        return max(end, start * math.pow(options.factor or 0.5, epoch // (options.every or 10)))
    if options.rate is not None:
        return max(end, start * math.pow(options.rate, epoch))
    return start * math.pow(end / start, progress)
