"""What strategies have in common that train one child of the supernet a step and then choose among children.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.network.child import discretised_forward, inherit_child
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.frequencies import operation_counts, uniform_frequencies
from search_core.space.genotype import CellType, Genotype
from search_core.strategies.base import EpochSettings, SearchContext, StepResult, Strategy
from search_core.strategies.weight_sharing.row_sgd import step_used
from search_core.training.evaluation import evaluate
from search_core.training.optimisers import SGD


class SinglePathStrategy(Strategy):
    """Theta trained by SGD, one sampled child a step; children are then ranked with the weights that they share.

    A subclass says which child is trained (`sample`) and, in `end_epoch`, which one is the best (`self._best`).

    Args:
        context: what the strategy is built from.

    Raises:
        ConstraintsError: if no genotype keeps the hard limits.
    """

    def __init__(self, context: SearchContext) -> None:
        self.supernet, self._context = context.supernet, context
        self.space = genotype_space(context.supernet.options)
        self._device = next(self.supernet.parameters()).device
        theta = context.theta
        self._theta_optimiser = SGD(
            self.supernet.parameters(), theta.lr, momentum=theta.momentum, weight_decay=theta.weight_decay, foreach=True
        )
        self._settings = EpochSettings(temperature=1.0, eta=context.penalty.eta, theta_lr=theta.lr)
        # Before anything is ranked the first draw stands for the search.
        self._best: Code = self.sample_within_limits(torch.Generator().manual_seed(context.seed))

    def begin_epoch(self, settings: EpochSettings, generator: torch.Generator) -> None:
        """Take over this epoch's settings."""
        self._settings = settings
        for group in self._theta_optimiser.param_groups:
            group["lr"] = settings.theta_lr

    def sample(self, generator: torch.Generator) -> Code:
        """The child of a step: uniform over the search space."""
        return self.space.sample(generator)

    def sample_within_limits(self, generator: torch.Generator) -> Code:
        """A child drawn uniformly among those that keep the hard limits."""
        return self._context.limits.sample(self.space, generator)

    def admits(self, code: Code) -> bool:
        """Whether a child keeps the hard limits."""
        return self._context.limits.admits(self.space.decode(code))

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Train the weights of one sampled child on a batch; arguments as in `Strategy.step`."""
        self.supernet.train()
        code = self.sample(generator)
        return self._descend(code, self._logits(code, images), labels)

    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of one sampled child, normalised by the batch's own statistics as in training.

        The supernet's running statistics are of all children and fit none of them. One image has no statistics.
        """
        child = self._child_of(self.sample(generator)).train(len(images) > 1)
        with torch.no_grad():
            logits: Tensor = child(images)
        return logits

    def score(self, code: Code, generator: torch.Generator, *, num_batches: int | None = None) -> float:
        """Accuracy of a child on held-out images, with weights of the supernet and its own BN statistics.

        Statistics that all children share fit none of them (SPOS section 3.4), so they are recomputed on training
        images, before each evaluation.

        Args:
            code: the child.
            generator: draws the images for the statistics.
            num_batches: judge by this many batches of held-out images only; default: all.
        """
        child = self._child_of(code)
        self._context.images.recalibrate(child, generator)
        return self._accuracy(child, num_batches)

    def scores(self, codes: Sequence[Code], generator: torch.Generator) -> list[float]:
        """Accuracy of each child on held-out images, see `score`."""
        return [self.score(code, generator) for code in codes]

    def alpha(self) -> dict[CellType, Tensor]:
        """Log probabilities (E, O) per cell type."""
        return self.log_probabilities()

    def probabilities(self) -> dict[CellType, Tensor]:
        """Uniform (E, O) per cell type, as children are sampled."""
        return uniform_frequencies(self.space, self._device)

    def genotype(self) -> Genotype:
        """The best child so far."""
        return self.space.decode(self._best)

    def state_dict(self) -> dict[str, Any]:
        """Theta, its optimiser and the best child."""
        return {
            "theta": self.supernet.state_dict(),
            "theta_optimiser": self._theta_optimiser.state_dict(),
            "best": list(self._best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        self.supernet.load_state_dict(state["theta"])
        self._theta_optimiser.load_state_dict(state["theta_optimiser"])
        best = tuple(state["best"])
        if self.admits(best):  # else the state is of a search with wider limits, and the first draw stands for this one
            self._best = best

    def _logits(self, code: Code, images: Tensor) -> Tensor:
        """Logits (N, classes) of a child, with the weights and statistics of the supernet themselves."""
        return discretised_forward(self.supernet, self.space.decode(code), images)

    def _child_of(self, code: Code) -> nn.Module:
        """A child with a copy of them."""
        return inherit_child(self.supernet, self.space.decode(code))

    def _descend(self, code: Code, logits: Tensor, labels: Tensor) -> StepResult:
        """One step of a child's weights, from its logits of a batch; all others rest. Choices of edges come first."""
        loss = functional.cross_entropy(logits, labels)
        self._theta_optimiser.zero_grad()
        loss.backward()
        trained = [weight for group in self._theta_optimiser.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(trained, self._context.theta.grad_clip, foreach=True)
        counts = operation_counts(code[: self.space.num_choices], self.space, self._device)
        step_used(self._theta_optimiser, self.supernet, {name: count_EO > 0 for name, count_EO in counts.items()})
        correct = (logits.detach().argmax(1) == labels).sum()
        return StepResult(loss=loss.detach(), penalty=torch.zeros_like(loss.detach()), correct=correct)

    def _accuracy(self, child: nn.Module, num_batches: int | None) -> float:
        images = self._context.images
        if num_batches is None:
            return evaluate(child, images.held_out_split).accuracy
        correct, seen = torch.zeros((), dtype=torch.long, device=self._device), 0
        with torch.no_grad():
            for batch, labels in islice(images.held_out_split.batches(images.batch_size), num_batches):
                correct += (child(batch).argmax(1) == labels).sum()
                seen += len(labels)
        return correct.item() / seen
