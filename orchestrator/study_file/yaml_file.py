"""A YAML file of options: read with line numbers, changed by `--set`, and dumped so that it reads back the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import ConfigError, Fault
from search_core.json_text import TextError, decoded

#: Where a value sits: keys of mappings and indices of lists, from the file's root.
Place = tuple[str | int, ...]

#: The keys of this section contain dots themselves, so that the rest of a dotted path is one key.
DOTTED_SECTION = "sweep"

_CORE = "tag:yaml.org,2002:"
#: Values that a file may have: aliases of aliases could stand for billions.
_MOST_VALUES = 20_000
_LONG = 310  # characters above which a value is not shown whole
_SCALAR_TAGS = {_CORE + kind for kind in ("str", "int", "float", "bool", "null")}

#: Plain scalars by the YAML 1.2 core schema. PyYAML's 1.1 reads 1e-5 as text, `off` as false and 010 as eight.
_PLAIN_SCALARS = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - the name and form are PyYAML's


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or `_Loader` would not read back as text."""


for _kind, _pattern, _first in _PLAIN_SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _CORE + _kind, re.compile(f"(?:{_pattern})$"), [*_first, *([""] * (_kind == "null"))]
        )


@dataclass
class YamlFile:
    """Contents of a file of options, with where each key came from.

    Attributes:
        source: the file, as the user named it.
        data: mappings, lists and scalars; the root is a mapping.
        lines: 1-based line of each key and list item.
        overridden: places whose value `--set` gave, and sections that it added.
        faults: what is wrong already, such as keys given twice.
    """

    source: str
    data: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)
    overridden: set[Place] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def override(self, settings: Iterable[str], rename: Callable[[str], str] = str) -> None:
        """Apply `--set key=value` settings in order; malformed ones are added to `faults`.

        Args:
            settings: each `dotted.key=value` with a YAML value.
            rename: maps a dotted key that the user may abbreviate to the one from the file's root.
        """
        for setting in settings:
            try:
                key, value = _parse_setting(setting)
                place = split_key(rename(key))
                within = sorted((other for other in self.overridden if other[: len(place)] == place), key=place_text)
                inside = max(within, key=len, default=None)  # what was given, rather than a section that it added
                if inside is not None:
                    raise ValueError(f"must be given once, but another --set has `{place_text(inside)}`")
                self.overridden.update(_put(self.data, place, value))
            except ValueError as error:
                shown = setting if len(setting) <= _LONG else f"{setting[:_LONG]}..."
                self.faults.append(Fault(shown, str(error), is_override=True))

    def fault(self, place: Place, message: str) -> Fault:
        """A fault at `place`, with the line of the nearest enclosing key and the origin of its value."""
        heads = [place[:length] for length in range(len(place), 0, -1)]
        if any(head in self.overridden for head in heads):
            return Fault(place_text(place), message, is_override=True)
        return Fault(place_text(place), message, next((self.lines[head] for head in heads if head in self.lines), None))


def read_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Values of `--set KEY=VALUE` by dotted key, where they replace nothing in a file.

    Raises:
        ConfigError: with all malformed ones.
    """
    file = YamlFile("--set", {})
    file.override(settings, lambda key: f"{DOTTED_SECTION}.{key}")
    if file.faults:
        raise ConfigError(file.source, file.faults)
    values: dict[str, Any] = file.data.get(DOTTED_SECTION, {})
    return values


def split_key(dotted: str) -> Place:
    """The place that a dotted key names; keys of the `sweep` section keep their dots."""
    head, _, rest = dotted.partition(".")
    if head == DOTTED_SECTION and rest:
        return head, rest
    return tuple(dotted.split(".")) if dotted else ()


def place_text(place: Place) -> str:
    """The place as users write it: `objectives[0].metric`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def read_yaml(path: Path | str) -> YamlFile:
    """Read a file whose root is a mapping.

    Raises:
        ConfigError: if there is no such file, it is not UTF-8 text or not YAML, or its root is no mapping of keys.
    """
    reader = _NodeReader()
    try:
        data = reader.read(decoded(Path(path).read_bytes()))
    except TextError as error:
        fault = Fault("", error.rule, error.line, error.column)
    except OSError as error:
        fault = Fault("", f"must be a readable file: {(error.strerror or str(error)).lower()}")
    else:
        if isinstance(data, dict):
            return YamlFile(str(path), data, reader.lines, faults=reader.faults)
        found = "nothing: the file is empty" if data is None else describe(data)
        fault = Fault("", f"must hold keys with values, such as `epochs: 12`, got {found}", None if data is None else 1)
    raise ConfigError(str(path), [*reader.faults, fault])


def dump_yaml(data: Any) -> str:
    """Plain data as YAML text that `read_yaml` reads back to the same data, key order kept."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100)


def is_plain_number(text: str) -> bool:
    """Whether text would be read as a number if it had no quotes."""
    return any(kind in ("int", "float") and re.fullmatch(pattern, text) for kind, pattern, _ in _PLAIN_SCALARS)


def describe(value: object) -> str:
    """A value as a user would call it, for "..., got ..."."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text `{value}`"
    if isinstance(value, dict):
        return f"a section with keys {', '.join(map(str, value))}" if value else "an empty section"
    return f"the list {value}" if isinstance(value, list) else str(value)


