"""Does the pretended GPU notice faults? Each is put into the product, which runs without a word on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from search_core.cost.penalty_options import PenaltyOptions
from search_core.strategies.weight_sharing.cuda_graph import GraphedStep
from search_core.strategies.weight_sharing.differentiable import DifferentiableStrategy
from search_core.strategies.weight_sharing.snas import Snas
from search_core.training import optimisers
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.device import CaptureError, DeviceMixError
from tests.pretended_gpu.runs import ONE_CELL, options_of, stepped
from tests.pretended_gpu.test_graphs import one_by_one, reads_a_number
from tests.search_core.tiny import differences

pytestmark = pytest.mark.slow

_OPTIONS = options_of("snas", network=ONE_CELL, cuda_graph=True, penalty=PenaltyOptions(estimator="score_function"))
_MODULES = "search_core.strategies.weight_sharing"
_score, _relax, _noise = Snas._score, Snas._relax, Snas._noise


def _not_capturable() -> AbstractContextManager[Any]:
    return mock.patch(
        f"{_MODULES}.differentiable.Adam",
        lambda *args, **options: optimisers.Adam(*args, **{**options, "capturable": False}),
    )


def _instead(owner: type, name: str, substitute: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.object(owner, name, substitute)


def _reads_the_norm(self: Snas) -> None:
    nn.utils.clip_grad_norm_(self.supernet.parameters(), 5.0, foreach=True, error_if_nonfinite=True)


def _baseline_elsewhere(self: Snas, cell_type: Any, *rest: Any) -> Tensor:
    place = self._baselines.get(cell_type)
    before = None if place is None else place.clone()
    score = _score(self, cell_type, *rest)
    if place is not None and before is not None:
        self._baselines[cell_type] = place.clone()
        place.copy_(before)
    return score


def _noise_on_the_cpu(self: Snas, generator: torch.Generator) -> Any:
    return {name: noise.cpu() for name, noise in _noise(self, generator).items()}


def _generator_of_the_cpu(self: Snas, generator: torch.Generator) -> Any:
    return _noise(self, torch.Generator().manual_seed(0))


def _draws_in_the_step(self: Snas, noise: Any) -> Any:
    return _relax(self, {name: torch.rand_like(drawn) for name, drawn in noise.items()})


def _temperature_from_the_host(self: Snas, noise: Any) -> Any:
    factor = torch.ones(next(iter(noise.values())).shape[-1]).to("cuda")
    return _relax(self, {name: drawn * factor for name, drawn in noise.items()})


def _mask_in_the_step(self: Snas, noise: Any) -> Any:
    return _relax(self, {name: drawn[drawn > -1e9].view_as(drawn) for name, drawn in noise.items()})


def _through_numpy(self: Snas, noise: Any) -> Any:
    return _relax(self, {name: torch.from_numpy(drawn.numpy()).cuda() for name, drawn in noise.items()})


def _reads_old_inputs(self: GraphedStep, *inputs: Tensor) -> tuple[Tensor, ...]:
    self._inputs = self._inputs and tuple(tensor.clone() for tensor in self._inputs)
    return _call(self, *inputs)


_call = GraphedStep.__call__

#: The fault, and the error that it raises; None if the numbers differ instead.
_FAULTS: dict[str, tuple[Callable[[], AbstractContextManager[Any]], type[Exception] | None]] = {
    "Adam counts its steps on the host": (_not_capturable, RuntimeError),
    "the graph is recorded before momenta exist": (lambda: mock.patch(f"{_MODULES}.cuda_graph._EAGER_STEPS", 0), None),
    "numbers of the first epoch are part of the graph": (
        _instead(DifferentiableStrategy, "_number", lambda self, name, value: value),
        None,
    ),
    "inputs go where the graph does not read": (_instead(GraphedStep, "__call__", _reads_old_inputs), None),
    "a moving average changes its place": (_instead(Snas, "_score", _baseline_elsewhere), None),
    "clipping asks whether the norm is finite": (_instead(Snas, "_clip_theta", _reads_the_norm), CaptureError),
    "a number is read in the step": (_instead(Snas, "_clip_theta", reads_a_number), CaptureError),
    "noise is drawn in the graph": (_instead(Snas, "_relax", _draws_in_the_step), CaptureError),
    "a tensor of the host goes up in the step": (_instead(Snas, "_relax", _temperature_from_the_host), CaptureError),
    "a mask decides a shape in the step": (_instead(Snas, "_relax", _mask_in_the_step), CaptureError),
    "noise stays on the CPU": (_instead(Snas, "_noise", _noise_on_the_cpu), DeviceMixError),
    "the generator is that of the CPU": (_instead(Snas, "_noise", _generator_of_the_cpu), DeviceMixError),
    "a tensor becomes an array": (_instead(Snas, "_relax", _through_numpy), TypeError),
}


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    with pretended_gpu(), one_by_one():
        return stepped(_OPTIONS)


@pytest.mark.parametrize("name", list(_FAULTS))
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_fault_is_noticed(name: str, expected: list[dict[str, Any]]) -> None:
    fault, error = _FAULTS[name]
    with pretended_gpu(), fault():
        if error is None:
            assert differences(stepped(_OPTIONS), expected) != []
        else:
            with pytest.raises(error):
                stepped(_OPTIONS)


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_without_a_fault_nothing_is_noticed(expected: list[dict[str, Any]]) -> None:
    with pretended_gpu():
        assert differences(stepped(_OPTIONS), expected) == []
