"""A real headless Chromium for the tests with the marker `browser`."""

import shutil
from dataclasses import dataclass, field

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_path():
    """Chromium of this machine; None where there is none: then Playwright looks for its own."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def launched():
    """Chromium of the system, else the one of Playwright; the test is skipped where there is neither."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as playwright:
        path = chromium_path()
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium starts here ({path or 'none found'}): {error.message.splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")  # not the session: its event loop would be in the way of tests that start their own
def browser():
    yield from launched()


@dataclass
class Watched:
    """What a page did: complaints on its console, uncaught errors, and addresses that it asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser):
    """Function (width, height) that gives a fresh page and what it does; pages close at the end of the test."""
    contexts = []

    def opened(width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page, watched = context.new_page(), Watched()
        page.on("console", lambda m: watched.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        return page, watched

    yield opened
    for context in contexts:
        context.close()


def serious_faults(page):
    """What axe-core calls serious or critical in a page, as lines of text."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
