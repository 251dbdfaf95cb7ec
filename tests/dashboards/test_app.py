"""Views of every address over generated studies, and what the callback makes of them."""

import json
from collections import Counter
from dataclasses import replace
from urllib.parse import quote

import pytest

from dashboards.app import create_app, render
from dashboards.charts.theme import THEMES
from dashboards.formatting import duration, shown_metric
from tests.dashboards.generated import HOSTILE, generated_study
from tests.dashboards.memory_store import MemoryStore
from tests.dashboards.tree import components, plain, props, words

_STUDY = "penalty-sweep"
_ODD_NAMES = ("a b", "a/b", "ä%2F", "javascript:alert(1)", "x?y#z", "a:b", "50%", "'\"><b>")


@pytest.fixture(scope="module")
def study():
    return generated_study(_STUDY, trials=24, epochs=6, strategies=("snas", "darts"))


@pytest.fixture
def store(study):
    return MemoryStore([study])


ADDRESSES = {
    "/": "studies",
    "/compare": "compare",
    f"/compare?trial={_STUDY}:0&trial={_STUDY}:1": "compare",
    f"/compare?study={_STUDY}": "compare",
    f"/study/{_STUDY}": "study",
    f"/study/{_STUDY}?cost=child_params&colour=schedule": "study",
    f"/study/{_STUDY}?cost=nonsense&colour=nonsense": "study",
    f"/study/{_STUDY}/": "study",
    f"/study/{_STUDY}/curves": "curves",
    f"/study/{_STUDY}/timeline": "timeline",
    f"/study/{_STUDY}/curves?metric=temperature&trials=0-3,8,x,-1,9999999999999-": "curves",
    f"/study/{_STUDY}/retrain": "retrain",
    f"/study/{_STUDY}/trial/0": "trial",
    f"/study/{_STUDY}/trial/0?show=alpha": "trial",
    f"/study/{_STUDY}/run/study-{_STUDY}-t3": "trial",
}


def _render(store, address, theme="light"):
    path, _, search = address.partition("?")
    return render(store, path, f"?{search}" if search else "", theme)


@pytest.mark.parametrize("theme", ["light", "dark", "nonsense"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_has_its_view(store, address, theme):
    view = _render(store, address, theme)
    assert view.name == ADDRESSES[address]
    assert view.title
    tree = plain(view)
    headings = [component["type"] for component in components(tree)]
    assert headings.count("H1") == 1
    assert "nan" not in words(tree).lower().split()
    inks = {chart.figure["layout"]["font"]["color"] for chart in view.charts if chart.figure}
    assert inks <= {THEMES["dark" if theme == "dark" else "light"].ink}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/nonsense", "there is no page /nonsense; all studies are at /"),
        (f"/study/{_STUDY}/nonsense", "there is no page"),
        (f"/study/{_STUDY}/trial/0/more", "there is no page"),
        ("/study", "there is no page /study"),
        ("/study/other", "there is no study other in generated studies"),
        (f"/study/{_STUDY}/trial/99", f"study {_STUDY} has no trial 99; it has 24 searches"),
        (f"/study/{_STUDY}/trial/None", "has no trial None"),
        (f"/study/{_STUDY}/run/nonsense", "has no run nonsense"),
        ("/compare?trial=nonsense", "trial must be STUDY:NUMBER or STUDY:RUN, got 'nonsense'"),
        (f"/compare?trial={_STUDY}:99", "has no trial 99"),
        ("/compare?study=other", "there is no study other"),
        ("/?" + "&".join(f"o{n}=1" for n in range(60)), "an address must have at most 50 options"),
    ],
)
def test_what_is_not_there_is_said(store, address, said):
    view = _render(store, address)
    assert (view.name, view.is_live) == ("error", said.startswith("there is no study")), "a study may begin"
    tree = plain(view)
    assert said in " ".join(words(tree).split())
    assert "/" in props(tree, "href")  # a way back
    assert "alert" in props(tree, "role")


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_store_that_is_away_is_said_and_asked_again(store, address):
    store.away = "MLflow at http://127.0.0.1:5000 does not answer."
    view = _render(store, address)
    assert (view.name, view.is_live) == ("error", True)
    assert "does not answer. This page tries again" in words(plain(view))


