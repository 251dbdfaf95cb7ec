"""A study on two machines, with servers that only the driver's reaches, and what the loss of the second does to it.

The machines are network namespaces. The second has a folder of its own for Ray, and shares that of the study.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.namespaces import RAY_ADDRESS, Machine, joined_to_this, two_machines
from tests.integration.servers import MlflowServer, PostgresServer
from tests.integration.studies import STUDY, StudyProcess, assert_as_if_nothing_had_happened

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.cluster]

#: Each machine has one CPU, so each runs one trial.
SPEC: dict[str, Any] = {**STUDY, "resources": {"cpu": 1}}


@pytest.fixture(scope="module")
def machines(network_namespaces: None, socket_folder: Callable[[], Path]) -> Iterator[tuple[Machine, Machine]]:
    """Two machines; Ray's head runs on the first."""
    folder = socket_folder()
    (folder / "ray").mkdir()
    with two_machines(folder / "ray") as (first, second):
        first.start_ray_head(folder)
        yield first, second


@pytest.fixture(scope="module")
def host(machines: tuple[Machine, Machine]) -> Iterator[str]:
    """Address of this machine for the first one; the second has no way here."""
    with joined_to_this(machines[0]) as address:
        yield address


@pytest.fixture(scope="module")
def servers(
    postgres_programs: None, host: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PostgresServer, MlflowServer]]:
    with PostgresServer(host=host) as postgres:
        store = postgres.create_database("mlflow")
        with MlflowServer(tmp_path_factory.mktemp("mlflow-server"), store, host=host) as server:
            yield postgres, server


@pytest.fixture
def start(
    machines: tuple[Machine, Machine], servers: tuple[PostgresServer, MlflowServer], tmp_path: Path
) -> Iterator[Callable[[str], StudyProcess]]:
    """Starts a study of some name on both machines, once the second has joined; it does not outlive the test."""
    first, second = machines
    second.join_ray(tmp_path)
    first.wait_for_nodes(first, second)  # one that was lost in the test before may be listed for a while
    made: list[StudyProcess] = []

    def make(name: str) -> StudyProcess:
        postgres, server = servers
        storage = {"url": postgres.create_database(name), "path": str(tmp_path / "storage")}
        spec = {**SPEC, "name": name, "storage": storage, "tracking": {"uri": server.uri}}
        made.append(
            StudyProcess(tmp_path, spec, address=RAY_ADDRESS, machine=first, environment={"RAY_AUTH_MODE": "disabled"})
        )
        made[-1].start()
        return made[-1]

    yield make
    for process in made:
        process.kill()
    second.end_processes()


def workers_on(machine: Machine, study: StudyProcess) -> int:
    pids = machine.pids()
    return sum(worker.pid in pids for worker in study.workers())


def test_study_runs_on_two_machines(
    start: Callable[[str], StudyProcess], machines: tuple[Machine, Machine], undisturbed: StudyProcess
) -> None:
    study = start("spread")
    with study.held(1):
        assert [workers_on(machine, study) for machine in machines] == [1, 1]
    study.finish()
    assert study.events() == []
    assert_as_if_nothing_had_happened(study, undisturbed)


def cut_off(machine: Machine) -> None:
    machine.cut_off()


def kill_raylet(machine: Machine) -> None:
    (raylet,) = [pid for pid in machine.pids() if psutil.Process(pid).name() == "raylet"]
    os.kill(raylet, signal.SIGKILL)


@pytest.mark.parametrize("fault", [kill_raylet, cut_off])  # the cut is not repaired: it comes last
def test_second_machine_is_lost(
    start: Callable[[str], StudyProcess],
    machines: tuple[Machine, Machine],
    undisturbed: StudyProcess,
    fault: Callable[[Machine], None],
) -> None:
    study = start(f"lost-by-{fault.__name__}")
    with study.held(2):
        fault(machines[1])
        study.wait_until(lambda: study.events() == ["restart"])
    study.finish()
    assert study.events() == ["restart"]
    assert_as_if_nothing_had_happened(study, undisturbed)
