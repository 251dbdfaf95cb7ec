"""Views while files cannot be fetched, or nothing has been reported for long."""

from dataclasses import replace

import pytest

from dashboards.app import render
from dashboards.errors import StoreAwayError
from tests.dashboards.generated import generated_study
from tests.dashboards.memory_store import MemoryStore
from tests.dashboards.tree import plain, words

_STUDY = "penalty-sweep"


@pytest.fixture
def store():
    return MemoryStore([generated_study(_STUDY, trials=24, epochs=6)])


@pytest.mark.parametrize(
    ("page", "chart"),
    [("?published=show", "front"), ("/trial/0", None), ("/curves", "many-curves"), ("/retrain", "test-error")],
)
def test_files_that_cannot_be_fetched_are_messages_beside_the_rest(store, monkeypatch, page, chart):
    """As with artifacts on a storage that this machine may not read, while the records can be read."""

    def refuse(*_):
        raise StoreAwayError("the storage refuses")

    for file in ("published", "history", "curves", "genotype", "models"):
        monkeypatch.setattr(store, file, refuse)
    path, _, search = page.partition("?")
    view = render(store, f"/study/{_STUDY}{path}", search, "light")
    assert "the storage refuses" in words(plain(view))
    assert view.name != "error"
    assert chart is None or chart in {known.key for known in view.charts}


def test_a_study_that_has_been_silent_for_long_asks_whether_it_runs(store):
    quiet = MemoryStore([generated_study("live", trials=4, epochs=6, running=2)])
    record = quiet.study("live")
    last_s = record.overview.last_report_s
    assert last_s is not None
    said = []
    for later_s in (60, 7200):
        quiet.study = lambda _, as_of_s=last_s + later_s: replace(record, as_of_s=as_of_s)
        said.append(words(plain(render(quiet, "/study/live", "", "light"))))
    assert "Is it still running?" not in said[0]
    assert "Nothing has been reported for 2 h" in said[1]
    assert "snas study resume live" in said[1]
