"""Clusters that run already: two nodes of this machine, tokens, and machines of their own by network namespaces."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from ray._raylet import AuthenticationTokenLoader, Config
from ray.cluster_utils import Cluster
from rich.console import Console

from orchestrator.adapters.ray_internals import without_idle_services
from orchestrator.cluster.connection import PACKAGES, cluster, nodes
from orchestrator.cluster.preflight import Needs, run_checks
from orchestrator.driver.progress import ConsoleView
from orchestrator.driver.start import run_study
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.loading import parse_study
from tests.integration.namespaces import HEAD_IP, RAY_ADDRESS, SECOND_IP, Machine, two_machines
from tests.orchestrator.tiny import ETA, SEARCH, snas
from tests.preloaded.processes import ready_ray_workers, run_ready

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
RAY = (Path(sys.executable).with_name("ray"), "start", "--block", "--disable-usage-stats", "--num-cpus", "1")
SMALL = 100_000_000
TOKEN = "0123456789abcdef-the-token-of-this-cluster"
STUDY = {"name": "two-nodes", "search": SEARCH, "sweep": ETA, "trials": 2, "max_concurrent": 2}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    with without_idle_services():
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": SMALL})
        nodes.add_node(num_cpus=1, object_store_memory=SMALL)
    yield nodes.address
    nodes.shutdown()


def test_study_runs_on_a_cluster_of_two_nodes(two_nodes: str, tmp_path: Path) -> None:
    study = Study(parse_study(STUDY), Runs(tmp_path / "runs"))
    with ConsoleView(Console(quiet=True)) as view:
        run_study(study, view, address=two_nodes)
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


def test_agents_of_a_node_import_nothing_before_they_are_asked_and_end_with_it() -> None:
    """The one of environments then is Ray's own, and who asked first is answered."""

    @ray.remote
    def read(name: str) -> str | None:
        return os.environ.get(name)

    with without_idle_services(), ready_ray_workers():
        node = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": SMALL})
    (started,) = node.head_node.all_processes["raylet"]
    raylet = psutil.Process(started.process.pid)
    programs = ("dashboard/agent.py", "runtime_env/agent/main.py")
    agents = [next(child for child in raylet.children() if program in str(child.cmdline())) for program in programs]
    ray.init(address=node.address, logging_level="ERROR", log_to_driver=False)
    try:
        assert ray.get(read.remote("WORD")) is None
        assert not any("/ray/" in library.path for agent in agents for library in agent.memory_maps())
        asked = read.options(runtime_env={"env_vars": {"WORD": "said"}})
        assert ray.get(asked.remote("WORD")) == "said"
        assert [agent.name() for agent in agents] == ["python", "ray::RuntimeEnvAgent"]
    finally:
        ray.shutdown()
        raylet.kill()
    assert psutil.wait_procs(agents, timeout=60)[1] == []
    node.shutdown()


def test_cluster_that_does_not_answer_is_a_clear_error() -> None:
    with (
        pytest.raises(OrchestratorError, match=r"the Ray cluster at 127\.0\.0\.1:9 must answer"),
        cluster("127.0.0.1:9"),
    ):
        pass


def test_port_of_something_else_is_refused_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address, start = f"127.0.0.1:{mute.getsockname()[1]}", time.monotonic()
        with pytest.raises(OrchestratorError, match="does not answer as Ray's control store"), cluster(address):
            pass
    assert time.monotonic() - start < 20


def test_cluster_check_shows_every_node(two_nodes: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "storage": {"path": str(tmp_path / "shared")}}))
    outcome = snas("cluster", "check", "--address", two_nodes, file, "--json", "--runs", tmp_path / "runs")
    report = json.loads(outcome.out)
    assert (outcome.code, report["ok"]) == (0, True)
    assert [(node["cpus"], node["gpus"], node["is_head"]) for node in report["nodes"]] == [(1, 0, True), (1, 0, False)]
    each = ["versions", "storage", "data"]
    assert [check["name"] for check in report["checks"]] == [*each, *each, "optuna", "tracking"]
    assert all(check["ok"] and check["seconds"] >= 0 for check in report["checks"])
    assert list(tmp_path.iterdir()) == [file], "nothing is left behind"


def test_node_that_is_lost_while_it_is_checked_is_left_out(tmp_path: Path) -> None:
    with without_idle_services(), ready_ray_workers():
        three = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": SMALL})
        kept, lost = (three.add_node(num_cpus=1, object_store_memory=SMALL) for _ in range(2))
    needs = Needs(storage=tmp_path / "shared", tracking_uri="sqlite:///m.db", optuna_url="sqlite:///o.db")
    try:
        with cluster(three.address):
            assert len(nodes()) == 3
            lost.kill_raylet(check_alive=False)  # Ray lists the node as alive until it misses its heartbeats
            checks = run_checks(needs)
            assert lost.node_id not in {node.id for node in nodes()}
    finally:
        three.shutdown()
    assert [check.name for check in checks] == [*["versions", "storage"] * 2, "optuna", "tracking"]
    assert all(check.ok for check in checks)
    assert kept.node_id[:6] in str(checks[2].node)


