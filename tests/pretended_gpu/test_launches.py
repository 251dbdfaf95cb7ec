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
@pytest.mark.parametrize(
    ("form", "most", "channels", "size", "batch"), [("fast", 2_500, 16, 32, 64), ("plain", 7_500, 4, 16, 2)]
)
def test_launches_and_bytes_of_a_step_keep_to_the_budget(
    form: str, most: int, channels: int, size: int, batch: int
) -> None:
    """Launches do not depend on channels and images; bytes do, and their budget is that of the fast form's setting."""
    network = NetworkOptions(nodes=4, cells=8, init_channels=channels)
    image, device = (3, size, size), torch.device("cuda")
    launches, syncs = launches_of(Setting(network=network, image=image, batch=batch, repeats=1, device=device), form)
    assert launches.kernels.total() <= most
    assert launches.num_bytes <= 25e9
    assert syncs == 0
    assert {phase for phase, _ in launches.kernels} == {"forward", "backward", "clip", "theta", "alpha", "other"}


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