def test_a_store_without_studies_says_how_to_begin():
    view = render(MemoryStore(), "/", "", "light")
    assert view.is_live
    assert "No study yet" in words(plain(view))
    assert "snas study run studies/quickstart.yaml" in words(plain(view))
    assert "Choose two or more" in words(plain(render(MemoryStore(), "/compare", "", "light")))


def test_studies_say_how_far_they_are(store):
    store.studies = [*store.studies, generated_study("live", trials=10, epochs=4, running=2)]
    view = render(store, "/", "", "light")
    assert view.is_live
    said = words(plain(view))
    assert "▶" in said
    assert "8 of 10" in said
    assert "retrained 9 of 9" in said
    assert "2 h 20 min" in said  # 4200 s for each of two
    assert not render(MemoryStore([generated_study(trials=2, epochs=2)]), "/", "", "light").is_live


def test_a_live_study_says_how_far_its_runs_are_and_how_long_they_will_take(store):
    live = generated_study("live", trials=10, epochs=4, running=2)
    parent = replace(live.parent, tags={**live.parent.tags, "snas.lines": "11:02:09  warning: trial 9 is behind"})
    live = replace(live, runs=[parent, *(run for run in live.runs if run.kind != "study")])
    said = " ".join(words(plain(render(MemoryStore([live]), "/study/live", "", "light"))).split())
    run = live.record().trials[9].run
    left = duration((run.last_report_s - run.start_s) / 2 * 2)  # 2 of 4 epochs are over
    accuracy = shown_metric("val_accuracy", run.metrics["child_val_accuracy"])
    assert "2 runs at work" in said
    assert f"trial 9 epoch 2 of 4 {accuracy} " in said
    assert f"about {left}" in said
    assert "11:02:09 warning: trial 9 is behind" in said
    assert "at work" not in words(plain(_render(store, f"/study/{_STUDY}")))


def test_a_page_opened_before_its_study_exists_looks_again_and_downloads_are_not_found(store):
    store.studies, known = (), store.studies
    view = _render(store, f"/study/{_STUDY}")
    assert view.is_live
    assert "This page looks again" in words(plain(view))
    assert create_app(store).server.test_client().get(f"/csv/study/{_STUDY}?chart=front").status_code == 404
    store.studies = known
    assert _render(store, f"/study/{_STUDY}").name == "study"


def test_a_live_study_is_live_and_its_version_moves():
    before = generated_study("live", trials=10, epochs=4, running=2)
    store = MemoryStore([before])
    views = {page: render(store, f"/study/live{page}", "", "light") for page in ("", "/curves", "/trial/9")}
    assert all(view.is_live for view in views.values())
    store.studies = [generated_study("live", trials=10, epochs=6, running=2)]
    for page, view in views.items():
        assert render(store, f"/study/live{page}", "", "light").version != view.version


@pytest.mark.parametrize("page", ["", "/curves", "/retrain", "/trial/0"])
def test_the_notice_of_a_study_is_shown(store, page):
    store.notice = "The store is away; this was known at 12:00."
    assert store.notice in words(plain(render(store, f"/study/{_STUDY}{page}", "", "light")))


def test_the_notice_is_shown_where_trials_are_compared(store):
    store.notice = "The store is away."
    assert store.notice in words(plain(render(store, "/compare", f"?study={_STUDY}", "light")))


def test_broken_files_of_a_trial_are_messages_on_its_page(store):
    store.broken = frozenset({"trial-0000"})
    view = render(store, f"/study/{_STUDY}/trial/0", "", "light")
    said = words(plain(view))
    assert view.name == "trial"
    assert "The history cannot be shown" in said
    assert "The genotype cannot be used genotype.json of run trial-0000 must be a genotype" in said
    compared = words(plain(_render(store, f"/compare?trial={_STUDY}:0&trial={_STUDY}:1")))
    assert "The history of trial 0 cannot be shown" in compared
    assert "The genotype of trial 0 cannot be used" in compared


