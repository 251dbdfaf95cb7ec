"""JSON that people hand in: what is read, and what is reported about what is not."""

from __future__ import annotations

import json

import pytest

from search_core.json_text import TextError, decoded, parse_json

LONG = "9" * 5000


@pytest.mark.parametrize(
    "value", [{}, [], None, True, 1.5, "a", {"a": [1, {"b": -2e-3}], "c, d: {": [[], ['x":"y', "\\"]]}, [10**300]]
)
def test_what_is_valid_is_read_as_the_standard_library_does(value: object) -> None:
    for indent in (None, 2):
        assert parse_json(json.dumps(value, indent=indent)).value == value


def test_places_are_those_of_keys_and_items() -> None:
    document = parse_json('{"a":\n  [1, {"b": "x"}],\n "c": {"a": null}}')
    assert document.places == {
        "a": (1, 2),
        "a[0]": (2, 4),
        "a[1]": (2, 7),
        "a[1].b": (2, 8),
        "c": (3, 2),
        "c.a": (3, 8),
    }
    assert document.located("f.json", "a[1]: must be 2") == "f.json:2:7: a[1]: must be 2"
    assert document.located("f.json", "must be another") == "f.json: must be another"


@pytest.mark.parametrize(
    ("text", "line", "column", "rule"),
    [
        ("", None, None, "must be a JSON document, got nothing"),
        (" \n", None, None, "must be a JSON document, got nothing"),
        ("{} {}", 1, 4, "must hold one value, but more follows"),
        ("{'a': 1}", 1, 2, "must be valid JSON: Expecting property name enclosed in double quotes"),
        ("[1,\n2,]", 2, 3, "must be valid JSON: "),
        ('{"a": 1} // b', 1, 10, "must hold one value, but more follows"),
        ('{"a": 1,\n\n "a": 1}', 3, 2, "`a` is given twice: line 1 has it already"),
        ('{"a": {"b": 1, "\\u0062": 1}}', 1, 16, "`b` is given twice"),
        ('[{"a": 1}, {"a": [{"c": 1, "c": 2}]}]', 1, 28, "`c` is given twice"),
        ('["NaN", NaN]', 1, 9, "numbers must be finite, got NaN"),
        ("[-Infinity]", 1, 2, "numbers must be finite, got -Infinity"),
        ("[1e999]", 1, 2, "numbers must be finite, got 1e999"),
        (f"[1, {LONG}]", 1, 5, "numbers must be finite, got one of 5,000 digits"),
        ('["\\ud83d\\ude00", "\\ud83d"]', 1, 18, "must be Unicode text, got half of a surrogate pair"),
        ("[" * 100_000, None, None, "must not be nested so deeply"),
    ],
)
def test_fault_has_its_rule_and_place(text: str, line: int | None, column: int | None, rule: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_json(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert caught.value.rule.startswith(rule)
    place = "" if line is None else f":{line}:{column}"
    assert caught.value.of("f.json") == f"f.json{place}: {caught.value.rule}"


def test_only_utf_8_is_decoded() -> None:
    assert decoded(b"\xef\xbb\xbf{}") == decoded(b"{}") == "{}"
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(TextError, match=f"must be UTF-8 text, got {encoding.upper()}: save it as UTF-8"):
            decoded("{}".encode(encoding))
    with pytest.raises(TextError, match="line 2 column 2: must be UTF-8 text, but the byte 0xe9"):
        decoded("a\nbé".encode("latin-1"))
