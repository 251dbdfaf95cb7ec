"""Memory of a whole search, measured in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from search_core.cost.memory import measure_step
from search_core.cost.penalty_options import PenaltyOptions
from search_core.search.dry_run import SearchMemory, measure_search
from search_core.search.options import SearchOptions
from search_core.space.plan import NetworkOptions, NetworkSize
from tests.search_core.tiny import CPU, FEW_PRIMITIVES, TINY_DATASET, tiny_options

#: Builds the options of this module in a fresh process and measures them there.
_PROGRAM = """
import json, sys
from dataclasses import asdict
import torch
torch.set_num_threads(1)
from search_core.search.dry_run import measure_search
from tests.search_core.search import test_dry_run
free_bytes = int(sys.argv[3]) or None
print(json.dumps(asdict(measure_search(test_dry_run.sized(int(sys.argv[1])), torch.device(sys.argv[2]), free_bytes))))
"""


def sized(channels: int) -> SearchOptions:
    """A search of which a step takes hundreds of MB with 32 channels, and next to nothing with 2."""
    network = NetworkOptions(nodes=2, cells=3, init_channels=channels, primitives=FEW_PRIMITIVES)
    dataset = {**asdict(TINY_DATASET), "shape": (3, 32, 32), "images": 400}
    return tiny_options(network=network, dataset=type(TINY_DATASET)(**dataset), batch_size=64)


def measured_apart(channels: int, device: str = "cpu", free_bytes: int = 0) -> SearchMemory:
    words = [sys.executable, "-c", _PROGRAM, str(channels), device, str(free_bytes)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    return SearchMemory(**json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_resident_memory_grows_by_the_peak_of_a_step() -> None:
    small, large = measured_apart(2), measured_apart(32)
    assert (small.device, small.gpu_bytes) == ("cpu", None)
    small_step, large_step = (
        measure_step(NetworkSize(sized(channels).network, (3, 32, 32), 10), 64).peak_bytes for channels in (2, 32)
    )
    assert large_step - small_step > 100e6, "too little to be seen among the libraries"
    # Validation of the child and the allocator's fragments come on top; less would mean that a step was not run.
    assert 0.8 < (large.host_bytes - small.host_bytes) / (large_step - small_step) < 2.0


@pytest.mark.slow
def test_peak_of_the_starting_process_does_not_count() -> None:
    """`ru_maxrss` of a child begins with the peak of its parent, so a driver's own memory would be measured."""
    child = "from search_core.search.dry_run import peak_resident_bytes; print(peak_resident_bytes())"
    parent = f"""
import subprocess, sys
block = b"x" * 1_500_000_000
sys.exit(subprocess.run([sys.executable, "-c", {child!r}]).returncode)
"""
    ended = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 10e6 < int(ended.stdout) < 1.2e9


def test_short_run_leaves_out_most_steps_but_no_part_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def wrapper(self: torch.Tensor, *rest: object, **named: object) -> object:
            calls.append(name)
            return original(self, *rest, **named)

        monkeypatch.setattr(torch.Tensor, name, wrapper)

    counted("backward")
    options = tiny_options(epochs=50, batch_size=4)  # 16 steps an epoch
    measure_search(options, CPU)
    assert calls == ["backward"] * 6, "three steps of two epochs"


def test_loss_that_breaks_does_not_end_the_measurement() -> None:
    broken = tiny_options(penalty=PenaltyOptions(strength=1e300, cost="madds", log=False))
    assert measure_search(broken, CPU).host_bytes > 0


@pytest.mark.gpu
def test_gpu_process_takes_its_data_its_tensors_and_its_context() -> None:
    free_bytes, _ = torch.cuda.mem_get_info()
    measured = measured_apart(32, "cuda", free_bytes)
    assert measured.device == torch.cuda.get_device_name()
    assert measured.gpu_bytes is not None
    assert measured.gpu_bytes > measure_step(NetworkSize(sized(32).network, (3, 32, 32), 10), 64, "cuda").peak_bytes
    assert measured.gpu_bytes < 8e9
