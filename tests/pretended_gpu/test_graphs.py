"""CUDA graphs of a training step, in every variant: the same numbers as steps run one by one on the same device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from threading import Thread
from typing import Any
from unittest import mock

import pytest
import torch

from search_core.cost.penalty_options import PenaltyOptions
from search_core.search.options import SearchOptions
from search_core.strategies.weight_sharing.cuda_graph import GraphedStep
from search_core.strategies.weight_sharing.differentiable import DifferentiableStrategy
from search_core.strategies.weight_sharing.options import SnasOptions
from search_core.strategies.weight_sharing.snas import Snas
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.runs import IMAGES, NETWORK, ONE_CELL, from_file, options_of, record, search_on, stepped
from tests.search_core.tiny import differences

pytestmark = pytest.mark.slow

_VARIANTS: dict[str, SearchOptions] = {
    "one sample a batch": options_of("snas"),
    "one a cell, score function": options_of(
        "snas", strategy=SnasOptions(sample_per="cell"), penalty=PenaltyOptions(estimator="score_function")
    ),
    "expected cost": options_of("snas-expected"),
    "bfloat16": options_of("snas", network=ONE_CELL, precision="bfloat16"),
    "recompute": options_of("snas", network=replace(NETWORK, recompute=True)),
    "DARTS, first order": options_of("darts-first"),
    "DARTS, second order": options_of("darts", network=ONE_CELL),
}


def one_by_one() -> AbstractContextManager[Any]:
    """Steps that compute as for a graph, which is never recorded."""
    return mock.patch("search_core.strategies.weight_sharing.cuda_graph._EAGER_STEPS", 1000)


#: The first tier has what differs most.
_SLOW = ("one sample a batch", "expected cost", "recompute", "DARTS, first order")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in _VARIANTS]
)
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_replayed_steps_equal_steps_run_one_by_one(name: str) -> None:
    """Also in the second epoch, with another temperature, eta and learning rate."""
    options = replace(_VARIANTS[name], cuda_graph="auto")
    with pretended_gpu(), one_by_one():
        expected = stepped(options)
    with pretended_gpu() as gpu:
        assert differences(stepped(options), expected) == []
    assert (gpu.recordings, gpu.launches["cudaGraphLaunch"]) == (1, 2)


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_steps_run_on_without_a_graph_that_cannot_be_recorded() -> None:
    """On `auto`; a study that asks for one is told (`test_faults`)."""
    options = options_of("snas", network=ONE_CELL, cuda_graph="auto")
    with pretended_gpu(), one_by_one():
        expected = stepped(options)
    reads = mock.patch.object(Snas, "_clip_theta", reads_a_number)
    with pretended_gpu() as gpu, reads, pytest.warns(UserWarning, match="no CUDA graph of a step.*host cannot wait"):
        assert differences(stepped(options), expected) == []
    assert (gpu.recordings, gpu.launches["cudaGraphLaunch"]) == (1, 0)


_clip = DifferentiableStrategy._clip_theta


def reads_a_number(self: Snas) -> None:
    """Stands for `_clip_theta`, after which the host waits."""
    _clip(self)
    f"{next(self.supernet.parameters()).sum().item()}"


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_a_search_with_a_graph_resumes_bit_for_bit() -> None:
    """After three steps an epoch: the search goes on with a graph, the resumed one has none yet."""
    images = replace(IMAGES, images=38)
    options = options_of(
        "snas", cuda_graph=True, dataset=images, batch_size=8, penalty=PenaltyOptions(estimator="score_function")
    )
    with pretended_gpu() as gpu:
        search, resumed = (search_on("cuda", options) for _ in range(2))
        search.run_epoch()
        resumed.load_state_dict(from_file(search.state_dict()))
        assert record(resumed.run_epoch()) == record(search.run_epoch())
    assert gpu.launches["cudaGraphLaunch"] == 3, "of the search that was not resumed"


def test_another_thread_may_pin_memory_while_a_step_is_recorded() -> None:
    """As the loader of an image folder does for the next batches."""

    def step(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loader = Thread(target=lambda: torch.zeros(1).pin_memory())
        loader.start()
        loader.join()
        return (images * 2,)

    with pretended_gpu() as gpu:
        graphed_step = GraphedStep(step, is_required=True)
        for value in range(5):
            (doubled,) = graphed_step(torch.full((2,), float(value), device="cuda"))
            assert doubled.tolist() == [2 * value] * 2
    assert gpu.launches["cudaGraphLaunch"] == 2