def test_cluster_check_says_what_fails(two_nodes: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "storage": {"path": str(tmp_path / "file")}}))
    outcome = snas("cluster", "check", "--address", two_nodes, file, "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert "storage driver FAILED" in outcome.said
    assert "Traceback" not in outcome.said


@pytest.fixture(scope="module")
def guarded(socket_folder: Callable[[], Path]) -> Iterator[str]:
    """A cluster that wants a token."""
    folder = socket_folder()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    words = [*RAY, "--head", "--port", port, "--temp-dir", folder, "--include-dashboard=false"]
    command = [*map(str, words), "--object-store-memory", str(SMALL)]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(folder / "head.log", "Ray runtime started")
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(60)


@pytest.fixture
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without a token; what Ray keeps of it in this process is not left to the next test."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    monkeypatch.undo()
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
def test_token_is_found_where_users_keep_it(
    place: str, guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".ray" / "auth_token" if place == "home" else tmp_path / "token"
    file.parent.mkdir(exist_ok=True)
    file.write_text(TOKEN)
    if place != "home":
        monkeypatch.setenv(place, TOKEN if place == "RAY_AUTH_TOKEN" else str(file))
    with cluster(guarded):
        assert [node.resources["CPU"] for node in nodes()] == [1]
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid(), "workers take it too"
    assert "RAY_AUTH_MODE" not in os.environ, "the next cluster may have no token"


@pytest.mark.usefixtures("no_token")
def test_missing_and_wrong_tokens_are_said_within_seconds(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    with pytest.raises(OrchestratorError, match=r"wants a token and there is none here: .* RAY_AUTH_TOKEN_PATH"):
        cluster(guarded).__enter__()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(OrchestratorError, match="wants a token and there is none here"):
        cluster(guarded).__enter__()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "some-other-token")
    with pytest.raises(OrchestratorError, match="another token than the one in RAY_AUTH_TOKEN:") as wrong:
        cluster(guarded).__enter__()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(OrchestratorError, match="wants a token, and RAY_AUTH_MODE is disabled: unset it"):
        cluster(guarded).__enter__()
    assert time.monotonic() - start < 40
    assert "some-other-token" not in str(wrong.value)


@pytest.fixture
def machines(network_namespaces: None, socket_folder: Callable[[], Path]) -> Iterator[tuple[Path, Machine, Machine]]:
    """A folder, and two machines; Ray's head runs on the first, the second has its own `local` and `ray` there."""
    folder = socket_folder()
    for name in ("local", "ray"):
        (folder / name).mkdir()
    with two_machines(folder / "local", folder / "ray") as (first, second):
        first.start_ray_head(folder)
        yield folder, first, second


def test_machine_that_is_no_node_is_asked_to_join(machines: tuple[Path, Machine, Machine]) -> None:
    folder, _, second = machines
    script = "from orchestrator.cli import main; main()"
    words = ("cluster", "check", "--address", RAY_ADDRESS, "--runs", folder / "runs")
    done = subprocess.run(
        second.command(sys.executable, "-c", script, *words),
        cwd=ROOT, env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert f"this machine is none of its nodes ({HEAD_IP})" in done.stderr
    assert f"`ray start --address {RAY_ADDRESS} --num-cpus 0`" in done.stderr


def test_unfit_second_machine_is_refused_with_all_that_fails(machines: tuple[Path, Machine, Machine]) -> None:
    folder, first, second = machines
    # Another version of PyTorch as pip would show it: what is first in the path of Python wins.
    metadata = folder / "path" / "torch-2.0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.1\n")
    second.join_ray(folder, {"PYTHONPATH": str(metadata.parents[1])})
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "storage": {"path": str(folder / "local")}}))
    options = (file, "--address", RAY_ADDRESS, "--runs", folder / "runs")

    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    words = ["snas", "cluster", "check", *options, "--json"]
    checked = run_ready(words, environment, namespaces=first.namespaces)
    report = json.loads(checked.stdout)
    assert (checked.returncode, checked.stderr, report["ok"]) == (2, "", False)
    assert [node["ip"] for node in report["nodes"]] == [HEAD_IP, SECOND_IP]
    failed = {(check["name"], (check["node"] or "driver").split()[0]) for check in report["checks"] if not check["ok"]}
    refused = {("versions", SECOND_IP), ("storage", SECOND_IP), ("optuna", "driver"), ("tracking", "driver")}
    assert failed == refused

    run = run_ready(["snas", "study", "run", *options], environment, namespaces=first.namespaces)
    assert run.returncode == 2
    assert "4 checks failed" in run.stderr
    assert "torch must be " in run.stderr
    assert "set `storage: {path: /a/shared/folder}`" in run.stderr
    assert "postgresql+psycopg://" in run.stderr
    assert "http://HOST:5000" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (folder / "runs").exists(), "a refused study leaves nothing behind"
    assert list((folder / "local").iterdir()) == []


def _wait_for(log: Path, line: str) -> None:
    end = time.monotonic() + 90
    while line not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
