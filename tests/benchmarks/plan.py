"""What `snas study plan` predicts and what the study then takes.

Run: `python -m tests.benchmarks.plan [STUDY.yaml] [--set key=value ...] [--json]`, on a machine that does nothing else.
The plan is made, then the study is run in a folder that is removed, each by its command in a process of its own;
taken / predicted is 1 where the plan was right. Seconds of one search are those of its epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = "from orchestrator.cli import main; main()"


def snas(*words: str) -> str:
    """What a command prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def measure(file: str, settings: Sequence[str]) -> dict[str, Any]:
    """The plan and what was taken, in seconds."""
    overrides = [word for setting in settings for word in ("--set", setting)]
    begun = time.perf_counter()
    plan = json.loads(snas("study", "plan", file, "--json", *overrides))
    planned = time.perf_counter()
    with TemporaryDirectory() as runs:
        snas("study", "run", file, "--name", "planned", "--runs", runs, *overrides)
        taken_s = time.perf_counter() - planned
        shown = json.loads(snas("study", "show", "planned", "--json", "--runs", runs))
    rows = {
        "one search": (plan["searches"]["one_s"], mean(trial["seconds"] for trial in shown["trial_records"])),
        "retrainings": (plan["retrainings"]["count"], shown["retrained"]) if plan["retrainings"] else None,
        "the whole study": (plan["study_s"], taken_s),
    }
    return {
        "plan_took_s": planned - begun,
        "load": os.getloadavg()[1],
        "rows": {
            name: {"predicted": row[0], "taken": row[1], "taken / predicted": row[1] / row[0]["expected"]}
            for name, row in rows.items()
            if row is not None
        },
    }


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default=str(ROOT / "studies" / "quickstart.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.file, asked.settings)
    if asked.json:
        print(json.dumps(found))
        return
    print(
        f"the plan took {found['plan_took_s']:.0f} s; load of the machine at the end (5 minutes): {found['load']:.1f}"
    )
    for name, row in found["rows"].items():
        span = row["predicted"]
        ranged = f"{span['expected']:.0f} ({span['low']:.0f} to {span['high']:.0f})"
        print(f"{name}: predicted {ranged}, taken {row['taken']:.0f}, taken / predicted {row['taken / predicted']:.2f}")


if __name__ == "__main__":
    main()
