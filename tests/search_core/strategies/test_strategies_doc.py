"""docs/strategies.md: a strategy of options, one file and two registrations, put into a copy of the code and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
OPTIONS, FILE, REGISTRATION, BUILD = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the new strategy."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("search_core", "orchestrator", "dashboards"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    strategies = folder / "search_core" / "strategies"
    family = strategies / "weight_sharing"
    with (family / "options.py").open("a", encoding="utf-8") as options:
        options.write(f"\n\n{OPTIONS}")
    (family / "hill_climbing.py").write_text(FILE, encoding="utf-8")
    _register(strategies / "registry.py", REGISTRATION, "\n)  # fmt: skip")
    _register(family / "build.py", BUILD, "\n}\n")
    return folder


def _register(file: Path, lines: str, end: str) -> None:
    """Write the imports of `lines` above those of a module, and the last line before `end`."""
    *imports, member = lines.rstrip().split("\n")
    text = file.read_text(encoding="utf-8").replace(
        "\nfrom search_core", "\n" + "\n".join(imports) + "\nfrom search_core", 1
    )
    assert end in text, "the list ends on a line of its own"
    file.write_text(text.replace(end, f"\n{member}{end}", 1), encoding="utf-8")


def snas_of(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)


def test_example_has_forty_lines() -> None:
    assert sum(bool(line.strip()) for line in (OPTIONS + FILE + REGISTRATION + BUILD).split("\n")) <= 40


@pytest.mark.slow
def test_example_is_listed(copy: Path) -> None:
    done = snas_of(copy, "strategies", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = (row for row in json.loads(done.stdout) if row["kind"] == "hill_climbing")
    assert row["summary"] == "one edge of the best child changes at a time"


@pytest.mark.slow
def test_example_searches(copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(
        "dataset: {name: fake, shape: [1, 8, 8], images: 200}\n"
        "network: {nodes: 1, cells: 3, init_channels: 4}\n"
        "strategy: {kind: hill_climbing, steps: 2}\nepochs: 2\nbatch_size: 16\n",
        encoding="utf-8",
    )
    done = snas_of(copy, "search", str(file), "--runs", str(tmp_path / "runs"), "--name", "hill")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "runs/searches/hill/history.jsonl").read_text().splitlines()) >= 2
    refused = snas_of(copy, "search", str(file), "--set", "strategy.steps=0")
    assert refused.returncode == 2
    assert "strategy.steps: must be at least 1, got 0" in " ".join(refused.stderr.split())
