"""Triton's kernels without a GPU: run by the interpreter, compiled for two GPUs, and what happens without Triton."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_core.kernels.gpu import launch

_ROOT = Path(__file__).parents[2]
with_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@pytest.fixture
def forgetful() -> Iterator[None]:
    launch.has_triton.cache_clear()
    yield
    launch.has_triton.cache_clear()


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("missing", ["the package triton", "a C compiler"])
def test_what_triton_needs_is_said_once_if_it_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = None if "package" in missing else importlib.util.find_spec("math")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match=f"Triton's kernels need {missing}") as said:
        assert [launch.has_triton(), launch.has_triton()] == [False, False]
    assert len(said) == 1


@with_triton
@pytest.mark.slow
def test_kernels_compute_what_torch_does() -> None:
    """In a process of its own: the interpreter is chosen before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.pretended_gpu.interpreted"]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "network: agrees"


@with_triton
@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_kernels_compile_without_spilled_registers(
    architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 64 channels, which need most."""
    from tests.pretended_gpu.compiled import kernels, usage

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    docs = (_ROOT / "docs" / "supernet.md").read_text(encoding="utf-8")
    for kernel, constants in kernels(64):
        used = usage(kernel, constants, architecture)
        assert used.stack == 0, used
        assert used.shared <= 48 << 10, "more must be asked for on some GPUs"
        assert f"| `{used.name}` | 64 |" in docs
