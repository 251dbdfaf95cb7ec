"""How fast the dashboard draws a store of a thousand trials, beside MLflow's own pages, in one run.

Run: `python -m tests.benchmarks.dashboard [--trials 1000 --epochs 150] [--repeats 3 --visits 3] [--servers 4]
[--store FOLDER] [--json]`. The server, the dashboard and the browser are real. The store is filled past MLflow's client
(`filled_store`), with 12 metrics a trial; `--store` keeps it, so that a second run need not fill it again. Figures are
medians over the repeats, in seconds; each repeat starts the dashboard again. All is on this machine, the browser too. A
view is drawn when all is there but graphs more than 300 px outside of the window of 1400 x 900, which are drawn when
they come near.

- start: from the command to the first answer.
- cold_first_view: the page of all studies in a browser with an empty cache, right after the start; `cold_study` is the
  study after it, the first that asks for its runs; `first_trial` the first trial, with its player.
- warm_studies, warm_study, warm_trial, warm_retrain, warm_compare: views that were shown before, since the page was
  loaded, by a click on a link (compare: by address). `reloaded_*`: the whole page again, from the browser's cache.
  `new_trial`: a click on a trial that nobody looked at before.
- first_curves, warm_curves: one metric of 100 trials over all epochs, by address; `linked_curves` the same without
  loading the page again.
- mlflow_table, mlflow_charts_10, mlflow_charts_100: MLflow's own pages over 100 of the same trials, from the browser's
  cache, until their last change; `settled_study` and `settled_curves` are the dashboard's by the same measure, for the
  ratios. `mlflow_lines_*`: lines that its charts show then.
- memory_mb: of the dashboard at the end, its children included: `pss` and `rss`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser

from tests.benchmarks.drawn import fresh_page
from tests.benchmarks.filled_store import FilledStore, fill_store
from tests.browser import headless_chromium
from tests.integration.servers import MlflowServer, free_port

_COMMAND = "from orchestrator.cli import main; main()"
_START_S = 60.0
_FILES = 40  # trials with files of their own
Times = dict[str, list[float]]


@contextmanager
def dashboard(tracking_uri: str, log: Path) -> Iterator[tuple[str, int, float]]:
    """A dashboard process: its address, its process id and how long its start took."""
    port, begin = free_port(), time.perf_counter()
    words = [sys.executable, "-c", _COMMAND, "dashboard", "--tracking-uri", tracking_uri, "--port", str(port)]
    with log.open("ab") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file)
    try:
        address = f"http://127.0.0.1:{port}"
        while not _answers(address):
            if process.poll() is not None or time.perf_counter() - begin > _START_S:
                raise RuntimeError(f"the dashboard must start, got: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.02)
        yield address, process.pid, time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def measure_dashboard(
    browser: Browser, uri: str, filled: FilledStore, log: Path, visits: int, times: Times
) -> dict[str, float]:
    """One repeat; gives the memory at its end, in MB."""
    study, (first, second, *others) = f"/study/{filled.study}", filled.trials
    curves = f"{study}/curves?trials=0-99"

    def note(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)

    with dashboard(uri, log) as (address, pid, started), fresh_page(browser) as page:
        note("start", started)
        note("cold_first_view", page.drawn(address + "/"))
        note("cold_study", page.followed(study))
        note("first_trial", page.drawn(f"{address}{study}/trial/{first}"))
        for _ in range(visits):
            page.followed(study)  # the page was loaded again: this brings the code of the table
            note("warm_studies", page.followed("/"))
            note("warm_study", page.followed(study))
            note("warm_retrain", page.followed(f"{study}/retrain"))
            page.followed(study)
            note("warm_trial", page.page.evaluate(_GO, f"{study}/trial/{first}") / 1000)
            page.drawn(f"{address}{study}")
            note("new_trial", page.page.evaluate(_GO, f"{study}/trial/{others.pop()}") / 1000)
            note("reloaded_study", page.drawn(address + study))
            note("reloaded_trial", page.drawn(f"{address}{study}/trial/{first}"))
        note("first_curves", page.drawn(address + curves))
        note("warm_curves", page.drawn(address + curves))
        for _ in range(visits):
            page.page.evaluate(_GO, study)
            note("linked_curves", page.page.evaluate(_GO, curves) / 1000)
        compare = f"{address}/compare?trial={filled.study}:{first}&trial={filled.study}:{second}"
        page.drawn(compare)
        note("warm_compare", page.drawn(compare))
        note("settled_study", page.settled(address + study))
        note("settled_curves", page.settled(address + curves))
        if page.errors:
            raise RuntimeError(f"pages must raise no error, got: {page.errors[:3]}")
        return memory_mb(pid)


#: Goes to an address as a link does, without loading the page again.
_GO = """href => {
  const begin = performance.now();
  history.pushState({}, "", href);
  window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  return window.untilDrawn(begin);
}"""


def measure_mlflow(browser: Browser, uri: str, filled: FilledStore, repeats: int, times: Times) -> dict[str, int]:
    """MLflow's own pages, from the browser's cache; gives the number of lines that the charts show."""
    runs, lines = f"{uri}/#/experiments/{filled.flat_id}/runs", {}
    charts = f"{runs}?compareRunsMode=CHART"
    with fresh_page(browser) as page:
        for name, address in {"table": runs, "charts_10": charts, "charts_100": charts}.items():
            if name != "charts_100":
                page.settled(address)
            else:  # the page shows ten until asked for more, and keeps the choice in the browser
                page.page.get_by_test_id("experiment-view-runs-visibility-column-header").click()
                page.page.get_by_text("Show all runs").click()
            for _ in range(repeats):
                times.setdefault(f"mlflow_{name}", []).append(page.settled(address))
            if name != "table":
                lines[f"mlflow_lines_{name}"] = page.count(".scatterlayer .trace")
    return lines


def memory_mb(pid: int) -> dict[str, float]:
    """Of a process and its children."""
    root = psutil.Process(pid)
    used = [process.memory_full_info() for process in (root, *root.children(recursive=True))]
    return {"pss": sum(info.pss for info in used) / 1e6, "rss": sum(info.rss for info in used) / 1e6}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_1_min": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in ("mlflow", "dash", "plotly", "playwright")},
    }


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    filled = fill_store(folder, trials=given.trials, epochs=given.epochs, files=min(_FILES, given.trials // 2))
    times: Times = {}
    load = machine()
    with MlflowServer(folder, workers=given.servers) as server, headless_chromium() as browser:
        memory = [
            measure_dashboard(browser, server.uri, filled, folder / "dashboard.log", given.visits, times)
            for _ in range(given.repeats)
        ]
        lines = measure_mlflow(browser, server.uri, filled, given.repeats, times)
        chromium_version = browser.version
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **medians,
        "ratio_study_to_mlflow_table": medians["settled_study"] / medians["mlflow_table"],
        "ratio_curves_to_mlflow_charts_100": medians["settled_curves"] / medians["mlflow_charts_100"],
        **lines,
        "memory_mb": {kind: max(entry[kind] for entry in memory) for kind in ("pss", "rss")},
        "ranges": {name: [min(values), max(values)] for name, values in times.items()},
        "trials": given.trials,
        "epochs": given.epochs,
        "repeats": given.repeats,
        "machine": {**load, "chromium": chromium_version},
    }


def text(result: Mapping[str, Any]) -> str:
    """A line per figure."""
    return "\n".join(
        f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}" for name, value in result.items()
    )


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of the study, at least 20")
    parser.add_argument("--epochs", type=int, default=150, help="of a trial")
    parser.add_argument("--repeats", type=int, default=3, help="starts of the dashboard")
    parser.add_argument("--visits", type=int, default=3, help="of a warm view after a start")
    parser.add_argument("--servers", type=int, default=4, help="processes of MLflow's server")
    parser.add_argument("--store", type=Path, help="folder that keeps the store, so that it is filled once")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snas-benchmark-") as folder:
        result = measure(given, given.store or Path(folder))
    print(json.dumps(result) if given.json else text(result))


if __name__ == "__main__":
    main()
