"""Markdown in which what others wrote stays text."""

from __future__ import annotations

import html

import pytest

from orchestrator.tracking.markdown import RunAddress, code, joined, link, plain, table

HOSTILE = "<script>alert(1)</script> **bold** [a](javascript:b) `c` | d\n# e &lt; ![f](http://g) ~~h~~ $i$ é"


def test_plain_text_has_nothing_that_means_anything() -> None:
    text = plain(HOSTILE)
    assert html.unescape(text) == " ".join(html.unescape(HOSTILE.replace("&", "&amp;")).split())
    for character in "<>*[]`|~!$:_#":
        assert character not in text.replace("&#", ""), character
    assert "&lt;" not in text


def test_words_and_numbers_are_left_as_they_are() -> None:
    text = "eta 1e-05, temperature linear to 0.10 (50.0%); a lower theta.lr may help"
    assert plain(text) == text


def test_code_cannot_be_left() -> None:
    assert code("a`b\nc") == "`a'b c`"


def test_link_and_image_of_a_run_are_relative() -> None:
    address = RunAddress("3", "abc")
    assert link("trial 0 [x]", address.page) == "[trial 0 &#91;x&#93;](#/experiments/3/runs/abc)"
    assert address.artifact("player.html") == "#/experiments/3/runs/abc/artifacts/player.html"
    assert address.image("cells.svg") == "![](get-artifact?path=cells.svg&run_uuid=abc)"


def test_table_has_a_line_per_row() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a&emsp; | b |\n| --- | --- |\n| 1&emsp; | 2 |"


@pytest.mark.parametrize("limit", [100, 120, 140])
def test_what_does_not_fit_is_cut_with_a_word(limit: int) -> None:
    paragraphs = ["first", "x" * 50, "y" * 60]
    text = joined(*paragraphs, limit=limit)
    assert len(text) <= limit
    assert text.startswith("first")
    assert text.endswith("(cut: the rest is in the artifacts)") == (limit < 119)
    assert "y" not in text or "y" * 60 in text, "a paragraph is kept whole"


def test_empty_paragraphs_are_left_out() -> None:
    assert joined("a", "", "b") == "a\n\nb"
