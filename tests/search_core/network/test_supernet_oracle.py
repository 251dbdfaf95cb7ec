"""The fast supernet against the plain one in float64, whole networks.

Tolerances: both compute the same sums in another order, so that they differ by rounding, about 1e-14 a layer; 1e-10 of
the logits and 1e-9 of the largest gradient leave room for the layers in between, and are far below any mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.kernels.backend import torch_only
from search_core.network.supernet import Supernet
from search_core.plugins import trust
from search_core.primitives.registry import find
from search_core.space.genotype import CELL_TYPES, KNOWN_PRIMITIVES, PRIMITIVES
from search_core.space.plan import NetworkOptions, NetworkSize
from tests.search_core.plain_supernet import OWN, PlainSupernet, copy_weights, stacked_gradients, stacked_state
from tests.search_core.tiny import seeded

pytestmark = pytest.mark.usefixtures("float64")

NUM_CLASSES = 5
TEMPERATURE = 0.7
EVERY_PRIMITIVE = tuple(KNOWN_PRIMITIVES)
POOLS = ("max_pool_3x3", "avg_pool_3x3")
GHOST, SWAP = "ghost.py:GhostConv", "swap.py:Swap"


@pytest.fixture(scope="module", autouse=True)
def own_operations() -> Iterator[None]:
    for name, file in (
        (GHOST, Path("studies/ghost.py").resolve()),
        (SWAP, Path("tests/search_core/swap.py").resolve()),
    ):
        trust(str(file))
        OWN[name] = find(name).module
    yield
    OWN.clear()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network and how it is run."""

    nodes: int = 2
    cells: int = 3
    init_channels: int = 4
    primitives: tuple[str, ...] = PRIMITIVES
    stem: Any = "cifar"
    input_shape: tuple[int, int, int] = (3, 8, 8)
    batch: int = 4
    drop_path_prob: float = 0.0
    sample_per_cell: bool = False
    recompute: bool = False


CASES = {
    "all_primitives": Case(primitives=EVERY_PRIMITIVE),
    "one_node_one_cell": Case(nodes=1, cells=1, sample_per_cell=True),
    "two_reductions_only": Case(
        cells=2, input_shape=(1, 8, 8), primitives=("none", *POOLS, "skip_connect", "sep_conv_3x3")
    ),
    "three_nodes": Case(nodes=3, input_shape=(1, 5, 7), init_channels=8, primitives=PRIMITIVES[1:]),
    "four_nodes": Case(nodes=4, init_channels=8),
    "five_cells": Case(cells=5, primitives=("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")),
    "odd_sizes": Case(input_shape=(2, 9, 7), sample_per_cell=True),
    "pools_only": Case(nodes=3, primitives=POOLS),
    "skip_only": Case(nodes=3, cells=4, primitives=("none", "skip_connect"), input_shape=(1, 5, 7)),
    "without_none": Case(primitives=("skip_connect", "dil_conv_3x3", "avg_pool_3x3"), batch=6),
    "large_kernels": Case(primitives=("sep_conv_7x7", "sep_conv_5x5", "dil_conv_5x5")),
    "full_convs": Case(primitives=("none", "conv_7x1_1x7", "avg_pool_3x3"), input_shape=(2, 8, 8), init_channels=8),
    "two_channels": Case(init_channels=2, primitives=EVERY_PRIMITIVE, input_shape=(1, 8, 8)),
    "six_channels": Case(init_channels=6, nodes=3, input_shape=(2, 5, 7), batch=6),
    "imagenet": Case(stem="imagenet", input_shape=(3, 37, 29), sample_per_cell=True),
    "imagenet_one_channel": Case(
        stem="imagenet", input_shape=(1, 48, 40), cells=1, nodes=1, primitives=("sep_conv_3x3", "skip_connect")
    ),
    "drop_path": Case(nodes=3, drop_path_prob=0.3, batch=6),
    "drop_path_per_cell": Case(drop_path_prob=0.5, sample_per_cell=True, primitives=EVERY_PRIMITIVE, init_channels=6),
    "own": Case(
        primitives=("none", GHOST, "skip_connect", SWAP, "sep_conv_3x3"), cells=2, drop_path_prob=0.3, recompute=True
    ),
    "own_only": Case(nodes=3, input_shape=(1, 5, 7), primitives=("none", SWAP, GHOST), sample_per_cell=True),
    "recompute": Case(cells=4, recompute=True, drop_path_prob=0.3, sample_per_cell=True),
}
LONGER_CASES = (
    "all_primitives",
    "five_cells",
    "odd_sizes",
    "skip_only",
    "six_channels",
    "imagenet",
    "drop_path",
    "own",
    "recompute",
)


