"""Whether two reports of an epoch have the same values, bit for bit or nearly; times are left out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dashboards.formatting import HOURS

#: What differs from run to run: when a report came in, and metrics that are times.
_TIME, _CLOCKS = "time", ("seconds", "images_per_s", *HOURS)
#: What rounding moves by little: means over many images, and the distribution. The child is not among it: a near tie of
#: two operations falls either way, and with it all that is of the child.
_SMOOTH = re.compile(
    r"epoch|metrics\.((train|supernet|expected_cost|entropy)_\w+|temperature|eta)|cells\.\w+\.(probabilities|entropy)\..+"
)


@dataclass(frozen=True)
class Difference:
    """A value of which two reports differ.

    Attributes:
        name: dotted path in the report, such as `cells.normal.alpha.0.3`.
        recorded: in the journal; `ABSENT` if it is not there.
        recomputed: likewise.
    """

    name: str
    recorded: object
    recomputed: object

    def __str__(self) -> str:
        return f"{self.name} is {self.recorded!r} in the journal, recomputed {self.recomputed!r}"


ABSENT = "absent"


def differing(
    recorded: Mapping[str, Any], recomputed: Mapping[str, Any], tolerance: float | None
) -> tuple[int, list[Difference]]:
    """Compare two reports of an epoch, plain data.

    Args:
        recorded: as the journal has it.
        recomputed: as the search gave it.
        tolerance: numbers a and b are the same if `|a - b| <= tolerance x max(1, |a|, |b|)`, and only those that
            rounding moves by little are compared; None: all values, bit for bit.

    Returns:
        How many values were compared, and those that differ, in the order of the journal.
    """
    left, right = (dict(_values(_without_times(report))) for report in (recorded, recomputed))
    names = [name for name in {**left, **right} if tolerance is None or _SMOOTH.fullmatch(name)]
    pairs = [Difference(name, left.get(name, ABSENT), right.get(name, ABSENT)) for name in names]
    return len(names), [pair for pair in pairs if not _is_same(pair.recorded, pair.recomputed, tolerance)]


def _without_times(report: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(report))  # tuples are lists in a journal
    plain.pop(_TIME, None)
    for clock in _CLOCKS:
        plain["metrics"].pop(clock, None)
    return plain


def _values(value: Any, name: str = "") -> Iterator[tuple[str, object]]:
    """All values by dotted name; what is empty counts as one."""
    if not isinstance(value, dict | list) or not value:
        yield name, value
        return
    parts: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield from _values(part, f"{name}.{key}" if name else str(key))


def _is_same(a: object, b: object, tolerance: float | None) -> bool:
    if tolerance is not None and isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) or (math.isnan(a) and math.isnan(b))
    return json.dumps(a) == json.dumps(b)  # digits enough for every bit; NaN is NaN
