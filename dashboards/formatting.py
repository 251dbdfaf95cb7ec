"""Numbers in words: the same on pages, in the terminal and in what MLflow shows."""

from __future__ import annotations

import math
from datetime import UTC, datetime

#: Where there is no number.
MISSING = "\N{EN DASH}"

#: Metrics by name: what they are called, their unit, and the factor from the logged number to that unit.
_METRICS: dict[str, tuple[str, str, float]] = {
    "child_val_error": ("child validation error", "%", 100),
    "child_val_accuracy": ("child validation accuracy", "%", 100),
    "child_val_accuracy_recalibrated": ("child accuracy, batch norm recalibrated", "%", 100),
    "supernet_val_accuracy": ("supernet validation accuracy", "%", 100),
    "supernet_val_accuracy_recalibrated": ("supernet accuracy, batch norm recalibrated", "%", 100),
    "discretization_gap": ("discretization gap", "percentage points", 100),
    "discretization_gap_recalibrated": ("discretization gap, both recalibrated", "percentage points", 100),
    "train_accuracy": ("training accuracy", "%", 100),
    "val_accuracy": ("validation accuracy", "%", 100),
    "test_accuracy": ("test accuracy", "%", 100),
    "train_loss": ("training loss", "nats", 1),
    "val_loss": ("validation loss", "nats", 1),
    "supernet_val_loss": ("supernet validation loss", "nats", 1),
    "child_val_loss": ("child validation loss", "nats", 1),
    "train_penalty": ("penalty", "", 1),
    "entropy_normal": ("entropy of the normal cell", "nats", 1),
    "entropy_reduce": ("entropy of the reduction cell", "nats", 1),
    "entropy_total": ("entropy of both cells", "nats", 1),
    "pruned_kl": ("divergence of pruned networks from the whole one", "nats", 1),
    "temperature": ("temperature", "", 1),
    "eta": ("penalty strength η", "", 1),
    "expected_cost_params": ("expected parameters of the searched edges", "thousands", 1e-3),
    "expected_cost_madds": ("expected multiply-adds of the searched edges", "millions", 1e-6),
    "expected_cost_memory_access": ("expected memory access of the searched edges", "million elements", 1e-6),
    "child_params": ("parameters", "thousands", 1e-3),
    "child_madds": ("multiply-adds", "millions", 1e-6),
    "child_memory_access": ("memory access", "million elements", 1e-6),
    "child_latency_ms": ("latency", "ms", 1),
    "params": ("parameters", "thousands", 1e-3),
    "madds": ("multiply-adds", "millions", 1e-6),
    "bit_operations": ("bit operations", "millions", 1e-6),
    "edges_normal": ("edges of the normal cell", "", 1),
    "edges_reduce": ("edges of the reduction cell", "", 1),
    "gpu_hours": ("reserved", "GPU hours", 1),
    "cpu_core_hours": ("reserved", "CPU core hours", 1),
    "seconds": ("time of the epoch", "s", 1),
}

#: Units of counts, with what is counted where the name does not say it; and sizes from the largest.
_COUNTS = {"thousands": "", "millions": "", "million elements": "elements"}
_SIZES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def metric_name(metric: str) -> str:
    """What a metric is called; unknown ones keep their name."""
    return _METRICS[metric][0] if metric in _METRICS else metric.replace("_", " ")


def metric_title(metric: str) -> str:
    """Name with unit, for axes and columns."""
    unit = metric_unit(metric)
    return f"{metric_name(metric)} ({unit})" if unit else metric_name(metric)


def metric_unit(metric: str) -> str:
    """Unit in which a metric is shown."""
    return _METRICS[metric][1] if metric in _METRICS else ""


def metric_factor(metric: str) -> float:
    """Factor from the logged number to the unit in which it is shown."""
    return _METRICS[metric][2] if metric in _METRICS else 1.0


def shown_metric(metric: str, value: float | None) -> str:
    """A metric's value in its unit: shares with two decimals, counts with three figures; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    unit = metric_unit(metric)
    if unit in _COUNTS:  # a child of a digit search has thousands of parameters, one for ImageNet has millions
        size, name = next((entry for entry in _SIZES if abs(value) >= entry[0]), (1.0, ""))
        return " ".join(filter(None, (f"{value / size:.3g}", name, _COUNTS[unit])))
    if metric == "eta":
        return exact(value)
    if unit == "%":
        return f"{value:.2%}"
    text = f"{100 * value:+.2f}" if unit == "percentage points" else f"{value * metric_factor(metric):.4g}"
    return f"{text} {unit}" if unit else text


def with_spread(mean: float | None, spread: float | None, form: str = "{:.2f}", unit: str = "") -> str:
    """A mean, its standard deviation where it is known, and the unit of both; a dash where there is no mean."""
    if mean is None:
        return MISSING
    return form.format(mean) + (f" ± {form.format(spread).removeprefix('+')}" if spread is not None else "") + unit


def percent_with_spread(mean: float | None, spread: float | None) -> str:
    """Mean and standard deviation of fractions, in percent with two decimals."""
    return with_spread(None if mean is None else 100 * mean, None if spread is None else 100 * spread, unit="%")


def percent_with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """A fraction in percent, with its 95 % interval where that is known."""
    return f"{value:.2%}" + ("" if interval is None else f" (95%: {interval_text(interval)})")


def interval_text(interval: tuple[float, float] | None) -> str:
    """Ends of an interval of fractions, in percent; a dash where it is not known."""
    return MISSING if interval is None else f"{100 * interval[0]:.2f} to {interval[1]:.2%}"


def schedule_text(kind: str, start: float, end: float) -> str:
    """A temperature schedule in a few words."""
    return f"constant {start:.2f}" if kind == "constant" else f"{kind} to {end:.2f}"


def shown_number(value: object) -> str:
    """A swept value: three figures if it is a fraction."""
    if value is None:
        return MISSING
    return exact(value) if isinstance(value, float) else str(value)


def shown_setting(key: str, value: object) -> str:
    """A swept setting with its value; candidate operations, a list or a text of names, are counted."""
    if not key.endswith("network.primitives"):
        return f"{key} {shown_number(value)}"
    names = value.split() if isinstance(value, str) else value
    assert isinstance(names, list | tuple)
    return f"{len(names)} operations" + ("" if "none" in names else " without none")


def exact(value: float, figures: int = 3) -> str:
    """A number with some significant figures; whole numbers, such as seeds, with all of theirs."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{figures}g}"


def duration(seconds: float | None) -> str:
    """A time span in its two largest units."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 1:
        return "under 1 s"
    whole = round(seconds)
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit}" + (f" {rest // smaller_size} {smaller}" if rest // smaller_size else "")
    return f"{whole} s"


def epoch_text(done: int, planned: int | None) -> str:
    """How far a run is: epochs that are over, and how many it was asked for."""
    return f"epoch {done} of {MISSING if planned is None else planned}"


def moment(unix_s: float | None) -> str:
    """A point in time, UTC."""
    return MISSING if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


#: Metrics of every epoch that its driver adds to the report; a unit has one of them.
HOURS: tuple[str, str] = ("gpu_hours", "cpu_core_hours")


def hours_text(metric: str, hours: float) -> str:
    """Reserved hours, by the name of their metric."""
    return f"{hours:.3g} {metric_unit(metric)}"
