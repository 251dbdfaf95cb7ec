"""DARTS: a mixture of all operations, alpha trained on held-out images (Liu et al., ICLR 2019).

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from search_core.cost.penalty import total
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, cell_edges
from search_core.strategies.base import EpochSettings, SearchContext, StepResult
from search_core.strategies.weight_sharing.cuda_graph import graphed
from search_core.strategies.weight_sharing.differentiable import DifferentiableStrategy
from search_core.strategies.weight_sharing.options import DartsOptions
from search_core.training.held_out import Batch

#: Inputs that a node keeps in the child (DARTS section 2.4).
_INPUTS_KEPT = 2
#: Length of the finite difference in the direction of the held-out gradient (DARTS section 2.3).
_DIFFERENCE = 0.01


class Darts(DifferentiableStrategy):
    """Bilevel: each step updates alpha on held-out images, then theta on training images (DARTS algorithm 1)."""

    def __init__(self, options: DartsOptions, context: SearchContext) -> None:
        super().__init__(context)
        self._options = options
        self._held_out: Iterator[Batch] | None = None
        self._graph = graphed(self._update, context)

    def begin_epoch(self, settings: EpochSettings, generator: torch.Generator) -> None:
        """Take over this epoch's settings; held-out images are shuffled again."""
        super().begin_epoch(settings, generator)
        self._held_out = None

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Update alpha on the next held-out batch, then theta; arguments as in `Strategy.step`.

        Held-out images follow the generator of an epoch's first step.
        """
        if self._held_out is None:
            self._held_out = self._context.images.held_out_batches(generator)
        self.supernet.train()
        update = self._update if self._graph is None else self._graph
        loss, penalty, correct = update(images, labels, *next(self._held_out))
        self._num_steps += 1
        return StepResult(loss=loss, penalty=penalty, correct=correct)

    def _update(
        self, images: Tensor, labels: Tensor, held_out_images: Tensor, held_out_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step, on the device from end to end: loss, penalty, correct images."""
        penalty = self._update_alpha((images, labels), (held_out_images, held_out_labels))
        logits = self._logits(images, self.probabilities())
        loss = functional.cross_entropy(logits, labels)
        self._theta_optimiser.zero_grad()
        loss.backward()
        self._step_theta()
        return loss.detach(), penalty, (logits.detach().argmax(1) == labels).sum()

    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of the mixture; nothing is sampled."""
        with torch.no_grad():
            return self._logits(images, self.probabilities())

    def weights_of_pass(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """The mixture."""
        return self.probabilities()

    def genotype(self) -> Genotype:
        """The two strongest inputs of every node, each with its strongest operation but `none` (DARTS section 2.4)."""
        return strongest_inputs(self.probabilities(), self.supernet.options)

    def _update_alpha(self, training: Batch, held_out: Batch) -> Tensor:
        """One step of Adam; the penalty at the alpha before it."""
        alpha = list(self._alpha.values())
        with self.supernet.frozen_statistics():
            gradients = self._hypergradient(training, held_out)
        edge_costs = self._context.costs.expected_edge_costs(self._context.penalty, self._mixture())
        self._charge(edge_costs)
        penalty = self._eta * total(edge_costs)
        of_penalty = torch.autograd.grad(penalty, alpha)
        for parameter, task, cost in zip(alpha, gradients, of_penalty, strict=True):
            parameter.grad = task + cost
        self._step_alpha()
        return penalty.detach()

    def _hypergradient(self, training: Batch, held_out: Batch) -> list[Tensor]:
        """Gradient of the held-out loss for alpha, of the order that the options name."""
        theta, alpha = list(self.supernet.parameters()), list(self._alpha.values())

        def held_out_loss() -> Tensor:
            z = self._mixture()
            for name, weights in z.items():
                weights.register_hook(lambda gradient, name=name: self._add_credit(name, gradient))
            return self._loss(held_out, z)

        if self._options.order == "first":
            return _gradients(held_out_loss(), alpha)
        return unrolled_gradient(
            theta, alpha, lambda: self._loss(training, self._mixture()), held_out_loss, self._theta_lr
        )

    def _add_credit(self, cell_type: CellType, gradient_EO: Tensor) -> None:
        z_EO = self._alpha[cell_type].detach().softmax(-1)
        self._credit_sums[cell_type] -= (z_EO * gradient_EO).sum(-1)

    def _mixture(self) -> dict[CellType, Tensor]:
        """Weights softmax(alpha) of all operations, (E, O) per cell type, with their gradient."""
        return {cell_type: alpha.softmax(-1) for cell_type, alpha in self._alpha.items()}

    def _loss(self, batch: Batch, z: Mapping[CellType, Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(self._logits(images, z), labels)


def unrolled_gradient(
    theta: Sequence[Tensor],
    alpha: Sequence[Tensor],
    training_loss: Callable[[], Tensor],
    held_out_loss: Callable[[], Tensor],
    step_size: float | Tensor,
    max_norm: float | None = None,
) -> list[Tensor]:
    """Gradient of `L_val(w - xi grad_w L_train(w, alpha), alpha)` for alpha (DARTS equations 7 and 8):

    `grad_alpha L_val(w') - xi (grad_alpha L_train(w+) - grad_alpha L_train(w-)) / (2 eps)` with
    `w+- = w +- eps grad_w' L_val(w')` and `eps = 0.01 / ||grad_w' L_val(w')||`.

    The step is a plain one, without momentum and weight decay. Weights are as before afterwards, bit for bit.

    Args:
        theta: weights w, leaves with gradient; they are changed in place in between.
        alpha: architecture parameters, leaves with gradient.
        training_loss: L_train at the present weights, a scalar; evaluated three times.
        held_out_loss: L_val at the present weights, a scalar; evaluated once.
        step_size: xi, 0 or above.
        max_norm: to which the gradient of the step is clipped, as DARTS' code does in text models, whose xi is 20.

    Returns:
        One tensor for each of `alpha`.
    """
    step = _gradients(training_loss(), theta)
    xi = step_size if max_norm is None else step_size * (max_norm / _length(step)).clamp_max(1)
    with _moved(theta, step, -xi):
        gradients = _gradients(held_out_loss(), [*alpha, *theta])
    direct, direction = gradients[: len(alpha)], gradients[len(alpha) :]
    length = _length(direction)
    # A flat held-out loss has no direction; then the difference below is 0, as it should be.
    distance = _DIFFERENCE / length.clamp_min(torch.finfo(length.dtype).tiny ** 0.5)
    with _moved(theta, direction, distance):
        ahead = _gradients(training_loss(), alpha)
    with _moved(theta, direction, -distance):
        behind = _gradients(training_loss(), alpha)
    return [
        first - xi * (plus - minus) / (2 * distance) for first, plus, minus in zip(direct, ahead, behind, strict=True)
    ]


def strongest_inputs(probabilities: Mapping[CellType, Tensor], options: NetworkOptions) -> Genotype:
    """Genotype of DARTS' rule: per node the two inputs whose best operation but `none` is most probable.

    Args:
        probabilities: (E, O) per cell type.
        options: the searchable network that they belong to.
    """
    edges, names = cell_edges(options.nodes), options.operations
    operations = [position for position, name in enumerate(names) if name != "none"]
    kept: dict[CellType, tuple[Edge, ...]] = {}
    for cell_type in CELL_TYPES:
        strengths_E, choices_E = probabilities[cell_type][:, operations].max(-1)
        strengths, choices = strengths_E.tolist(), choices_E.tolist()
        chosen: list[int] = []
        for node in range(2, options.nodes + 2):
            incoming = [position for position, (_, target) in enumerate(edges) if target == node]
            chosen += sorted(sorted(incoming, key=lambda edge: -strengths[edge])[:_INPUTS_KEPT])
        kept[cell_type] = tuple(Edge(names[operations[choices[edge]]], *edges[edge]) for edge in chosen)
    concat = tuple(range(2, options.nodes + 2))
    return Genotype(kept["normal"], concat, kept["reduce"], concat)


def _gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Zeros where the loss does not depend on an input, such as alpha of a cell type that the stack has not."""
    return list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))


def _length(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()


@contextmanager
def _moved(theta: Sequence[Tensor], direction: Sequence[Tensor], distance: Tensor | float) -> Iterator[None]:
    """Weights `theta + distance direction` inside; afterwards those of before, not what subtraction would leave."""
    with torch.no_grad():
        before = [weight.clone() for weight in theta]
        for weight, part in zip(theta, direction, strict=True):
            weight.add_(distance * part)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(theta, before, strict=True):
                weight.copy_(old)
