"""What holds for all tests: their tier, the tools of the system that they need, and no settings from outside.

It runs on a machine with PyTorch alone, too, where only the tests of `search_core` can be collected.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools import TOOLS

pytest_plugins = ["tests.browser"]
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves its workers beside another process of tests
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # as the driver has it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its thread changes the environment while others read it

_NEEDS = "needs "
_GPU = f"{_NEEDS}a GPU: a machine with a CUDA device"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before tests run side by side, kernels are compiled, once; `make` has done so."""
    config = session.config
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        return
    # Found without PyTorch, which takes seconds to import: this process runs no test.
    if not any(Path(config.rootpath, "search_core", "kernels", "__pycache__").glob("*.nbc")):
        subprocess.run([sys.executable, "-m", "search_core.network.ahead", "float32", "float64"], check=True)


def pytest_itemcollected(item: pytest.Function) -> None:
    """Faults done to clusters are slow; what needs a tool of the system has the marker `tool`.

    Tests that share what a module makes once, such as a study, run in one process, and so do faults, one at a time.
    """
    if TOOLS.keys() & set(item.fixturenames):
        item.add_marker("tool")
    definitions = item._fixtureinfo.name2fixturedefs.values()
    if item.get_closest_marker("cluster"):
        item.add_marker("slow")
        item.add_marker(pytest.mark.xdist_group("cluster"))
    elif any(found[-1].scope == "module" for found in definitions):
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look at groups: pytest-xdist 3.8 has none under pytest 9.2, and each process would make all studies, unsaid.

    What was imported is kept out of collections of garbage, which take a fifteenth of the time of tests otherwise.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group")]
        assert all("@" in nodeid for nodeid in grouped), "pytest-xdist must see the groups of tests"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests with the marker `gpu` are not run without one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(_GPU)


def _fixture(name: str) -> Callable[..., None]:
    @pytest.fixture(scope="session", name=name)
    def needed() -> None:
        tool = TOOLS[name]
        why = tool.why_not()
        if why and os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {tool.title} ({tool.remedy}), got: {why}")
        if why:
            pytest.skip(f"{_NEEDS}{tool.title}: {tool.remedy} ({why})")

    return needed


#: One fixture per tool: its name as an argument of a test or of a fixture says that it is needed.
chromium, postgres_programs, network_namespaces, small_disks, shellcheck, fashion_mnist = map(_fixture, TOOLS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One block: what was not run, and which tool is missing."""
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])]
    missing = Counter(reason.removeprefix(_NEEDS) for reason in reasons if reason.startswith(_NEEDS))
    others = Counter(reason for reason in reasons if not reason.startswith(_NEEDS))
    for title, counts in (("not run for want of", missing), ("not run for other reasons", others)):
        if counts:
            terminalreporter.section(title)
        for reason, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:5}  {reason}")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks of four channels are faster without a thread pool, and then independent of the number of cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_stores_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test decides itself where MLflow's store and the folder of runs are, and leaves no choice to the next one."""
    names = ("TRACKING_URI", "REGISTRY_URI", "RUN_ID")
    for name in (*(f"MLFLOW_{name}" for name in names), "OPTUNA_STORAGE", "PGPASSWORD", "SNAS_RUNS"):
        monkeypatch.delenv(name, raising=False)
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
