"""The dashboard where things go wrong: stores that are away, and studies that were made to do harm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, expect

from dashboards.history import history_table, parquet_bytes
from tests.dashboards.generated import generated_study
from tests.integration.dashboard import DashboardProcess, Visit
from tests.integration.servers import MlflowServer

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.slow]

EVIL = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1;alert('owned')</script>"
NAME = f"evil {EVIL}"
EVIL_PLAYER = """<!doctype html><title>a player</title><p id="said"></p><script>
const said = {};
for (const [name, attempt] of Object.entries({
  page: () => { window.parent.document.title = "owned"; },
  variable: () => { window.parent.owned = 1; },
  storage: () => { window.localStorage.setItem("snas-theme", "owned"); },
  cookie: () => { document.cookie = "owned=1"; },
})) {
  try { attempt(); said[name] = "done"; } catch (error) { said[name] = error.name; }
}
window.parent.postMessage({ snasPlayerHeight: "1px; background: url(x)" }, "*");
window.parent.postMessage({ snasPlayerHeight: 1e12 }, "*");
said.origin = window.origin;
document.getElementById("said").textContent = JSON.stringify(said);
</script>"""


@pytest.fixture(scope="module")
def server(browser: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("evil") / "mlflow") as running:
        plant(MlflowClient(running.uri))
        yield running


@pytest.fixture(scope="module")
def address(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with DashboardProcess(server.uri, tmp_path_factory.mktemp("dashboard") / "log") as dashboard:
        yield dashboard.address


@pytest.fixture
def visit(open_page: Callable[..., Any], address: str) -> Visit:
    page, watched = open_page()
    return Visit(page, address, watched)


def plant(client: MlflowClient) -> None:
    """A study of two searches and a retraining in which all that can hold markup does, and two files are not valid."""
    experiment = client.create_experiment(NAME)
    parent = run(client, experiment, "study", "study", None)
    for key, value in {"trials": "2", "sweep.temperature.kind": EVIL, f"sweep.{EVIL[:40]}": EVIL}.items():
        client.log_param(parent, key.replace("<", "").replace(">", "").replace('"', "").replace("=", ""), value)
    search = generated_study(trials=1, epochs=6).searches[0]
    table = parquet_bytes(history_table(search.records(), [EVIL, *("abcdefg")]))
    for number, history in enumerate((table, b"not Parquet " + EVIL.encode())):
        run_id = run(client, experiment, f"trial-{number:04d}", "search", parent)
        client.set_tag(run_id, "snas.end", "failed")
        client.set_tag(run_id, "snas.reason", EVIL)
        for key in ("temperature.kind", "strategy.kind", "network.primitives"):
            client.log_param(run_id, key, EVIL)
        client.log_param(run_id, "penalty.strength", "1e-3")
        client.log_param(run_id, "epochs", "6")
        for metric in ("child_val_error", "child_madds", "child_params", "supernet_val_accuracy"):
            client.log_metric(run_id, metric, 0.5 + number, step=5)
        for name, content in (
            ("history.parquet", history),
            ("genotype.json", json.dumps({"normal": [[EVIL, 0, 2]]}).encode()),
            ("player.html", EVIL_PLAYER.encode()),
        ):
            put(client, run_id, name, content)
    retrain = run(client, experiment, "retrain-0000-seed0", "retrain", parent)
    client.set_tag(retrain, "snas.model", EVIL)
    client.log_metric(retrain, "test_accuracy", 0.5, step=0)
    client.log_metric(retrain, "params", 1e6, step=0)


def run(client: MlflowClient, experiment: str, label: str, kind: str, parent: str | None) -> str:
    tags = {"snas.unit": label, "snas.kind": kind, "snas.study": NAME, "dataset": EVIL, "mlflow.note.content": EVIL}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    found = client.create_run(experiment, run_name=EVIL, tags=tags)
    client.set_terminated(found.info.run_id)
    return str(found.info.run_id)


def put(client: MlflowClient, run_id: str, name: str, content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        client.log_artifact(run_id, str(file))


# --- what others wrote


def study_path(visit: Visit) -> str:
    """Path of the planted study, as the list of studies gives it."""
    visit.open("/", "studies")
    path = visit.page.get_by_role("table").get_by_role("link").first.get_attribute("href")
    assert path is not None
    return path


def test_markup_in_names_tags_and_params_is_text(visit: Visit) -> None:
    page, path = visit.page, study_path(visit)
    expect(page.get_by_role("link", name=NAME)).to_be_visible()
    page.get_by_role("link", name=NAME).click()
    visit.shows("study", path)
    expect(page.get_by_role("heading", level=1)).to_have_text(NAME)
    expect(page.get_by_role("table", name="Runs that failed")).to_contain_text(EVIL)
    page.get_by_role("link", name="schedule", exact=True).click()
    visit.shows("study", f"{path}?colour=schedule")
    expect(page.locator("#chart-front .legend")).to_contain_text("onerror")
    page.locator("#chart-front .points path").first.hover(force=True)
    visit.draw_all()
    for view in ("curves", "retrain"):
        visit.open(f"{path}/{view}", view)
        visit.draw_all()
    visit.open(f"{path}/trial/0", "trial")
    visit.draw_all()
    page.get_by_text("Configuration").click()
    expect(page.get_by_role("table", name="Settings of this search")).to_contain_text(EVIL)
    expect(page.get_by_role("table", name="Data and versions")).to_contain_text(EVIL)
    query = path.removeprefix("/study/")
    visit.open(f"/compare?trial={query}:0&trial={query}:1", "compare")
    visit.draw_all()
    visit.assert_quiet()
    assert page.locator("main img").count() == 0


def test_genotype_that_is_none_gives_a_message(visit: Visit) -> None:
    visit.open(f"{study_path(visit)}/trial/0", "trial")
    said = visit.page.get_by_role("alert")
    expect(said).to_contain_text("The genotype cannot be used")
    expect(said).to_contain_text("genotype.json")
    visit.draw_all()
    expect(visit.page.locator(".js-plotly-plot").first).to_be_visible()
    visit.assert_quiet()


def test_history_that_is_none_gives_a_message(visit: Visit) -> None:
    visit.open(f"{study_path(visit)}/trial/1", "trial")
    expect(visit.page.get_by_role("alert").first).to_contain_text("The history cannot be shown")
    visit.assert_quiet()


def test_player_that_was_replaced_cannot_touch_the_dashboard(visit: Visit) -> None:
    visit.open(f"{study_path(visit)}/trial/0", "trial")
    frame = visit.page.locator("iframe.player")
    handle = frame.element_handle()
    assert handle is not None
    content = handle.content_frame()
    assert content is not None
    said = json.loads(content.locator("#said").inner_text())
    refused = dict.fromkeys(("page", "variable", "storage", "cookie"), "SecurityError")
    assert said == {**refused, "origin": "null"}
    assert visit.page.title().startswith("trial 0 of ")
    box = frame.bounding_box()
    assert box is not None
    assert 240 <= box["height"] <= 2400, "it takes what height it likes, within bounds"
    address = frame.get_attribute("src")
    visit.assert_quiet()
    visit.page.goto(f"{visit.address}{address}")  # opened by itself, it has no more rights
    said = json.loads(visit.page.locator("#said").inner_text())
    assert (said["origin"], said["storage"], said["cookie"]) == ("null", "SecurityError", "SecurityError")


# --- stores that are away


def test_server_that_is_away_is_named_and_the_page_recovers(
    open_page: Callable[..., Any],
    tmp_path: Path,
) -> None:
    server = MlflowServer(tmp_path / "mlflow")
    page, watched = open_page()
    with DashboardProcess(server.uri, tmp_path / "log") as dashboard:
        visit = Visit(page, dashboard.address, watched)
        visit.open("/", "error")
        visit.mark()
        expect(page.get_by_role("heading", level=1)).to_have_text("The MLflow store cannot be reached")
        expect(page.get_by_role("alert")).to_contain_text(server.uri)
        expect(page.get_by_role("alert")).to_contain_text("--tracking-uri")
        with server:
            expect(page.get_by_text("No study yet")).to_be_visible(timeout=30_000)
            plant(MlflowClient(server.uri))
            expect(page.get_by_role("link", name=NAME)).to_be_visible(timeout=30_000)
        assert visit.is_marked
        visit.assert_quiet()


def test_database_that_is_missing_is_named_and_not_made(
    open_page: Callable[..., Any],
    tmp_path: Path,
) -> None:
    file = tmp_path / "mlflow.db"
    page, watched = open_page()
    with DashboardProcess(f"sqlite:///{file}", tmp_path / "log") as dashboard:
        visit = Visit(page, dashboard.address, watched)
        visit.open("/", "error")
        expect(page.get_by_role("alert")).to_contain_text(str(file))
        visit.assert_quiet()
    assert not file.exists()


def test_addresses_that_lead_nowhere_say_so(visit: Visit) -> None:
    for path, said in {
        "/study/none": "there is no study",
        "/nowhere": "there is no page",
        f"{study_path(visit)}/trial/7": "has no trial 7",
        "/compare?trial=none": "STUDY:NUMBER",
    }.items():
        visit.open(path, "error")
        expect(visit.page.get_by_role("alert")).to_contain_text(said)
    visit.assert_quiet()
