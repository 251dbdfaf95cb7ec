"""REINFORCE and PPO against exact gradients, and on a bandit with a known best arm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from search_core.strategies.controller import SequenceController
from search_core.strategies.controller_options import ControllerOptions
from search_core.strategies.policy_gradient import Experience, Learner, Ppo, Reinforce, ppo_loss, reinforce_loss
from tests.search_core.tiny import differences, seeded, through_file

#: Mean rewards of the bandit's arms; arm 3 is the best by twice the noise.
ARMS = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.5])
LEARNERS: dict[str, Callable[[SequenceController], Learner]] = {
    "reinforce": Reinforce,
    "ppo": lambda controller: Ppo(controller, clip=0.2, passes=4),
}
every_learner = pytest.mark.parametrize("build", LEARNERS.values(), ids=list(LEARNERS))
#: Rewards of a problem of two decisions with three choices; they do not decompose into a sum over decisions.
REWARDS = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.0], [1.0, 0.4, 0.7]], dtype=torch.double)


def two_decisions(entropy: float = 0.0) -> tuple[SequenceController, Tensor]:
    """A controller with strong dependence between decisions, and all its sequences (9, 2)."""
    options = ControllerOptions(hidden=5, init=1.0, entropy=entropy)
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    return SequenceController(options, (3, 3), seed=0).double(), codes


def play(learner: Learner, generator: torch.Generator, updates: int) -> None:
    """Pull 8 arms an update; the noise has standard deviation 0.1."""
    for _ in range(updates):
        rollout = learner.controller.sample(8, generator)
        rewards = ARMS[rollout.codes[:, 0]] + 0.1 * torch.randn(8, generator=generator)
        learner.update(Experience(codes=rollout.codes, log_probs=rollout.log_probs, rewards=rewards))


@pytest.mark.slow
@pytest.mark.parametrize(
    # Measured over these seeds: 44 updates at most with REINFORCE, 29 with PPO, which takes 4 steps in each.
    ("build", "lr", "updates"),
    [(LEARNERS["reinforce"], 0.01, 60), (LEARNERS["ppo"], 0.003, 45)],
    ids=list(LEARNERS),
)
@pytest.mark.parametrize("seed", range(5))
def test_bandit_is_solved(build: Callable[[SequenceController], Learner], lr: float, updates: int, seed: int) -> None:
    controller = SequenceController(ControllerOptions(hidden=16, lr=lr), (len(ARMS),), seed=seed)
    assert controller.marginals()[0, 3] < 0.3
    play(build(controller), seeded(seed), updates)
    assert controller.marginals()[0, 3] > 0.9


@pytest.mark.parametrize("baseline", [0.0, 0.4, -3.0])
def test_expected_reinforce_gradient_is_the_analytic_one(baseline: float) -> None:
    controller, codes_NT = two_decisions()
    rollout = controller.evaluate(codes_NT)
    probability_N, advantages_N = rollout.log_prob.detach().exp(), REWARDS.flatten() - baseline
    expected = torch.zeros_like(controller.biases)
    for index, probability in enumerate(probability_N):
        loss = reinforce_loss(rollout.log_prob[index : index + 1], advantages_N[index : index + 1])
        expected += probability * torch.autograd.grad(loss, controller.biases, retain_graph=True)[0]
    # By hand: d E[R] / d bias_1[i] = p_i (E[R | i] - E[R]), d E[R] / d bias_2[j] = sum_i p_i q_ij (R_ij - E[R | i]).
    joint_AB = probability_N.reshape(3, 3)
    first_A = joint_AB.sum(1)
    given_first_A = (joint_AB * REWARDS).sum(1) / first_A
    mean = (joint_AB * REWARDS).sum()
    by_hand = torch.stack([first_A * (given_first_A - mean), (joint_AB * (REWARDS - given_first_A[:, None])).sum(0)])
    torch.testing.assert_close(expected, -by_hand)
    assert by_hand.abs().min() > 1e-3


def test_expected_reinforce_gradient_of_the_entropy_is_exact() -> None:
    """Of all parameters, from updates of one sequence each: `-log p` in the reward is unbiased for the entropy."""
    controller, codes_NT = two_decisions(entropy=0.3)
    learner, parameters = Reinforce(controller), list(controller.parameters())
    gradients: list[list[Tensor]] = []

    def note(loss: Tensor) -> None:
        gradients.append(list(torch.autograd.grad(loss, parameters)))

    learner._descend = note  # type: ignore[method-assign]
    rollout = controller.evaluate(codes_NT)
    for code_T, reward in zip(codes_NT, REWARDS.flatten(), strict=True):
        learner.baseline = 0.2
        learner.update(Experience(codes=code_T[None], log_probs=torch.zeros(1, 2), rewards=reward[None]))
    probability_N = rollout.log_prob.exp()
    objective = (probability_N * (REWARDS.flatten() - 0.3 * rollout.log_prob)).sum()
    for position, exact in enumerate(torch.autograd.grad(objective, parameters, retain_graph=True)):
        weighted = sum(p.detach() * found[position] for p, found in zip(probability_N, gradients, strict=True))
        torch.testing.assert_close(weighted, -exact)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),  # d(-r A) / d log p = -r A
        (1.3, 2.0, -2.4, 0.0),  # more probable by more than 20 % already
        (0.7, 2.0, -1.4, -1.4),  # a good choice that has become less probable is not clipped
        (0.7, -2.0, 1.6, 0.0),  # less probable by more than 20 % already
        (1.3, -2.0, 2.6, 2.6),
    ],
)
def test_ppo_clips_the_gain_and_its_gradient(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    old_NT = torch.tensor([[-1.0]], dtype=torch.double)
    log_probs_NT = (old_NT + math.log(ratio)).requires_grad_()
    found = ppo_loss(log_probs_NT, old_NT, torch.tensor([advantage]).double(), 0.2)
    assert found.item() == pytest.approx(loss)
    assert torch.autograd.grad(found, log_probs_NT)[0].item() == pytest.approx(gradient, abs=1e-12)


def test_first_ppo_gradient_is_that_of_reinforce() -> None:
    controller, codes_NT = two_decisions()
    rollout, advantages_N = controller.evaluate(codes_NT), REWARDS.flatten() - 0.4
    losses = (
        reinforce_loss(rollout.log_prob, advantages_N),
        ppo_loss(rollout.log_probs, rollout.log_probs.detach(), advantages_N, 0.2),
    )
    parameters = list(controller.parameters())
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses)
    torch.testing.assert_close(first, second)


@every_learner
def test_baseline_follows_the_rewards(build: Callable[[SequenceController], Learner]) -> None:
    learner = build(SequenceController(ControllerOptions(hidden=4, baseline_decay=0.75), (2,), seed=0))
    baselines = []
    for reward in (0.4, 0.8, 0.0):
        codes, log_probs = torch.tensor([[0], [1]]), torch.full((2, 1), 0.5).log()
        learner.update(Experience(codes=codes, log_probs=log_probs, rewards=torch.tensor([reward - 0.1, reward + 0.1])))
        baselines.append(learner.baseline)
    # The first rewards set it; then 0.75 * 0.4 + 0.25 * 0.8 and 0.75 * 0.5 + 0.25 * 0.
    assert baselines == pytest.approx([0.4, 0.5, 0.375])


@every_learner
def test_state_round_trip_resumes_bit_for_bit(build: Callable[[SequenceController], Learner]) -> None:
    learner, other = (build(SequenceController(ControllerOptions(hidden=4), (5,), seed=seed)) for seed in (0, 1))
    play(learner, seeded(1), 3)
    state = through_file(learner.state_dict())
    other.load_state_dict(state)
    for each in (learner, other):
        play(each, seeded(2), 3)
    assert differences(learner.state_dict(), other.state_dict()) == []
    assert differences(learner.state_dict(), state) != []
