"""The one file of a study: small, complete, offline, and readable by all."""

import re
from dataclasses import replace
from html import unescape

import pytest

from dashboards.analysis.answer_text import answer_words
from dashboards.one_file import page as one_file
from dashboards.one_file.page import render_study_page
from tests.browser import serious_faults
from tests.dashboards.generated import generated_study
from tests.dashboards.one_file.shared import shared_study

HOSTILE = "</script><script>window.hacked=1</script>/*SCRIPT*/"


def texts(html):
    """What a reader reads: no tags, no scripts."""
    return unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style)\b.*?</\1>", "", html)))


def players(html):
    """Trials whose players the file holds, in its order."""
    return [int(number) for number in re.findall(r'id="player-(\d+)"', html)]


@pytest.fixture(scope="module")
def small():
    return shared_study(generated_study(trials=12, epochs=4, strategies=("snas", "darts")))


@pytest.fixture(scope="module")
def html(small):
    return render_study_page(*small)


def test_page_says_the_answer_shows_the_front_and_the_claims(small, html):
    study, _ = small
    said = " ".join(texts(html).split())
    assert study.answer is not None
    first = answer_words(study.answer).partition(". ")[0]
    assert first in said
    assert [cell.trial for cell in study.front if f" trial {cell.trial} " not in said] == []
    assert study.claims[0].evidence in said
    assert study.settings.strip() in said
    shown = {cell.trial for cell in study.front}
    assert set(players(html)) == shown
    assert players(html)[0] == study.answer.keep.trial
    assert html.count("class CellGraph") == 1  # the players share their script


def test_page_leaves_out_players_that_do_not_fit_and_says_so(small, html, monkeypatch):
    study, history_of = small
    size = len(re.search(r'(?s)id="player-\d+">(.*?)</script>', html)[1])
    monkeypatch.setattr(one_file, "PLAYER_BYTES", size)
    html = render_study_page(study, history_of)
    assert players(html) == [study.answer.keep.trial]
    assert f"{len(study.front) - 1} searches cannot be watched" in texts(html)


def test_page_of_a_study_without_results_says_so(small):
    study, history_of = small
    empty = replace(study, answer=None, points=(), front=(), claims=())
    said = texts(render_study_page(empty, history_of))
    assert "No search has found a usable cell yet." in said
    assert "No search has reported yet." in said


@pytest.mark.slow
@pytest.mark.browser
def test_page_of_100_trials_is_small_offline_and_plays_the_cells(open_page, tmp_path):
    study, history_of = shared_study(generated_study(trials=100, epochs=150, strategies=("snas", "darts")))
    hostile = replace(study, settings=HOSTILE, summary=HOSTILE)
    file = tmp_path / "study.html"
    file.write_text(render_study_page(hostile, history_of), encoding="utf-8")
    assert file.stat().st_size < 3e6
    page, watched = open_page()
    page.goto(file.as_uri())
    player = page.frame_locator("#player")
    page.locator("#player").scroll_into_view_if_needed()
    player.get_by_role("heading", name=f"Trial {study.answer.keep.trial}", exact=True).wait_for()
    page.wait_for_function("document.getElementById('player').style.height")  # as high as what is in it
    other = next(cell.trial for cell in study.front if cell.trial != study.answer.keep.trial)
    page.get_by_role("button", name=f"trial {other}", exact=True).click()
    player.get_by_role("heading", name=f"Trial {other}", exact=True).wait_for()
    player.get_by_role("button", name="First epoch").click()
    assert player.locator("#epoch-number").inner_text() == "1"
    page.get_by_text("Settings: the study file").click()
    assert page.get_by_text(HOSTILE).count() == 2
    assert page.evaluate("window.hacked") is None
    assert serious_faults(page) == []
    assert watched.complaints == []
    assert set(watched.requests) == {file.as_uri()}
