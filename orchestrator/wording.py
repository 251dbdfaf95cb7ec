"""Numbers in words, the same in the terminal and in MLflow."""

from __future__ import annotations

from orchestrator.hours import HOURS

_HOURS = dict(zip(HOURS, ("GPU hours", "CPU core hours"), strict=True))


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, or a dash."""
    return "-" if fraction is None else f"{fraction:.1%}"


def compact(count: float) -> str:
    """A count with three figures and k, M or G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def hours_text(unit: str, hours: float) -> str:
    """Reserved hours, by the name of their metric."""
    return f"{hours:.3g} {_HOURS[unit]}"
