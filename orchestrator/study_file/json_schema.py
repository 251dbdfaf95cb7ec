"""JSON schema of the study file, for editors: types, defaults, the words of docstrings and the ranges of rules.

Ranges stand nowhere but in the rules themselves, so each number is tried with a few values and the message that refuses
one ("must be in (0, 1], got 2") says the range. Rules over several keys are left to `snas study validate`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import textwrap
import types
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from orchestrator.study_file.spec import NAME_PATTERN, StudySpec
from orchestrator.study_file.sweep import RANGE_KINDS
from orchestrator.study_file.sweep_check import SEARCH_KEYS
from orchestrator.study_file.validation import fields_of, parse
from search_core.data.dataset_options import BUILT_IN
from search_core.errors import OptionsError

#: What a number is tried with; -7 is below all ranges, the last above all.
_TRIED = (-7, 0, 1, 2, 2**40)
_NUMBER = r"(-?[\d.]+(?:e-?\d+)?|2\^31)"
#: How rules state a range -> the bounds that their numbers are, in JSON schema's words.
_RANGES = (
    (rf"in ([\[(]){_NUMBER}, {_NUMBER}([\])])", None),
    (rf"(?:at least|of at least) {_NUMBER}", "minimum"),
    (rf"(?:a finite number )?above {_NUMBER}", "exclusiveMinimum"),
)
#: Required keys of sections, where one of them alone is tried.
_STAND_INS: dict[str, Any] = {"name": "study", "search": {}, "trials": 1}


def study_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a study file, as plain data."""
    schema = StudySpec.model_json_schema()
    classes = {found.__name__: found for found in _sections(StudySpec)}
    for name, section in [("StudySpec", schema), *schema["$defs"].items()]:
        _describe(section, classes[name])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "study file of snas"
    del schema["$defs"]["SearchOptions"]["properties"]["seed"]  # it is the study's
    schema["$defs"]["DatasetOptions"]["properties"]["name"]["examples"] = list(BUILT_IN)
    properties = schema["properties"]
    properties["name"]["pattern"] = f"^{NAME_PATTERN.pattern}$"
    for inside, name in ((properties, "scheduler"), (schema["$defs"]["Storage"]["properties"], "keep")):
        kinds = schema["$defs"][name.title()]["properties"]["kind"]["enum"]
        inside[name] = {
            "anyOf": [{"$ref": f"#/$defs/{name.title()}"}, {"enum": kinds}],
            "description": inside[name]["description"],
        }
    properties["sweep"] |= {"additionalProperties": _entry(), "propertyNames": {"enum": sorted(SEARCH_KEYS)}}
    return schema


@cache
def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(study_schema(), indent=1) + "\n"


def _entry() -> dict[str, Any]:
    """A swept key."""
    scalar = {"type": ["string", "number", "boolean", "null"]}
    forms = {kind: {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2} for kind in RANGE_KINDS}
    forms["choice"] = {"type": "array", "items": scalar, "minItems": 1}
    when = {"type": "object", "additionalProperties": {"anyOf": [scalar, {"type": "array", "items": scalar}]}}
    described = "only while other swept keys have these values"
    return {
        "type": "object",
        "properties": {**forms, "when": {**when, "description": described}},
        "additionalProperties": False,
        "oneOf": [{"required": [kind]} for kind in RANGE_KINDS],
    }


def _sections(schema: Any) -> Iterator[type]:
    """A section's class, and those of all sections inside."""
    if get_origin(schema) in (Union, types.UnionType, tuple):
        for part in get_args(schema):
            yield from _sections(part)
    elif fields := fields_of(schema):
        yield schema
        for inner in fields.values():
            yield from _sections(inner)


def _describe(section: dict[str, Any], of: type) -> None:
    """Put words, ranges and strictness into the schema of a section."""
    words = {name: text for base in reversed(of.__mro__) for name, text in _attributes(base).items()}
    section["description"] = (inspect.getdoc(of) or "").split("\n\n")[0].replace("\n", " ")
    section["additionalProperties"] = False
    for name, entry in section.get("properties", {}).items():
        entry.pop("title", None)
        entry["description"] = words.get(name, section["description"])
        bounds = _bounds(of, name, fields_of(of)[name])
        for part in [entry, *entry.get("anyOf", ())]:
            if part.get("type") in ("integer", "number"):
                part |= bounds


def _attributes(of: type) -> dict[str, str]:
    """Texts of the `Attributes:` of a class's own docstring."""
    section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(of.__doc__ or ""), re.DOTALL | re.MULTILINE)
    found = re.findall(r"^(\w+): (.*?)(?=^\S|\Z)", textwrap.dedent(section[1] if section else ""), re.DOTALL | re.M)
    return {name: re.sub(r"\bNone\b", "null", " ".join(text.split())) for name, text in found}


def _bounds(of: type, name: str, kind: Any) -> dict[str, float]:
    """The range of a number, by the rules about it alone; empty for other values."""
    numbers = {part for part in (kind, *_parts(kind)) if part in (int, float)}
    bounds: dict[str, float] = {}
    for value in _TRIED if numbers else ():
        for place, message, needs in _faults(of, name, value if int in numbers else float(value)):
            if place == name and not needs:
                bounds |= _stated(message)
    return bounds


def _parts(kind: Any) -> Iterator[Any]:
    for part in get_args(kind):
        yield part
        yield from _parts(part)


def _faults(of: type, name: str, value: float) -> list[tuple[str, str, tuple[str, ...]]]:
    """What a section's rules say of one value, all others being as by default: place, message, other places."""
    try:
        if issubclass(of, BaseModel):
            parse(of, {**_STAND_INS, name: value})
        else:
            of(**{**_required(of), name: value})
    except OptionsError as error:
        return [(*fault, needs) for fault, needs in zip(error.faults, error.needs, strict=True)]
    except (ValueError, TypeError, ArithmeticError):  # a value that a rule did not expect, as it breaks another one
        pass
    return []


def _required(of: type) -> dict[str, Any]:
    """Values for a section's keys that have no default."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(of):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            kind = fields_of(of)[field.name]
            is_number = kind in (int, float)
            values[field.name] = get_args(kind)[0] if get_origin(kind) is Literal else 1 if is_number else "x"
    return values


def _stated(message: str) -> dict[str, float]:
    """The bounds that a rule states: `must be in (0, 1], got 2`."""
    rule = message.partition(", got")[0]
    for pattern, bound in _RANGES:
        if (found := re.search(pattern, rule)) is None:
            continue
        if bound is not None:
            return {bound: _number(found[1])}
        lower = "minimum" if found[1] == "[" else "exclusiveMinimum"
        upper = "maximum" if found[4] == "]" else "exclusiveMaximum"
        return {lower: _number(found[2]), upper: _number(found[3])}
    return {}


def _number(text: str) -> float:
    value = float(2**31 if text == "2^31" else text)
    return int(value) if math.isfinite(value) and value.is_integer() else value
