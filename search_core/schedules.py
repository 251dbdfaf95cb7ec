"""Temperature and penalty schedules, constant within an epoch (SNAS section 3 and the authors' code)."""

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
        end_holds = self.kind == "constant" or 0 < self.end <= self.start
        require(
            *literal_rules(self),
            (
                "start",
                self.start > 0 and math.isfinite(self.start),
                f"must be a finite number above 0, got {self.start}",
            ),
            ("end", end_holds, f"must be in (0, `start`] with `start` {self.start}, got {self.end}"),
            ("rate", self.rate is None or self.kind == "exponential", f"is for kind exponential only, not {self.kind}"),
            ("rate", self.rate is None or 0 < self.rate < 1, f"must be in (0, 1), got {self.rate}"),
            ("factor", self.factor is None or self.kind == "step", f"is for kind step only, not {self.kind}"),
            ("factor", self.factor is None or 0 < self.factor < 1, f"must be in (0, 1), got {self.factor}"),
            ("every", self.every is None or self.kind == "step", f"is for kind step only, not {self.kind}"),
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


@dataclass(frozen=True, kw_only=True)
class CostMix:
    """Weights of the three cost kinds in a mixed penalty, each 0 or above, not all 0."""

    params: float = 0.0
    madds: float = 0.0
    memory_access: float = 0.0

    def __post_init__(self) -> None:
        require(
            *(
                (name, value >= 0 and math.isfinite(value), f"must be a finite number of at least 0, got {value}")
                for name, value in vars(self).items()
            ),
            ("params", self.params + self.madds + self.memory_access > 0, "or another weight must be above 0"),
        )


@dataclass(frozen=True, kw_only=True)
class PenaltyOptions:
    """The resource penalty `eta * E_Z[C(Z)]` of the SNAS objective (SNAS section 3.3).

    Attributes:
        strength: eta, 0 or above.
        cost: what C counts. `mix` weighs the first three by `mix`; `latency` is the time of operations by
            `latency.table`; `child_latency` is that of the sampled child as a whole, by the table or else measured.
        estimator: `reparam` (through the concrete sample), `expected` (exact, under softmax(alpha)) or
            `score_function` (log q(z) times detached cost, with a moving-average baseline).
        log: C sums log(1 + cost) of each edge of each cell (`child_latency`: of the child); without it, cost in
            millions, latency in milliseconds. In the logarithm latency is in milliseconds too.
        mix: weights for `cost: mix`, required there and only there.
        reduction_ratio: if given, normal and reduction cells are averaged separately and
            `C = mean over normal cells + reduction_ratio * mean over reduction cells`; otherwise all cells are summed.
        schedule: `constant`; `warmup`: eta grows linearly from 0 over `warmup_epochs`; `step`: eta is on from
            `on_epoch` until before `off_epoch`, and 0 otherwise.
        warmup_epochs: for `warmup` only (required there), at least 1.
        on_epoch: for `step` only (default 0).
        off_epoch: for `step` only (default: never).

    Raises:
        OptionsError: if a value is out of range or given for another schedule.
    """

    strength: float = 1.0e-3
    cost: Literal["params", "madds", "memory_access", "mix", "latency", "child_latency"] = "madds"
    estimator: Literal["reparam", "expected", "score_function"] = "reparam"
    log: bool = True
    mix: CostMix | None = None
    reduction_ratio: float | None = None
    schedule: Literal["constant", "warmup", "step"] = "constant"
    warmup_epochs: int | None = None
    on_epoch: int | None = None
    off_epoch: int | None = None

    def __post_init__(self) -> None:
        ratio, warmup, schedule = self.reduction_ratio, self.warmup_epochs, self.schedule
        is_whole = self.cost == "child_latency"
        on, off = self.on_epoch, self.off_epoch
        require(
            *literal_rules(self),
            (
                "strength",
                self.strength >= 0 and math.isfinite(self.strength),
                f"must be a finite number of at least 0, got {self.strength}",
            ),
            ("mix", (self.mix is not None) == (self.cost == "mix"), "must be given for cost mix, and only there"),
            (
                "estimator",
                not is_whole or self.estimator == "score_function",
                f"must be score_function for cost child_latency, which has no gradient, got {self.estimator}",
            ),
            ("reduction_ratio", ratio is None or ratio >= 0, f"must be at least 0, got {ratio}"),
            (
                "reduction_ratio",
                ratio is None or not is_whole,
                f"must be left out for cost child_latency, which is not a sum over cells, got {ratio}",
            ),
            (
                "warmup_epochs",
                (warmup is not None) == (schedule == "warmup"),
                f"must be given for schedule warmup, and only there (schedule is {schedule})",
            ),
            ("warmup_epochs", warmup is None or warmup >= 1, f"must be at least 1, got {warmup}"),
            ("on_epoch", on is None or schedule == "step", f"is for schedule step only, not {schedule}"),
            ("on_epoch", on is None or on >= 0, f"must be at least 0, got {on}"),
            ("off_epoch", off is None or schedule == "step", f"is for schedule step only, not {schedule}"),
            ("off_epoch", off is None or off > (on or 0), f"must be after `on_epoch` {on or 0}, got {off}"),
        )


def penalty_strength_at(options: PenaltyOptions, epoch: int) -> float:
    """Penalty strength eta of `epoch` (0-based); schedules in `PenaltyOptions`."""
    if options.schedule == "warmup":
        return options.strength * min(1.0, epoch / (options.warmup_epochs or 1))
    if options.schedule == "step":
        is_on = (options.on_epoch or 0) <= epoch and (options.off_epoch is None or epoch < options.off_epoch)
        return options.strength if is_on else 0.0
    return options.strength
