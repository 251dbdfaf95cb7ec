"""The dashboard as a user meets it: a real study on a real MLflow server, seen in a real browser."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, Download, Locator, expect

from dashboards.analysis.answer_text import answer_words
from dashboards.formatting import shown_metric
from orchestrator.api import Runs, Study, front_rows
from orchestrator.reports.relations import study_facts
from tests.browser import serious_faults
from tests.integration.dashboard import DashboardProcess, Visit
from tests.integration.servers import MlflowServer
from tests.integration.studies import StudyProcess
from tests.orchestrator.tiny import RETRAIN, TWO_OBJECTIVES, runs_of
from tests.preloaded.processes import ready_programs

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.slow]

NAME = "digits-front"
EPOCHS = 8
#: Four searches of real images, and two that diverge; then the front from scratch with two seeds.
STUDY: dict[str, Any] = {
    "name": NAME,
    "seed": 2,
    "search": {
        "dataset": {"name": "digits", "train_images": 64, "validation_images": 32},
        "network": {
            "nodes": 2, "cells": 3, "init_channels": 4,
            "primitives": ["none", "max_pool_3x3", "skip_connect", "dil_conv_3x3"],
        },
        "alpha": {"lr": 0.05},
        "epochs": EPOCHS,
        "batch_size": 32,
        "recalibration_batches": 2,
    },
    "sweep": {"penalty.strength": {"choice": [1.0e-6, 1.0e-2]}, "theta.lr": {"choice": [0.05, 0.1, 1.0e30]}},
    "sampler": "grid",
    "trials": 6,
    "max_concurrent": 2,
    "resources": {"cpu": 0.5},
    "objectives": TWO_OBJECTIVES,
    "retrain": {**RETRAIN, "seeds": 2, "epochs": 2},
}  # fmt: skip
VIEWS = {
    "studies": "/",
    "study": f"/study/{NAME}",
    "curves": f"/study/{NAME}/curves",
    "trial": f"/study/{NAME}/trial/0",
    "compare": f"/compare?trial={NAME}:0&trial={NAME}:1",
    "retrain": f"/study/{NAME}/retrain",
    "timeline": f"/study/{NAME}/timeline",
}
DRAWING = "#cells"
#: Where on the page a graph shows values of its axes.
PLACE = """(graph, [x, y]) => {
    const { xaxis, yaxis } = graph._fullLayout, box = graph.getBoundingClientRect();
    return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
}"""


@dataclass
class Tracked:
    """A study, the server that it reports to, and the dashboard of that server.

    Attributes:
        client: of the server.
    """

    server: MlflowServer
    dashboard: DashboardProcess
    process: StudyProcess
    client: MlflowClient = field(init=False)
    is_started: bool = False

    def __post_init__(self) -> None:
        self.client = MlflowClient(self.server.uri)

    def start(self) -> None:
        """Begin the study, if it was not."""
        if not self.is_started:
            self.process.start()
            self.is_started = True

    @property
    def study(self) -> Study:
        return Study.load(NAME, Runs(self.process.runs))

    def run_id(self, label: str) -> str:
        (found,) = [run for run in runs_of(self.client, NAME) if run.data.tags["snas.unit"] == label]
        return str(found.info.run_id)


@pytest.fixture(scope="module")
def tracked(browser: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    folder = tmp_path_factory.mktemp("tracked")
    with MlflowServer(folder / "mlflow") as server, DashboardProcess(server.uri, folder / "dashboard.log") as dashboard:
        environment = {"MLFLOW_TRACKING_URI": server.uri, "OMP_NUM_THREADS": "1"}
        process = StudyProcess(folder, STUDY, environment=environment)
        yield Tracked(server, dashboard, process)
        process.kill()


@pytest.fixture(scope="module")
def done(tracked: Tracked) -> Tracked:
    """The study at its end."""
    tracked.start()
    tracked.process.finish()
    return tracked


@pytest.fixture
def new_visit(open_page: Callable[..., Any], tracked: Tracked) -> Iterator[Callable[..., Visit]]:
    """Function (options of a browser's context) that gives a fresh page; all must have been quiet at the end."""
    visits: list[Visit] = []

    def opened(**options: Any) -> Visit:
        page, watched = open_page(**options)
        visits.append(Visit(page, tracked.dashboard.address, watched))
        return visits[-1]

    yield opened
    for visit in visits:
        visit.assert_quiet()


@pytest.fixture
def visit(new_visit: Callable[..., Visit]) -> Visit:
    return new_visit()


# --- a study that runs


def test_page_of_an_empty_store_shows_the_study_as_it_runs(
    visit: Visit, new_visit: Callable[..., Visit], tracked: Tracked
) -> None:
    early = new_visit()
    early.open(VIEWS["study"], "error")  # a page of the study before it exists
    expect(early.page.get_by_text("This page looks again")).to_be_visible()
    visit.open("/", "studies")
    expect(visit.page.get_by_text("No study yet")).to_be_visible()
    visit.mark()
    tracked.start()
    with tracked.process.held(1):
        visit.page.get_by_role("link", name=NAME).click(timeout=120_000)  # it comes by itself
        visit.shows("study", VIEWS["study"])
        visit.page.wait_for_selector("#trials .ag-row", timeout=180_000)
        visit.page.get_by_text("Columns", exact=True).click()
        visit.page.get_by_role("button", name="epochs", exact=True).click()  # not shown at first
        visit.page.get_by_label("state Filter Input").fill("run")
        visit.page.evaluate("window.scrollTo(0, 300)")
        place = "document.getElementById('card-front').getBoundingClientRect().top"  # facts come above it meanwhile
        before = visit.page.evaluate(place)

    def reported() -> list[str]:
        return [str(len(tracked.process.journal(trial).epochs)) for trial in (0, 1)]

    for number in (3, 5):
        with tracked.process.held(number):
            tracked.process.wait_until(lambda: sorted(visit.column("epochs")) == sorted(reported()))
            at_work = visit.page.get_by_role("table", name="Runs at work").locator("tbody tr")
            for trial in (0, 1):
                row = at_work.filter(has=visit.page.get_by_role("link", name=f"trial {trial}"))
                expect(row).to_contain_text(f"epoch {reported()[trial]} of {EPOCHS}")
                expect(row).to_contain_text("about")
            expect(visit.page.locator(".at-work pre")).to_contain_text("searches: 6 to do")
    expect(visit.page.get_by_label("state Filter Input")).to_have_value("run")
    assert abs(visit.page.evaluate(place) - before) < 2, "what the reader looks at stays where it is"
    assert visit.is_marked
    early.shows("study", VIEWS["study"])  # it found the study by itself


def test_frame_of_a_live_trial_is_loaded_anew_only_when_there_is_more(visit: Visit, done: Tracked) -> None:
    """A copy of a trial that never ends: its metrics grow before its files do."""
    client, run_id = done.client, copied_as_running(done)
    visit.open(f"/study/live/run/{run_id}", "trial")
    visit.mark()
    player = visit.player()
    player.evaluate("window.snasMark = true")
    player.locator("#slider").press("Home")
    client.log_metric(run_id, "supernet_val_accuracy", 0.5, step=EPOCHS)
    facts = visit.page.locator("dl.facts")
    expect(facts).to_contain_text(f"{EPOCHS + 1} of", timeout=15_000)
    assert player.evaluate("window.snasMark === true"), "there is nothing new in its file"
    assert player.locator("#epoch-number").inner_text() == "1", "the reader stays where they are"
    assert visit.is_marked
    client.set_tag(run_id, "snas.end", "complete")
    client.set_terminated(run_id)
    expect(facts).to_contain_text("complete", timeout=15_000)
    assert visit.is_marked


def copied_as_running(done: Tracked) -> str:
    """Run of an experiment of its own, with the files and params of the first trial."""
    client, source = done.client, done.run_id("trial-0000")
    experiment = client.create_experiment("live")
    run = client.create_run(experiment, tags={"snas.unit": "copy", "snas.kind": "search", "snas.study": "live"})
    for name in ("history.parquet", "player.html"):
        client.log_artifact(run.info.run_id, client.download_artifacts(source, name))
    client.log_param(run.info.run_id, "epochs", EPOCHS * 2)
    client.log_metric(run.info.run_id, "supernet_val_accuracy", 0.5, step=EPOCHS - 1)
    return str(run.info.run_id)


# --- going from view to view


@pytest.mark.parametrize("view", VIEWS)
def test_view_opens_by_its_address_without_a_serious_fault_of_accessibility(
    visit: Visit, done: Tracked, view: str
) -> None:
    response = visit.open(VIEWS[view], view)
    assert response is not None
    assert response.status == 200
    assert "SNAS" in visit.page.title()
    expect(visit.page.get_by_role("heading", level=1)).to_be_visible()
    assert serious_faults(visit.page) == []
    graphs = visit.page.locator(".dash-graph").count()
    assert graphs > 0 or view == "studies"
    visit.page.pdf()
    expect(visit.page.locator(".dash-graph:has(.main-svg)")).to_have_count(graphs)
    visit.draw_all()
    assert serious_faults(visit.page) == []


def test_graphs_out_of_sight_are_drawn_once_the_view_is_there(visit: Visit, done: Tracked) -> None:
    visit.page.add_init_script("window.requestIdleCallback = (draw) => { (window.later ??= []).push(draw); }")
    visit.open(VIEWS["trial"], "trial")
    last = visit.page.locator(".dash-graph").last
    assert last.locator(".main-svg").count() == 0, "the view does not wait for it"
    place = visit.page.evaluate("document.documentElement.scrollHeight")
    visit.page.evaluate("while (window.later.length) window.later.shift()()")
    expect(visit.page.locator(".dash-graph:not(:has(.main-svg))")).to_have_count(0)
    assert visit.page.evaluate("window.scrollY") == 0, "nobody scrolled"
    assert visit.page.evaluate("document.documentElement.scrollHeight") == place, "its place was kept"


def test_picture_of_a_graph_out_of_sight_can_be_saved(visit: Visit, done: Tracked) -> None:
    visit.page.add_init_script("window.requestIdleCallback = () => {}")
    visit.open(VIEWS["trial"], "trial")
    graph = visit.page.locator(".dash-graph").last
    assert graph.locator(".main-svg").count() == 0
    button = visit.page.locator(f"button[data-graph={graph.get_attribute('id')}][data-picture=svg]")
    picture = saved(visit, lambda: button.dispatch_event("click"))
    assert ElementTree.parse(picture.path()).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_links_lead_through_all_views_and_back(visit: Visit, done: Tracked) -> None:
    page = visit.page
    visit.open("/", "studies")
    visit.mark()
    page.get_by_role("link", name=NAME).click()
    visit.shows("study", VIEWS["study"])
    page.locator("nav.tabs").get_by_role("link", name="Curves").click()
    visit.shows("curves", VIEWS["curves"])
    page.locator("nav.tabs").get_by_role("link", name="Retrain").click()
    visit.shows("retrain", VIEWS["retrain"])
    page.get_by_role("table", name="Retrained cells").get_by_role("link", name=re.compile("trial")).first.click()
    visit.shows("trial")
    page.locator("nav.tabs").get_by_role("link", name=re.compile("previous|next")).first.click()
    page.locator("nav.tabs").get_by_role("link", name="compare").click()
    visit.shows("compare")
    page.locator("nav.trail").get_by_role("link", name="Studies").click()
    visit.shows("studies", "/")
    page.go_back()
    visit.shows("compare")
    assert visit.is_marked, "no view was loaded again"


def test_keyboard_alone_leads_to_a_trial_and_through_its_epochs(visit: Visit, done: Tracked) -> None:
    page, keys = visit.page, visit.page.keyboard
    visit.open("/", "studies")
    visit.tab_to(page.get_by_role("link", name=NAME))
    keys.press("Enter")
    visit.shows("study", VIEWS["study"])
    assert page.evaluate("document.activeElement.id") == "main", "the reader begins at the new view"
    visit.tab_to(page.get_by_role("link", name="schedule", exact=True))
    first = page.locator("#trials .ag-row").first.locator('[col-id="trial"]')
    number = (first.text_content() or "").removeprefix("trial ")
    visit.tab_to(first)
    keys.press("Enter")
    visit.shows("trial", VIEWS["trial"].replace("/0", f"/{number}"))
    visit.tab_to(page.locator("iframe.player"))
    player = visit.player()
    keys.press("Home")
    expect(player.locator("#epoch-number")).to_have_text("1")
    keys.press("ArrowRight")
    expect(player.locator("#epoch-number")).to_have_text("2")


def test_skip_link_leads_to_the_content(visit: Visit, done: Tracked) -> None:
    visit.open("/", "studies")
    visit.page.keyboard.press("Tab")
    expect(visit.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("main")).to_be_focused()


# --- the player


def test_player_in_its_frame_is_scrubbed(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["trial"], "trial")
    player = visit.player()
    expect(player.locator("#epoch-number")).to_have_text(str(EPOCHS))
    last = player.locator(DRAWING).inner_html()
    player.locator("#slider").fill("0")
    expect(player.locator("#epoch-number")).to_have_text("1")
    assert player.locator(DRAWING).inner_html() != last
    player.locator("#slider").press("End")
    expect(player.locator("#epoch-number")).to_have_text(str(EPOCHS))
    assert player.locator(DRAWING).inner_html() == last
    player.get_by_role("button", name="First epoch").click()
    player.get_by_role("button", name="Play").click()
    expect(player.locator("#epoch-number")).to_have_text(str(EPOCHS), timeout=30_000)
    before = player.locator("#details-title").inner_text()
    player.locator("g.edge[tabindex='0']").nth(3).focus()
    assert player.locator("#details-title").inner_text() != before
    height = visit.page.locator("iframe.player").bounding_box()
    assert height is not None
    assert abs(height["height"] - player.evaluate("document.documentElement.scrollHeight")) < 20, "it fits its frame"


# --- the table of trials, comparing


def test_table_of_trials_filters_and_sorts(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["study"], "study")
    page = visit.page
    page.get_by_label("state Filter Input").fill("complete")
    expect(page.locator("#trials .ag-row[row-index]")).to_have_count(2 * 4)  # pinned columns are rows of their own
    assert set(visit.column("state")) == {"complete"}
    page.get_by_label("state Filter Input").fill("")
    header = page.get_by_role("columnheader", name="multiply-adds")
    for order in ("ascending", "descending"):
        header.click()
        expect(header).to_have_attribute("aria-sort", order)
        shown = [text for text in visit.column("child_madds") if text]
        known = [trial.metrics["child_madds"] for trial in done.study.trials() if trial.state == "complete"]
        expected = sorted(known, reverse=order == "descending")
        assert shown == [shown_metric("child_madds", cost) for cost in expected]


def test_table_begins_with_the_front_and_its_test_errors_and_takes_at_most(visit: Visit, done: Tracked) -> None:
    page = visit.page
    page.set_viewport_size({"width": 1400, "height": 900})
    visit.open(VIEWS["study"], "study")
    on_front = sum(trial.on_front for trial in done.study.trials())
    assert visit.column("front")[: on_front + 1] == ["on front"] * on_front + [""]
    assert all("±" in text for text in visit.column("test_error")[:on_front])
    view = page.locator("#trials .ag-center-cols-viewport")
    assert view.evaluate("view => view.scrollWidth - view.clientWidth") <= 0, "no column is cut"
    errors = sorted(100 * trial.metrics["child_val_error"] for trial in done.study.trials() if trial.is_result)
    page.get_by_role("spinbutton", name="child error Filter Input").fill(f"{errors[1] + 0.001:.3f}")
    few = sum(error <= errors[1] + 0.001 for error in errors)
    expect(page.locator("#trials-count")).to_have_text(f", {few} shown")
    page.wait_for_url("**/*filter=*")
    page.reload()
    visit.shows("study")
    expect(page.locator("#trials-count")).to_have_text(f", {few} shown")  # the filter is in the address
    page.get_by_role("link", name="failed or collapsed").click()
    expect(page.locator("main")).to_have_attribute("data-address", re.compile("filter=.*rows=failed"))
    visit.shows("study")  # new rows reset what is being typed
    page.get_by_role("spinbutton", name="child error Filter Input").fill("")
    expect(page.locator("#trials .ag-center-cols-container .ag-row")).to_have_count(2)
    page.wait_for_url(f"**{VIEWS['study']}?rows=failed")
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("button", name="reason", exact=True).click()
    expect(page.locator("#trials").get_by_role("columnheader", name="reason")).to_be_attached()


def test_trials_chosen_in_charts_are_those_of_table_and_charts(visit: Visit, done: Tracked) -> None:
    page, complete = visit.page, [trial for trial in done.study.trials() if trial.state == "complete"]
    visit.open(VIEWS["study"], "study")
    visit.draw_all()
    asked = len([url for url in visit.watched.requests if "_dash-update" in url])
    costs = {trial.number: trial.metrics["child_madds"] / 1e6 for trial in complete}
    *_, second, most = sorted(set(costs.values()))
    costly = {number for number, cost in costs.items() if cost == most}
    front, axes = (page.locator(f"#chart-{name} .js-plotly-plot") for name in ("front", "parallel"))
    ends = "graph => graph._fullLayout.yaxis.range.map((end) => graph._fullLayout.yaxis.r2d(end))"
    (low, high), left, right = front.evaluate(ends), (second + most) / 2, most * 1.001
    around = [(left, low), (left, high), (right, high), (right, low)]
    _drag(visit, front, around)
    _lists(visit, costly)
    visit.page.get_by_role("button", name="Show all trials").click()
    expect(page.locator("#trials-count")).to_have_text("")
    _drag(visit, axes, [(-0.2, 0.9), (0.2, 1.05)])  # on the first axis, of the penalty strength
    penalised = {trial.number for trial in complete if trial.values["penalty.strength"] == 1e-2}
    _lists(visit, penalised)
    _drag(visit, front, around)
    last = penalised & costly or costly  # a choice narrows the one before, or begins anew
    _lists(visit, last)
    assert len([url for url in visit.watched.requests if "_dash-update" in url]) == asked
    page.reload()
    visit.shows("study")
    visit.draw_all()
    _lists(visit, last)  # the choice is in the address
    axes.scroll_into_view_if_needed()
    page.mouse.dblclick(*axes.evaluate(PLACE, [0.5, 0.5]))
    expect(page.locator("#trials-count")).to_have_text("")
    assert visit.path == VIEWS["study"]


def _drag(visit: Visit, graph: Locator, corners: list[tuple[float, float]]) -> None:
    """Drag from corner to corner; they are values of the graph's axes."""
    graph.scroll_into_view_if_needed()
    first, *others = [graph.evaluate(PLACE, list(corner)) for corner in corners]
    visit.page.mouse.move(*first)
    visit.page.mouse.down()
    for place in others:
        visit.page.mouse.move(*place, steps=4)
    visit.page.mouse.up()


def _lists(visit: Visit, numbers: set[int]) -> None:
    """The table, all charts and the strip of cells show these trials alone."""
    expect(visit.page.locator("#trials-count")).to_have_text(f", {len(numbers)} shown")
    expect(visit.page.locator("#chosen-cells img")).to_have_count(len(numbers))
    titles = [title for title in visit.column("trial") if title]
    assert {int(title.split()[1]) for title in titles} == numbers
    visit.page.wait_for_function(
        """numbers => [...document.querySelectorAll("#card-front, #card-penalty, #card-parallel, #card-slices")]
            .map((card) => card.querySelector(".js-plotly-plot").data.flatMap(
                ({ customdata = [], mode, y, selectedpoints }) => customdata.filter((number, i) =>
                    number !== null && (mode === "lines" ? y[i] !== null : selectedpoints?.includes(i)))))
            .every((shown) => [...new Set(shown)].sort().join() === numbers.sort().join())""",
        arg=sorted(numbers),
    )


def test_table_shows_the_trials_that_have_a_star(visit: Visit, done: Tracked) -> None:
    visit.open(f"{VIEWS['study']}?rows=starred", "study")
    assert visit.column("trial") == []
    done.client.set_tag(done.run_id("trial-0001"), "snas.star", "true")
    links = visit.page.locator("#trials").get_by_role("link", name="trial 1 ★")
    for _ in range(10):  # a study that is over is not looked at again by itself
        visit.open(f"{VIEWS['study']}?rows=starred", "study")
        if links.count():
            break
        visit.page.wait_for_timeout(1000)
    expect(links).to_have_count(1)


def test_two_chosen_trials_are_compared(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["study"], "study")
    button = visit.page.get_by_role("button", name="Compare the chosen trials")
    expect(button).to_be_disabled()
    for number in (0, 1):
        expect(button).to_be_disabled()
        row = visit.page.locator("#trials .ag-row", has=visit.page.get_by_role("link", name=f"trial {number}"))
        row.get_by_role("checkbox", name=re.compile("toggle row selection")).check()
    button.click()
    visit.shows("compare", VIEWS["compare"].replace(":", "%3A"))
    for place in (0, 1):
        player = visit.player(place)
        expect(player.locator("#epoch-number")).to_have_text(str(EPOCHS))
        expect(visit.page.get_by_role("heading", name=f"trial {place}")).to_be_visible()
    visit.player(1).get_by_role("button", name="First epoch").click()
    expect(visit.player(0).locator("#epoch-number")).to_have_text("1")  # in step
    differing = visit.page.get_by_role("table", name="Settings that differ")
    names = differing.get_by_role("rowheader").all_inner_texts()
    first, second = done.study.trials()[:2]
    assert set(names) == {key for key, value in first.values.items() if value != second.values[key]}


def test_difference_of_two_cells_is_drawn_and_more_than_four_trials_are_a_table(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["compare"], "compare")
    drawn = visit.page.get_by_role("img", name="Cells of trial 0 and trial 1 in one drawing")
    assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    visit.open("/compare?" + "&".join(f"trial={NAME}:{number}" for number in range(6)), "compare")
    rows = visit.page.get_by_role("table", name="Trials compared").locator("tbody tr")
    expect(rows).to_have_count(6)
    expect(rows.nth(0)).to_contain_text(shown_metric("child_madds", done.study.trials()[0].metrics["child_madds"]))
    assert visit.page.locator("iframe.player").count() == 0


def test_line_of_the_search_that_is_pointed_at_is_heavy(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["curves"], "curves")
    graph = visit.page.locator("#chart-many-curves .js-plotly-plot")
    heavy = "graph => graph.data.filter(trace => trace.meta === 'pointed').map(trace => [...trace.y])"
    assert graph.evaluate(heavy) == []
    errors = [100 * record["metrics"]["child_val_error"] for record in done.process.journal(0).epochs]
    visit.page.mouse.move(*graph.evaluate(PLACE, [EPOCHS // 2 + 1, errors[EPOCHS // 2]]), steps=3)
    label = visit.page.locator(".hoverlayer .hovertext")
    expect(label).to_contain_text("trial")
    number = int((label.text_content() or "").split("trial ")[1].split(",")[0])
    wanted = [100 * record["metrics"]["child_val_error"] for record in done.process.journal(number).epochs]
    (drawn,) = graph.evaluate(heavy)
    assert drawn == pytest.approx(wanted, rel=1e-5)
    visit.page.mouse.move(2, 2)
    expect(label).to_have_count(0)
    assert graph.evaluate(heavy) == [[]]


def test_timeline_has_a_bar_for_each_run_that_says_what_it_reserved(visit: Visit, done: Tracked) -> None:
    study, page = done.study, visit.page
    visit.open(VIEWS["timeline"], "timeline")
    bars = page.locator("#chart-timeline .bars .point")
    expect(bars).to_have_count(len(study.trials()) + len(study.retrains()))
    graph = page.locator("#chart-timeline .js-plotly-plot")
    middle = "({ data: [bar] }) => [Date.parse(bar.base[0] + 'Z') + bar.x[0] / 2, bar.y[0]]"
    page.mouse.move(*graph.evaluate(PLACE, graph.evaluate(middle)), steps=3)
    expect(page.locator(".hoverlayer .hovertext")).to_contain_text(re.compile(r"trial \d.*CPU core hours reserved"))


def test_list_of_trials_to_compare_works_by_keyboard(visit: Visit, done: Tracked) -> None:
    page, keys = visit.page, visit.page.keyboard
    visit.open(f"/compare?study={NAME}", "compare")
    visit.tab_to(page.locator("#compare-picker"))
    keys.press("Enter")
    expect(page.get_by_placeholder("Search")).to_be_focused()
    page.wait_for_timeout(3000)  # the list opens before it takes keys
    for number in (1, 2):
        keys.press("ArrowDown")
        expect(page.locator("input.dash-options-list-option-checkbox:focus")).to_have_count(1)
        keys.press("Space")
        page.wait_for_url(lambda url, number=number: url.count("trial=") == number)
    keys.press("Escape")
    expect(page.locator("iframe.player")).to_have_count(2, timeout=30_000)
    assert visit.path.count("trial=") == 2


def test_front_changes_with_its_options_and_the_back_button(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["study"], "study")
    page = visit.page
    visit.mark()
    title = page.locator("figcaption h2").first
    expect(title).to_contain_text("multiply-adds")
    page.get_by_role("link", name="parameters", exact=True).focus()
    page.keyboard.press("Enter")
    visit.shows("study", f"{VIEWS['study']}?cost=child_params")
    expect(title).to_contain_text("parameters")
    expect(page.get_by_role("link", name="parameters", exact=True)).to_be_focused()
    page.get_by_role("link", name="schedule", exact=True).click()
    visit.shows("study", f"{VIEWS['study']}?cost=child_params&colour=schedule")
    expect(page.locator("#chart-front .legend")).to_contain_text("linear")
    page.go_back()
    visit.shows("study", f"{VIEWS['study']}?cost=child_params")
    page.go_back()
    visit.shows("study", VIEWS["study"])
    expect(title).to_contain_text("multiply-adds")
    assert visit.is_marked


def test_theme_is_kept_over_a_reload(new_visit: Callable[..., Visit], done: Tracked) -> None:
    visit = new_visit(color_scheme="light")
    visit.open(VIEWS["trial"], "trial")
    visit.page.get_by_role("button", name="Dark").click()
    expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(visit.page.locator("iframe.player")).to_have_attribute("src", re.compile("theme=dark"))
    visit.page.reload()
    visit.shows("trial")
    expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
    assert visit.player().evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


# --- numbers, downloads, commands


def test_numbers_are_those_of_the_study(visit: Visit, done: Tracked) -> None:
    study = done.study
    trials = study.trials()
    visit.open(VIEWS["study"], "study")
    assert visit.fact("searches over") == "6 of 6"
    assert visit.fact("retrained") == f"{len(study.retrains())} of {len(study.retrains())}"
    complete = [trial.metrics for trial in trials if trial.state == "complete"]
    assert len(complete) == 4
    for metric, name in (("child_val_error", "best child validation error"), ("child_madds", "best multiply-adds")):
        assert visit.fact(name) == shown_metric(metric, min(metrics[metric] for metrics in complete))
    titles = [title.removesuffix(" ★") for title in visit.column("trial")]  # another test gives a star
    rows = dict(zip(titles, zip(visit.column("state"), visit.column("front"), strict=True), strict=True))
    assert rows == {f"trial {t.number}": (t.state, "on front" if t.on_front else "") for t in trials}
    failures = visit.page.get_by_role("table", name="Runs that failed or collapsed")
    for trial in trials:
        if trial.state == "failed":
            expect(failures).to_contain_text(trial.reason)
    visit.open(VIEWS["retrain"], "retrain")
    cells = visit.page.get_by_role("table", name="Retrained cells").get_by_role("row").all_inner_texts()[1:]
    for row in front_rows(trials, study.retrains(), study.spec):
        error = f"{100 * (1 - row['test_accuracy']):.2f} ± {100 * row['test_accuracy_sd']:.2f}%"
        assert any(error in text and shown_metric("child_params", row["child_params"]) in text for text in cells)


def test_answer_says_what_the_terminal_and_mlflow_say_and_draws_the_cells(
    new_visit: Callable[..., Visit], done: Tracked
) -> None:
    visit = new_visit(permissions=["clipboard-read", "clipboard-write"])
    visit.open(VIEWS["study"], "study")
    study = done.study
    answer = study_facts(study, study.trials(), study.retrains())["answer"]
    assert answer.is_tested
    assert answer.keep.error.images == study.images["test"]
    card = visit.page.get_by_role("region", name="Answer")
    said = " ".join(card.locator(":scope > h2, :scope > p").all_inner_texts())
    assert said == answer_words(answer)
    (parent,) = [run for run in runs_of(done.client, NAME) if run.data.tags["snas.unit"] == "study"]
    assert html.unescape(parent.data.tags["mlflow.note.content"]).startswith(f"**{said}**")
    kept = card.locator("article.keep")
    expect(kept).to_contain_text(f"{answer.keep.error.value:.2%}")
    expect(kept.get_by_role("link", name=f"trial {answer.keep.trial}")).to_be_visible()
    pictures = card.locator("img")
    assert pictures.count() == len(answer.picks)
    expect(pictures.first).to_have_js_property("complete", True)
    assert pictures.first.evaluate("picture => picture.naturalWidth") > 0
    kept.get_by_text("Keep it").click()
    kept.get_by_role("button", name="Copy the command: export").click()
    assert "snas export --run" in visit.page.evaluate("navigator.clipboard.readText()")


def saved(visit: Visit, press: Callable[[], None]) -> Download:
    with visit.page.expect_download() as waiting:
        press()
    return waiting.value


def test_downloads_hold_what_they_say(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["study"], "study")
    card = visit.page.locator("figure", has=visit.page.locator("#chart-front"))
    title = card.locator("h2").inner_text()
    table = saved(visit, card.get_by_role("link", name=re.compile("CSV")).click)
    rows = list(csv.DictReader(io.StringIO(table.path().read_text(encoding="utf-8"))))
    trials = {trial.number: trial for trial in done.study.trials()}
    assert len(rows) == 4
    for row in rows:
        metrics = trials[int(row["trial"])].metrics
        assert float(row["child_val_error"]) == metrics["child_val_error"]
        assert float(row["child_madds"]) == metrics["child_madds"]
    picture = saved(visit, card.get_by_role("button", name=re.compile("SVG")).click)
    assert picture.suggested_filename == "front.svg"
    root = ElementTree.parse(picture.path()).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert title in " ".join("".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text"))
    pixels = saved(visit, card.get_by_role("button", name=re.compile("PNG")).click).path().read_bytes()
    assert pixels[:8] == b"\x89PNG\r\n\x1a\n"
    shown = visit.page.locator("#chart-front .js-plotly-plot").bounding_box()
    assert shown is not None
    width, height = int.from_bytes(pixels[16:20]), int.from_bytes(pixels[20:24])
    assert abs(width - 2 * shown["width"]) <= 2
    assert abs(height - 2 * (shown["height"] + 44)) <= 2, "the title stands above"


def test_table_of_trials_downloads_what_the_journals_hold(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["study"], "study")
    link = visit.page.locator("section", has=visit.page.locator("#trials")).get_by_role("link", name="CSV")
    rows = list(csv.DictReader(io.StringIO(saved(visit, link.click).path().read_text(encoding="utf-8"))))
    for row, trial in zip(rows, done.study.trials(), strict=True):
        assert (int(row["trial"]), row["state"], row["reason"]) == (trial.number, trial.state, trial.reason)
        assert float(row["param.penalty.strength"]) == trial.values["penalty.strength"]
        for metric in ("child_val_error", "supernet_val_accuracy", "child_params", "entropy_normal"):
            assert row[f"metric.{metric}"] == ("" if metric not in trial.metrics else str(trial.metrics[metric]))
    journal = done.process.journal(0)
    visit.open(VIEWS["trial"], "trial")
    curves = visit.page.locator("figure", has=visit.page.locator(".graph")).first
    rows = list(csv.DictReader(io.StringIO(saved(visit, curves.get_by_role("link").click).path().read_text())))
    for row, record in zip(rows, journal.epochs, strict=True):
        assert float(row["child_val_accuracy"]) == record["metrics"]["child_val_accuracy"]


def test_copied_commands_are_accepted(new_visit: Callable[..., Visit], done: Tracked, tmp_path: Path) -> None:
    visit = new_visit(permissions=["clipboard-read", "clipboard-write"])
    visit.open(VIEWS["trial"], "trial")
    commands = {}
    for name in ("retrain", "profile", "genotype"):
        visit.page.get_by_role("button", name=f"Copy the command: {name}").click()
        commands[name] = visit.page.evaluate("navigator.clipboard.readText()")
    run_id = done.run_id("trial-0000")
    genotype = done.study.trials()[0].genotype
    assert run_id in commands["profile"]
    assert "parameters" in as_a_shell_does(commands["profile"], tmp_path)
    as_a_shell_does(commands["genotype"], tmp_path)
    assert json.loads((tmp_path / "genotype.json").read_text())["normal"] == json.loads(json.dumps(genotype))["normal"]
    said = as_a_shell_does(f"{commands['retrain']} --seeds 1 --name kept --runs {tmp_path / 'runs'}", tmp_path)
    assert "test accuracy" in said


def as_a_shell_does(command: str, folder: Path) -> str:
    """Run a line in bash with the commands of this checkout."""
    (programs := folder / "programs").mkdir(exist_ok=True)
    environment = {**os.environ, **ready_programs(programs), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_link_to_mlflow_opens_the_run(visit: Visit, done: Tracked) -> None:
    visit.open(VIEWS["trial"], "trial")
    with visit.page.expect_popup() as waiting:
        visit.page.get_by_role("link", name="this run in MLflow").click()
    page = waiting.value
    expect(page.get_by_role("heading", name="trial-0000")).to_be_visible(timeout=60_000)
    assert done.run_id("trial-0000") in page.url


# --- for everybody


@pytest.mark.parametrize("view", VIEWS)
def test_dark_view_has_no_serious_fault_of_accessibility(
    new_visit: Callable[..., Visit], done: Tracked, view: str
) -> None:
    visit = new_visit(color_scheme="dark")
    visit.open(VIEWS[view], view)
    assert serious_faults(visit.page) == []
    visit.draw_all()
    assert serious_faults(visit.page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_view_fits_a_narrow_window(new_visit: Callable[..., Visit], done: Tracked, view: str) -> None:
    visit = new_visit(width=420, height=800)
    visit.open(VIEWS[view], view)
    visit.draw_all()
    wide = """() => [...document.querySelectorAll("main *")].filter((element) =>
        element.getBoundingClientRect().right > 421 && !element.closest(".table-frame, #trials, svg, .js-plotly-plot"))
        .map((element) => element.outerHTML.slice(0, 120))"""
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 420, visit.page.evaluate(wide)
