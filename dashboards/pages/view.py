"""What a page gives back, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from dashboards.charts.chart import Chart
from dashboards.charts.theme import Theme
from dashboards.errors import NotFoundError

Component = Any  # Dash's components have no common type that says anything
_MOST_OPTIONS = 50


@dataclass(frozen=True, kw_only=True)
class Request:
    """The address of a view and how it is to look.

    Attributes:
        path: parts of the path, decoded.
        query: the options behind `?`, decoded.
        theme: colours.
        location: where the records come from, for commands that a user copies.
    """

    path: tuple[str, ...]
    query: Mapping[str, Sequence[str]]
    theme: Theme
    location: str

    def option(self, name: str, allowed: Sequence[str]) -> str:
        """An option that must be one of some; the first if it is not given or not one of them."""
        given = self.query.get(name, [""])[0]
        return given if given in allowed else allowed[0]

    def with_option(self, name: str, value: str) -> str:
        """The address of this view with one option set."""
        query = {**self.query, name: [value]}
        return address(*self.path) + "?" + urlencode(query, doseq=True)


@dataclass(frozen=True, kw_only=True)
class View:
    """One page, ready to be shown.

    Attributes:
        name: kind of the page.
        title: of the browser's window.
        body: Dash components.
        charts: all charts on it, for downloads.
        is_live: whether more is to come, so that the page asks again every few seconds.
        version: changes whenever the page does.
    """

    name: str
    title: str
    body: Sequence[Component]
    charts: Sequence[Chart] = ()
    is_live: bool = False
    version: str = ""


def parse_query(search: str) -> dict[str, list[str]]:
    """The options of an address, with or without the question mark.

    Raises:
        NotFoundError: if there are more than fifty.
    """
    try:
        return parse_qs(search.removeprefix("?"), keep_blank_values=False, max_num_fields=_MOST_OPTIONS)
    except ValueError as error:
        raise NotFoundError(f"an address must have at most {_MOST_OPTIONS} options: {error}") from error


def address(*parts: str, **options: str) -> str:
    """The path of a view; every part is quoted."""
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(options)}" if options else path
