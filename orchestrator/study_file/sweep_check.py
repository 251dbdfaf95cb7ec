"""Sampled values put into the search settings, and the check that all values of a sweep fit there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pydantic

from orchestrator.errors import did_you_mean
from orchestrator.study_file.sweep import (
    Scalar,
    SweepEntry,
    condition_faults,
    corner_points,
    parents_first,
    with_conditions,
)
from orchestrator.study_file.validation import leaf_keys, parse
from search_core.errors import OptionsError, Rule
from search_core.search.options import SearchOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Values = Mapping[str, Scalar]
Case = tuple[Values, str]  # swept values, and the message of the fault that they lead to
Misfit = tuple[str, str, *tuple[str, ...]]  # swept key, message, and places of the study file that the fault depends on

#: The setting that is a list of names; a choice of it is one text, the names with blanks between.
_LIST = "network.primitives"
#: Dotted paths of all search settings.
SEARCH_KEYS = tuple(leaf_keys(SearchOptions))


class SearchFile(pydantic.BaseModel):
    """Holds search settings alone; gives the plain dataclass pydantic's strictness about unknown keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    search: SearchOptions


def apply_values(search: SearchOptions, values: Values) -> SearchOptions:
    """The search settings with some replaced.

    Args:
        search: fixed settings.
        values: dotted key inside `search` -> value.

    Raises:
        OptionsError: if the settings are invalid together.
    """
    return parse(SearchFile, {"search": _with_values(_settings(search), values)}).search