def test_a_broken_history_of_a_retraining_is_a_message(store):
    label = store.studies[0].retrainings[0].label
    store.broken = frozenset({label})
    said = words(plain(render(store, f"/study/{_STUDY}/retrain", "", "light")))
    assert f"history.parquet of run {label} must be a history" in said


def test_table_of_trials_shows_the_starred_ones(store, study):
    page = f"/study/{_STUDY}?rows=starred"
    assert props(plain(_render(store, page)), "rowData") == [[]]
    runs = [replace(run, tags={**run.tags, "snas.star": "true"}) if run.label == "trial-0004" else run
            for run in study.runs]  # fmt: skip
    (rows,) = props(plain(_render(MemoryStore([replace(study, runs=runs)]), page)), "rowData")
    assert [row["label"] for row in rows] == ["trial 4 ★"]


def test_table_of_trials_takes_filters_from_the_address_and_leaves_out_what_is_none(store):
    error = {"filterType": "number", "type": "lessThanOrEqual", "filter": 12.5}
    others = {"state": {"filterType": "text", "type": "<b>", "filter": "x"}, "front": {"filterType": "number"},
              "nonsense": error, "child_madds": {**error, "filter": "many"}, "edges": []}  # fmt: skip
    for text, kept in (
        (json.dumps({"child_val_error": error, **others}), {"child_val_error": error}),
        ("{", {}),
        ("3", {}),
    ):
        (found,) = props(plain(_render(store, f"/study/{_STUDY}?filter={quote(text)}")), "filterModel")
        assert found == kept


def test_every_filter_that_a_column_offers_can_be_in_the_address(store):
    (columns,) = props(plain(_render(store, f"/study/{_STUDY}")), "columnDefs")
    assert {column["filterParams"]["maxNumConditions"] for column in columns} == {1}
    value = {"agTextColumnFilter": ("text", "a"), "agNumberColumnFilter": ("number", 1)}
    for place in range(8):
        asked = {}
        for column in columns:
            kind, compared = value[column["filter"]]
            if place < len(offered := column["filterParams"]["filterOptions"]):
                asked[column["field"]] = {"filterType": kind, "type": offered[place], "filter": compared}
        assert asked
        (kept,) = props(plain(_render(store, f"/study/{_STUDY}?filter={quote(json.dumps(asked))}")), "filterModel")
        assert kept == asked


def test_a_trial_without_files_says_so(store):
    store.without_files = frozenset({"trial-0000"})
    view = render(store, f"/study/{_STUDY}/trial/0", "", "light")
    assert "The history is missing" in words(plain(view)), "the search is complete"
    assert view.charts == ()


def test_the_study_page_shows_what_ended_badly_with_its_reason(store):
    said = words(plain(render(store, f"/study/{_STUDY}", "", "light")))
    assert "3 runs ended badly" in said  # trials 7 and 11, and one retraining
    assert "no edge is left in the reduction cell for 5 epochs" in said


def test_compare_shows_distances_differences_and_claims(store):
    view = _render(store, f"/compare?trial={_STUDY}:0&trial={_STUDY}:1&trial={_STUDY}:0")
    said = words(plain(view))
    assert "penalty.strength" in said
    assert "(a) the snas child keeps the supernet's accuracy" in said
    assert view.charts[0].key == "compare-supernet-val-accuracy"
    assert props(plain(view), "className").count("side-by-side of-2") == 1  # the second 0 is the first


