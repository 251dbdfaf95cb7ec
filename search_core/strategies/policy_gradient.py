"""How controllers learn from rewards: REINFORCE with a moving-average baseline, and PPO.

Shape suffixes: N sequences, T decisions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_core.strategies.controller import Controller
from search_core.training.optimisers import Adam


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Sequences that were tried.

    Attributes:
        codes: (N, T), int64.
        log_probs: log probability (N, T) of each decision when it was drawn.
        rewards: (N,), the higher the better.
    """

    codes: Tensor
    log_probs: Tensor
    rewards: Tensor


class Learner(ABC):
    """Adam on the controller's parameters, and a baseline: the exponential moving average of the rewards.

    The first rewards set the baseline, since there is no better guess.

    Args:
        controller: learns; its options have the learning rate, the weight of the entropy and the baseline's decay.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller, self.options = controller, controller.options
        self.baseline: float | None = None
        self._optimiser = Adam(controller.parameters(), self.options.lr, foreach=True)

    @abstractmethod
    def update(self, experience: Experience) -> None:
        """Make what was better than the baseline more probable, and what was worse less."""

    def state_dict(self) -> dict[str, Any]:
        """Controller, optimiser and baseline; loads with `weights_only=True`."""
        return {
            "controller": self.controller.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "baseline": self.baseline,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        self.controller.load_state_dict(state["controller"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.baseline = state["baseline"]

    def _advantages(self, rewards_N: Tensor) -> Tensor:
        """Rewards above the baseline, (N,); the baseline then follows the rewards."""
        mean = rewards_N.mean().item()
        baseline = mean if self.baseline is None else self.baseline
        decay = self.options.baseline_decay
        self.baseline = decay * baseline + (1 - decay) * mean
        return rewards_N - baseline

    def _descend(self, loss: Tensor) -> None:
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()


class Reinforce(Learner):
    """REINFORCE (Williams, 1992), one step for each batch.

    The entropy enters as part of the reward, `-log p` of the sequence (ENAS section 3.1): its expected gradient is that
    of the entropy. Sequences may have been drawn before the last updates, as by the many controllers of Zoph and Le
    (section 3.2), which update shared parameters in their own time: their gradient is taken at the present parameters.
    """

    def update(self, experience: Experience) -> None:
        """One step on `reinforce_loss`."""
        log_prob_N = self.controller.evaluate(experience.codes).log_prob
        rewards_N = experience.rewards - self.options.entropy * log_prob_N.detach()
        self._descend(reinforce_loss(log_prob_N, self._advantages(rewards_N)))


class Ppo(Learner):
    """Proximal policy optimisation (Schulman et al., 2017): several steps on the clipped objective for each batch.

    Every decision is an action; the reward comes at the end of the sequence and is not discounted.

    Args:
        controller: as for `Learner`.
        clip: epsilon, in (0, 1).
        passes: steps on each batch, at least 1.
    """

    def __init__(self, controller: Controller, *, clip: float, passes: int) -> None:
        super().__init__(controller)
        self._clip, self._passes = clip, passes

    def update(self, experience: Experience) -> None:
        """`passes` steps on `ppo_loss` minus the weighted entropy (Schulman et al., equation 9, without critic)."""
        advantages_N = self._advantages(experience.rewards)
        for _ in range(self._passes):
            rollout = self.controller.evaluate(experience.codes)
            loss = ppo_loss(rollout.log_probs, experience.log_probs, advantages_N, self._clip)
            self._descend(loss - self.options.entropy * rollout.entropies.sum(-1).mean())


def reinforce_loss(log_prob_N: Tensor, advantages_N: Tensor) -> Tensor:
    """`-mean(advantage log p)`: its expected gradient is that of the negative expected reward (Williams, 1992).

    Args:
        log_prob_N: of whole sequences drawn from the controller, differentiable.
        advantages_N: reward minus a baseline that does not depend on the sequence.
    """
    return -(advantages_N * log_prob_N).mean()


def ppo_loss(log_probs_NT: Tensor, old_log_probs_NT: Tensor, advantages_N: Tensor, clip: float) -> Tensor:
    """`-min(r A, clip(r, 1 - eps, 1 + eps) A)` (Schulman et al., 2017, equation 7), r = p / p_old of each decision.

    Summed over decisions and averaged over sequences, so that its gradient at r = 1 is that of `reinforce_loss`.

    Args:
        log_probs_NT: of each decision, differentiable.
        old_log_probs_NT: when it was drawn.
        advantages_N: of the sequences.
        clip: epsilon, in (0, 1).
    """
    ratio_NT, advantages_N1 = (log_probs_NT - old_log_probs_NT).exp(), advantages_N.unsqueeze(-1)
    clipped_NT = ratio_NT.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_NT * advantages_N1, clipped_NT * advantages_N1).sum(-1).mean()
