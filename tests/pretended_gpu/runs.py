"""Runs that are small enough to go through the pretended GPU, and what of them must be the same on every device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from search_core.data.datasets import ImageData, load_data
from search_core.search.options import SearchOptions
from search_core.search.search import Search, build_context
from search_core.space.plan import NetworkOptions
from search_core.strategies.base import EpochSettings, StepResult
from search_core.strategies.weight_sharing.build import build_strategy
from tests.pretended_gpu.gpu import Gpu
from tests.search_core.strategies.test_strategies import CASES
from tests.search_core.tiny import FEW_PRIMITIVES, TINY_DATASET, through_file, tiny_options

#: Both types of cells.
NETWORK = NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=FEW_PRIMITIVES)
#: The fewest launches.
ONE_CELL = replace(NETWORK, cells=1)
#: With all that is drawn on the device; 16 images to train on and 4 to validate.
IMAGES = replace(TINY_DATASET, images=25, crop_padding=1, flip=True, cutout=2)
_CLOCK = ("seconds", "images_per_s")


class _Report(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def options_of(name: str, **changes: Any) -> SearchOptions:
    """Two epochs of one step each with a strategy of the contract suite."""
    batch_size = 8 if CASES[name]["strategy"].held_out_fraction else 16
    tiny = tiny_options(dataset=IMAGES, network=NETWORK, epochs=2, batch_size=batch_size, recalibration_batches=1)
    # A graph computes with its numbers on the device, so sums are rounded otherwise than on the CPU.
    return replace(tiny, **{"cuda_graph": False, **CASES[name], **changes})


def data_on(device: str, options: SearchOptions) -> ImageData:
    return load_data(options.dataset, torch.device(device))


def search_on(device: str, options: SearchOptions) -> Search:
    return Search(options, data_on(device, options), device)


def record(report: _Report) -> dict[str, Any]:
    """A report without what a clock says."""
    plain = report.to_dict()
    return {**plain, "metrics": {name: value for name, value in plain["metrics"].items() if name not in _CLOCK}}


def waits_of_steps(search: Search, gpu: Gpu) -> list[Counter[str]]:
    """For each training step that the search will run, how often the host waits for the GPU in it, and where."""
    waits: list[Counter[str]] = []
    step = search.strategy.step

    def counted(*arguments: Any) -> StepResult:
        before = gpu.syncs.copy()
        result = step(*arguments)
        waits.append(gpu.syncs - before)
        return result

    search.strategy.step = counted  # type: ignore[method-assign]
    return waits


def stepped(options: SearchOptions, epochs: Sequence[int] = (4, 1)) -> list[dict[str, Any]]:
    """Results of steps on the GPU, and the weights behind the last: so many in epochs of other settings each.

    A CUDA graph is recorded in the fourth step and replayed from then on.
    """
    data, device = data_on("cuda", options), torch.device("cuda")
    strategy = build_strategy(options.strategy, build_context(options, data, device))
    generator = torch.Generator(device).manual_seed(1)
    results = []
    for number, steps in enumerate(epochs):
        strategy.begin_epoch(EpochSettings(temperature=1 / (1 + number), eta=0.01, theta_lr=0.05), generator)
        for _ in range(steps):
            images, labels = next(data.train.batches(options.batch_size, generator=generator, drop_last=True))
            results.append(vars(strategy.step(images, labels, generator)))
    return _on_cpu([*results, strategy.alpha(), strategy.credits(), strategy.supernet.state_dict()])


def records(reports: Iterable[_Report]) -> list[dict[str, Any]]:
    return [record(report) for report in reports]


def from_file(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a checkpoint gives it back: all tensors are on the CPU, whatever device they came from."""
    loaded: dict[str, Any] = through_file(_on_cpu(state))
    return loaded


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(item) for item in value)
    return value
