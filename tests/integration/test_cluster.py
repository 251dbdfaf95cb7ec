"""A study on a Ray cluster of two nodes that runs already."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from orchestrator.cluster import PACKAGES, cluster
from orchestrator.config import parse_study
from orchestrator.errors import OrchestratorError
from orchestrator.progress import ConsoleView
from orchestrator.runs import Runs
from orchestrator.study import Study
from tests.orchestrator.tiny import ETA, SEARCH

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def two_nodes() -> Iterator[str]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


def test_study_runs_on_a_cluster_of_two_nodes(two_nodes: str, tmp_path: Path) -> None:
    spec = parse_study({"name": "two-nodes", "search": SEARCH, "sweep": ETA, "trials": 2, "max_concurrent": 2})
    study = Study(spec, Runs(tmp_path / "runs"))
    with ConsoleView(Console(quiet=True)) as view:
        study.run(view, address=two_nodes)
    assert [trial.state for trial in study.trials()] == ["complete", "complete"]
    assert [trial.epochs for trial in study.trials()] == [2, 2]


def test_driver_takes_its_code_to_every_node(two_nodes: str) -> None:
    @ray.remote(num_cpus=1)
    def shipped() -> tuple[str, set[str]]:
        time.sleep(2)  # long enough that the second task needs the second node
        folders = [Path(folder) for folder in sys.path if "runtime_resources" in folder]
        packages = {package for package in PACKAGES if any((folder / package).is_dir() for folder in folders)}
        return ray.get_runtime_context().get_node_id(), packages

    with cluster(two_nodes):
        found = ray.get([shipped.remote(), shipped.remote()])
    assert len({node for node, _ in found}) == 2
    assert all(packages == set(PACKAGES) for _, packages in found)


def test_cluster_that_does_not_answer_is_a_clear_error() -> None:
    with (
        pytest.raises(OrchestratorError, match=r"the Ray cluster at 127\.0\.0\.1:9 must answer"),
        cluster("127.0.0.1:9"),
    ):
        pass
