"""Check a file of options whole against its schema, and say every fault in the user's words.

The schema is a pydantic model over the frozen options dataclasses of search_core. Data is validated as strict JSON, in
which a list may become a tuple but the text `12` never a number. pydantic skips an object's own rules while one of its
values has a wrong type; so faulty keys are taken out and the rest is validated again until nothing new is found.
Fields come first, then rules: one that depends on a faulty key (`search_core.errors.Rule`) is not reported.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import pydantic
from pydantic_core import ErrorDetails

from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.study_file.yaml_file import (
    DOTTED_SECTION,
    Place,
    YamlFile,
    describe,
    is_plain_number,
    place_text,
    split_key,
)
from search_core.errors import OptionsError

Model = TypeVar("Model", bound=pydantic.BaseModel)
Options = TypeVar("Options")

#: What a value of the wrong type should have been, by pydantic's error type.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "dataclass_type": "a section of keys",
    "model_type": "a section of keys",
}


def parse(model: type[Model], data: Mapping[str, object]) -> Model:
    """Validate plain data.

    Raises:
        OptionsError: with the faults that show at first sight, by dotted key.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        found: dict[str, tuple[list[str], list[str]]] = {}
        for place, message, needs in _translated(error, data, model):
            messages, others = found.setdefault(place_text(place), ([], []))
            messages.append(message)
            others += map(place_text, needs)
        faults = tuple((place, "; ".join(messages)) for place, (messages, _) in found.items())
        raise OptionsError(faults, tuple(tuple(others) for _, others in found.values())) from error


def check(
    file: YamlFile, model: type[Model], *, stand_ins: Mapping[str, object] | None = None, root: str | None = None
) -> Model:
    """Validate a file whole.

    Args:
        file: the data, with faults that are known already.
        model: the schema, `extra="forbid"`.
        stand_ins: values for required root keys, so that the search for further faults continues without them.
        root: the key of `model` that the whole file stands for, if it holds the inside of one section only.

    Raises:
        ConfigError: with all faults.
    """
    rest: dict[str, Any] = copy.deepcopy({root: file.data} if root else file.data)
    faults, seen = list(file.faults), {fault.place for fault in file.faults}
    removed: set[Place] = set()
    while True:
        try:
            result = model.model_validate_json(json.dumps(rest), strict=True)
            break
        except pydantic.ValidationError as error:
            found = list(_translated(error, rest, model))
        places = {place for place, _, _ in found}
        faulty = removed | {place for place, _, needs in found if not needs}  # fields first, then rules
        by_place: dict[Place, list[str]] = {}
        for place, message, needs in found:
            if not _is_consequence(place, needs, faulty):
                by_place.setdefault(place, []).append(message)
        for place, messages in by_place.items():
            shown, message = place[1:] if root else place, "; ".join(dict.fromkeys(messages))
            if place_text(shown) not in seen:
                seen.add(place_text(shown))
                note = _origin_note(place, message, rest)
                faults.append(file.fault(shown, (message.replace(f"`{root}.", "`") if root else message) + note))
        gone = _remove_all(rest, [place for place, _, _ in found], stand_ins or {})
        removed |= gone | places
        if not gone:
            break
    if faults:
        raise ConfigError(file.source, faults)
    return result


def leaf_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all values inside a section."""
    for name, inner in fields_of(schema).items():
        if fields_of(inner):
            yield from leaf_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def fields_of(schema: Any) -> dict[str, Any]:
    """Keys and types of a section: a model, a dataclass, or an alternative of such; empty for other types."""
    if isinstance(schema, type) and issubclass(schema, pydantic.BaseModel):
        return {name: field.annotation for name, field in schema.model_fields.items()}
    if isinstance(schema, type) and dataclasses.is_dataclass(schema):
        hints = typing.get_type_hints(schema)
        return {field.name: hints[field.name] for field in dataclasses.fields(schema)}
    if typing.get_origin(schema) in (typing.Union, types.UnionType):
        return {name: inner for part in typing.get_args(schema) for name, inner in fields_of(part).items()}
    return {}


def _section_at(schema: Any, place: Place, data: Any) -> Any:
    for part in place:
        items = typing.get_args(schema)
        schema = fields_of(schema).get(str(part)) if isinstance(part, str) else (items[0] if items else None)
        data = data.get(part) if isinstance(data, dict) else None
        schema = _of_kind(schema, data)
    return schema


def _of_kind(schema: Any, data: Any) -> Any:
    """Of several alternatives of a section the one that the data's `kind` names, if it names one."""
    kind = data.get("kind") if isinstance(data, dict) else None
    fitting = [part for part in typing.get_args(schema) if kind in typing.get_args(fields_of(part).get("kind"))]
    return fitting[0] if fitting else schema


