"""A real headless Chromium for the tests with the marker `browser`."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.tools import chromium_path

_PATIENCE_MS = 90_000  # other tests may have the cores


@contextmanager
def headless_chromium():
    """Chromium of the system, closed at the end."""
    from playwright.sync_api import sync_playwright  # not there on a machine with PyTorch alone

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        try:
            yield launched
        finally:
            launched.close()


@pytest.fixture(scope="module")  # not the session: its event loop would be in the way of tests that start their own
def browser(chromium, tmp_path_factory):
    """Chromium with one profile for the tests of a module: it keeps the compiled scripts of their pages."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_PATIENCE_MS)
    folder = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        launch = playwright.chromium.launch_persistent_context
        with launch(folder, executable_path=chromium_path(), args=["--no-sandbox"]) as context:
            context.set_default_timeout(_PATIENCE_MS)
            yield context


@dataclass
class Watched:
    """What a page did: complaints on its console, uncaught errors, and addresses that it asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser):
    """Function (width, height) that gives a fresh page and what it does.

    At the end of the test pages close, and what they stored and were permitted is gone.
    """

    def opened(width=1280, height=900, *, color_scheme=None, permissions=()):
        page, watched = browser.new_page(), Watched()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=color_scheme)
        browser.grant_permissions(permissions)
        page.on("console", lambda m: watched.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        return page, watched

    yield opened
    empty, *pages = browser.pages
    for page in pages:
        page.close()
    storage = browser.new_cdp_session(empty)
    for stored in browser.storage_state()["origins"]:
        storage.send("Storage.clearDataForOrigin", {"origin": stored["origin"], "storageTypes": "local_storage"})
    storage.detach()
    browser.clear_cookies()
    browser.clear_permissions()


def serious_faults(page):
    """What axe-core calls serious or critical in a page, as lines of text; frames have tests of their own.

    It cannot look into frames without rights, and each attempt is a complaint on the console.
    """
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page, options={"iframes": False, "resultTypes": ["violations"]}).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
