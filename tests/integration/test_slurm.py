"""studies/cluster/slurm.sh with stand-ins for Slurm's commands: two Ray nodes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ray.util import get_node_ip_address

from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from tests.orchestrator.tiny import ETA, SEARCH
from tests.preloaded.processes import ready_programs, server_variables

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SCONTROL = """#!/bin/bash
case "$*" in
    "show hostnames node[1-2]") printf 'node1\\nnode2\\n' ;;
    requeue*) echo "requeued: $2" >> "$SRUN_LOG" ;;
    *) exit 1 ;;
esac
"""
#: Runs the command on this machine, whatever node is named; an address is that of this machine.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --nodelist ]] && { node="$2"; shift; }; shift; done
echo "$node: $*" >> "$SRUN_LOG"
[[ "$1" == hostname ]] && { echo "fe80::1 $THIS_IP"; exit; }
shift 2
exec python "$RAY_START" --num-cpus 1 "$@"
"""


def test_job_at_its_time_limit_is_queued_again_and_resumes_with_its_study(
    tmp_path: Path, socket_folder: Callable[[], Path]
) -> None:
    tools, runs = tmp_path / "tools", Runs(tmp_path / "runs")
    tools.mkdir()
    for name, body in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (tools / name).write_text(body)
        (tools / name).chmod(0o755)
    study = tmp_path / "study.yaml"
    network = {**SEARCH["network"], "primitives": ["none", "max_pool_3x3", "skip_connect"]}  # few kernels to compile
    search = {**SEARCH, "network": network, "epochs": 40}
    study.write_text(yaml.safe_dump({"name": "slurm", "search": search, "sweep": ETA, "trials": 1}))
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    venv = _environment(tmp_path / "venv")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
        "PATH": f"{tools}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(socket_folder()),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SNAS_VENV": str(venv),
        "SNAS_RUNS": str(runs.root),
        "SRUN_LOG": str(tmp_path / "srun.log"),
        "THIS_IP": get_node_ip_address(),
        "PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "RAY_START": str(ROOT / "tests" / "preloaded" / "ray_start.py"),
        **server_variables(),
    }

    command = [ROOT / "studies" / "cluster" / "slurm.sh", study]

    def submit() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        )

    first = submit()
    journal, deadline = runs.study("slurm").journal("search", "0000"), time.monotonic() + 300
    while not journal.is_file() or not Journal(journal).epochs:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline, "the study made no progress"
        time.sleep(0.05)
    first.send_signal(signal.SIGUSR1)  # as Slurm does ahead of the time limit
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 143, said
    assert "interrupted: `snas study resume slurm" in said
    started = (tmp_path / "srun.log").read_text().splitlines()
    assert [line.split(":")[0] for line in started] == ["node1", "node1", "node2", "requeued"]
    assert "--head" in started[1]
    assert f"--address {environment['THIS_IP']}:{port}" in started[2]
    assert started[3] == "requeued: 77"
    second = submit()
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    assert [trial.state for trial in Study.load("slurm", runs).trials()] == ["complete"], "of the first job, no new one"
    assert [path.name for path in runs.root.glob(".ray-token*")] == [], "a job takes its token away"


def _environment(folder: Path) -> Path:
    """What SNAS_VENV names: here, the environment of the tests."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(f'export PATH="{folder}/bin:{Path(sys.executable).parent}:$PATH"\n')
    ready_programs(folder / "bin")
    return folder