def _translated(
    error: pydantic.ValidationError, data: object, model: type[Model]
) -> Iterator[tuple[Place, str, tuple[Place, ...]]]:
    """Place and message of each fault, and the places that it depends on.

    Broken rules of options come apart into one fault for each option.
    """
    for item in error.errors(include_url=False):
        place = _place_in(item, data)
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, OptionsError):
            for (name, message), needs in zip(cause.faults, cause.needs, strict=True):
                inner = (*place, *split_key(name))
                yield inner, _nested_sweep(inner, data) or message, tuple((*place, *split_key(need)) for need in needs)
        elif item["type"] == "missing" and place and isinstance(place[-1], int):
            yield place[:-1], f"must have more items: item {place[-1] + 1} is missing, got {item['input']}", ()
        elif item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            yield (*place, "kind"), _unknown_kind(item), ()
        else:
            # Of alternatives, which pydantic counts as steps, the section's `kind` decides what is valid.
            kinds = [(*place[:end], "kind") for end in range(1, len(place))] if len(item["loc"]) > len(place) else []
            yield place, _message(item, place, model, data), tuple(kinds)


def _nested_sweep(place: Place, data: Any) -> str:
    """Of a swept setting that is written as a section in a section: how it is written."""
    inner = data
    for part in place:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if place[:1] != (DOTTED_SECTION,) or len(place) < 3 or not isinstance(inner, dict):
        return ""
    while len(inner) == 1 and isinstance(next(iter(inner.values())), dict):
        ((key, inner),) = inner.items()
        place = (*place, key)
    return f"must be one key with dots, not sections: write `{'.'.join(map(str, place[1:]))}: {{...}}`"


def _place_in(item: ErrorDetails, data: Any) -> Place:
    """The fault's place in the data; pydantic also counts the alternatives that it tried as steps."""
    place: list[str | int] = []
    for part in item["loc"]:
        if isinstance(part, int) and isinstance(data, list):
            data = data[part] if part < len(data) else None
        elif isinstance(data, dict) and part in data:
            data = data[part]
        elif item["type"] != "missing" or part != item["loc"][-1]:
            continue
        place.append(part)
    return tuple(place)


def _unknown_kind(item: ErrorDetails) -> str:
    """Of a section whose `kind` says which keys it has."""
    allowed = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected_tags", "")))
    if item["type"] == "union_tag_not_found":
        return "must be given, as it says which keys the section has"
    kind = item["input"].get("kind")
    return f"must be one of {', '.join(allowed)}, got `{kind}`{did_you_mean(str(kind), allowed)}"


def _message(item: ErrorDetails, place: Place, model: type[Model], data: object) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown_key(place, model, data)
    if kind == "missing":
        return "must be given, as it has no default"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        shown = f"`{value}`" if isinstance(value, str) else describe(value)
        expected = re.sub(r"\b(True|False)\b", lambda word: word[0].lower(), context["expected"]).replace("'", "")
        return f"must be {expected}, got {shown}{did_you_mean(str(value), allowed)}{_rewrite_hint(kind, value)}"
    if kind == "too_long":
        return f"must have at most {context['max_length']} items, got {value}"
    if kind == "value_error":
        return str(context["error"])
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, got {describe(value)}{_rewrite_hint(kind, value)}"
    return f"{item['msg'].replace('Input should be', 'must be')}, got {describe(value)}"


#: Words that YAML 1.1 reads as booleans and YAML 1.2 as text.
_OLD_BOOLEANS = {
    **dict.fromkeys(("yes", "y", "on"), "true"),
    **dict.fromkeys(("no", "n", "off"), "false"),
}


def _rewrite_hint(kind: str, value: object) -> str:
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        return _number_hint(value)
    if kind in ("bool_type", "literal_error") and str(value).lower() in _OLD_BOOLEANS:
        return f"; write {_OLD_BOOLEANS[str(value).lower()]}"
    if kind == "bool_type" and str(value).lower() in ("true", "false"):
        return "; leave out the quotes"
    if kind == "string_type" and isinstance(value, int | float | bool):
        return "; put it into quotes"
    return ""


