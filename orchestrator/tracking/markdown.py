"""Markdown for MLflow's descriptions, in which nothing that a user or a file wrote is read as markup.

MLflow's pages show paragraphs, tables, links and images; addresses are relative to the page, so that they hold for any
server that shows the run. Image sizes, alternative texts and HTML are dropped there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: What the tags of runs, and the narrower columns of experiments and models, can hold.
RUN_LIMIT, LIMIT = 8000, 5000

_PLAIN = re.compile(r"[^\w ,.;%/'()=+-]", re.ASCII)
_CUT = "\n\n(cut: the rest is in the artifacts)"


@dataclass(frozen=True)
class RunAddress:
    """Where a run is found on MLflow's pages."""

    experiment_id: str
    run_id: str

    @property
    def page(self) -> str:
        """Its page."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def artifact(self, name: str) -> str:
        """The page of one of its artifacts."""
        return f"{self.page}/artifacts/{name}"

    def image(self, name: str) -> str:
        """An artifact as a picture."""
        return f"![](get-artifact?path={name}&run_uuid={self.run_id})"


def plain(text: str) -> str:
    """Text as text: all that could mean something in markdown or HTML becomes a character reference, on one line."""
    line = " ".join(text.split())
    return _PLAIN.sub(lambda match: f"&#{ord(match[0])};" if match[0].isascii() else match[0], line)


def code(text: str) -> str:
    """Text in a fixed font."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def link(text: str, address: str) -> str:
    """A link; MLflow opens it in a tab of its own."""
    return f"[{plain(text)}]({address})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are markdown."""
    lines = (f"| {'&emsp; | '.join(cells)} |" for cells in (columns, *rows))  # MLflow's tables have no room between
    head, *body = lines
    return "\n".join((head, "| --- " * len(columns) + "|", *body))


def joined(*paragraphs: str, limit: int = LIMIT) -> str:
    """Paragraphs under each other, those that are empty left out; the last ones are cut, with a word, at the limit."""
    kept: list[str] = []
    shown = [paragraph for paragraph in paragraphs if paragraph]
    for paragraph in shown:
        text = "\n\n".join((*kept, paragraph))
        is_last = paragraph is shown[-1]
        if len(text) + (0 if is_last else len(_CUT)) > limit:
            return "\n\n".join(kept)[: limit - len(_CUT)] + _CUT
        kept.append(paragraph)
    return "\n\n".join(kept)
