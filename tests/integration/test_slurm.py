"""studies/cluster/slurm.sh with stand-ins for Slurm's commands: two Ray nodes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ray.util import get_node_ip_address

from orchestrator.runs import Runs
from orchestrator.study import Study
from tests.orchestrator.tiny import ETA, SEARCH

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SCONTROL = """#!/bin/bash
[[ "$*" == "show hostnames node[1-2]" ]] && printf 'node1\\nnode2\\n'
"""
#: Runs the command on this machine, whatever node is named; an address is that of this machine.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --nodelist ]] && { node="$2"; shift; }; shift; done
echo "$node: $*" >> "$SRUN_LOG"
[[ "$1" == hostname ]] && { echo "fe80::1 $THIS_IP"; exit; }
shift 2
exec ray start --num-cpus 1 "$@"
"""


def test_job_runs_a_study_and_goes_on_with_it_when_submitted_again(
    tmp_path: Path, socket_folder: Callable[[], Path]
) -> None:
    tools, runs = tmp_path / "tools", Runs(tmp_path / "runs")
    tools.mkdir()
    for name, body in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (tools / name).write_text(body)
        (tools / name).chmod(0o755)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({"name": "slurm", "search": SEARCH, "sweep": ETA, "trials": 2}))
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
    }

    def submit(*options: str) -> subprocess.CompletedProcess[str]:
        command = [ROOT / "studies" / "cluster" / "slurm.sh", study, *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=tmp_path)

    first = submit("--set", "trials=1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert [trial.state for trial in Study.load("slurm", runs).trials()] == ["complete"]
    started = (tmp_path / "srun.log").read_text().splitlines()
    assert [line.split(":")[0] for line in started] == ["node1", "node1", "node2"]
    assert "--head" in started[1]
    assert f"--address {environment['THIS_IP']}:{port}" in started[2]
    second = submit()
    assert second.returncode == 0, second.stdout + second.stderr
    assert len(Study.load("slurm", runs).trials()) == 1, "the study of the first job, not a new one"
    assert [path.name for path in runs.root.glob(".ray-token*")] == [], "a job takes its token away"


def _environment(folder: Path) -> Path:
    """What SNAS_VENV names: here, the environment of the tests."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(f'export PATH="{folder}/bin:{Path(sys.executable).parent}:$PATH"\n')
    (folder / "bin" / "snas").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from orchestrator.cli import main; main()" "$@"\n'
    )
    (folder / "bin" / "snas").chmod(0o755)
    return folder
