"""Files beside the pages: numbers, genotypes and players; what is sent with every answer."""

import csv
import http.client
import io
import re
import threading

import pytest
import waitress

from dashboards.app import create_app, render, serve
from dashboards.pages.view import address
from search_core.space.genotype import Genotype
from tests.dashboards.generated import HOSTILE, generated_study
from tests.dashboards.memory_store import MemoryStore
from tests.dashboards.tree import plain, props

_STUDY = "penalty-sweep"
_PLAYER = b"<!doctype html><title>player</title><p>as it was logged</p>"


@pytest.fixture(scope="module")
def study():
    return generated_study(_STUDY, trials=8, epochs=4, retrained=1, seeds=1)


@pytest.fixture
def store(study):
    return MemoryStore([study])


@pytest.fixture
def client(store):
    return create_app(store).server.test_client()


def _table(response):
    assert response.status_code == 200, response.text
    return list(csv.reader(io.StringIO(response.text, newline="")))


def test_csv_holds_the_numbers_of_the_chart_with_a_header(store, client):
    header, *rows = _table(client.get(f"/csv/study/{_STUDY}?chart=front"))
    chart = render(store, f"/study/{_STUDY}", "", "light").charts[0]
    assert header == list(chart.columns)
    assert rows == [["" if cell is None else str(cell) for cell in row] for row in chart.rows]


def test_csv_is_a_download(client):
    response = client.get(f"/csv/study/{_STUDY}?chart=front")
    assert response.mimetype == "text/csv"
    assert response.headers["Content-Disposition"] == 'attachment; filename="front.csv"'


def test_csv_of_all_trials_keeps_params_and_metrics_of_one_name_apart(client):
    header, *rows = _table(client.get(f"/csv/study/{_STUDY}?chart=trials"))
    assert len(rows) == 8
    assert {"param.penalty.strength", "metric.eta", "metric.child_val_error"} <= set(header)
    assert len(set(header)) == len(header)


def test_csv_follows_the_options_of_the_page(client):
    assert "child_params" in _table(client.get(f"/csv/study/{_STUDY}?cost=child_params&chart=front"))[0]
    curves = _table(client.get(f"/csv/study/{_STUDY}/curves?metric=temperature&trials=2&chart=many-curves"))
    assert curves[0] == ["trial", "epoch", "temperature"]
    assert {row[0] for row in curves[1:]} == {"2"}


def test_every_csv_link_of_every_page_leads_to_a_table(store, client):
    pages = [("", ""), ("/curves", ""), ("/retrain", ""), ("/trial/0", "?show=alpha")]
    views = [render(store, f"/study/{_STUDY}{page}", search, "light") for page, search in pages]
    views.append(render(store, "/compare", f"?trial={_STUDY}:0&trial={_STUDY}:1", "light"))
    links = [href for view in views for href in props(plain(view), "href") if href.startswith("/csv")]
    assert len(links) == sum(bool(chart.figure) or chart.key == "trials" for view in views for chart in view.charts)
    for link in links:
        assert len(_table(client.get(link))) > 1, link


def test_csv_quotes_reasons_that_a_spreadsheet_would_run(study):
    run = study.runs[1]
    run.tags["snas.reason"] = "=HYPERLINK(1)"
    try:
        table = _table(create_app(MemoryStore([study])).server.test_client().get(f"/csv/study/{_STUDY}?chart=trials"))
    finally:
        del run.tags["snas.reason"]
    assert table[1][-1] == "'=HYPERLINK(1)"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"/study/{_STUDY}?chart=other", "this page has no numbers of a chart 'other'"),
        (f"/study/{_STUDY}", "this page has no numbers of a chart"),
        ("/study/other?chart=front", "Not found: there is no study `other`"),
        ("/nonsense?chart=front", "Not found: there is no page /nonsense"),
    ],
)
def test_csv_that_is_not_there_is_not_found_in_words(client, path, said):
    response = client.get(f"/csv{path}")
    assert (response.status_code, response.mimetype) == (404, "text/plain")
    assert response.text.startswith(said)


def test_genotype_is_the_one_of_the_store(client, study):
    response = client.get(f"/genotype/{_STUDY}/study-{_STUDY}-t0")
    assert response.mimetype == "application/json"
    assert Genotype.from_json(response.text) == study.searches[0].genotype()


@pytest.mark.parametrize("name", ["a/b", "ä%2F", "javascript:alert(1)", "a b"])
def test_files_of_odd_names_are_found(name, monkeypatch):
    monkeypatch.setattr(MemoryStore, "player", lambda self, run: _PLAYER)
    store = MemoryStore([generated_study(name, trials=4, epochs=2, retrained=0)])
    client = create_app(store).server.test_client()
    run_id = f"study-{name}-t0"
    assert client.get(address("genotype", name, run_id)).mimetype == "application/json"
    assert client.get(address("player", name, run_id)).data == _PLAYER
    assert len(_table(client.get(address("csv", "study", name, chart="trials")))) == 5
    frames = props(plain(render(store, address("study", name, "trial", "0"), "", "light")), "src")
    assert client.get(frames[0].partition("#")[0]).data == _PLAYER


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("nonsense", "has no run nonsense"),
        (f"study-{_STUDY}-t1", "genotype.json of run trial-0001 must be"),
        (f"study-{_STUDY}-t2", "this run has no genotype yet"),
        ("a/b", "must end with a study and a run"),
    ],
)
def test_genotype_that_cannot_be_given_is_said(store, client, run, said):
    store.broken, store.without_files = frozenset({"trial-0001"}), frozenset({"trial-0002"})
    response = client.get(f"/genotype/{_STUDY}/{run}")
    assert (response.status_code, response.mimetype) == (404, "text/plain")
    assert said in response.text