def _number_hint(text: str) -> str:
    """How to write the number that a text was meant for."""
    if is_plain_number(text):
        return "; leave out the quotes"
    if re.fullmatch(r"[-+]?0[0-7]+", text):
        return f"; write {int(text)}, or {int(text, 8)} if it is octal"
    if re.fullmatch(r"[-+]?0[0-9]+", text):
        return f"; write {int(text)}"
    if re.fullmatch(r"[-+]?0[obOB][0-7]+", text):
        with suppress(ValueError):
            return f"; write {int(text, 0)}"
    if re.fullmatch(r"[0-9]+(:[0-5]?[0-9])+", text):
        return "; write one number, without `:`"
    if re.fullmatch(r"[-+]?[0-9]{1,3}(,[0-9]{3})+", text):
        return f"; write {text.replace(',', '')}"
    return ""


def _unknown_key(place: Place, model: type[Model], data: object) -> str:
    """Names the nearest key of the same section, or else a key of that name in another section."""
    section = _section_at(model, place[:-1], data)
    key, valid = str(place[-1]), list(fields_of(section))
    head, _, rest = key.partition(".")
    hint = f"; did you mean `{head}: {{{rest}: ...}}`?" if key in _all_keys(section) else did_you_mean(key, valid)
    if not hint:
        elsewhere = [name for name in _all_keys(model) if name.split(".")[-1] == key and name != place_text(place)]
        nearest = min(elsewhere, key=lambda name: name.count("."), default="")  # of equally deep ones the first
        hint = f"; did you mean `{nearest}`?" if nearest else ""
    return f"unknown key `{key}`{hint or ';'} valid keys: {', '.join(valid)}"


def _all_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in fields_of(schema).items():
        yield f"{prefix}{name}"
        yield from _all_keys(inner, f"{prefix}{name}.")


def _is_given(place: Place, data: Any) -> bool:
    for part in place:
        if isinstance(data, dict) and part not in data:
            return False
        if isinstance(part, str) and not isinstance(data, dict):
            return True
        data = data[part]
    return True


def _origin_note(place: Place, message: str, data: Any) -> str:
    """Names where a value comes from that the user will not find at the fault's place in the file."""
    notes = ["the default"] if "got " in message and not _is_given(place, data) else []
    sweep = data.get(DOTTED_SECTION)
    if place[:1] == ("search",) and isinstance(sweep, dict) and ".".join(map(str, place[1:])) in sweep:
        notes.append("`search` must be valid by itself; `sweep` then replaces its values")
    return f" ({'; '.join(notes)})" if notes else ""


def _is_consequence(place: Place, needs: tuple[Place, ...], faulty: set[Place]) -> bool:
    """Whether a fault was found with values that the user did not mean: those of faulty keys that it depends on."""
    return any(
        (len(other) < len(place) and place[: len(other)] == other)
        or any(need[: len(other)] == other[: len(need)] for need in needs)
        for other in faulty
    )


def _remove_all(data: dict[str, Any], places: Iterable[Place], stand_ins: Mapping[str, object]) -> set[Place]:
    gone: set[Place] = set()
    for place in places:
        if not any(place[: len(other)] == other for other in gone):
            gone |= {other for other in [_remove(data, place, stand_ins)] if other}
    return gone


def _remove(data: dict[str, Any], place: Place, stand_ins: Mapping[str, object]) -> Place | None:
    """Take a faulty value out so that its default applies; returns what went, or None if nothing was there.

    Lists and sweep entries go whole, since half of them would mean something else. A section goes whole if the faulty
    key is not in it.
    """
    keys = [str(part) for part in itertools.takewhile(lambda part: isinstance(part, str), place)]
    if place[:1] == (DOTTED_SECTION,):
        keys = keys[:2]
    for length in range(len(keys), 0, -1):
        section: Any = data
        for part in keys[: length - 1]:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and keys[length - 1] in section:
            return _take_out(section, tuple(keys[:length]), stand_ins)
    if len(keys) == 1 and keys[0] in stand_ins:
        data[keys[0]] = copy.deepcopy(stand_ins[keys[0]])
        return place
    return None


def _take_out(section: dict[str, Any], place: Place, stand_ins: Mapping[str, object]) -> Place | None:
    key = str(place[-1])
    if len(place) > 1 or key not in stand_ins:
        del section[key]
    elif section[key] != stand_ins[key]:
        section[key] = copy.deepcopy(stand_ins[key])
    else:
        return None
    return place


def from_plain(options_class: type[Options], data: Mapping[str, Any]) -> Options:
    """Options from the plain data of `dataclasses.asdict`.

    Raises:
        OptionsError: if they break a rule.
    """
    try:
        return pydantic.TypeAdapter(options_class).validate_python(data)
    except pydantic.ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        raise OptionsError(tuple(faults)) from error
