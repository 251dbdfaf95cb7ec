"""JSON that people edit or hand in: UTF-8, each key once, finite numbers only; faults have their places."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Byte order marks of what is not UTF-8; that of UTF-32 begins with that of UTF-16.
_OTHER_MARKS = (
    ("UTF-32", codecs.BOM_UTF32_LE),
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
)
#: Of text that is valid JSON but for constants; what lies between the tokens is white space.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_WORDS = ("true", "false", "null")


class TextError(ValueError):
    """A text breaks a rule.

    Attributes:
        rule: the rule and what broke it.
        line: from 1; None for the text as a whole.
        column: from 1; None for the text as a whole.
    """

    def __init__(self, rule: str, line: int | None = None, column: int | None = None) -> None:
        self.rule, self.line, self.column = rule, line, column
        place = "" if line is None else f"line {line} column {column}: "
        super().__init__(f"{place}{rule}")

    def of(self, file: str | Path) -> str:
        """The fault of a file, as compilers write it: `cell.json:3:7: must ...`."""
        return _of_file(file, () if self.line is None else (self.line, self.column), self.rule)


@dataclass(frozen=True)
class JsonText:
    """What a JSON text holds.

    Attributes:
        value: plain data.
        places: line and column of each key and list item, by its path, such as `normal[3]`.
    """

    value: Any
    places: Mapping[str, tuple[int, int]]

    def located(self, file: str | Path, message: str) -> str:
        """The fault of a file, with the place of the path that the message begins with: `normal[3]: must ...`."""
        return _of_file(file, self.places.get(message.partition(": ")[0], ()), message)


def decoded(content: bytes) -> str:
    """Text of a file, without a byte order mark.

    Raises:
        TextError: if it is not UTF-8.
    """
    for name, mark in _OTHER_MARKS:
        if content.startswith(mark):
            raise TextError(f"must be UTF-8 text, got {name}: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        rule = f"must be UTF-8 text, but the byte 0x{content[error.start]:02x} cannot be decoded: save it as UTF-8"
        raise TextError(rule, *_Lines(before).place(len(before))) from error


def load_json(file: str | Path) -> JsonText:
    """Read a JSON file.

    Raises:
        TextError: as `decoded` and `parse_json`.
        OSError: if it cannot be read.
    """
    return parse_json(decoded(Path(file).read_bytes()))


def parse_json(text: str) -> JsonText:
    """Read JSON text.

    Raises:
        TextError: if it is no JSON, has a key twice in an object, or a number that is not finite.
    """
    if not text.strip():
        raise TextError("must be a JSON document, got nothing")
    try:
        value = json.loads(text, parse_int=_whole)
    except json.JSONDecodeError as error:
        rule = "hold one value, but more follows" if error.msg == "Extra data" else f"be valid JSON: {error.msg}"
        raise TextError(f"must {rule}", error.lineno, error.colno) from error
    except RecursionError:
        raise TextError("must not be nested so deeply") from None
    return JsonText(value, dict(_checked_places(text)))


def _whole(digits: str) -> int:
    # Python refuses to read thousands of digits; `_checked_places` says where they are.
    return int(digits) if len(digits) < 400 else 0


def _checked_places(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Paths of all keys and list items of valid JSON, with their places; checks keys and numbers on the way."""
    # Of the objects and lists that are open: paths, items so far (-1 for objects), and keys so far.
    open_paths: list[str] = []
    counts: list[int] = []
    keys: list[dict[str, tuple[int, int]]] = []
    path, lines = "", _Lines(text)
    tokens = [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
    for index, (token, start) in enumerate(tokens):
        is_key = token.startswith('"') and index + 1 < len(tokens) and tokens[index + 1][0] == ":"
        if token in ("}", "]"):
            for stack in (open_paths, counts, keys):
                stack.pop()
            continue
        if token in (",", ":"):
            continue
        place = lines.place(start)
        if "\\u" in token and re.search("[\ud800-\udfff]", json.loads(token)):
            raise TextError("must be Unicode text, got half of a surrogate pair", *place)
        if is_key:
            key = str(json.loads(token))
            if key in keys[-1]:
                raise TextError(f"`{key}` is given twice: line {keys[-1][key][0]} has it already", *place)
            keys[-1][key] = place
            path = f"{open_paths[-1]}.{key}".removeprefix(".")
            yield path, place
            continue
        if counts and counts[-1] >= 0:
            path = f"{open_paths[-1]}[{counts[-1]}]"
            counts[-1] += 1
            yield path, place
        if token in ("{", "["):
            open_paths.append(path)
            counts.append(-1 if token == "{" else 0)
            keys.append({})
        elif not token.startswith('"') and token not in _WORDS and not math.isfinite(float(token)):
            shown = token if len(token) < 40 else f"one of {len(token):,} digits"
            raise TextError(f"numbers must be finite, got {shown}", *place)


class _Lines:
    """Places in a text, asked for in their order.

    Args:
        text: the text.
    """

    def __init__(self, text: str) -> None:
        self._text, self._line, self._begin = text, 1, 0

    def place(self, index: int) -> tuple[int, int]:
        """Line and column of a character."""
        while 0 <= (end := self._text.find("\n", self._begin)) < index:
            self._line, self._begin = self._line + 1, end + 1
        return self._line, index - self._begin + 1


def _of_file(file: str | Path, place: Iterable[int | None], message: str) -> str:
    return f"{':'.join(map(str, (file, *place)))}: {message}"
