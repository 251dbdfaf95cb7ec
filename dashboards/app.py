"""The browser app: addresses to views, files beside them, and nothing that writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from flask import Response, request

from dashboards.charts.theme import THEMES
from dashboards.errors import BrokenArtifactError, DashboardError, NotFoundError, StoreAwayError, StudyNotFoundError
from dashboards.memory import keep_memory_small
from dashboards.pages.compare import compare_view
from dashboards.pages.curves import curves_view
from dashboards.pages.parts import link, message
from dashboards.pages.retrain import retrain_view
from dashboards.pages.studies import studies_view
from dashboards.pages.study import study_view
from dashboards.pages.timeline import timeline_view
from dashboards.pages.trial import trial_view
from dashboards.pages.view import Request, View, address, parse_query
from dashboards.pictures.cell_svg import cell_difference_svg, small_cells_svg
from dashboards.player.page import render_player
from dashboards.ports import port_error
from dashboards.records import RunRecord
from dashboards.store import Store
from search_core.space.genotype import Genotype

HOST = "127.0.0.1"
_LOG = logging.getLogger(__name__)
_POLL_MS = 3000
_THREADS = 8
_NOT_FOUND = "Not found"

#: What pages may load: their own files. Dash and Plotly put styles and a small script into the page.
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: What a player may do, even opened by itself: run its own script, in an origin of its own.
_PLAYER_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'"
)


def create_app(store: Store) -> Dash:
    """The dashboard over a store.

    Args:
        store: where the records come from.
    """
    app = Dash(
        "dashboards",
        assets_folder=str(Path(__file__).parent / "assets"),
        title="SNAS dashboard",
        update_title=None,
        suppress_callback_exceptions=True,
        serve_locally=True,
        enable_mcp=False,
    )
    # Other names could be pointed here by a page elsewhere, to read the studies.
    app.server.config["TRUSTED_HOSTS"] = [HOST, "localhost"]
    app.index_string = _INDEX
    app.layout = _shell()
    _add_callback(app, store)
    _add_files(app, store)
    return app


def serve(store: Store, port: int, ready: Callable[[str], None]) -> None:
    """Serve the dashboard on this machine alone until the process ends.

    Args:
        store: where the records come from.
        port: of 127.0.0.1; 0 takes a free one.
        ready: is called with the address as soon as it is served.

    Raises:
        PortTakenError: if the port is taken or not permitted.
    """
    import waitress

    # A full page asks for more files than there are threads.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    keep_memory_small()
    app = create_app(store)
    try:
        server = waitress.create_server(app.server, host=HOST, port=port, threads=_THREADS, ident=None)
    except OSError as error:
        raise port_error(HOST, port, error) from error
    ready(f"http://{HOST}:{server.effective_port}")
    threading.Thread(target=_prepare, args=(store,), name="prepare", daemon=True).start()
    server.run()


def _prepare(store: Store) -> None:
    """Do what the first views would wait for: list the newest study, and import what rates its settings."""
    with suppress(DashboardError):  # the view that asks again says it
        for entry in store.overviews()[:1]:
            request = Request(path=("study", entry.name), query={}, theme=THEMES["light"], location=store.location)
            study_view(store, request)


def render(store: Store, path: str, search: str, theme: str) -> View:
    """The view of an address; what goes wrong becomes a view that says so.

    Args:
        store: where the records come from.
        path: of the address, such as `/study/digits`.
        search: the options, such as `?cost=child_params`.
        theme: `light` or `dark`.
    """
    parts = _parts(path)
    chosen = THEMES["dark" if theme == "dark" else "light"]
    try:
        asked = Request(path=parts, query=parse_query(search), theme=chosen, location=store.location)
        return _page(parts)(store, asked)
    except StudyNotFoundError as error:  # one may open the page before the study begins
        return _failed(_NOT_FOUND, f"{error}. This page looks again every few seconds.", is_live=True)
    except NotFoundError as error:
        return _failed(_NOT_FOUND, str(error), is_live=False)
    except StoreAwayError as error:
        text = f"{error} This page tries again every few seconds."
        return _failed("The MLflow store cannot be reached", text, is_live=True)
    except BrokenArtifactError as error:
        return _failed("A file cannot be shown", str(error), is_live=False)


def _parts(path: str) -> tuple[str, ...]:
    """Parts of a path that is still quoted, as browsers send it: a name may hold a slash."""
    return tuple(unquote(part) for part in path.split("/") if part)


def _page(parts: Sequence[str]) -> Callable[[Store, Request], View]:
    match parts:
        case []:
            return studies_view
        case ["compare"]:
            return compare_view
        case ["study", _]:
            return study_view
        case ["study", _, "curves"]:
            return curves_view
        case ["study", _, "retrain"]:
            return retrain_view
        case ["study", _, "timeline"]:
            return timeline_view
        case ["study", _, "trial" | "run", _]:
            return trial_view
    raise NotFoundError(f"there is no page /{'/'.join(parts)}; all studies are at /")


def _failed(title: str, text: str, *, is_live: bool) -> View:
    body = [html.H1(title), message(title, text, kind="error"), html.P(link("all studies", href="/"))]
    return View(name="error", title=title, body=[html.Div(body, className="page")], is_live=is_live, version=text)


def _shell() -> html.Div:
    parts = [
        dcc.Location(id="url", refresh="callback-nav"),
        dcc.Store(id="theme"),
        dcc.Store(id="shown"),
        dcc.Store(id="update"),
        dcc.Store(id="picked"),
        dcc.Interval(id="again", interval=_POLL_MS, disabled=True),
        html.A("Skip to the content", href="#main", className="skip"),
        html.Header(
            [
                link("SNAS", "/", "brand"),
                html.Nav(
                    [link("Studies", href="/"), link("Compare", href="/compare")],
                    **{"aria-label": "Main"},
                ),
                html.Button("Dark", id="theme-button", type="button", n_clicks=0),
            ],
            className="top",
        ),
        html.Div("Loading…", id="busy", role="status", className="busy", hidden=True),
    ]
    # Its place in the layout is how the browser addresses what is below it.
    place = {"data-place": str(len(parts))}
    return html.Div([*parts, html.Main(html.P("Loading…", className="loading"), id="main", tabIndex="-1", **place)])


def _add_callback(app: Dash, store: Store) -> None:
    @app.callback(  # type: ignore[untyped-decorator]  # Dash has no types
        Output("main", "children"),
        Output("update", "data"),
        Output("shown", "data"),
        Output("again", "disabled"),
        Input("url", "pathname"),
        Input("url", "search"),
        Input("theme", "data"),
        Input("again", "n_intervals"),
        State("shown", "data"),
    )
    def show(path: str | None, search: str | None, theme: str | None, _: int, shown: dict[str, Any] | None) -> Any:
        if theme is None or path is None:  # the browser says first whether it is dark
            return no_update, no_update, no_update, no_update
        try:
            view = render(store, path, search or "", theme)
        except Exception:  # at the border to the browser, where it would be a page that stays empty
            _LOG.exception("the view %s%s failed", path, search)
            view = _failed("This page failed", "The reason is in the terminal where the dashboard runs.", is_live=False)
        said = {
            "name": view.name,
            "title": view.title,
            "version": view.version,
            "address": path + (search or ""),
            "theme": theme,
        }
        if ctx.triggered_id == "again" and shown == said:
            return no_update, no_update, no_update, not view.is_live
        body = list(view.body)
        # Dash builds all below `main` again when it is given new children: frames are loaded again, and filters, focus
        # and scroll positions are lost. Where the page stays, the browser changes what differs.
        if shown is not None and (shown["name"], shown["address"].partition("?")[0]) == (view.name, path):
            return no_update, body, said, not view.is_live
        return body, no_update, said, not view.is_live

    in_browser = {name: ClientsideFunction("snas", name) for name in ("shown", "theme", "chosen", "selected")}
    app.clientside_callback(
        in_browser["shown"],
        Output("main", "data-view"),
        Input("shown", "data"),
        State("update", "data"),
        State("main", "children"),
    )
    app.clientside_callback(
        ClientsideFunction("choice", "listed"),
        Output("trials-count", "children"),
        Output("show-all", "hidden"),
        Output("chosen-cells", "children"),
        Input("trials", "virtualRowData"),
        Input("trials", "filterModel"),  # it may change without a change of rows
        State("trials", "rowData"),
        prevent_initial_call=True,
    )
    app.clientside_callback(in_browser["theme"], Output("theme", "data"), Input("theme-button", "n_clicks"))
    for name, target, source in (
        ("chosen", Output("picked", "data"), Input("compare-picker", "value")),
        ("selected", Output("compare-chosen", "disabled"), Input("trials", "selectedRows")),
    ):
        app.clientside_callback(in_browser[name], target, source, prevent_initial_call=True)


def _asked_cell(store: Store, path: str) -> Genotype | Response:
    """The cell of the run at an address STUDY/RUN, still quoted, or the answer that says why there is none."""
    try:
        cell = store.genotype(_run(store, path))
    except DashboardError as error:
        return _text(str(error), 503 if isinstance(error, StoreAwayError) else 404)
    return _text("this run has no genotype yet", 404) if cell is None else cell


def _add_files(app: Dash, store: Store) -> None:
    server = app.server

    @server.after_request  # type: ignore[untyped-decorator]  # Dash has no types
    def protect(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @server.get("/player/<path:_>")  # type: ignore[untyped-decorator]
    def player(_: str) -> Response:
        try:
            run = _run(store, _asked_path())
            page = store.player(run)
            if page is None:
                history = store.history(run)
                page = None if history is None else render_player(history, title=f"{run.study} {run.label}").encode()
        except (DashboardError, ValueError) as error:
            return _frame_text(str(error))
        if page is None:
            return _frame_text("The cells come with the first epochs that are written to MLflow.")
        return Response(page, mimetype="text/html", headers={"Content-Security-Policy": _PLAYER_POLICY})

    @server.get("/genotype/<path:_>")  # type: ignore[untyped-decorator]
    def genotype(_: str) -> Response:
        cell = _asked_cell(store, _asked_path())
        if isinstance(cell, Response):
            return cell
        return Response(cell.to_json(), mimetype="application/json")

    @server.get("/cells/<path:_>")  # type: ignore[untyped-decorator]
    def cells(_: str) -> Response:
        cell = _asked_cell(store, _asked_path())
        if isinstance(cell, Response):
            return cell
        theme = THEMES["dark" if request.args.get("theme") == "dark" else "light"]
        picture = small_cells_svg(cell, ink=theme.ink, muted=theme.muted, ground=theme.surface)
        return Response(picture, mimetype="image/svg+xml", headers={"Cache-Control": "max-age=3600"})

    @server.get("/difference/<path:_>")  # type: ignore[untyped-decorator]
    def difference(_: str) -> Response:
        cell = _asked_cell(store, _asked_path())
        other = _asked_cell(store, address(request.args.get("other_study", ""), request.args.get("other", "")))
        if isinstance(cell, Response):
            return cell
        if isinstance(other, Response):
            return other
        if bool(cell.layers) is not bool(other.layers):
            return _text("a chain of layers and cells cannot be drawn in one", 404)
        theme = THEMES["dark" if request.args.get("theme") == "dark" else "light"]
        ink, muted, ground, colours = theme.ink, theme.muted, theme.surface, theme.categories[:2]
        picture = cell_difference_svg(cell, other, ink=ink, muted=muted, ground=ground, colours=colours)
        return Response(picture, mimetype="image/svg+xml", headers={"Cache-Control": "max-age=3600"})

    @server.get("/csv/<path:_>")  # type: ignore[untyped-decorator]
    def csv(_: str) -> Response:
        view = render(store, _asked_path(), request.query_string.decode(errors="replace"), "light")
        if view.name == "error":
            return _text(f"{view.title}: {view.version}", 503 if view.is_live and view.title != _NOT_FOUND else 404)
        wanted = request.args.get("chart", "")
        for chart in view.charts:
            if chart.key == wanted and chart.columns:
                headers = {"Content-Disposition": f'attachment; filename="{chart.key}.csv"'}
                return Response(chart.csv(), mimetype="text/csv", headers=headers)
        return _text(f"this page has no numbers of a chart {wanted!r}", 404)


def _asked_path() -> str:
    """The path that is asked for, still quoted, behind the name of the route."""
    return urlsplit(request.environ["REQUEST_URI"]).path.removeprefix("/").partition("/")[2]


def _run(store: Store, path: str) -> RunRecord:
    """The run of an address STUDY/RUN."""
    parts = _parts(path)
    if len(parts) != 2:
        raise NotFoundError(f"a file's address must end with a study and a run, got {path!r}")
    study, run_id = parts
    record = store.study(study)
    for run in [*(trial.run for trial in record.trials), *(retraining.run for retraining in record.retrainings)]:
        if run.run_id == run_id:
            return run
    raise NotFoundError(f"study {study} has no run {run_id}")


def _text(text: str, status: int) -> Response:
    return Response(text + "\n", status=status, mimetype="text/plain")


def _frame_text(text: str) -> Response:
    """A message in place of the player: text, so that nothing in it is read as markup."""
    return Response(text + "\n", mimetype="text/plain", headers={"Content-Security-Policy": _PLAYER_POLICY})


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
{%app_entry%}
{%config%}
{%scripts%}
{%renderer%}
</body>
</html>
"""