def test_compare_draws_how_the_cells_differ(store):
    record = store.study(_STUDY)
    first, second, third = (trial.run.run_id for trial in record.trials[:3])
    view = _render(store, f"/compare?trial={_STUDY}:0&trial={_STUDY}:1&trial={_STUDY}:2")
    drawn = [source for source in props(plain(view), "src") if source.startswith("/difference")]
    client = create_app(store).server.test_client()
    for source, other in zip(drawn, (second, third), strict=True):
        answer = client.get(source)
        assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
        mine, theirs = (
            store.genotype(store.study(_STUDY).trials[place].run) for place in (0, (second, third).index(other) + 1)
        )
        both = sum((Counter(mine.normal) & Counter(theirs.normal)).values())
        assert f"{both} edge" in answer.text
    missing = client.get(f"/difference/{_STUDY}/{first}?other_study={_STUDY}&other=nonsense")
    assert (missing.status_code, missing.text) == (404, f"study {_STUDY} has no run nonsense\n")


def test_compare_shows_more_than_four_trials_as_a_table(store):
    record = store.study(_STUDY)
    chosen = "&".join(f"trial={_STUDY}:{number}" for number in range(6))
    tree = plain(_render(store, f"/compare?{chosen}"))
    assert "side-by-side" not in " ".join(props(tree, "className"))
    said = words(tree)
    assert "6 trials, with the settings in which they differ" in said
    for trial in record.trials[:6]:
        assert f"{trial.title} " in said
        assert shown_metric("child_madds", trial.run.metrics["child_madds"]) in said
        assert f" {trial.eta:.3g} " in said


def test_curves_offer_an_optional_metric_only_where_a_chosen_search_has_it(store, study):
    page, name = f"/study/{_STUDY}/curves", "divergence of pruned networks"
    assert name not in words(plain(_render(store, page)))
    assert name in words(plain(_render(store, f"{page}?metric=pruned_kl"))), "what is chosen is offered"
    runs = [replace(run, metrics={**run.metrics, "pruned_kl": 0.5}) if run.label == "trial-0004" else run
            for run in study.runs]  # fmt: skip
    one_shot = MemoryStore([replace(study, runs=runs)])
    assert name in words(plain(_render(one_shot, page)))
    assert name not in words(plain(_render(one_shot, f"{page}?trials=0-3")))


def test_table_of_trials_has_the_front_first_and_presets_in_the_address(store, study):
    def rows(preset):
        (found,) = props(plain(_render(store, f"/study/{_STUDY}?rows={preset}")), "rowData")
        return found

    record = study.record()
    known = {trial.number: trial for trial in record.trials}
    front = {number for number, trial in known.items() if trial.on_front}
    tested = {retraining.trial for retraining in record.retrainings}
    all_rows = rows("all")
    assert {row["trial"] for row in all_rows[: len(front)]} == front
    assert {row["trial"] for row in all_rows[: len(tested)]} == tested, "those with a test error come first"
    assert {row["trial"] for row in rows("front")} == front
    assert {row["trial"] for row in rows("retrained")} == tested
    assert {row["state"] for row in rows("failed")} == {"failed", "collapsed"}
    first = all_rows[0]
    metrics = known[first["trial"]].run.metrics
    assert first["child_val_error"] == 100 * metrics["child_val_error"]
    for name in ("child_val_error", "child_madds"):
        assert first["shown"][name] == shown_metric(name, metrics[name]), "one formatter"
    assert first["shown"]["p0"] == f"{known[first['trial']].eta:.3g}"
    assert "±" in first["shown"]["test_error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", _ODD_NAMES)
def test_addresses_of_odd_names_lead_where_they_say(name):
    """All inner links of all pages of a study, followed."""
    store = MemoryStore([generated_study(name, trials=4, epochs=2, retrained=1, seeds=1)])
    seen, waiting = set(), ["/"]
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        view = _render(store, address)
        assert view.name != "error", (address, words(plain(view)))
        tree = plain(view)
        inner = [c["props"]["href"] for c in components(tree) if c["props"].get("data-inside")]
        rows = [row["href"] for rows in props(tree, "rowData") for row in rows]
        for href in [*props(tree, "href"), *rows]:
            assert href.startswith("/")
            assert not href.startswith("//")
        waiting += [href for href in [*inner, *rows] if "?cost=" not in href and "&" not in href]
    assert len(seen) >= 9


