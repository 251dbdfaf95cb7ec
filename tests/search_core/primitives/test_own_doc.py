"""docs/own-operations.md: its file beside its study file is searched, its cell retrained, and the child leaves."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.preloaded.processes import run_ready

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "own-operations.md").read_text(encoding="utf-8")
((FILE,), (STUDY,), (COMMAND,)) = (
    re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("python", "yaml", "sh")
)


def snas(folder: Path, *words: str, code: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SNAS_RUNS": str(folder / "runs")}
    done = run_ready(["snas", *words], environment, folder=folder)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_file_of_the_page_is_the_one_of_the_studies() -> None:
    assert (ROOT / "studies" / "ghost.py").read_text(encoding="utf-8") == FILE


@pytest.mark.slow
def test_page_searches_retrains_and_exports(tmp_path: Path) -> None:
    (tmp_path / "ghost.py").write_text(FILE, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(f"name: ghost\ntrials: 1\n{STUDY}")
    snas(tmp_path, "search", "study.yaml", "--name", "found")
    cell = tmp_path / "cell.json"
    cell.write_text(
        (tmp_path / "runs/searches/found/genotype.json").read_text().replace("skip_connect", "ghost.py:GhostConv")
    )
    (tmp_path / "recipe.yaml").write_text(
        "dataset: {name: digits}\nretrain: {epochs: 1, cells: 2, init_channels: 4, drop_path: 0.0}\n"
    )
    _, *words = COMMAND.split()
    plugin = words.index("--plugin")
    refused = snas(tmp_path, *words[:plugin], code=2)
    assert "is of a plug-in that nobody named here: pass `--plugin ghost.py:GhostConv`" in " ".join(refused.split())
    assert "test accuracy" in snas(tmp_path, *words, "--name", "again")
    madds = snas(tmp_path, "profile", "cell.json", "--plugin", "ghost.py:GhostConv", "--json")
    assert '"madds"' in madds
    export = ["export", "--model", "again-child/1", "--to", "child", "--format", "python"]
    assert "--plugin" in snas(tmp_path, *export, code=2)
    snas(tmp_path, *export, "--plugin", "ghost.py:GhostConv")
    assert "class GhostConv" in (tmp_path / "child" / "child.py").read_text()
