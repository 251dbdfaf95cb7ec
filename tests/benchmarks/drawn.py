"""When a page is drawn, measured by the page itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Request, ViewportSize

SIZE: ViewportSize = {"width": 1400, "height": 900}
_QUIET_MS = 1500  # nothing changes and nothing is asked for so long: the page is settled
_TIMEOUT_S = 180.0

#: Before anything else of a page: notes the last change. A view of the dashboard says that it is drawn when nothing was
#: added to it or taken away for a moment; what is measured is the last of these changes, not the end of that moment.
_WATCH = """
(() => {
  window.lastChange = performance.now();
  const note = () => { window.lastChange = performance.now(); };
  new MutationObserver(note).observe(document, {subtree: true, childList: true, attributes: true});
  const isDrawn = () => {
    const main = document.getElementById("main");
    return main && main.dataset.drawn === "true" && main.dataset.address === location.pathname + location.search;
  };
  window.untilDrawn = (begin) => new Promise((resolve) => {
    const drawnAt = () => Number(document.getElementById("main").dataset.drawnAt);
    const look = () => isDrawn() ? resolve(drawnAt() - begin) : requestAnimationFrame(look);
    look();
  });
  window.followed = (href) => {
    const link = [...document.querySelectorAll("a")].find((link) => link.getAttribute("href") === href);
    if (!link) throw new Error("no link to " + href);
    const begin = performance.now();
    link.click();
    return window.untilDrawn(begin);
  };
})();
"""


class Watched:
    """A page that says when it is drawn.

    Args:
        context: of the browser; a fresh one has an empty cache.
    """

    def __init__(self, context: BrowserContext) -> None:
        context.add_init_script(_WATCH)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(_TIMEOUT_S * 1000)
        self.errors: list[str] = []
        self._host = ""
        self._open: set[Request] = set()
        self.page.on("request", lambda request: self._open.add(request) if self._is_own(request) else None)
        self.page.on("requestfinished", lambda request: self._open.discard(request))
        self.page.on("requestfailed", lambda request: self._open.discard(request))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def drawn(self, url: str) -> float:
        """Seconds from opening an address of the dashboard until its view is drawn."""
        self._begin(url)
        return float(self.page.evaluate("window.untilDrawn(0)")) / 1000

    def followed(self, href: str) -> float:
        """Seconds from a click on a link of the dashboard until its view is drawn."""
        return float(self.page.evaluate("href => window.followed(href)", href)) / 1000

    def settled(self, url: str) -> float:
        """Seconds from opening an address of any page until its last change."""
        self._begin(url)
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            self.page.wait_for_timeout(100)
            last, now = self.page.evaluate("[window.lastChange, performance.now()]")
            if now - last > _QUIET_MS and not self._open:
                return float(last) / 1000
        asked = sorted({request.url.partition("?")[0] for request in self._open})
        raise RuntimeError(f"{url} must come to rest within {_TIMEOUT_S:g} s, got: still asks for {asked[:3]}")

    def count(self, selector: str) -> int:
        """Number of elements on the page."""
        return self.page.locator(selector).count()

    def _begin(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._open.clear()
        self.page.goto("about:blank")  # else an address that differs behind `#` only would not be loaded again
        self.page.goto(url, wait_until="commit")

    def _is_own(self, request: Request) -> bool:
        """Whether a page may wait for it: the script of a worker never counts as finished."""
        return urlsplit(request.url).netloc == self._host and ".worker." not in request.url


@contextmanager
def fresh_page(browser: Browser) -> Iterator[Watched]:
    """A page with an empty cache; it may ask only this machine."""
    context = browser.new_context(viewport=SIZE)
    context.route(lambda url: urlsplit(url).hostname != "127.0.0.1", lambda route: route.abort())
    try:
        yield Watched(context)
    finally:
        context.close()
