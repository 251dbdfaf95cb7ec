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


def counted(count: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that fits."""
    for unit, least, size in (("days", 48 * 3600.0, 24 * 3600.0), ("h", 5400.0, 3600.0), ("min", 90.0, 60.0)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
