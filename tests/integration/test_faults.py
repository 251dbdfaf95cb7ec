"""Faults done to running studies. Each must end as if nothing had happened: whole, and with the same cells.

The table in docs/reliability.md names these tests.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ray.cluster_utils import Cluster

from orchestrator.adapters.ray_internals import without_idle_services
from tests.integration.servers import MlflowServer, PostgresServer
from tests.integration.studies import EPOCHS, STUDY, StudyProcess, assert_as_if_nothing_had_happened, title
from tests.orchestrator.tiny import runs_of
from tests.preloaded.processes import ready_ray_workers

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.cluster]

Start = Callable[..., StudyProcess]


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Start]:
    """Makes a study process that does not outlive the test."""
    made: list[StudyProcess] = []

    def make(spec: dict[str, Any] = STUDY, **options: Any) -> StudyProcess:
        made.append(StudyProcess(tmp_path, spec, **options))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Cluster]:
    """A head that runs no trials and two nodes that do; the last test kills one."""
    with without_idle_services(), ready_ray_workers():
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


def test_undisturbed_study_is_whole_and_survived_nothing(undisturbed: StudyProcess) -> None:
    assert_as_if_nothing_had_happened(undisturbed, undisturbed)
    assert undisturbed.events() == []
    assert [len(trial) for trial in undisturbed.records()] == [EPOCHS, EPOCHS]


def test_worker_killed_and_worker_that_hangs(study: Start, undisturbed: StudyProcess) -> None:
    """One in each trial."""
    faulty = study({**STUDY, "failure": {"timeout_s": 40}})
    faulty.start()
    with faulty.held(2) as workers:
        workers[0].kill()
        hanging = workers.pop(1)
    faulty.finish()
    assert [[event["event"] for event in faulty.journal(trial).events] for trial in (0, 1)] == [["restart"], ["hang"]]
    assert "no report for 40 s" in faulty.log
    assert not hanging.is_running()
    assert_as_if_nothing_had_happened(faulty, undisturbed)


def test_driver_killed_and_stopped_on_a_cluster_that_stays_up(
    study: Start, undisturbed: StudyProcess, three_nodes: Cluster
) -> None:
    driven = study(address=three_nodes.address)
    driven.start()
    with driven.held(2):
        driven.kill()
    assert driven.doctor().code == 1, "it is not whole yet"
    driven.resume()
    with driven.held(4):
        driven.process.send_signal(signal.SIGTERM)
        driven.finish(143)
    assert "Traceback" not in driven.log
    driven.resume()
    driven.finish()
    assert_as_if_nothing_had_happened(driven, undisturbed)


def test_raylet_killed(study: Start, undisturbed: StudyProcess, three_nodes: Cluster) -> None:
    on_nodes = study(address=three_nodes.address)
    on_nodes.start()
    with on_nodes.held(2):
        next(iter(three_nodes.worker_nodes)).kill_raylet(check_alive=False)
        on_nodes.wait_until(lambda: on_nodes.events() == ["restart"])  # one of the two trials ran there
    on_nodes.finish()
    assert on_nodes.events() == ["restart"]
    assert_as_if_nothing_had_happened(on_nodes, undisturbed)


def test_memory_monitor_kills_a_trial(study: Start, undisturbed: StudyProcess) -> None:
    memory = psutil.virtual_memory()
    threshold = 1 - memory.available / memory.total + 0.15
    starved = study(
        environment={"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    )
    starved.start()
    with starved.held(1):
        available = psutil.virtual_memory().available
        hog = np.ones(int(available - (1 - threshold - 0.05) * memory.total), dtype=np.uint8)
    starved.wait_until(lambda: "out_of_memory" in starved.events())
    del hog
    starved.finish()
    assert_as_if_nothing_had_happened(starved, undisturbed)


def test_tracking_server_and_database_restarted(
    study: Start, undisturbed: StudyProcess, postgres: PostgresServer, mlflow_on_postgres: MlflowServer
) -> None:
    storage, tracking = {"url": postgres.create_database("optuna")}, {"uri": mlflow_on_postgres.uri}
    served = study({**STUDY, "storage": storage, "tracking": tracking})
    served.start()
    with served.held(1):
        mlflow_on_postgres.kill()
    with served.held(3):
        served.wait_until(lambda: "MLflow is behind and will be brought up later" in served.log)
        postgres.kill()
    with served.held(4):
        postgres.start()
    with served.held(5):
        mlflow_on_postgres.start()
    served.finish()
    assert_as_if_nothing_had_happened(served, undisturbed)


@pytest.fixture
def small_disk(small_disks: None, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of this many bytes; called again it gives it another size."""
    disk = tmp_path / "small-disk"
    disk.mkdir()
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        options = f"size={size}" if not mounted else f"remount,size={size}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
        mounted.append(disk)
        return disk

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_disk_full_while_checkpointing(
    study: Start, undisturbed: StudyProcess, small_disk: Callable[[int], Path]
) -> None:
    size = max(file.stat().st_size for file in undisturbed.checkpoints(0).glob("*.pt"))
    full = study({**STUDY, "storage": {"path": str(small_disk(3 * size + 16384))}})
    full.start()
    with full.held(3) as workers:
        workers[0].kill()  # there is a way back, although not from the last epoch
    full.finish()
    assert set(full.events()) == {"checkpoint", "restart"}
    assert "No space left on device" in full.log
    assert_as_if_nothing_had_happened(full, undisturbed)


