"""optuna-dashboard on a study's storage."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.cli import STUDY, write_study


def asked(port: int, path: str, process: subprocess.Popen[bytes]) -> Any:
    """The answer of a server that may still be starting."""
    for _ in range(600):
        assert process.poll() is None, "it must not end"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.1)
    pytest.fail("it must answer within a minute")


@pytest.mark.slow
def test_optuna_dashboard_shows_a_study(tmp_path: Path) -> None:
    write_study(tmp_path, num_trials=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"sqlite:///{tmp_path / 'optuna.db'}", "--port", str(port), "--host", "127.0.0.1"]
    program = Path(sys.executable).with_name("optuna-dashboard")
    process = subprocess.Popen([program, *words], stderr=subprocess.DEVNULL)
    try:
        (study,) = asked(port, "/api/studies", process)["study_summaries"]
        assert (study["study_name"], study["directions"]) == (STUDY, ["minimize", "minimize"])
        trials = asked(port, f"/api/studies/{study['study_id']}?after=0", process)["trials"]
        assert [trial["state"] for trial in trials] == ["Complete"] * 3
    finally:
        process.terminate()
        process.wait(30)
