from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.strategies.gradient_estimates import (
    Effort,
    descent,
    exact_gradient,
    expected_loss,
    measure,
    reparametrised,
    score_function,
)
from search_core.strategies.optimiser_options import AlphaOptions
from search_core.strategies.relaxations import concrete_log_density, gumbel_noise
from tests.search_core.tiny import seeded

pytestmark = pytest.mark.usefixtures("float64")

#: One edge, two operations with the losses 1 and 3; p = (0.75, 0.25).
ALPHA = [[math.log(3.0), 0.0]]
CODES = [[0], [1]]
LOSSES = [1.0, 3.0]
ADAM = AlphaOptions(lr=0.1, weight_decay=0.0)


def one_edge() -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor(ALPHA), torch.tensor(CODES), torch.tensor(LOSSES)


def linear(z_EO: Tensor) -> Tensor:
    """The loss of one edge between its operations."""
    return (z_EO * torch.tensor([LOSSES])).sum()


def test_exact_gradient_of_one_edge_by_hand() -> None:
    alpha, codes, losses = one_edge()
    assert expected_loss(alpha, codes, losses).item() == pytest.approx(0.75 * 1 + 0.25 * 3)
    # dJ/da_1 = p_1 p_2 (L_1 - L_2) = 0.1875 * -2.
    torch.testing.assert_close(exact_gradient(alpha, codes, losses), torch.tensor([[-0.375, 0.375]]))


def test_exact_gradient_of_two_edges_is_that_of_a_plain_sum() -> None:
    alpha = torch.tensor([[0.3, -0.2, 0.1], [1.0, 0.0, -1.0]])
    codes = list(itertools.product(range(3), repeat=2))
    losses = torch.arange(9.0) ** 2
    step, found = 1e-6, exact_gradient(alpha, torch.tensor(codes), losses)

    def plain(at: Tensor) -> float:
        p = at.softmax(-1).tolist()
        return sum(p[0][i] * p[1][j] * losses[3 * i + j].item() for i, j in codes)

    for edge, operation in itertools.product(range(2), range(3)):
        ahead, behind = alpha.clone(), alpha.clone()
        ahead[edge, operation] += step
        behind[edge, operation] -= step
        # Central differences: truncation about 1e-12, rounding about 1e-15 / 1e-6.
        assert found[edge, operation].item() == pytest.approx((plain(ahead) - plain(behind)) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_snas_gradient_of_one_edge_by_hand(temperature: float) -> None:
    """z_1 = sigmoid((a_1 - a_2 + G_1 - G_2) / lambda), so dL/da_1 = z_1 (1 - z_1) (L_1 - L_2) / lambda."""
    alpha, *_ = one_edge()
    ((first, second),) = gumbel_noise(alpha.shape, seeded(5), like=alpha).tolist()
    z = 1 / (1 + math.exp(-(math.log(3.0) + first - second) / temperature))
    expected = z * (1 - z) * (1.0 - 3.0) / temperature
    found = reparametrised(linear, temperature)(alpha, seeded(5))
    torch.testing.assert_close(found, torch.tensor([[expected, -expected]]))


def test_reinforce_weighs_the_score_by_the_loss_above_the_average_before() -> None:
    alpha, *_ = one_edge()
    seen: list[int] = []
    estimate = score_function(lambda z: (seen.append(int(z.argmax())), linear(z))[1])
    baseline, generator = None, seeded(1)
    for _ in range(6):
        found = estimate(alpha, generator)
        loss = LOSSES[seen[-1]]
        baseline = loss if baseline is None else baseline
        score = [(operation == seen[-1]) - p for operation, p in enumerate((0.75, 0.25))]  # grad log p_k
        torch.testing.assert_close(found, torch.tensor([[(loss - baseline) * each for each in score]]))
        baseline = 0.9 * baseline + 0.1 * loss
    assert set(seen) == {0, 1}


def test_relaxed_reinforce_uses_the_concrete_density() -> None:
    alpha, *_ = one_edge()
    estimate, generator = score_function(linear, 0.5), seeded(2)
    assert not estimate(alpha, generator).any()  # the first loss is its own baseline
    same = seeded(2)
    losses = []
    for _ in range(2):
        log_z = ((alpha.log_softmax(-1) + gumbel_noise(alpha.shape, same, like=alpha)) / 0.5).log_softmax(-1)
        losses.append(linear(log_z.exp()).item())
    leaf = alpha.clone().requires_grad_()
    density = concrete_log_density(log_z, leaf.log_softmax(-1), 0.5)
    (expected,) = torch.autograd.grad((losses[1] - losses[0]) * density.sum(), leaf)
    torch.testing.assert_close(estimate(alpha, generator), expected)


def test_reinforce_is_unbiased() -> None:
    alpha, codes, losses = one_edge()
    estimate, generator = score_function(linear), seeded(3)
    samples = torch.stack([estimate(alpha, generator) for _ in range(4000)])
    errors = samples.std(0) / math.sqrt(len(samples))  # the baseline ties neighbours together, hence five of them
    assert ((samples.mean(0) - exact_gradient(alpha, codes, losses)).abs() < 5 * errors).all()


def test_measure_of_the_exact_gradient_and_of_one_with_known_noise() -> None:
    alpha, codes, losses = one_edge()
    exact = exact_gradient(alpha, codes, losses)
    known: dict[str, Any] = {"effort": Effort(samples=4000, runs=2, steps=3), "optimiser": ADAM}

    perfect = measure(lambda: lambda *_: exact, alpha, codes, losses, generator=seeded(), **known)
    assert perfect.variance == perfect.relative_variance == 0
    assert perfect.cosine == pytest.approx(1)
    assert perfect.cosine_of_mean == pytest.approx(1)
    assert len(perfect.losses) == 4

    def noisy(_: Tensor, generator: torch.Generator) -> Tensor:
        return exact + 0.5 * torch.randn(exact.shape, generator=generator)

    found = measure(lambda: noisy, alpha, codes, losses, generator=seeded(), **known)
    # Two entries of variance 0.25; the standard error of a variance is sqrt(2 / n) of it, 2 % here.
    assert found.variance == pytest.approx(0.5, rel=0.1)
    assert found.relative_variance == pytest.approx(found.variance / (2 * 0.375**2))
    assert 0.3 < found.cosine < 0.8
    assert found.cosine_of_mean > 0.99


def test_descent_takes_the_steps_of_adam() -> None:
    alpha, codes, losses = one_edge()
    before = alpha.clone()
    found = descent(
        lambda at, _: exact_gradient(at, codes, losses),
        alpha,
        codes,
        losses,
        steps=2,
        optimiser=ADAM,
        generator=seeded(),
    )
    p = 1 / (1 + math.exp(-(math.log(3.0) + 0.2)))  # Adam's first step is lr in each direction, whatever the gradient
    assert found[:2] == pytest.approx([1.5, p + 3 * (1 - p)], rel=1e-6)
    assert found[2] < found[1]
    assert torch.equal(alpha, before)
