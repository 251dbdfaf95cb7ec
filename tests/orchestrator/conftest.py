from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest
import torch


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
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "OPTUNA_STORAGE", "SNAS_RUNS"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)
