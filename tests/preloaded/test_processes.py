"""Processes that are forked are as real as others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.preloaded.processes import ReadyProcess, ready_programs, run_ready

pytestmark = pytest.mark.slow

_PROGRAM = """
import os, sys, time
print(os.environ["WORD"], os.getcwd(), "ray" in sys.modules, "torch" in sys.modules, flush=True)
time.sleep(float(sys.argv[1]))
sys.exit("no")
"""


def test_process_has_its_own_environment_folder_and_output(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(_PROGRAM)
    (folder := tmp_path / "folder").mkdir()
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        words = [str(tmp_path / "program.py"), "0"]
        process = ReadyProcess(words, out=out, err=err, environment={"WORD": "said"}, folder=folder)
    assert process.wait(60) == process.poll() == 1
    assert (tmp_path / "out").read_text() == f"said {folder} False True\n"
    assert (tmp_path / "err").read_text() == "no\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "program.py").write_text(_PROGRAM)
    with (tmp_path / "out").open("w") as out:
        words = [str(tmp_path / "program.py"), "600"]
        process = ReadyProcess(words, out=out, err=out, environment={"WORD": "said"}, folder=tmp_path)
    while not (tmp_path / "out").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    assert psutil.Process(process.pid).is_running()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait(60) == -number
    assert not psutil.pid_exists(process.pid)


def test_commands_end_as_their_scripts_do(tmp_path: Path) -> None:
    done = run_ready(["snas", "study", "show", "nothing", "--runs", tmp_path], os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing" in done.stderr
    environment = {**os.environ, **ready_programs(tmp_path)}
    done = subprocess.run("mlflow --version", shell=True, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mlflow, version ")
