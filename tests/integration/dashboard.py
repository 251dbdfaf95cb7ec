"""`snas dashboard` as a process, and a page of it that a test visits."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from playwright.sync_api import Frame, Locator, Page, Response, expect

from tests.browser import Watched
from tests.preloaded.processes import ReadyProcess

ROOT = Path(__file__).parents[2]
_START_S, _DRAWN_MS = 120.0, 90_000  # for a machine that does much else


class DashboardProcess:
    """A dashboard on a free port, a context manager.

    Args:
        tracking_uri: store that it shows.
        log: file for what it writes.
    """

    def __init__(self, tracking_uri: str, log: Path) -> None:
        self._uri, self._log = tracking_uri, log
        self._process: ReadyProcess | None = None
        self.address = ""

    def __enter__(self) -> Self:
        command = ["snas", "dashboard", "--tracking-uri", self._uri, "--port", "0"]
        with self._log.open("wb") as log:
            self._process = ReadyProcess(command, out=log, err=log, environment=os.environ, folder=ROOT)
        deadline = time.monotonic() + _START_S
        while (said := re.search(r"http://127\.0\.0\.1:\d+(?= \(Ctrl-C)", self.log)) is None:
            assert self._process.poll() is None, f"it ended with {self._process.returncode}: {self.log}"
            assert time.monotonic() < deadline, f"it gives no address: {self.log}"
            time.sleep(0.05)
        self.address = said[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    @property
    def log(self) -> str:
        """All that it wrote to the terminal."""
        return self._log.read_text(encoding="utf-8")


class Visit:
    """One page of a dashboard in a browser, and how a reader uses it.

    Args:
        page: of the browser.
        address: of the dashboard, without a path.
        watched: what the page does.
    """

    def __init__(self, page: Page, address: str, watched: Watched) -> None:
        self.page, self.address, self.watched = page, address, watched
        self.dialogs: list[str] = []
        page.on("dialog", self._dismissed)

    def open(self, path: str, view: str) -> Response | None:
        """Load an address and wait until that view is drawn."""
        response = self.page.goto(self.address + path)
        self.shows(view)
        return response

    def shows(self, view: str, path: str | None = None) -> None:
        """Wait until a view is drawn, at this path if one is given."""
        if path is not None:
            expect(self.page.locator("main")).to_have_attribute("data-address", path, timeout=_DRAWN_MS)
        main = self.page.locator(f'main[data-view="{view}"][data-drawn="true"]')
        expect(main, f"{view}: {self.watched.complaints}").to_have_count(1, timeout=_DRAWN_MS)

    def draw_all(self) -> None:
        """Have the graphs that are out of sight drawn too, as before printing."""
        self.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        expect(self.page.locator(".dash-graph:not(:has(.main-svg))")).to_have_count(0)

    @property
    def path(self) -> str:
        """Path and options of the page now."""
        parts = urlsplit(self.page.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def tab_to(self, target: Locator, most: int = 120) -> None:
        """Press Tab until an element has the focus, as a reader without a mouse does."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {target} in {most} steps")

    def player(self, place: int = 0) -> Frame:
        """The player in a frame of the page, drawn."""
        handle = self.page.locator("iframe.player").nth(place).element_handle(timeout=_DRAWN_MS)
        assert handle is not None
        frame = handle.content_frame()
        assert frame is not None
        frame.wait_for_selector("#epoch-number:not(:empty)", timeout=_DRAWN_MS)
        return frame

    def fact(self, name: str) -> str:
        """The value below a name in the facts of the page."""
        entry = self.page.locator("dl.facts > div", has=self.page.get_by_text(name, exact=True))
        return entry.locator("dd").inner_text()

    def column(self, field: str) -> list[str]:
        """Texts of a column of the table of trials, in the order shown."""
        cells = self.page.locator(f'#trials .ag-row [role="gridcell"][col-id="{field}"]')
        return [text.strip() for text in cells.all_text_contents()]  # a grid out of sight has no inner texts

    def mark(self) -> None:
        """Leave a mark in the page that a reload would wipe out."""
        self.page.evaluate("window.snasMark = true")

    @property
    def is_marked(self) -> bool:
        """Whether the page was not loaded again since `mark`."""
        return bool(self.page.evaluate("window.snasMark === true"))

    def assert_quiet(self) -> None:
        """Nothing complained, no script of others ran, and nothing was asked of another host."""
        assert self.watched.complaints == [], self.watched.complaints
        assert self.dialogs == []
        assert self.page.evaluate("window.owned") is None
        assert self.foreign_requests() == []

    def foreign_requests(self) -> list[str]:
        """Addresses that the page asked for elsewhere."""
        return [url for url in self.watched.requests if not url.startswith((f"{self.address}/", "data:", "blob:"))]

    def _dismissed(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()
