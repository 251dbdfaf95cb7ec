"""MLflow's own pages in a real Chromium, on a real server with a real study: descriptions, links, pictures, player."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from orchestrator.files.journal import Journal
from orchestrator.tracking.run_spec import Unit
from orchestrator.tracking.tracker import Tracker
from tests.integration.servers import MlflowServer
from tests.orchestrator.tiny import RETRAIN, TWO_OBJECTIVES, real_records, runs_of, study_data, written_journal
from tests.preloaded.processes import run_ready
from tests.search_core.tiny import FEW_PRIMITIVES

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.slow]

STUDY: dict[str, Any] = study_data(
    name="seen", seed=2, trials=2, objectives=TWO_OBJECTIVES, max_concurrent=2, resources={"cpu": 0.5}, retrain=RETRAIN
)
HOSTILE = "<script>window.hacked=1</script> <img src=x onerror='window.hacked=1'> [link](javascript:alert(1))"
_WAIT_MS = 30_000  # MLflow's pages take seconds to begin on a busy machine
_IS_LOADED = "image => image.complete && image.naturalWidth > 0"


@dataclass(frozen=True)
class Seen:
    """A study on a server, and the ids of its runs by name."""

    uri: str
    experiment: str
    runs: dict[str, str]

    def run(self, name: str, page: str = "") -> str:
        return f"{self.uri}/#/experiments/{self.experiment}/runs/{self.runs[name]}{page}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The study, and beside it a trial that failed with a reason from hell."""
    folder = tmp_path_factory.mktemp("pages")
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    with MlflowServer(folder / "server") as server:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": server.uri}
        done = run_ready(["snas", "study", "run", file, "--runs", folder / "runs"], environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "View run" not in done.stdout, "MLflow keeps quiet"
        tracker = Tracker(server.uri, "seen", artifact_location=None, tags={})
        journal = Journal(written_journal(folder / "hostile.jsonl", real_records(2), "failed", HOSTILE))
        unit = Unit(label="hostile", kind="search", primitives=FEW_PRIMITIVES, about=HOSTILE)
        tracker.sync(unit, journal)
        client = MlflowClient(server.uri)
        runs = {run.info.run_name: run.info.run_id for run in runs_of(client, "seen")}
        yield Seen(server.uri, tracker.experiment_id, runs)


@pytest.fixture
def visit(open_page: Callable[..., Any]) -> Callable[[str], Any]:
    """Function that opens an address; whatever was planted there must not have run."""

    def visited(address: str) -> Any:
        page, _ = open_page(1500, 1000)
        page.set_default_timeout(_WAIT_MS)
        page.goto(address)
        return page

    return visited


def description(page: Any) -> Any:
    """The description of a run's page, unfolded."""
    page.get_by_text("Show more", exact=True).first.click()
    return page


def shows_picture(page: Any, name: str) -> None:
    image = page.locator(f"img[src*='path={name}']").first
    image.wait_for(state="attached")
    page.wait_for_function(f"selector => ({_IS_LOADED})(document.querySelector(selector))", arg=f"img[src*='{name}']")


def test_experiment_says_how_the_study_stands(seen: Seen, visit: Callable[[str], Any]) -> None:
    page = visit(f"{seen.uri}/#/experiments/{seen.experiment}/runs")
    page.get_by_text("2 of 2 searches are over").first.wait_for()
    shows_picture(page, "summary-narrow.png")
    link = page.get_by_role("link", name=re.compile(r"^trial \d$")).first
    assert link.get_attribute("href") in {
        f"#/experiments/{seen.experiment}/runs/{run_id}" for name, run_id in seen.runs.items() if "trial" in name
    }


def test_parent_run_shows_the_front_and_its_links_lead_to_trials(seen: Seen, visit: Callable[[str], Any]) -> None:
    page = description(visit(seen.run("seen")))
    shows_picture(page, "summary-narrow.png")
    for heading in ("temperature", "child error", "multiply-adds", "retrained test"):
        assert page.get_by_role("columnheader", name=heading).first.is_visible()
    link = page.get_by_role("link", name=re.compile(r"^trial \d$")).first
    number = int(link.inner_text().split()[1])
    with page.context.expect_page() as opened:
        link.click()
    trial = opened.value
    trial.get_by_role("heading", name=f"trial-{number:04d}").wait_for(timeout=_WAIT_MS)


def test_trial_shows_its_cell_and_leads_to_its_player(seen: Seen, visit: Callable[[str], Any]) -> None:
    page = description(visit(seen.run("trial-0000")))
    page.get_by_text("complete after 2 epochs, child error").wait_for()
    shows_picture(page, "cells.svg")
    href = page.get_by_role("link", name="play how the cells evolved").get_attribute("href")
    assert f"{seen.uri}/{href}" == seen.run("trial-0000", "/artifacts/player.html")


def test_player_plays_inside_mlflow(seen: Seen, visit: Callable[[str], Any]) -> None:
    page = visit(seen.run("trial-0000", "/artifacts/player.html"))
    element = page.locator("iframe").first
    element.wait_for()
    assert "allow-same-origin" not in (element.get_attribute("sandbox") or "allow-same-origin"), "a sandbox"
    player = page.frame_locator("iframe").first
    slider = player.get_by_role("slider").first
    slider.wait_for()
    assert slider.input_value() == "1", "the last epoch"
    slider.focus()
    slider.press("ArrowLeft")
    assert slider.input_value() == "0"
    assert player.locator("[data-edge]").count() > 0


def test_retraining_shows_its_accuracy_and_cell(seen: Seen, visit: Callable[[str], Any]) -> None:
    name = next(name for name in seen.runs if name.startswith("retrain"))
    page = description(visit(seen.run(name)))
    page.get_by_text(re.compile(r"complete after 1 epoch, test accuracy \d+\.\d\d%")).wait_for()
    shows_picture(page, "cells.svg")


@pytest.mark.parametrize("path", ["", "/versions/1"])
def test_registered_model_says_what_it_is(path: str, seen: Seen, visit: Callable[[str], Any]) -> None:
    page = visit(f"{seen.uri}/#/models/seen-child{path}")
    page.get_by_text('mlflow.pytorch.load_model("models:/seen-child/1")').first.wait_for()
    shows_picture(page, "cells.svg")
    text = "trained from scratch with seed 2" if path else "Child networks of the cells that study seen found"
    assert page.get_by_text(text).first.is_visible()


def test_hostile_reason_is_shown_as_text(seen: Seen, visit: Callable[[str], Any]) -> None:
    page = description(visit(seen.run("hostile")))
    page.get_by_role("paragraph").get_by_text(f"Reason: {HOSTILE}").wait_for()
    shows_picture(page, "cells.svg")
    assert page.locator("img[src='x']").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0
    player = visit(seen.run("hostile", "/artifacts/player.html"))
    player.frame_locator("iframe").first.get_by_text(HOSTILE).first.wait_for()
    for frame in (page.main_frame, *player.frames):
        assert frame.evaluate("window.hacked") is None
