"""The sweep of a study: ranges from the study file, their conditions, and how Optuna draws from them."""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, get_args

from orchestrator.errors import did_you_mean
from search_core.errors import OptionsError, require

if TYPE_CHECKING:
    import optuna

Scalar = str | int | float | bool | None
RangeKind = Literal["log_uniform", "uniform", "int", "choice"]
RANGE_KINDS: tuple[RangeKind, ...] = get_args(RangeKind)

#: Above this many combinations of range ends, `corner_points` varies one entry at a time.
MAX_CORNER_POINTS = 4096


@dataclass(frozen=True, kw_only=True)
class SweepEntry:
    """What one swept key may be, and on which other swept keys it depends.

    Attributes:
        kind: `log_uniform`, `uniform` and `int` are ranges with both ends included; `choice` is a list.
        values: (low, high) of a range, or the choices.
        when: swept key -> values; the entry is active only while each of these keys is active and has such a value.

    Raises:
        OptionsError: if a range is empty or not numeric, or choices repeat.
    """

    kind: RangeKind
    values: tuple[Scalar, ...]
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = _choice_rules(self.values) if self.kind == "choice" else _range_rules(self.kind, self.values)
        require(*((self.kind, holds, message) for holds, message in rules))

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Read the form of the study file: `{log_uniform: [1e-5, 1e-1], when: {other.key: value}}`.

        Raises:
            OptionsError: with every fault; an empty option name stands for the entry itself.
        """
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            forms = "{log_uniform: [low, high]}, {uniform: [low, high]}, {int: [low, high]} or {choice: [a, b, ...]}"
            raise OptionsError((("", f"must be {forms}, got {data}"),))
        faults = list(_key_faults(data))
        when, when_faults = _read_when(data.get("when", {}))
        kinds = [kind for kind in RANGE_KINDS if kind in data]
        for kind in kinds:
            try:
                entry = cls(kind=kind, values=_read_values(kind, data[kind]), when=when)
            except OptionsError as error:
                faults += error.faults
        if faults or when_faults:
            raise OptionsError((*faults, *when_faults))
        return entry

    def to_data(self) -> dict[str, Any]:
        """The form of the study file; `from_data` reads it back to an equal entry."""
        data: dict[str, Any] = {self.kind: list(self.values)}
        if self.when:
            data["when"] = {key: list(values) for key, values in self.when.items()}
        return data

    @property
    def is_finite(self) -> bool:
        """Whether the possible values can be listed."""
        return self.kind in ("choice", "int")

    def all_values(self) -> Sequence[Scalar]:
        """All possible values of a finite entry, in order."""
        if self.kind == "choice":
            return self.values
        if self.kind != "int":
            raise ValueError(f"only `choice` and `int` can be listed, got `{self.kind}`")
        low, high = self.values
        assert isinstance(low, int)
        assert isinstance(high, int)
        return range(low, high + 1)

    def allows(self, value: object) -> bool:
        """Whether a value may be drawn."""
        if self.kind == "choice":
            return value in self.values
        if not _is_number(value) or (self.kind == "int" and not isinstance(value, int)):
            return False
        low, high = (end for end in self.values if _is_number(end))
        return low <= value <= high

    def is_active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether the conditions hold, given the values of all keys that come before (`parents_first`)."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())


def _key_faults(data: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    valid = (*RANGE_KINDS, "when")
    unknown = [key for key in data if key not in valid]
    for key in unknown:
        yield key, f"unknown key `{key}`{did_you_mean(key, valid) or ';'} valid keys: {', '.join(valid)}"
    kinds = [kind for kind in RANGE_KINDS if kind in data]
    if len(kinds) > 1:
        yield "", f"must have only one of {', '.join(RANGE_KINDS)}, got {' and '.join(kinds)}"
    if not kinds and not unknown:
        yield "", f"must have one of {', '.join(RANGE_KINDS)}, got none of them"


def _read_values(kind: RangeKind, data: object) -> tuple[Scalar, ...]:
    if not isinstance(data, list):
        form = "a list of values" if kind == "choice" else "a list [low, high]"
        raise OptionsError(((kind, f"must be {form}, got {data}"),))
    if kind in ("log_uniform", "uniform"):
        return tuple(float(value) if _is_number(value) else value for value in data)
    return tuple(data)


def _read_when(data: object) -> tuple[dict[str, tuple[Scalar, ...]], list[tuple[str, str]]]:
    """Conditions and their faults; one value is short for a list of one."""
    if not isinstance(data, dict):
        return {}, [("when", f"must be {{other.swept.key: value or [values]}}, got {data}")]
    conditions: dict[str, tuple[Scalar, ...]] = {}
    faults = []
    for key, values in data.items():
        allowed = tuple(values) if isinstance(values, list) else (values,)
        if allowed and all(_is_scalar(value) for value in allowed):
            conditions[key] = allowed
        else:
            faults.append(("when", f"must give `{key}` a value or a list of values, got {values}"))
    return conditions, faults


def _choice_rules(values: Sequence[object]) -> list[tuple[bool, str]]:
    if not values:
        return [(False, "must have at least one value, got none")]
    if not all(_is_scalar(value) for value in values):
        return [(False, f"must hold single values (text, number, true, false or null), got {list(values)}")]
    # Compared with ==, as Optuna looks choices up: 1, 1.0 and true are one choice.
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    return [(not repeated, f"must hold different values, got {', '.join(map(str, repeated))} more than once")]


def _range_rules(kind: RangeKind, values: Sequence[object]) -> list[tuple[bool, str]]:
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) != 2 or len(values) != 2:
        return [(False, f"must be [low, high], two finite numbers, got {list(values)}")]
    low, high = numbers
    whole = kind != "int" or all(isinstance(value, int) for value in values)
    return [
        (low < high, f"must have low < high, got {list(values)}"),
        (kind != "log_uniform" or low > 0, f"must have low above 0, since logarithms are drawn, got {list(values)}"),
        (whole, f"must be two whole numbers, got {list(values)}"),
    ]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_scalar(value: object) -> TypeGuard[Scalar]:
    # NaN is out: it does not equal itself, so that neither Optuna nor `when` would find it again.
    return value is None or (isinstance(value, str | int | float | bool) and value == value)


def condition_faults(sweep: Mapping[str, SweepEntry]) -> list[tuple[str, str, *tuple[str, ...]]]:
    """All faults of the entries' `when`: (swept key, message, places that the fault depends on)."""
    faults: list[tuple[str, str, *tuple[str, ...]]] = [
        (key, fault, f"sweep.{parent}")
        for key, entry in sweep.items()
        for parent, allowed in entry.when.items()
        for fault in _parent_faults(sweep, parent, allowed)
    ]
    try:
        parents_first(sweep)
    except graphlib.CycleError as error:
        circle = list(reversed(error.args[1]))
        faults.append((circle[0], f"`when` goes round in a circle: {' needs '.join(f'`{key}`' for key in circle)}"))
    return faults


