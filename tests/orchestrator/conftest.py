from __future__ import annotations

from collections.abc import Callable, Iterator

import mlflow
import pytest
import torch

from tests.orchestrator.tiny import Outcome


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks of four channels are faster without a thread pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_stores_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test decides itself where MLflow's store and the folder of runs are, and leaves no choice to the next one."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "SNAS_RUNS"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def snas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line in this process: `snas("profile", "SNAS_mild")`; an unforeseen exception fails the test."""

    from orchestrator.cli import main  # it takes seconds, and only some tests need it

    def run(*words: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["snas", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
