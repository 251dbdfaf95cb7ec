"""A study as one HTML file to share: its answer, its front, players of the front's cells, its claims and settings.

The file asks nothing of any network, so that it opens from a disk, in MLflow's artifact view and as an attachment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from dashboards.analysis.answer import Answer, Pick
from dashboards.analysis.answer_text import answer_words, cost_words, error_name, role_words, settings_words
from dashboards.analysis.claims import Claim
from dashboards.formatting import counted, interval_text, percent_with_spread, shown_metric, shown_number
from dashboards.history import History
from dashboards.pictures.cell_svg import small_cells_svg
from dashboards.pictures.figures import figure_svg
from dashboards.pictures.study_summary import TrialPoint, render_front
from dashboards.player.page import inside_script, player_json, player_template
from search_core.space.genotype import Genotype

#: Players take at most so many bytes together, those of the answer's cells first; a search of 150 epochs takes 190 KB.
PLAYER_BYTES = 2_200_000
_COLOURS = {"ink": "#1f2a33", "muted": "#56636e", "ground": "#ffffff"}
_MARK = re.compile(r"/\*([A-Z]+)\*/")


@dataclass(frozen=True, kw_only=True)
class FrontCell:
    """A cell of the front.

    Attributes:
        trial: number of the search that found it.
        eta: penalty strength.
        schedule: of the temperature, in words.
        child_error: of the child before retraining, on validation images, a fraction.
        test_error: mean over its retrainings, a fraction; None before the first.
        test_spread: sample standard deviation of it; None with fewer than two retrainings.
        madds: multiply-adds of the child at the size of the search.
        params: its parameters, likewise.
        genotype: the cell.
    """

    trial: int
    eta: float
    schedule: str
    child_error: float
    test_error: float | None
    test_spread: float | None
    madds: float
    params: float
    genotype: Genotype


@dataclass(frozen=True, kw_only=True)
class SharedStudy:
    """What the file shows of a study.

    Attributes:
        name: of the study.
        summary: what it searched on and how far it is, in a line.
        answer: which cell to keep; None before a search has found a usable one.
        points: all searches that have reported.
        front: by the first objective.
        claims: of the SNAS paper, held against the study's strategies; empty with one strategy.
        settings: the study file.
    """

    name: str
    summary: str
    answer: Answer | None
    points: Sequence[TrialPoint]
    front: Sequence[FrontCell]
    claims: Sequence[Claim]
    settings: str


def render_study_page(study: SharedStudy, history_of: Callable[[int], History]) -> str:
    """The study as a self-contained HTML page.

    All names are untrusted: they become text only, in the players too.

    Args:
        study: what is shown.
        history_of: the history of a search of the front, by number.
    """
    players = _players(study, history_of)
    parts = {
        "STYLE": _file("study.css"),
        "NAME": escape(study.name),
        "SUMMARY": escape(study.summary),
        "ANSWER": _answer(study),
        "FRONT": _front(study, players),
        "CLAIMS": _claims(study.claims),
        "SETTINGS": escape(study.settings),
        "PLAYER": inside_script(json.dumps(player_template(wishes="theme=light"))),
        "DATA": "".join(
            f'<script type="application/json" id="player-{trial}">{data}</script>\n' for trial, data in players.items()
        ),
        "SCRIPT": _file("study.js"),
    }
    return _MARK.sub(lambda mark: parts[mark[1]], _file("study.html"))  # in one pass: what is put in is not read again


def _players(study: SharedStudy, history_of: Callable[[int], History]) -> Mapping[int, str]:
    """Data of the players by trial, as many as fit: those of the answer first, then by the front's order."""
    front = {cell.trial: cell for cell in study.front}
    first = [] if study.answer is None else [pick.trial for pick in study.answer.picks]
    players: dict[int, str] = {}
    left = PLAYER_BYTES
    for trial in dict.fromkeys((*(trial for trial in first if trial in front), *front)):
        data = player_json(history_of(trial), title=f"Trial {trial}", subtitle=_about(front[trial]))
        if len(data) > left:
            break
        left -= len(data)
        players[trial] = data
    return players


def _answer(study: SharedStudy) -> str:
    if study.answer is None:
        return "<p>No search has found a usable cell yet.</p>"
    first, _, rest = answer_words(study.answer).partition(". ")
    cells = {cell.trial: cell.genotype for cell in study.front}
    panels = "".join(_pick(study.answer, pick, cells.get(pick.trial)) for pick in study.answer.picks)
    words = f'<p class="keep">{escape(first.removesuffix("."))}.</p><p>{escape(rest)}</p>'
    return f'{words}<div class="picks">{panels}</div>'


def _pick(answer: Answer, pick: Pick, genotype: Genotype | None) -> str:
    role = role_words(pick) or "to keep"
    facts = {
        "settings": settings_words(answer, pick),
        error_name(answer): shown_metric("child_val_error", pick.error.value),
        "95 % interval": interval_text(pick.error.interval),
        "cost": cost_words(answer, pick),
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    picture = "" if genotype is None else small_cells_svg(genotype, **_COLOURS)
    return f"<article><h3>Trial {pick.trial}: {escape(role)}</h3><dl>{listed}</dl>{picture}</article>"


def _front(study: SharedStudy, players: Mapping[int, str]) -> str:
    """The front as a picture and a table, whose buttons show the players."""
    if not study.points:
        return "<p>No search has reported yet.</p>"
    svg = figure_svg(render_front(study.points))
    label = (
        f"Error against multiply-adds of {counted(len(study.points), 'search', 'searches')}; the table has the front"
    )
    picture = f'<div class="front" role="img" aria-label="{label}">{svg[svg.index("<svg") :]}</div>'
    columns = ("trial", "η", "temperature", "child error", "test error", "multiply-adds", "parameters")
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    rows = "".join(_row(cell, has_player=cell.trial in players) for cell in study.front)
    left = len(study.front) - len(players)
    more = f" {counted(left, 'search', 'searches')} cannot be watched: this file was kept small." if left else ""
    note = f"<p>Choose a trial to watch its search below, epoch by epoch.{more}</p>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'{picture}{note}<div class="scroll" tabindex="0">{table}</div>'


def _row(cell: FrontCell, *, has_player: bool) -> str:
    texts = (
        shown_number(cell.eta),
        cell.schedule,
        shown_metric("child_val_error", cell.child_error),
        percent_with_spread(cell.test_error, cell.test_spread),
        shown_metric("child_madds", cell.madds),
        shown_metric("child_params", cell.params),
    )
    name = f"trial {cell.trial}"
    head = f'<button type="button" data-trial="{cell.trial}">{name}</button>' if has_player else name
    return f'<tr><th scope="row">{head}</th>{"".join(f"<td>{escape(text)}</td>" for text in texts)}</tr>'


def _about(cell: FrontCell) -> str:
    return f"η {shown_number(cell.eta)}, temperature {cell.schedule}"


def _claims(claims: Sequence[Claim]) -> str:
    if not claims:
        return ""
    items = "".join(
        f"<li>({escape(claim.letter)}) {escape(claim.text)}: <strong>{claim.verdict}</strong>. "
        f"{escape(claim.evidence)}.</li>"
        for claim in claims
    )
    return f"<section><h2>Claims of the SNAS paper</h2><ul>{items}</ul></section>"


def _file(name: str) -> str:
    return resources.files("dashboards").joinpath("one_file", name).read_text(encoding="utf-8")
