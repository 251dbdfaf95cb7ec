"""The pretended GPU itself: what CUDA refuses it refuses, and what makes the host wait it counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.device import CaptureError, DeviceMixError
from tests.pretended_gpu.gpu import Gpu


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended_gpu() as pretended:
        yield pretended


def on_gpu(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


def test_outside_there_is_no_gpu() -> None:
    before = torch.cuda.is_available(), torch.Generator, torch.autocast
    with pretended_gpu():
        assert torch.cuda.is_available()
        assert on_gpu(2).device == torch.device("cuda", 0)
    assert (torch.cuda.is_available(), torch.Generator, torch.autocast) == before


@pytest.mark.parametrize(
    "mix",
    [
        lambda: on_gpu(2) + torch.ones(2),
        lambda: on_gpu(2, 2) @ torch.ones(2, 2),
        lambda: nn.Linear(2, 2)(on_gpu(1, 2)),
        lambda: torch.ones(2)[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda: torch.rand(2, generator=torch.Generator("cuda")),
        lambda: on_gpu(2).exponential_(generator=torch.Generator()),
    ],
)
def test_two_devices_do_not_mix(mix: Callable[[], Any], gpu: Gpu) -> None:
    with pytest.raises(DeviceMixError):
        mix()


def test_a_number_of_the_cpu_mixes_with_a_tensor_of_the_gpu(gpu: Gpu) -> None:
    assert (on_gpu(2) * torch.tensor(3.0)).tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("waits", "count"),
    [
        (lambda x: x.item(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: bool(x > 0), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: torch.tensor([1.0], device="cuda") + x, 1),
        (lambda x: x[[0]], 1),
        (lambda x: torch.cuda.synchronize(), 1),
        (lambda x: torch.ones(1).to("cuda", non_blocking=True), 1),
        (lambda x: torch.ones(1).pin_memory().to("cuda", non_blocking=True) + x, 0),
        (lambda x: functional.one_hot(x.long(), 3) * x.softmax(0), 0),
        (lambda x: x.to(torch.float64).to("cuda"), 0),
    ],
)
def test_waits_are_counted(waits: Callable[[torch.Tensor], Any], count: int, gpu: Gpu) -> None:
    x = on_gpu(1)
    gpu.syncs.clear()
    waits(x)
    assert gpu.syncs.total() == count
    assert all("tests/pretended_gpu/test_device.py:" in place for place in gpu.syncs), "the line that asked"


def test_launches_are_counted_and_views_are_none(gpu: Gpu) -> None:
    x = on_gpu(2, 3)
    gpu.launches.clear()
    (x.t()[0] * 2).sum()
    assert dict(gpu.launches) == {"mul": 1, "sum": 1}


def test_generators_draw_the_numbers_of_a_cpu_generator_and_keep_their_states_apart(gpu: Gpu) -> None:
    cpu, cuda = torch.Generator().manual_seed(5), torch.Generator("cuda").manual_seed(5)
    assert torch.equal(torch.rand(3, generator=cpu), torch.rand(3, generator=cuda, device="cuda").cpu())
    state = cuda.get_state()
    drawn = torch.rand(3, generator=cuda, device="cuda").tolist()
    resumed = torch.Generator("cuda")
    resumed.set_state(state)
    assert torch.rand(3, generator=resumed, device="cuda").tolist() == drawn
    with pytest.raises(RuntimeError, match="wrong size"):
        resumed.set_state(cpu.get_state())


def test_gradients_are_those_of_the_cpu(gpu: Gpu) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    there = copy.deepcopy(network).to("cuda")
    images = torch.rand(4, 1, 4, 4)
    for net, batch in ((network, images), (there, images.to("cuda"))):
        net(batch).square().sum().backward()
    for here, copied in zip(network.parameters(), there.parameters(), strict=True):
        assert copied.grad is not None
        assert copied.grad.is_cuda
        assert torch.equal(here.grad, copied.grad.cpu())


def test_a_graph_computes_only_when_replayed_and_from_the_memory_of_now(gpu: Gpu) -> None:
    x, total = on_gpu(2), torch.zeros(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total += x
        doubled = 2 * total
    assert total.tolist() == [0, 0]
    for number in (1, 2):
        x.fill_(number)
        graph.replay()
    assert (total.tolist(), doubled.tolist()) == ([3, 3], [6, 6])


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: x + torch.ones(2).to("cuda"),
        lambda x: x + torch.rand(2, device="cuda"),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_a_graph_cannot_hold_everything(forbidden: Callable[[torch.Tensor], Any], gpu: Gpu) -> None:
    x = on_gpu(2)
    with pytest.raises(CaptureError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        forbidden(x)