def test_hostile_names_are_text_and_nothing_else():
    """Markup in names, tags, params and reasons reaches a page as children or plain attributes only."""
    name = "javascript:alert(1)//<script>"
    store = MemoryStore(
        [generated_study(name, trials=24, epochs=3, hostile=True, seeds=2)], broken=frozenset({"trial-0002"})
    )
    base = "/study/" + "javascript%3Aalert(1)%2F%2F%3Cscript%3E"
    pages = ["/", base, f"{base}?colour=schedule", f"{base}/curves", f"{base}/retrain", f"{base}/trial/1",
             f"{base}/trial/2", f"{base}/trial/7", f"/compare?trial={base[7:]}:1&trial={base[7:]}:2"]  # fmt: skip
    met = False
    for page in pages:
        view = _render(store, page)
        assert view.name != "error", page
        tree = plain(view)
        met |= HOSTILE in words(tree)
        for component in components(tree):
            own = component["props"]
            assert component["type"] not in ("Markdown", "Script", "DangerouslySetInnerHTML", "Link")
            assert not {"dangerouslySetInnerHTML", "dangerously_allow_html", "srcDoc", "dangerously_allow_code"} & set(
                own
            )
            assert not [key for key in own if key.lower().startswith("on")]
            for key in ("href", "src"):
                assert own.get(key, "/").startswith("/")
                assert "<" not in own.get(key, "")
            if component["type"] == "Graph":
                assert "<script" not in str(own["figure"])
                assert "<img" not in str(own["figure"])
            if component["type"] == "Iframe":
                assert own["sandbox"] == "allow-scripts"
    assert met


def _show(app, address, *, shown=None, cause="url.pathname"):
    """What the browser gets when it asks for a view."""
    path, _, search = address.partition("?")
    inputs = {
        "url.pathname": path,
        "url.search": search and f"?{search}",
        "theme.data": "light",
        "again.n_intervals": 1,
    }
    asked = {
        "output": "..main.children...update.data...shown.data...again.disabled..",
        "outputs": [{"id": part.split(".")[0], "property": part.split(".")[1]}
                    for part in ("main.children", "update.data", "shown.data", "again.disabled")],
        "inputs": [{"id": key.split(".")[0], "property": key.split(".")[1], "value": value}
                   for key, value in inputs.items()],
        "state": [{"id": "shown", "property": "data", "value": shown}],
        "changedPropIds": [cause],
    }  # fmt: skip
    response = app.server.test_client().post("/_dash-update-component", json=asked)
    assert response.status_code == 200, response.text
    return response.json["response"]


def test_the_callback_shows_a_view_and_draws_again_only_what_changed(store):
    app = create_app(store)
    first = _show(app, f"/study/{_STUDY}")
    assert first["shown"]["data"]["name"] == "study"
    assert first["again"]["disabled"] is True
    same = _show(app, f"/study/{_STUDY}", shown=first["shown"]["data"], cause="again.n_intervals")
    assert "main" not in same
    store.notice = "away"
    other = _show(app, f"/study/{_STUDY}", shown=first["shown"]["data"], cause="again.n_intervals")
    assert other["shown"]["data"]["version"] != first["shown"]["data"]["version"]
    assert "main" not in other, "the page stays, and the browser changes what differs"
    assert "away" in words(other["update"]["data"])
    elsewhere = _show(app, "/", shown=other["shown"]["data"])
    assert "update" not in elsewhere
    assert "SNAS" not in words(elsewhere["main"]["children"])


def test_a_view_that_fails_is_a_page_that_says_so_and_keeps_its_reason_to_the_terminal(store, caplog):
    def broken(name):
        raise RuntimeError("a secret of the store")

    store.study = broken
    answer = _show(create_app(store), f"/study/{_STUDY}")
    assert "This page failed" in words(answer["main"]["children"])
    assert "secret" not in str(answer)
    assert "a secret of the store" in caplog.text


def test_the_callback_looks_again_while_the_store_is_away(store):
    store.away = "It does not answer."
    assert _show(create_app(store), "/")["again"]["disabled"] is False
