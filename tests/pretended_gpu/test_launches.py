"""The budget of a training step in kernels, counted on the pretended GPU at the size of the benchmark."""

from __future__ import annotations

import pytest
import torch

from search_core.space.plan import NetworkOptions
from tests.benchmarks.launches import launches_of
from tests.benchmarks.supernet import Setting
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.launches import Launches, counted


@pytest.mark.slow
@pytest.mark.parametrize(("form", "most"), [("fast", 2_500), ("plain", 7_500)])
def test_launches_of_a_step_keep_to_the_budget(form: str, most: int) -> None:
    network = NetworkOptions(nodes=4, cells=8, init_channels=4)  # the count does not depend on channels and images
    setting = Setting(network=network, image=(3, 16, 16), batch=2, repeats=1, device=torch.device("cuda"))
    launches, syncs = launches_of(setting, form)
    assert launches.kernels.total() <= most
    assert syncs == 0
    assert {phase for phase, _ in launches.kernels} == {"forward", "backward", "clip", "theta", "alpha", "other"}


@pytest.mark.slow
def test_bytes_of_a_step_keep_to_the_budget() -> None:
    network = NetworkOptions(nodes=4, cells=8, init_channels=16)
    setting = Setting(network=network, image=(3, 32, 32), batch=64, repeats=1, device=torch.device("cuda"))
    assert launches_of(setting, "fast")[0].num_bytes <= 25e9


def test_kernels_and_bytes_of_operations_are_counted_by_phase_and_file() -> None:
    launches, backward = Launches(), Launches()
    with pretended_gpu() as gpu:
        x = torch.ones(3, 4, device="cuda", requires_grad=True)
        row = torch.ones(4, device="cuda")
        with counted(gpu, launches):
            total = x * row.expand(3, 4)  # a row is read once: 12 + 4 + 12 numbers
            torch._foreach_mul([x.detach() for _ in range(65)], 2.0)  # two launches of at most 64
        with counted(gpu, backward):
            total.sum().backward()
    assert launches.operations == {"mul": 1, "_foreach_mul": 2}
    assert launches.num_bytes == 4 * (12 + 4 + 12) + 4 * (12 + 65 * 12)
    assert {phase for phase, _ in backward.kernels} == {"other", "backward"}