def _parent_faults(sweep: Mapping[str, SweepEntry], parent: str, allowed: Sequence[Scalar]) -> list[str]:
    if parent not in sweep:
        swept = f"; swept keys: {', '.join(sweep)}"
        return [f"`when` must name a swept key, got `{parent}`{did_you_mean(parent, sweep) or swept}"]
    if not sweep[parent].is_finite:
        return [f"`when` must name a `choice` or `int` entry, but `{parent}` is a `{sweep[parent].kind}`"]
    possible = sweep[parent].all_values()
    strange = [str(value) for value in allowed if value not in possible]
    if not strange:
        return []
    described = ", ".join(map(str, possible)) if len(possible) <= 20 else f"{possible[0]} to {possible[-1]}"
    return [f"`when` must ask for values that `{parent}` can have ({described}), got {', '.join(strange)}"]


_SHORT_RANGE = 64


def parents_first(sweep: Mapping[str, SweepEntry]) -> list[str]:
    """The swept keys in an order in which those that `when` names come before those that depend on them.

    Raises:
        graphlib.CycleError: if conditions depend on each other.
    """
    graph = {key: [parent for parent in entry.when if parent in sweep] for key, entry in sweep.items()}
    return list(graphlib.TopologicalSorter(graph).static_order())


def with_conditions(sweep: Mapping[str, SweepEntry], keys: Iterable[str]) -> dict[str, SweepEntry]:
    """The entries of some swept keys, and of those that their conditions name, in the order of the sweep."""
    waiting, needed = list(keys), set[str]()
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += sweep[key].when
    return {key: entry for key, entry in sweep.items() if key in needed}