@pytest.fixture(params=["numba", pytest.param("torch", marks=pytest.mark.slow)], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch_only() if request.param == "torch" else nullcontext():
        yield


@dataclass(frozen=True)
class Twin:
    """A network, fast or plain, with its own alpha and the noise and images that both share."""

    case: Case
    network: nn.Module
    alpha: Mapping[str, Tensor]
    noise: Mapping[str, Tensor]
    images: Tensor
    labels: Tensor

    def sample(self) -> dict[str, Tensor]:
        """A concrete sample of alpha (SNAS equation 5), with the gradients of Z kept."""
        z = {}
        for cell_type, alpha_EO in self.alpha.items():
            z[cell_type] = ((alpha_EO.log_softmax(-1) + self.noise[cell_type]) / TEMPERATURE).softmax(-1)
            z[cell_type].retain_grad()
        return z

    def logits(self, z: Mapping[str, Tensor], seed: int = 0) -> Tensor:
        if self.case.drop_path_prob == 0 or not self.network.training:
            return self.network(self.images, z)
        return self.network(self.images, z, self.case.drop_path_prob, seeded(seed))


def twins(case: Case) -> tuple[Twin, Twin]:
    """The fast and the plain network of a case, with equal weights."""
    options = NetworkOptions(
        nodes=case.nodes,
        cells=case.cells,
        init_channels=case.init_channels,
        primitives=case.primitives,
        stem=case.stem,
        recompute=case.recompute,
    )
    fast = Supernet(NetworkSize(options, case.input_shape, NUM_CLASSES), seed=1)
    plain = PlainSupernet(
        nodes=case.nodes,
        cells=case.cells,
        init_channels=case.init_channels,
        primitives=case.primitives,
        stem=case.stem,
        input_channels=case.input_shape[0],
        num_classes=NUM_CLASSES,
    )
    copy_weights(fast, plain)
    shape = (case.nodes * (case.nodes + 3) // 2, len(case.primitives))
    alpha = {name: torch.randn(shape, generator=seeded(position)) for position, name in enumerate(CELL_TYPES)}
    noise = {}
    for position, name in enumerate(CELL_TYPES):
        leading = (fast.num_cells(name),) if case.sample_per_cell else ()
        uniform = torch.rand(*leading, *shape, generator=seeded(10 + position))
        noise[name] = -(-uniform.log()).log()
    images = torch.randn(case.batch, *case.input_shape, generator=seeded(20))
    labels = torch.randint(NUM_CLASSES, (case.batch,), generator=seeded(21))

    def twin(network: nn.Module) -> Twin:
        leaves = {name: value.clone().requires_grad_() for name, value in alpha.items()}
        return Twin(case, network.train(), leaves, noise, images, labels)

    return twin(fast), twin(plain)


def assert_near(actual: Tensor | None, expected: Tensor | None, name: str, tolerance: float = 1e-9) -> None:
    """Equal up to `tolerance` of the largest element of `expected`; a gradient that nothing reached is zero."""
    if actual is None or expected is None:
        reached = expected if actual is None else actual
        assert reached is None or not reached.any(), f"{name} has a gradient in one network only"
        return
    assert actual.shape == expected.shape, name
    error, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert error <= tolerance * largest, f"{name}: {error:.1e} with a largest element of {largest:.1e}"


def assert_equal_states(fast: nn.Module, plain: nn.Module) -> None:
    """All parameters and all running statistics."""
    expected = stacked_state(plain)
    for name, value in fast.state_dict().items():
        if value.is_floating_point():
            assert_near(value, expected[name], name)
        else:
            assert torch.equal(value, expected[name]), name


def test_cases_have_every_primitive_and_node_count() -> None:
    assert {name for case in CASES.values() for name in case.primitives} == {*KNOWN_PRIMITIVES, GHOST, SWAP}
    assert {case.nodes for case in CASES.values()} == {1, 2, 3, 4}
    assert {case.cells for case in CASES.values()} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_and_gradients_equal_those_of_the_plain_supernet(case: Case) -> None:
    fast, plain = twins(case)
    samples = []
    for twin in (fast, plain):
        z = twin.sample()
        logits = twin.logits(z)
        functional.cross_entropy(logits, twin.labels).backward()
        samples.append((z, logits.detach()))
    (fast_z, fast_logits), (plain_z, plain_logits) = samples

    torch.testing.assert_close(fast_logits, plain_logits, rtol=1e-10, atol=1e-10)
    gradients = stacked_gradients(plain.network)
    assert {name for name, _ in fast.network.named_parameters()} == set(gradients)
    for name, parameter in fast.network.named_parameters():
        assert_near(parameter.grad, gradients[name], name)
    for cell_type in CELL_TYPES:
        assert_near(fast_z[cell_type].grad, plain_z[cell_type].grad, f"z of {cell_type} cells")
        assert_near(fast.alpha[cell_type].grad, plain.alpha[cell_type].grad, f"alpha of {cell_type} cells")
    assert_equal_states(fast.network, plain.network)


@pytest.mark.parametrize("name", LONGER_CASES)
@pytest.mark.slow
def test_equal_after_five_optimiser_steps_and_in_evaluation(name: str) -> None:
    fast, plain = twins(CASES[name])
    for twin in (fast, plain):
        take_steps(twin, 5)

    for cell_type in CELL_TYPES:
        assert_near(fast.alpha[cell_type], plain.alpha[cell_type], f"alpha of {cell_type} cells")
    assert_equal_states(fast.network, plain.network)
    for training in (False, True):
        fast.network.train(training)
        plain.network.train(training)
        fast_logits, plain_logits = (twin.logits(twin.sample()).detach() for twin in (fast, plain))
        torch.testing.assert_close(fast_logits, plain_logits, rtol=1e-10, atol=1e-10)


def test_gradients_in_evaluation_equal_those_of_the_plain_supernet() -> None:
    """A strategy may differentiate through running statistics, as when alpha learns on frozen weights."""
    fast, plain = twins(CASES["all_primitives"])
    for twin in (fast, plain):
        take_steps(twin, 1)
        twin.network.eval()
        twin.network.zero_grad()
        for alpha in twin.alpha.values():
            alpha.grad = None
        functional.cross_entropy(twin.logits(twin.sample()), twin.labels).backward()

    gradients = stacked_gradients(plain.network)
    for name, parameter in fast.network.named_parameters():
        assert_near(parameter.grad, gradients[name], name)
    for cell_type in CELL_TYPES:
        assert_near(fast.alpha[cell_type].grad, plain.alpha[cell_type].grad, f"alpha of {cell_type} cells")


def take_steps(twin: Twin, num_steps: int) -> None:
    """Both optimisers on the same batch, as a search has them; what drop path drops changes with every step."""
    theta = torch.optim.SGD(twin.network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    alpha = torch.optim.Adam(list(twin.alpha.values()), 3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    for step in range(num_steps):
        theta.zero_grad()
        alpha.zero_grad()
        functional.cross_entropy(twin.logits(twin.sample(), seed=step), twin.labels).backward()
        nn.utils.clip_grad_norm_(twin.network.parameters(), 5.0)
        theta.step()
        alpha.step()