def checked_values(sweep: Mapping[str, SweepEntry], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Values for some swept keys, as Optuna stores them.

    Raises:
        OptionsError: if a key is not swept, a value is not one of its range, or a condition does not hold.
    """
    faults = [(key, f"must be a swept key ({', '.join(sweep) or 'none is'})") for key in values if key not in sweep]
    checked: dict[str, Scalar] = {}
    for key in (key for key in parents_first(sweep) if key in values):
        entry, value = sweep[key], values[key]
        unmet = {parent: allowed for parent, allowed in entry.when.items() if values.get(parent) not in allowed}
        if unmet:
            needed = " and ".join(f"`{parent}` {' or '.join(map(str, allowed))}" for parent, allowed in unmet.items())
            faults.append((key, f"must be given with {needed}, without which it is not drawn"))
        elif not entry.allows(value):
            form = "one of" if entry.kind == "choice" else f"{entry.kind} in"
            faults.append((key, f"must be {form} {list(entry.values)}, got {value}"))
        else:
            is_float = entry.kind in ("uniform", "log_uniform")
            checked[key] = float(value) if is_float and value is not None else value
    if faults:
        raise OptionsError(tuple(faults))
    return checked


def strategy_corners(
    search: SearchOptions, sweep: Mapping[str, SweepEntry], section: str = "strategy."
) -> Iterator[SearchOptions]:
    """The settings of every swept strategy at the ends of its own swept settings, those that fit together.

    Args:
        search: fixed settings.
        sweep: of the study.
        section: with which the swept keys begin; another than that of the strategy has its ends likewise.
    """
    for values in corner_points(with_conditions(sweep, [key for key in sweep if key.startswith(section)])):
        with suppress(OptionsError):
            yield apply_values(search, values)


def sweep_rules(search: SearchOptions, sweep: Mapping[str, SweepEntry]) -> Iterator[Rule]:
    """The rules that a sweep breaks, for `require`; places are those of the study file."""
    faults: list[Misfit] = [(key, _unknown_key(key)) for key in sweep if key not in SEARCH_KEYS]
    faults += condition_faults(sweep)
    sound = _without(sweep, {fault[0] for fault in faults})
    faults += [misfit for group in _related(sound) for misfit in _misfits(search, group)]
    for fault in faults:
        yield f"sweep.{fault[0]}", False, *fault[1:]


def _settings(options: DataclassInstance) -> dict[str, Any]:
    """Settings that differ from their defaults, nested.

    Defaults are left out because another kind, once sampled, may not take them; `kind` stays since it names the class.
    """
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            settings[field.name] = _settings(value)
        elif field.name == "kind" or value != field.default:
            settings[field.name] = value
    return settings


def _with_values(settings: dict[str, Any], values: Values) -> dict[str, Any]:
    for key, value in values.items():
        *sections, name = key.split(".")
        section = settings
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value.split() if key == _LIST and isinstance(value, str) else value
    return settings


def _unknown_key(key: str) -> str:
    inside = [name for name in SEARCH_KEYS if name.startswith(f"{key}.")]
    if inside:
        return f"must be a single setting, but `{key}` is a section; its settings: {', '.join(inside)}"
    same_name = [name for name in SEARCH_KEYS if name.split(".")[-1] == key.split(".")[-1]]
    hint = did_you_mean(key, SEARCH_KEYS) or (f"; did you mean `{same_name[0]}`?" if same_name else "")
    return f"must be the dotted path of a setting inside `search`, got `{key}`{hint}"


def _without(sweep: Mapping[str, SweepEntry], faulty: set[str]) -> dict[str, SweepEntry]:
    """The entries that neither are faulty nor depend on one that is."""
    sound = {key: entry for key, entry in sweep.items() if key not in faulty}
    dependent = {key for key, entry in sound.items() if not set(entry.when) <= set(sound)}
    return _without(sound, dependent) if dependent else sound


def _related(sweep: Mapping[str, SweepEntry]) -> list[dict[str, SweepEntry]]:
    """Groups of entries that may restrict each other: those of one section, and those linked by conditions.

    Options know only their own section and those inside it, so combinations across groups need not be tried.
    """
    groups: list[tuple[set[str], dict[str, SweepEntry]]] = []
    for key, entry in sweep.items():
        sections = {section for name in (key, *entry.when) for section in _sections_of(name)}
        members: dict[str, SweepEntry] = {}
        for other in [group for group in groups if group[0] & sections]:
            groups.remove(other)
            sections |= other[0]
            members |= other[1]
        groups.append((sections, {**members, key: entry}))
    return [members for _, members in groups]


def _sections_of(key: str) -> Iterator[str]:
    """`a.b.c` -> `a.b`, `a`; the outermost section itself for a key that is in no other."""
    section = key.rpartition(".")[0]
    yield section
    while "." in section:
        section = section.rpartition(".")[0]
        yield section


def _misfits(search: SearchOptions, group: Mapping[str, SweepEntry]) -> Iterator[Misfit]:
    """Faults of the search settings under the corner values of a group, each reported at the entry that causes it."""
    tried: list[Values] = []
    failed: dict[str, list[Case]] = {}
    needs: dict[str, set[str]] = {}  # of a setting: places in the study file that its rules depend on
    for values in corner_points(group):
        tried.append(values)
        try:
            apply_values(search, values)
        except OptionsError as error:
            for (place, message), others in zip(error.faults, error.needs, strict=True):
                setting = place.removeprefix("search.")
                failed.setdefault(setting, []).append((values, message))
                used = {other for other in (place, *others) if other.removeprefix("search.") not in values}
                swept = {f"sweep.{other.removeprefix('search.')}" for other in others}
                needs.setdefault(setting, set()).update(used | swept)
    for setting, cases in failed.items():
        places = tuple(needs[setting])
        causes = [key for key in group if _matters(key, [values for values, _ in cases], tried)]
        if not causes and len(cases) < len(tried):
            causes = list(group)  # values fail only together
        # A section may be the fault of each swept setting in it, where another kind does not have it.
        swept_keys = [key for key in group if key == setting or key.startswith(f"{setting}.")]
        if all(any(key in values for key in swept_keys) for values, _ in cases):
            for key in swept_keys:
                own = [case for case in cases if key in case[0]]
                if own:
                    yield key, _swept_misfit(key, own, causes, group), *places
        else:
            # Conditions may leave the setting itself, or what matters, inactive: blame a key that has a value.
            cause = next(key for key in (*causes, *group) if key in cases[0][0] and key != setting)
            places = (*places, f"sweep.{setting}")
            yield cause, _fixed_misfit(setting, cases, cause, causes, group[cause], search), *places


def _matters(key: str, failed: list[Values], tried: list[Values]) -> bool:
    """Whether the fault depends on the value of `key`: some of its values never lead to it."""
    leading, possible = ({values[key] for values in some if key in values} for some in (failed, tried))
    return leading != possible


def _swept_misfit(setting: str, cases: list[Case], causes: list[str], group: Mapping[str, SweepEntry]) -> str:
    """A swept setting whose own values break a rule, perhaps only together with values of other swept settings."""
    kind = group[setting].kind
    if kind in ("uniform", "log_uniform") and all(message.startswith("must be a whole") for _, message in cases):
        return f"must have whole numbers, so `int` or `choice`, got `{kind}`"
    messages = []
    for value in dict.fromkeys(values[setting] for values, _ in cases):
        values, message = next(case for case in cases if case[0][setting] == value)
        messages.append(message + _corner(values, causes, setting))
    hint = ""
    if len(causes) == 1 and setting not in causes:  # Every value fails under some values of one other key.
        wrong = [values[causes[0]] for values, _ in cases if causes[0] in values]
        hint = _when_hint(causes[0], group[causes[0]], wrong)
    return "; ".join(dict.fromkeys(messages)) + (f"; add {hint}" if hint else "")


def _corner(values: Values, causes: list[str], but: str) -> str:
    """The other swept values that lead to a fault."""
    others = [f"`{key}` is {_shown(values[key])}" for key in causes if key != but and key in values]
    return f" (when {' and '.join(others)})" if others else ""


def _fixed_misfit(
    setting: str, cases: list[Case], cause: str, causes: list[str], entry: SweepEntry, search: SearchOptions
) -> str:
    """A fixed setting that a swept value does not go with, such as a rate that only one kind takes."""
    wrong = list(dict.fromkeys(values[cause] for values, _ in cases if cause in values))
    values, message = next(case for case in cases if cause in case[0])
    message = f"{_shown(wrong[0])} does not fit: `{setting}` {message}{_corner(values, causes, cause)}"
    # A setting that is there must go for the wrong values; one that is missing is needed just for them.
    given = _is_given(search, setting)
    others = [value for value in entry.values if value not in wrong]
    hint = _when_hint(cause, entry, wrong if given else others)
    if not hint:
        return message
    sweep_too = " or ".join(f"`{key}`" for key in SEARCH_KEYS if key == setting or key.startswith(f"{setting}."))
    return f"{message}; sweep {sweep_too} too, with {hint}{', and leave it out of `search`' if given else ''}"


def _when_hint(key: str, entry: SweepEntry, wrong: list[Scalar]) -> str:
    """The condition on `key` that leaves out the wrong values; empty if there is none."""
    fitting = [_shown(value) for value in entry.values if value not in wrong]
    return f"`when: {{{key}: [{', '.join(fitting)}]}}`" if entry.kind == "choice" and fitting else ""


def _is_given(search: SearchOptions, setting: str) -> bool:
    section: Any = _settings(search)
    for part in setting.split("."):
        if not isinstance(section, dict) or part not in section:
            return False
        section = section[part]
    return True


def _shown(value: Scalar) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