def suggest(trial: optuna.trial.BaseTrial, sweep: Mapping[str, SweepEntry]) -> dict[str, Scalar]:
    """Draw a value for each active key of `sweep` (define-by-run); inactive keys are absent."""
    values: dict[str, Scalar] = {}
    for key in parents_first(sweep):
        if sweep[key].is_active(values):
            values[key] = _suggest_one(trial, key, sweep[key])
    return values


def _suggest_one(trial: optuna.trial.BaseTrial, key: str, entry: SweepEntry) -> Scalar:
    if entry.kind == "choice":
        choice: Scalar = trial.suggest_categorical(key, entry.values)
        return choice
    low, high = entry.values
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if entry.kind == "int":
        return trial.suggest_int(key, int(low), int(high))
    return trial.suggest_float(key, low, high, log=entry.kind == "log_uniform")


def grid_points(sweep: Mapping[str, SweepEntry], limit: int | None = None) -> list[dict[str, Scalar]]:
    """All combinations of active values, without repeats, the last key varying fastest.

    Args:
        sweep: finite entries (`choice` or `int`).
        limit: stop after this many points, since a product of long `int` ranges may not fit into memory.

    Raises:
        ValueError: if an entry is not finite.
    """
    values = {key: entry.all_values() for key, entry in sweep.items()}
    return list(itertools.islice(_combinations(sweep, values), limit))


def corner_points(sweep: Mapping[str, SweepEntry]) -> Iterator[dict[str, Scalar]]:
    """Combinations that show whether all of a sweep is valid: ends of ranges, each choice, all conditions met.

    Beyond `MAX_CORNER_POINTS` combinations, one entry varies at a time, the others keep to their first value (and to
    the values that conditions ask for).
    """
    asked = {key: [v for entry in sweep.values() for v in entry.when.get(key, ())] for key in sweep}
    corners = {key: list(dict.fromkeys([*_telling(entry), *asked[key]])) for key, entry in sweep.items()}
    if math.prod(map(len, corners.values())) <= MAX_CORNER_POINTS:
        yield from _combinations(sweep, corners)
        return
    for focus in sweep:
        few = {key: list(dict.fromkeys([*values[:1], *asked[key]])) for key, values in corners.items()}
        yield from _combinations(sweep, {**few, focus: corners[focus]})


def _telling(entry: SweepEntry) -> Sequence[Scalar]:
    """Ends or choices; all of a short range of whole numbers, as a rule may hold at its ends alone (even numbers)."""
    if entry.kind != "int":
        return entry.values
    low, high = entry.values
    assert isinstance(low, int)
    assert isinstance(high, int)
    return entry.all_values() if high - low < _SHORT_RANGE else entry.values


def _combinations(
    sweep: Mapping[str, SweepEntry], values: Mapping[str, Sequence[Scalar]]
) -> Iterator[dict[str, Scalar]]:
    order = parents_first(sweep)

    def extended(index: int, chosen: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        if index == len(order):
            yield chosen
        elif not sweep[order[index]].is_active(chosen):
            yield from extended(index + 1, chosen)
        else:
            for value in values[order[index]]:
                yield from extended(index + 1, {**chosen, order[index]: value})

    return extended(0, {})