def test_disk_full_under_the_journals(
    study: Start, undisturbed: StudyProcess, small_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    """The driver says so and ends; with room again the study resumes."""
    disk = small_disk(2**26)
    storage = {"path": str(tmp_path / "checkpoints")}
    full = study({**STUDY, "storage": storage}, runs=disk / "runs")
    full.start()
    filler = disk / "filler"
    with full.held(2), filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    full.finish(code=2)
    assert "No space left on device" in full.log
    assert "trials/000" in full.log, "it names the file"
    filler.unlink()
    full.resume()
    full.finish()
    assert_as_if_nothing_had_happened(full, undisturbed)


def test_stopped_by_signals(study: Start, undisturbed: StudyProcess) -> None:
    """Ctrl-C, a time limit or an eviction, a closed terminal, and at last six times Ctrl-C in two seconds."""
    stopped = study()
    stopped.start()
    signals = ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129))
    for times, (number, code) in enumerate(signals, start=1):
        with stopped.held(2 * times):
            started = psutil.Process(stopped.process.pid).children(recursive=True)
            assert_no_idle_service(started)
            stopped.process.send_signal(number)
            stopped.finish(code)
        assert_nothing_is_left(started)
        assert stopped.log.count("interrupted: `snas study resume faulty") == times
        assert {run.info.status for run in runs_of(stopped.client, "faulty")} == {"KILLED"}
        stopped.resume()
    stopped.wait_for_epochs(7)
    started = psutil.Process(stopped.process.pid).children(recursive=True)
    for _ in range(6):
        if stopped.process.poll() is None:
            stopped.process.send_signal(signal.SIGINT)
            time.sleep(0.35)
    stopped.finish(130)
    assert_nothing_is_left(started)
    assert "Traceback" not in stopped.log
    stopped.resume()
    stopped.finish()
    assert_as_if_nothing_had_happened(stopped, undisturbed)


def assert_no_idle_service(started: list[psutil.Process]) -> None:
    """Of Ray's own processes there are those that trials need."""
    titles = " ".join(map(title, started))
    assert "gcs_server" in titles
    for service in ("dashboard.py", "monitor.py"):
        assert service not in titles


def assert_nothing_is_left(started: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == [], "nothing of Ray outlives the driver that started it"


def test_checkpoints_damaged(study: Start, undisturbed: StudyProcess) -> None:
    damaged = study()
    damaged.start()
    for epochs, damage in ((3, "truncated"), (6, "flipped")):
        with damaged.held(epochs) as workers:
            damaged.kill()
            for worker in workers.values():  # else it may write one more checkpoint before it sees that it is alone
                worker.kill()
        for number in (0, 1):
            newest = max(damaged.checkpoints(number).glob("epoch-*.pt"))
            content = bytearray(newest.read_bytes())
            content[len(content) // 2] ^= 1
            newest.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
        assert "damaged" in damaged.doctor().said
        damaged.resume()
    damaged.finish()
    assert_as_if_nothing_had_happened(damaged, undisturbed)