class _NodeReader:
    """Builds plain data from YAML nodes, keeping what PyYAML's constructor throws away: lines and repeated keys.

    Attributes:
        lines: 1-based line of each key and list item.
        faults: that leave the rest readable.
        end: where the value ends in the text; a comment may follow.
    """

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self.faults: list[Fault] = []
        self.end = 0
        self._open: list[yaml.Node] = []
        self._num_values = 0

    def read(self, text: str) -> Any:
        """Read one document.

        Raises:
            TextError: if the text is not YAML, is nested too deeply, or has values without end.
        """
        try:
            self._loader = _Loader(text)
            node = self._loader.get_single_node()
            self.end = 0 if node is None else node.end_mark.index
            return None if node is None else self._value(node, ())
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position)
            column = error.position - text.rfind("\n", 0, error.position)
            code = error.character if isinstance(error.character, int) else ord(error.character)
            rule = f"must be printable text, got the character U+{code:04X}"
            raise TextError(rule, line + 1, column) from error
        except yaml.YAMLError as error:
            raise _syntax_fault(error) from error
        except RecursionError:
            raise TextError("must not be nested so deeply") from None

    def _value(self, node: yaml.Node, place: Place) -> Any:
        self._num_values += 1
        if self._num_values > _MOST_VALUES:
            mark = node.start_mark
            raise TextError(f"must have at most {_MOST_VALUES:,} values, those of aliases counted", mark.line + 1)
        if node in self._open:
            raise yaml.constructor.ConstructorError(None, None, "an alias must not contain itself", node.start_mark)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
                return [self._item(item, (*place, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self._open.pop()

    def _item(self, node: yaml.Node, place: Place) -> Any:
        self.lines[place] = _line(node)
        return self._value(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key == "<<" and key_node.style is None:
                self._fault(place, "must not use the merge key `<<`: write its keys out", key_node)
            elif key_node.tag != _CORE + "str" or not isinstance(key, str):
                shown = f"`{key}`" if isinstance(key, str) else "a list or mapping"
                self._fault(place, f"keys must be text, got {shown}; put it into quotes", key_node)
            elif re.search("[\ud800-\udfff]", key):
                self._fault(place, "keys must be Unicode text, got half of a surrogate pair", key_node)
            elif key in result:
                first = self.lines[(*place, key)]
                self._fault((*place, key), f"is given twice: line {first} has it already", key_node)
            else:
                self.lines[(*place, key)] = _line(key_node)
                result[key] = self._value(value_node, (*place, key))
        return result

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        try:
            if node.tag in _SCALAR_TAGS:
                return _usable(self._loader.construct_object(node))
        except UnicodeEncodeError:
            rule = "must be Unicode text, got half of a surrogate pair"
        except OverflowError:
            rule = f"must be a number below 1e308, got one of {len(node.value):,} digits"
        except (ValueError, KeyError):
            rule = f"must be what its tag `{node.tag.replace(_CORE, '!!')}` says, got `{node.value}`"
        else:
            tag = node.tag.replace(_CORE, "!!")
            rule = f"must be plain text, a number, true, false, null, a list or keys, got the tag `{tag}`"
        self._fault(place, rule, node)
        return None

    def _fault(self, place: Place, message: str, node: yaml.Node) -> None:
        self.faults.append(Fault(place_text(place), message, _line(node)))


def _usable(value: Any) -> Any:
    """A scalar that can be written again and computed with.

    Raises:
        UnicodeEncodeError: if it is text with half of a surrogate pair.
        OverflowError: if it is a whole number beyond all floats.
    """
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int):
        float(value)
    return value


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Python refuses to read thousands of digits, which are beyond all floats anyway."""
    if len(node.value) > _LONG and node.value.lstrip("+-").replace("_", "").isdigit():
        raise OverflowError
    return loader.construct_yaml_int(node)


_Loader.add_constructor(_CORE + "int", _whole_number)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_fault(error: yaml.YAMLError) -> TextError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if problem.startswith("but "):
        problem = f"{getattr(error, 'context', '')}, {problem}"
    hint = "; indent with spaces, not tabs" if r"'\t'" in problem else ""
    place = () if mark is None else (mark.line + 1, mark.column + 1)
    return TextError(f"must be valid YAML: {problem}{hint}", *place)


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not text or not all(key.split(".")):
        raise ValueError("must have the form key=value, such as search.epochs=2")
    if "[" in key:
        raise ValueError(f"must name a key, not an item of a list: set `{key.partition('[')[0]}` whole")
    reader = _NodeReader()
    try:
        value = reader.read(text)
    except TextError as error:
        raise ValueError(f"must have a YAML value: {error.rule}") from error
    if reader.faults:
        raise ValueError(reader.faults[0].message)
    comment = text[reader.end :].strip()
    if comment:
        quoted = f", --set '{key}={json.dumps(text, ensure_ascii=False)}'" if isinstance(value, str | None) else ""
        raise ValueError(
            f"must not end in a comment, got `{comment}`: leave it out, or put the value into quotes{quoted}"
        )
    return key, value


def _put(data: dict[str, Any], place: Place, value: object) -> list[Place]:
    """Set a nested value, adding the sections on the way.

    Returns:
        Places of what is new: the sections that were added, and the value.

    Raises:
        ValueError: if a key on the way holds something else than a section.
    """
    section: Any = data
    new: list[Place] = []
    for index, part in enumerate(place[:-1]):
        if part not in section:
            section[part] = {}
            new.append(place[: index + 1])
        section = section[part]
        if not isinstance(section, dict):
            parent = ".".join(map(str, place[: index + 1]))
            raise ValueError(f"must name a key of a section, but `{parent}` is {describe(section)}; set it whole")
    section[place[-1]] = value
    return [*new, place]