def test_genotype_of_a_store_that_is_away_is_a_passing_failure(store, client):
    store.away = "It does not answer."
    response = client.get(f"/genotype/{_STUDY}/study-{_STUDY}-t0")
    assert (response.status_code, response.text) == (503, "It does not answer.\n")


def _directives(response):
    policy = response.headers["Content-Security-Policy"]
    return {part.split()[0]: part.split()[1:] for part in policy.split("; ")}


def test_player_is_served_as_it_was_logged_and_sandboxed(client, monkeypatch):
    monkeypatch.setattr(MemoryStore, "player", lambda self, run: _PLAYER)
    response = client.get(f"/player/{_STUDY}/study-{_STUDY}-t0")
    assert response.data == _PLAYER
    assert response.mimetype == "text/html"
    policy = _directives(response)
    assert policy["sandbox"] == ["allow-scripts"]  # and not the origin of the dashboard
    assert policy["default-src"] == ["'none'"]
    assert "connect-src" not in policy


def test_player_is_made_where_none_was_logged(client, monkeypatch):
    monkeypatch.setattr(MemoryStore, "player", lambda self, run: None)
    response = client.get(f"/player/{_STUDY}/study-{_STUDY}-t0")
    assert response.mimetype == "text/html"
    assert f"{_STUDY} trial-0000" in response.text
    assert _directives(response)["sandbox"] == ["allow-scripts"]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("nonsense", "has no run nonsense"),
        (f"study-{_STUDY}-t1", "history.parquet of run trial-0001 must be"),
        (f"study-{_STUDY}-t2", "The cells come with the first epochs"),
        (f"study-{_STUDY}-retrain-0000-seed0", "cells"),  # a retraining has a history, but none of cells
    ],
)
def test_player_that_cannot_be_given_is_text_in_the_frame(store, study, client, run, said, monkeypatch):
    monkeypatch.setattr(MemoryStore, "player", lambda self, run: None)
    store.broken, store.without_files = frozenset({"trial-0001"}), frozenset({"trial-0002"})
    if "retrain" in run:
        run = f"study-{_STUDY}-{study.retrainings[0].label}"
    response = client.get(f"/player/{_STUDY}/{run}")
    assert response.mimetype == "text/plain"
    assert said in response.text
    assert _directives(response)["sandbox"] == ["allow-scripts"]


def test_what_a_hostile_address_says_comes_back_as_text(client):
    for path in (f"/player/{HOSTILE}/x", f"/genotype/{HOSTILE}/x", f"/csv/study/{HOSTILE}?chart={HOSTILE}"):
        response = client.get(path)
        assert response.mimetype == "text/plain", path
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/", "/study/x", f"/csv/study/{_STUDY}?chart=front", "/_dash-layout", "/assets/app.js", "/%00"]
)
def test_every_answer_has_its_headers(client, path):
    response = client.get(path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    policy = _directives(response)
    assert policy["default-src"] == policy["frame-src"] == policy["connect-src"] == ["'self'"]
    assert policy["object-src"] == policy["base-uri"] == policy["frame-ancestors"] == ["'none'"]


def test_pages_ask_nothing_of_other_machines(client):
    places = re.findall(r"""(?:src|href)=["']([^"']+)""", client.get("/").text)
    assert len(places) > 5
    assert all(place.startswith(("/", "data:")) and not place.startswith("//") for place in places)


def test_nothing_can_be_written(client):
    for path in ("/", f"/genotype/{_STUDY}/x", f"/csv/study/{_STUDY}", f"/player/{_STUDY}/x"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.open(path, method=method).status_code == 405, (method, path)


@pytest.fixture
def served(store, monkeypatch):
    """Port of the dashboard, really served."""
    servers, ports, is_up = [], [], threading.Event()
    create = waitress.create_server
    monkeypatch.setattr(
        waitress, "create_server", lambda *args, **more: servers.append(create(*args, **more)) or servers[0]
    )

    def ready(at):
        ports.append(int(at.rpartition(":")[2]))
        is_up.set()

    thread = threading.Thread(target=serve, args=(store, 0, ready), daemon=True)
    thread.start()
    assert is_up.wait(20)
    yield ports[0]
    servers[0].trigger.pull_trigger(lambda: servers[0].asyncore.close_all(servers[0]._map))  # in its own thread
    thread.join(10)
    servers[0].task_dispatcher.shutdown()
    assert not thread.is_alive()


def _asked(port, path, host):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": host})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_served_pages_answer_to_this_machine_s_names_only(served):
    for path in ("/", f"/csv/study/{_STUDY}?chart=trials", f"/genotype/{_STUDY}/study-{_STUDY}-t0", "/_dash-layout"):
        for host in (f"127.0.0.1:{served}", f"localhost:{served}", "localhost"):
            assert _asked(served, path, host)[0] == 200, (path, host)
        for host in ("evil.example", f"evil.example:{served}", "127.0.0.1.evil.example", "localhost.evil.example"):
            status, content = _asked(served, path, host)
            assert status == 400, (path, host)
            assert b"trial" not in content


def test_served_files_take_quoted_names(served, store):
    store.studies = [generated_study("a/b", trials=2, epochs=2, retrained=0)]
    status, content = _asked(served, "/csv/study/a%2Fb?chart=trials", "localhost")
    assert (status, content.count(b"\r\n")) == (200, 3)
