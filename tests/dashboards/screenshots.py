"""Pictures of every view for the documentation, of a generated study, so that anybody gets the same.

python -m tests.dashboards.screenshots docs/images/dashboard
"""

from __future__ import annotations

import argparse
import io
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dashboards.app import serve
from dashboards.records import RunRecord
from tests.browser import headless_chromium
from tests.dashboards.generated import generated_study
from tests.dashboards.memory_store import MemoryStore

if TYPE_CHECKING:
    from playwright.sync_api import Page

THEMES = ("light", "dark")
WIDTH = 1200
_OFTEN = 96  # colours of large areas
_DRAWN_MS = 30_000


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture of a view.

    Attributes:
        name: of the file, without the theme.
        address: path and options.
        height: pixels from the top of the page; None: the whole page.
        part: selector of the only part that is shown; empty: the page.
    """

    name: str
    address: str
    height: int | None = None
    part: str = ""


STUDY = "/study/penalty-sweep"
SHOTS = (
    Shot(name="studies", address="/", height=560),
    Shot(name="study", address=STUDY, height=2230),
    Shot(name="trials", address=STUDY, part="section:has(#trials)"),
    Shot(name="curves", address=f"{STUDY}/curves?metric=entropy_total"),
    Shot(name="trial", address=f"{STUDY}/trial/{{front}}", height=1350),
    Shot(name="heat", address=f"{STUDY}/trial/{{front}}", part=".cards:has(#chart-alpha-normal)"),
    Shot(name="compare", address="/compare?trial=two-strategies:0&trial=two-strategies:1", height=1500),
    Shot(name="claims", address="/compare?study=two-strategies", part="section:has(table):last-child"),
    Shot(name="timeline", address=f"{STUDY}/timeline"),
    Shot(name="retrain", address=f"{STUDY}/retrain", height=1330),
)


@dataclass
class PicturedStore(MemoryStore):
    """Generated studies whose players are drawn from their histories."""

    def player(self, run: RunRecord) -> bytes | None:
        """None: then the app draws the history."""
        return None


def pictured_store() -> PicturedStore:
    """A finished sweep with retrainings, a comparison of two strategies, and a study that runs."""
    return PicturedStore(
        studies=[
            generated_study("penalty-sweep", trials=32, epochs=60, seed=4),
            generated_study("two-strategies", trials=12, epochs=60, seed=1, strategies=("snas", "darts"), retrained=0),
            generated_study("temperature-schedules", trials=18, epochs=60, seed=2, running=2),
        ],
        location="http://mlflow.example:5000",
        server="http://mlflow.example:5000",
    )


def served(store: MemoryStore) -> str:
    """Address of a dashboard over a store; it is served by a thread until the process ends."""
    ready: queue.Queue[str] = queue.Queue()
    threading.Thread(target=serve, args=(store, 0, ready.put), daemon=True).start()
    return ready.get(timeout=30)


def take(folder: Path, names: Sequence[str] = ()) -> Iterator[Path]:
    """Write the pictures of all views, or of some, in both themes; gives each file when it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    store = pictured_store()
    front = next(trial.number for trial in store.study("penalty-sweep").trials if trial.on_front)
    address = served(store)
    with headless_chromium() as browser:
        for theme in THEMES:
            context = browser.new_context(
                viewport={"width": WIDTH, "height": 900}, color_scheme=theme, reduced_motion="reduce"
            )
            page = context.new_page()
            for shot in SHOTS:
                if not names or shot.name in names:
                    yield _taken(
                        page, shot, address + shot.address.format(front=front), folder / f"{shot.name}-{theme}.png"
                    )


def _taken(page: Page, shot: Shot, address: str, file: Path) -> Path:
    page.goto(address)
    page.wait_for_selector("main[data-drawn=true]", timeout=_DRAWN_MS)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # graphs out of sight too
    for frame in page.query_selector_all("iframe"):
        frame.scroll_into_view_if_needed()  # out of sight it is not drawn
        content = frame.content_frame()
        if content is not None:
            content.wait_for_selector("#epoch-number:not(:empty)", timeout=_DRAWN_MS)
    page.wait_for_function("[...document.querySelectorAll('iframe.player')].every((frame) => frame.style.height)")
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)  # the grid draws its rows, graphs take the width that is left
    if shot.part:
        page.add_style_tag(content=".top { position: static !important; }")  # it would lie over the part
        picture = page.locator(shot.part).screenshot(animations="disabled")
    else:
        height = shot.height or page.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height}
        picture = page.screenshot(full_page=True, clip=clip, animations="disabled")
    file.write_bytes(quantised(picture))
    return file


def quantised(png: bytes) -> bytes:
    """The same picture with a palette: a third of the bytes, and nothing that an eye would miss.

    The colours of large areas are kept as they are; each further one is the colour that is furthest from those before.
    """
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    packed = pixels.astype(np.int64) @ (65536, 256, 1)
    values, place, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = np.stack((values >> 16, values >> 8 & 255, values & 255), axis=1)
    chosen = list(np.argsort(-counts, kind="stable")[:_OFTEN])
    distance = np.min([((colours - colours[index]) ** 2).sum(1) for index in chosen], axis=0)
    nearest = np.argmin([((colours - colours[index]) ** 2).sum(1) for index in chosen], axis=0)
    while len(chosen) < min(256, len(values)):
        chosen.append(int(distance.argmax()))
        own = ((colours - colours[chosen[-1]]) ** 2).sum(1)
        nearest = np.where(own < distance, len(chosen) - 1, nearest)
        distance = np.minimum(own, distance)
    picture = Image.fromarray(nearest[place].reshape(packed.shape).astype(np.uint8), "P")
    picture.putpalette(colours[chosen].astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("views", nargs="*", help=f"of {', '.join(shot.name for shot in SHOTS)}; default: all")
    words = parser.parse_args()
    for file in take(words.folder, words.views):
        print(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
