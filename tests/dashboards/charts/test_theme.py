"""Contrast as WCAG 2.1 measures it: 4.5 for text, 3 for marks that carry meaning."""

import re
from importlib import resources

import pytest

from dashboards.charts.theme import DASHES, SYMBOLS, THEMES, layout, log_ticks


def _luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(first, second):
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _sheet(theme):
    """Variables of the style sheet in one theme that are colours."""
    text = resources.files("dashboards").joinpath("assets", "style.css").read_text(encoding="utf-8")
    selector = r'^:root\[data-theme="dark"\]' if theme == "dark" else r"^:root"
    block = re.search(selector + r" \{(.*?)\}", text, re.MULTILINE | re.DOTALL)[1]
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))


def test_contrast_of_known_pairs():
    assert _contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert _contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("name", THEMES)
def test_text_of_charts_can_be_read_on_their_paper(name):
    theme = THEMES[name]
    assert _contrast(theme.ink, theme.surface) >= 4.5
    assert _contrast(theme.muted, theme.surface) >= 4.5
    for colour in theme.categories:  # names of lines stand in their colours
        assert _contrast(colour, theme.surface) >= 4.5, colour


@pytest.mark.parametrize("name", THEMES)
def test_marks_of_charts_stand_off_their_paper(name):
    theme = THEMES[name]
    ends = [theme.diverging[0], theme.diverging[-1], *theme.intensity[2:]]
    for _, colour in [*theme.sequential, *ends]:
        assert _contrast(colour, theme.surface) >= 3, colour


@pytest.mark.parametrize("name", THEMES)
def test_scales_run_from_0_to_1_and_the_middle_of_a_diverging_one_is_the_paper(name):
    theme = THEMES[name]
    for scale in (theme.sequential, theme.intensity, theme.diverging):
        places = [place for place, _ in scale]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (0, 1)
    assert theme.diverging[1] == [0.5, theme.surface]
    assert theme.intensity[0][1] == theme.surface


@pytest.mark.parametrize("name", THEMES)
def test_the_sheet_and_the_charts_have_the_same_paper_and_ink(name):
    sheet, theme = _sheet(name), THEMES[name]
    assert (sheet["surface"], sheet["ink"], sheet["muted"]) == (
        theme.surface.lower(), theme.ink.lower(), theme.muted.lower(),
    )  # fmt: skip


@pytest.mark.parametrize("name", THEMES)
@pytest.mark.parametrize(
    ("text", "papers"),
    [
        ("ink", ("page", "surface", "accent-soft", "warn-soft", "bad-soft")),
        ("muted", ("page", "surface")),
        ("accent", ("page", "surface", "accent-soft", "warn-soft", "bad-soft")),
        ("good", ("good-soft",)),
        ("warn", ("warn-soft",)),
        ("bad", ("bad-soft",)),
    ],
)
def test_text_of_the_sheet_can_be_read(name, text, papers):
    sheet = _sheet(name)
    for paper in papers:
        assert _contrast(sheet[text], sheet[paper]) >= 4.5, paper


@pytest.mark.parametrize("name", THEMES)
def test_signs_of_the_sheet_stand_off_what_is_around_them(name):
    sheet = _sheet(name)
    for colour, papers in {"accent": ("page", "surface"), "warn": ("warn-soft",), "bad": ("bad-soft",)}.items():
        assert all(_contrast(sheet[colour], sheet[paper]) >= 3 for paper in papers)


def test_every_category_has_a_sign_and_a_dash_of_its_own():
    for theme in THEMES.values():
        assert len(set(theme.categories)) == len(theme.categories) == len(set(SYMBOLS)) == len(set(DASHES))


def test_layout_merges_axes_and_keeps_what_else_is_asked():
    found = layout(THEMES["dark"], x="epoch", y="loss (nats)", height=99, xaxis={"type": "log"}, shapes=[1])
    assert found["xaxis"]["type"] == "log"
    assert found["xaxis"]["title"]["text"] == "epoch"
    assert found["yaxis"]["title"]["text"] == "loss (nats)"
    assert (found["height"], found["shapes"]) == (99, [1])
    assert found["font"]["color"] == THEMES["dark"].ink


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (-2, 0, ["1e-2", "3e-2", "1e-1", "3e-1", "1e0"]),
        (-5, -1, ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]),
    ],
)
def test_log_ticks(low, high, texts):
    values, found = log_ticks(low, high)
    assert found == texts
    assert all(low - 0.05 <= value <= high + 0.05 for value in values)


def test_log_ticks_without_a_round_number_are_the_borders():
    assert log_ticks(-2.9, -2.6) == ([-2.9, -2.6], ["1e-3", "3e-3"])
