"""States that cross from one kind of device to another, and states that are broken: all of one loads, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from search_core.errors import StateError
from search_core.resumable import Resumable
from search_core.search.child_search import ChildSearch
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.search.options import SearchOptions
from search_core.space.codes import genotype_space
from search_core.space.genotype import PUBLISHED
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.options import RandomSearchOptions
from search_core.training.ground_truth import GroundTruth
from search_core.training.ground_truth_options import GroundTruthOptions
from search_core.training.retrain import Retrain
from search_core.training.retrain_options import RetrainOptions
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.runs import NETWORK, data_on, from_file, options_of, record, search_on
from tests.search_core.tiny import differences, seeded

pytestmark = pytest.mark.slow

_SPACE = genotype_space(NETWORK)
_CODE = _SPACE.sample(seeded(1))
_RECIPE = RetrainOptions(
    epochs=2, batch_size=8, cells=3, init_channels=4, drop_path=0.3, auxiliary_weight=0.4, label_smoothing=0.1, cutout=3
)


def _multi_trial() -> SearchOptions:
    estimate = EstimateOptions(held_out=0.5, epochs=2, drop_path=0.2)
    return options_of("random_sampling", strategy=RandomSearchOptions(children=1, estimate=estimate))


def _ground_truth(device: str) -> GroundTruth:
    options = GroundTruthOptions(epochs=1, batch_size=8, seeds=2)
    return GroundTruth([_CODE], NETWORK, options, data_on(device, options_of("snas")), device)


#: All that is run epoch by epoch, two of them, on a device.
RUNS: dict[str, Callable[[str], Resumable[Any]]] = {
    "search": lambda device: search_on(device, options_of("dsnas-score-function")),
    "child search": lambda device: ChildSearch(_multi_trial(), data_on(device, _multi_trial()), device),
    "child": lambda device: ChildTraining(
        _multi_trial(), data_on(device, _multi_trial()), ChildOrder(number=0, code=_CODE), device
    ),
    "retraining": lambda device: Retrain(
        PUBLISHED["SNAS_mild"], _RECIPE, data_on(device, options_of("snas")), device, seed=1
    ),
    "ground truth": _ground_truth,
}
#: They resume between epochs in which nothing is drawn any more, so that they may do it on another device.
_WITHOUT_RANDOMNESS = ("child search", "ground truth")


@pytest.mark.parametrize("name", [name for name in RUNS if name not in _WITHOUT_RANDOMNESS])
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")], ids="-".join)
def test_state_of_another_kind_of_device_is_refused_and_nothing_touched(name: str, devices: tuple[str, str]) -> None:
    with pretended_gpu():
        first, second = (RUNS[name](device) for device in devices)
        first.run_epoch()
        before = from_file(second.state_dict())
        there = {"cpu": "the CPU", "cuda": "a GPU"}[devices[0]]
        with pytest.raises(StateError, match=f"must come from a run on {devices[1]}, .* got one from {there}"):
            second.load_state_dict(from_file(first.state_dict()))
        assert differences(_without_generators(from_file(second.state_dict())), _without_generators(before)) == []


def _without_generators(state: dict[str, Any]) -> dict[str, Any]:
    """A pretended state of a generator is a key, and each call makes a new one."""
    plain = {name: value for name, value in state.items() if name != "generators"}
    return plain if "training" not in plain else {**plain, "training": _without_generators(plain["training"])}


@pytest.mark.parametrize("name", list(RUNS))
def test_broken_state_is_refused_and_nothing_touched(name: str) -> None:
    """Whichever part is missing, at any depth, and whatever was taken over before it is missed."""
    first, second = (RUNS[name]("cpu") for _ in range(2))
    first.run_epoch()
    whole, before = from_file(first.state_dict()), from_file(second.state_dict())
    # The epoch of these is in their parts too, and states of before have no curves of finished children.
    derived = ("epoch", "children.curves") if name in ("child", "child search") else ()
    broken = [(what, state) for what, state in _without_a_part(whole) if what not in derived]
    assert broken
    for what, state in broken:
        with pytest.raises(StateError):
            second.load_state_dict(state)
        assert differences(from_file(second.state_dict()), before) == [], what
    second.load_state_dict(whole)
    assert record(second.run_epoch()) == record(first.run_epoch())


def _without_a_part(state: dict[str, Any], depth: int = 2) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is missing, and the state without it: at each depth the first and the last few."""
    names = [name for name in state if not name.endswith("num_batches_tracked")]  # norms do without
    for name in dict.fromkeys((*names[:3], *names[-3:])):
        value = state[name]
        yield name, {other: kept for other, kept in state.items() if other != name}
        if isinstance(value, dict) and depth > 1:
            for inner, changed in _without_a_part(value, depth - 1):
                yield f"{name}.{inner}", {**state, name: changed}


@pytest.mark.parametrize("name", ["child", "child search", "retraining", "ground truth"])
def test_training_computes_and_resumes_on_a_gpu_as_on_the_cpu(name: str) -> None:
    cpu = RUNS[name]("cpu")
    expected = [record(cpu.run_epoch()) for _ in range(2)]
    with pretended_gpu():
        run, resumed = (RUNS[name]("cuda") for _ in range(2))
        first = record(run.run_epoch())
        resumed.load_state_dict(from_file(run.state_dict()))
        assert [first, record(resumed.run_epoch())] == expected
