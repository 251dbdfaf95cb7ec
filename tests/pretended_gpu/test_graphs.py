"""CUDA graphs of a training step, in every variant: the same numbers as steps run one by one on the same device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from typing import Any
from unittest import mock

import pytest
import torch

from search_core.cost.penalty_options import PenaltyOptions
from search_core.strategies.weight_sharing.cuda_graph import GraphedStep
from search_core.strategies.weight_sharing.options import SnasOptions
from search_core.training.optimisers import Adam
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.runs import IMAGES, NETWORK, from_file, options_of, record, search_on, stepped
from tests.search_core.tiny import differences

_VARIANTS: dict[str, dict[str, Any]] = {
    "one sample a batch": {},
    "one a cell, score function": {
        "strategy": SnasOptions(sample_per="cell"),
        "penalty": PenaltyOptions(estimator="score_function"),
    },
    "expected cost": {"penalty": PenaltyOptions(estimator="expected")},
    "bfloat16": {"precision": "bfloat16"},
    "recompute": {"network": replace(NETWORK, recompute=True)},
}


@contextmanager
def one_by_one() -> Iterator[None]:
    """Adam as a graph needs it, which rounds otherwise, for steps without a graph."""
    module = "search_core.strategies.weight_sharing.differentiable.Adam"
    with mock.patch(module, lambda *args, **options: Adam(*args, **{**options, "capturable": True})):
        yield


#: The first tier has what differs most.
_SLOW = ("expected cost", "recompute")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in _VARIANTS]
)
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_replayed_steps_equal_steps_run_one_by_one(name: str) -> None:
    options = options_of("snas", **_VARIANTS[name])
    with pretended_gpu(), one_by_one():
        expected = stepped(options)
    with pretended_gpu() as gpu:
        assert differences(stepped(replace(options, cuda_graph=True)), expected) == []
    assert gpu.launches["cudaGraphLaunch"] == 3


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
        graphed_step = GraphedStep(step)
        for value in range(5):
            (doubled,) = graphed_step(torch.full((2,), float(value), device="cuda"))
            assert doubled.tolist() == [2 * value] * 2
    assert gpu.launches["cudaGraphLaunch"] == 2
