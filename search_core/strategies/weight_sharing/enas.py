"""ENAS: a controller samples children of one supernet and learns from their held-out accuracy (Pham et al., ICML 2018).

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from search_core.space.code_space import Code
from search_core.space.frequencies import operation_counts
from search_core.space.genotype import CellType
from search_core.strategies.base import SearchContext, StepResult
from search_core.strategies.controller import SequenceController
from search_core.strategies.policy_gradient import Experience, Reinforce
from search_core.strategies.weight_sharing.options import EnasOptions
from search_core.strategies.weight_sharing.single_path import SinglePathStrategy
from search_core.training.held_out import Batch


class Enas(SinglePathStrategy):
    """Alternates between theta, on the training images, and the controller, on held-out ones (ENAS section 2.2).

    A step trains the child that the controller samples. After each epoch the controller takes its steps, then children
    are sampled from it and judged on one batch, and the best stands for the search (section 2.3).
    """

    def __init__(self, options: EnasOptions, context: SearchContext) -> None:
        super().__init__(context)
        self._options = options
        self.controller = SequenceController(options.controller, self.space.options, seed=context.seed)
        self._learner = Reinforce(self.controller)

    def sample(self, generator: torch.Generator) -> Code:
        """A child drawn from the controller, drawn again if it is beyond the limits."""
        return self._context.limits.draw(self.space, lambda: self.controller.sample(1, generator).as_codes()[0])

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Train the weights of one sampled child on a batch; arguments as in `Strategy.step`."""
        self.supernet.train()
        code = self.sample(generator)
        result = self._descend(code, self._logits(code, images), labels)
        return replace(result, penalty=self._penalty(code))

    def end_epoch(self, generator: torch.Generator) -> None:
        """Train the controller, then derive a child: the one of the highest reward on a batch, of those sampled."""
        batches = self._context.images.held_out_batches(generator)
        for _ in range(self._options.controller_steps):
            self._train_controller(batches, generator)
        batch = next(batches)
        codes = [self.sample(generator) for _ in range(self._options.derive_samples)]
        rewards = [self.reward(code, batch) for code in codes]
        self._best = codes[rewards.index(max(rewards))]

    def reward(self, code: Code, batch: Batch) -> float:
        """Accuracy of a child on one batch minus eta C(Z); 0 is the accuracy of children beyond the limits.

        The child takes its batch norm statistics from the batch, as when its weights are trained: those of the supernet
        are of all children and fit none of them. It is a copy, so the supernet's do not move.

        Args:
            code: the child.
            batch: images (N, C, H, W) and labels (N,).
        """
        penalty = self._penalty(code).item()
        if not self._context.limits.admits(self.space.decode(code)):
            return -penalty
        images, labels = batch
        child = self._child_of(code).train()
        with torch.no_grad():
            correct = int((child(images).argmax(1) == labels).sum())
        return correct / len(labels) - penalty

    def scores(self, codes: Sequence[Code], generator: torch.Generator) -> list[float]:
        """Log probability (nats) of each genotype under the controller, which is what ENAS learns.

        Accuracy with shared weights is only its reward.
        """
        codes_NT = torch.tensor(codes, dtype=torch.long).reshape(len(codes), self.space.num_choices)
        with torch.no_grad():
            log_prob_N: Tensor = self.controller.evaluate(codes_NT).log_prob
        return log_prob_N.tolist()

    def probabilities(self) -> dict[CellType, Tensor]:
        """Shares (E, O) of the operations in what the controller emits, per cell type."""
        return {name: share_EO.to(self._device) for name, share_EO in self.controller.shares(self.space).items()}

    def state_dict(self) -> dict[str, Any]:
        """Theta, the controller, both optimisers, the baseline and the derived child."""
        return {**super().state_dict(), "learner": self._learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        super().load_state_dict(state)
        self._learner.load_state_dict(state["learner"])

    def _train_controller(self, batches: Iterator[Batch], generator: torch.Generator) -> None:
        """One update; children beyond the limits are not drawn again here, so that the controller learns of them."""
        rollout = self.controller.sample(self._options.children_per_step, generator)
        batch = next(batches)
        rewards = [self.reward(code, batch) for code in rollout.as_codes()]
        self._learner.update(
            Experience(codes=rollout.codes, log_probs=rollout.log_probs, rewards=torch.tensor(rewards))
        )

    def _penalty(self, code: Code) -> Tensor:
        """`eta C(Z)` of a child, a scalar."""
        z_EO = operation_counts(code, self.space, self._device)
        edge_costs = self._context.costs.edge_costs(self._context.penalty, z_EO)
        return self._settings.eta * torch.stack([cost_LE.sum() for cost_LE in edge_costs.values()]).sum()
