"""The benchmark for the first minutes on a real GPU, at sizes that prove that each of its parts runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.gpu_first_minutes import PARTS, Setting, measure
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.runs import ONE_CELL

_TINY = Setting(network=ONE_CELL, batch=4, sizes=((4, 8),), repeats=1, searches=(1, 2), images=80, device="cuda")
_HERE = ("machine", "step", "gram", "depthwise", "epoch")

_IMPORTS = """
import sys
import tests.benchmarks.gpu_first_minutes
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_parts_run_on_a_gpu_and_say_what_they_found() -> None:
    with pretended_gpu() as gpu:
        result = measure(_TINY, _HERE)
    assert [name for name in _HERE if "error" in result[name]] == [], result
    steps = ("snas_float32", "snas_bfloat16", "darts_float32")
    assert {f"{name}_{how}_ms" for name in steps for how in ("one_by_one", "graph")} <= result["step"].keys()
    assert all(result["step"][f"{name}_losses_apart"] < 1e-2 for name in steps)
    assert all(error < 1e-5 for name, error in result["gram"].items() if name.endswith("_error"))
    assert result["depthwise"]["4x8x8_gradients_apart"] < 1e-5
    assert len(result["epoch"]["images_per_s"]) == 2
    assert gpu.recordings == 4, "of three steps, and of the epochs together"


@pytest.mark.slow
def test_searches_side_by_side_are_processes_of_their_own() -> None:
    cpu = Setting(**{**vars(_TINY), "device": "cpu"})
    (found,) = measure(cpu, ["packing"]).values()
    assert found["1_images_per_s"] > 0
    assert found["2_images_per_s"] > 0


def test_a_fault_costs_its_own_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(setting: Setting) -> dict[str, float]:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setitem(PARTS, "step", fails)
    result = measure(Setting(**{**vars(_TINY), "device": "cpu"}), ["step", "machine"])
    assert result["step"]["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "torch" in result["machine"]


@pytest.mark.slow
def test_it_needs_torch_torchvision_and_numpy_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert "torch" in found
    assert not found & {"pydantic", "yaml", "ray", "optuna", "mlflow", "pytest", "sklearn", "pandas", "orchestrator"}
