"""Each check by itself; whole clusters are in tests/integration/test_cluster.py."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError

from orchestrator.cluster import node_check, preflight
from orchestrator.cluster.connection import Node, check_resources, cluster
from orchestrator.cluster.node_check import Finding, NodeTask, versions, write_marker
from orchestrator.cluster.preflight import Check, Needs
from orchestrator.errors import OrchestratorError
from search_core.data.dataset_options import DatasetOptions
from tests.orchestrator.tiny import snas

NODE = Node(id="abcdef012345", ip="10.0.0.7", hostname="seven", resources={"CPU": 4.0}, is_head=False)
FAKE = DatasetOptions(name="fake", shape=(1, 8, 8), images=100)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "PATIENCE_S", 0.0)


def needs(folder: Path, **changes: object) -> Needs:
    return Needs(
        **{"storage": folder / "a" / "b", "tracking_uri": "sqlite:///m.db", "optuna_url": "sqlite:///o.db", **changes}
    )


def judged(finding: Finding, task: NodeTask, wanted: Needs) -> Check:
    return preflight._judged(finding, NODE, task, wanted)


def findings(task: NodeTask) -> dict[str, Finding]:
    return {finding.name: finding for finding in task.run()}


def test_node_that_shares_folder_and_data_passes(tmp_path: Path) -> None:
    wanted = needs(tmp_path, dataset=FAKE)
    with preflight._marked(wanted.storage) as (written, marker, content):
        assert written.ok
        task = NodeTask(node=NODE.id, marker=str(marker), content=content, dataset=FAKE)
        checks = [judged(finding, task, wanted) for finding in task.run()]
    assert [(check.name, check.ok) for check in checks] == [("versions", True), ("storage", True), ("data", True)]
    assert {check.node for check in checks} == {"10.0.0.7 (seven, abcdef)"}
    assert checks[1].detail == str(wanted.storage)


def test_marker_leaves_nothing_behind_and_keeps_what_was_there(tmp_path: Path) -> None:
    with preflight._marked(tmp_path / "a" / "b") as (_, marker, content):
        assert marker is not None
        assert (marker / "driver").stat().st_size >= 1_000_000, "large enough to find a full disk"
        assert len(content) == 32
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "used").mkdir()
    with preflight._marked(tmp_path / "used"):
        pass
    assert (tmp_path / "used").is_dir()


def test_node_with_another_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "marker").mkdir()
    task = NodeTask(node=NODE.id, marker=str(tmp_path / "marker"), content="mine")
    check = judged(findings(task)["storage"], task, needs(tmp_path))
    assert not check.ok
    assert check.detail == (
        f"it does not see what the driver wrote to {tmp_path}; set `storage: {{path: /a/shared/folder}}` to a folder "
        "that every node has mounted"
    )


def test_node_that_reads_something_else_is_refused(tmp_path: Path) -> None:
    write_marker(tmp_path / "driver", "another driver's")
    task = NodeTask(node=NODE.id, marker=str(tmp_path), content="mine")
    check = judged(findings(task)["storage"], task, needs(tmp_path))
    assert not check.ok
    assert "reads something else" in check.detail


def test_answer_that_the_driver_does_not_see_is_refused(tmp_path: Path) -> None:
    task = NodeTask(node=NODE.id, marker=str(tmp_path), content="mine")
    check = judged(Finding(name="storage", ok=True, detail="x", seconds=0.1), task, needs(tmp_path))
    assert not check.ok
    assert check.detail.startswith("the driver does not see what it wrote; set `storage")


def test_full_disk_of_a_node_is_its_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_marker(tmp_path / "driver", "mine")

    def full(file: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(node_check, "write_marker", full)
    found = findings(NodeTask(node=NODE.id, marker=str(tmp_path), content="mine"))["storage"]
    assert not found.ok
    assert "No space left on device" in found.detail


def test_storage_that_the_driver_cannot_write_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where a folder should be")
    with preflight._marked(tmp_path / "a" / "b") as (written, marker, _):
        assert marker is None
    check = preflight._of_driver(written)
    assert (check.node, check.ok) == (None, False)
    assert check.detail.startswith("the driver must be able to write there: ")


@pytest.mark.parametrize("error", [TaskUnschedulableError("it is gone"), NodeDiedError("it is gone")])
def test_node_that_is_lost_while_it_is_checked_is_left_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([[NODE], [NODE], []])  # Ray takes a while to say so
    monkeypatch.setattr(preflight, "nodes", lambda: next(said))
    monkeypatch.setattr(preflight.ray, "get", _raising(error))
    assert preflight._answer(None, NODE) is None


def test_node_that_loses_a_task_and_stays_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LOSS_PATIENCE_S", 0.0)
    monkeypatch.setattr(preflight, "nodes", lambda: [NODE])
    monkeypatch.setattr(preflight.ray, "get", _raising(WorkerCrashedError()))
    (finding,) = preflight._answer(None, NODE)
    assert (finding.name, finding.ok) == ("versions", False)
    assert finding.detail.startswith("it cannot run the study's code: ")


def test_versions_that_differ_are_named() -> None:
    ours = versions()
    assert set(ours) == {"python", "ray", "torch", "numpy"}
    theirs = " ".join(f"{name}={text}" for name, text in {**ours, "torch": "2.0.1", "numpy": "missing"}.items())
    ok, detail = preflight._judge_versions(theirs)
    assert not ok
    assert detail == (
        f"the driver's versions must be there: torch must be {ours['torch']}, got 2.0.1, "
        f"numpy must be {ours['numpy']}, got missing"
    )


def test_data_that_differs_or_is_missing_is_refused(tmp_path: Path) -> None:
    task = NodeTask(node=NODE.id, dataset=FAKE)
    check = judged(findings(task)["data"], task, needs(tmp_path, digest="0" * 64))
    assert not check.ok
    assert "got others (digest" in check.detail
    gone = NodeTask(node=NODE.id, dataset=DatasetOptions(name="cifar10", root=str(tmp_path / "nowhere")))
    missing = findings(gone)["data"]
    assert not missing.ok
    assert str(tmp_path / "nowhere") in missing.detail


def test_head_without_cpus_needs_neither_folder_nor_data(tmp_path: Path) -> None:
    head = Node(id="1", ip="10.0.0.1", hostname="head", resources={"memory": 1e9}, is_head=True)
    assert preflight._task(head, needs(tmp_path, dataset=FAKE), tmp_path, "x") == NodeTask(node="1")


def test_sqlite_is_refused_on_several_machines_only() -> None:
    assert preflight._optuna("sqlite:///o.db", 1) == "sqlite:///o.db"
    assert preflight._tracking("sqlite:///m.db", 1) == "sqlite:///m.db"
    with pytest.raises(node_check.UnusableError, match=r"postgresql\+psycopg://USER@HOST/DATABASE"):
        preflight._optuna("sqlite:///o.db", 2)
    with pytest.raises(node_check.UnusableError, match=r"http://HOST:5000"):
        preflight._tracking("sqlite:///m.db", 2)


def test_database_that_is_away_is_said_without_its_password() -> None:
    url = "postgresql+psycopg://me:pl4nted@127.0.0.1:9/snas?connect_timeout=2"
    check = preflight._of_driver(node_check.timed("optuna", lambda: preflight._optuna(url, 2)))
    assert not check.ok
    assert check.detail.startswith("the database postgresql+psycopg://me:***@127.0.0.1:9/snas")
    assert "pl4nted" not in check.detail


def test_server_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(node_check.UnusableError, match=r"the MLflow server http://127\.0\.0\.1:9 must answer"):
        preflight._tracking("http://127.0.0.1:9", 2)


def test_gpu_type_is_rays() -> None:
    def typed(**resources: float) -> str:
        return Node(id="1", ip="1", hostname="h", resources=resources, is_head=False).gpu_type

    assert typed(CPU=1.0) == ""
    assert typed(GPU=2.0) == "GPU"
    assert typed(GPU=2.0, **{"accelerator_type:H100": 1.0}) == "H100"
    assert typed(CPU=1.0, **{"accelerator_type:H100": 1.0}) == ""


def test_trial_must_fit_on_one_node_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    large = {"CPU": 2.0, "memory": 64e9}, {"CPU": 16.0, "GPU": 1.0, "memory": 24.5e9}
    there = [Node(id="1", ip="1", hostname="h", resources=resources, is_head=False) for resources in large]
    monkeypatch.setattr("orchestrator.cluster.connection.nodes", lambda: there)
    check_resources(2, 0, 64)
    check_resources(16, 1, 24.5)
    check_resources(16, 1)
    for wanted in ((1, 0, 65), (4, 0, 64), (1, 1, 25), (1, 2, None)):
        with pytest.raises(OrchestratorError, match="`resources` must fit on one node"):
            check_resources(*wanted)
    with pytest.raises(OrchestratorError, match=r"got cpu 1, gpu 1, memory_gb 25 where the nodes have: 2 cpu, 0 gpu, "):
        check_resources(1, 1, 25)


def _raising(error: Exception) -> Callable[[object], None]:
    def fail(argument: object) -> None:
        raise error

    return fail


def test_errors_without_a_message_are_named_by_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.mlflow, "MlflowClient", _raising(MlflowException("")))
    with pytest.raises(node_check.UnusableError, match="must answer, got: MlflowException"):
        preflight._tracking("http://127.0.0.1:9", 2)
    monkeypatch.setattr(preflight, "create_engine", _raising(ImportError()))
    with pytest.raises(node_check.UnusableError, match="must be reachable, got: ImportError"):
        preflight._connect("postgresql://host/name")


@pytest.mark.parametrize("address", ["host", "ray://host:10001", "host:port", ":6379"])
def test_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(OrchestratorError, match="must be `auto` or HOST:PORT"), cluster(address):
        pass


def test_check_of_a_cluster_that_is_away_ends_with_two() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        outcome = snas("cluster", "check", "--address", f"127.0.0.1:{taken.getsockname()[1]}")
    assert outcome.code == 2
    assert "the Ray cluster at 127.0.0.1:" in outcome.said
    assert "Traceback" not in outcome.said
