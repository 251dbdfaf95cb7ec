"""SNAS: operation weights and architecture distribution in one back-propagation (Xie et al., ICLR 2019).

Shape suffixes: L cells of one type, E edges, O operations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_core.cost.penalty import total
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.strategies.base import SearchContext, StepResult
from search_core.strategies.relaxations import concrete_log_density, concrete_log_sample, gumbel_noise
from search_core.strategies.weight_sharing.cuda_graph import graphed
from search_core.strategies.weight_sharing.differentiable import DifferentiableStrategy, derive_genotype
from search_core.strategies.weight_sharing.options import SnasOptions

_BASELINE_MOMENTUM = 0.9


class Snas(DifferentiableStrategy):
    """Single-level SNAS: `min E_Z[L(theta, Z)] + eta E_Z[C(Z)]` over theta and alpha on the same batch."""

    def __init__(self, options: SnasOptions, context: SearchContext) -> None:
        super().__init__(context)
        self._options, self._penalty, self._costs = options, context.penalty, context.costs
        self._baselines: dict[CellType, Tensor] = {}
        self._graph = graphed(self._update, context)

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Update theta and alpha jointly on one batch (SNAS algorithm 1); arguments as in `Strategy.step`."""
        self.supernet.train()
        noise = self._noise(generator)
        update = partial(self._update, generator=generator) if self._graph is None else self._graph
        loss, penalty, correct = update(images, labels, *noise.values())
        self._num_steps += 1
        return StepResult(loss=loss, penalty=penalty, correct=correct)

    def _update(
        self, images: Tensor, labels: Tensor, *noise: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step from given Gumbel noise, on the device from end to end: loss, penalty, correct images.

        The generator is the drop path's alone, which a CUDA graph cannot have.
        """
        log_z = self._relax(dict(zip(self._alpha, noise, strict=True)))
        z = {cell_type: log.exp() for cell_type, log in log_z.items()}
        # The network gets its own view of Z: the gradient that arrives there is the task loss's alone.
        z_network = {cell_type: sample.view_as(sample) for cell_type, sample in z.items()}
        for sample in z_network.values():
            sample.retain_grad()
        drop_path = self._options.drop_path * self._settings.progress
        logits, auxiliary_logits = self._both_logits(images, z_network, drop_path, generator)
        task_loss = functional.cross_entropy(logits, labels)
        penalty, surrogate = self._penalise(z, log_z)
        loss = task_loss + self._eta * surrogate
        if auxiliary_logits is not None:
            loss = loss + self._options.auxiliary_weight * functional.cross_entropy(auxiliary_logits, labels)

        self._theta_optimiser.zero_grad()
        self._alpha_optimiser.zero_grad()
        loss.backward()
        self._add_credits(z_network)
        self._step_theta()
        self._step_alpha()
        correct = (logits.detach().argmax(1) == labels).sum()
        return task_loss.detach(), self._eta * penalty.detach(), correct

    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) under one architecture sample at the current temperature, as in training."""
        with torch.no_grad():
            return self._logits(images, self.weights_of_pass(generator))

    def weights_of_pass(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """One architecture sample at the current temperature."""
        return {cell_type: log.exp() for cell_type, log in self._sample(generator).items()}

    def state_dict(self) -> dict[str, Any]:
        """Theta, alpha, both optimisers and the score function's baselines."""
        return {**super().state_dict(), "baselines": dict(self._baselines)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        super().load_state_dict(state)
        self._baselines = {
            cell_type: baseline.to(self._alpha[cell_type].device) for cell_type, baseline in state["baselines"].items()
        }

    def _sample(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Log of a concrete sample per cell type, (E, O), or (L, E, O) when drawn per cell."""
        return self._relax(self._noise(generator))

    def _noise(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Gumbel noise of one sample, shapes as in `_sample`."""
        noise = {}
        for cell_type, alpha in self._alpha.items():
            leading = (self.supernet.num_cells(cell_type),) if self._options.sample_per == "cell" else ()
            noise[cell_type] = gumbel_noise(torch.Size((*leading, *alpha.shape)), generator, like=alpha.detach())
        return noise

    def _relax(self, noise: dict[CellType, Tensor]) -> dict[CellType, Tensor]:
        return {
            cell_type: concrete_log_sample(functional.log_softmax(alpha, dim=-1), self._temperature, noise[cell_type])
            for cell_type, alpha in self._alpha.items()
        }

    def _penalise(self, z: dict[CellType, Tensor], log_z: dict[CellType, Tensor]) -> tuple[Tensor, Tensor]:
        """C(Z) of this sample (or its expectation), and a scalar whose gradient estimates that of E_Z[C(Z)]."""
        if self._penalty.estimator in ("expected", "discrete"):
            probabilities = {cell_type: alpha.softmax(-1) for cell_type, alpha in self._alpha.items()}
            edge_costs = self._costs.expected_edge_costs(self._penalty, probabilities)
            self._charge(edge_costs)
            return total(edge_costs), total(edge_costs)
        if self._penalty.cost == "child_latency":
            penalty = self._child_latency(z)
            edge_costs = {name: penalty.expand(1, len(alpha)) for name, alpha in self._alpha.items()}
        else:
            edge_costs = self._costs.edge_costs(self._penalty, z)
            penalty = total(edge_costs)
        self._charge(edge_costs)
        if self._penalty.estimator == "reparam":
            return penalty, penalty
        return penalty, torch.stack([self._score(cell_type, edge_costs, log_z) for cell_type in CELL_TYPES]).sum()

    def _child_latency(self, z: dict[CellType, Tensor]) -> Tensor:
        """C of the sampled child as a whole, a scalar: it does not decompose, so every edge is charged all of it.

        The child has the largest entry of Z on each edge, which is where the sample goes as the temperature falls.
        """
        assert self._context.child_latency is not None, "the search gives it for this kind of cost"
        milliseconds = self._context.child_latency(derive_genotype(z, self.supernet.options))
        cost = torch.tensor(milliseconds, device=z["normal"].device)
        return torch.log1p(cost) if self._penalty.log else cost

    def _score(self, cell_type: CellType, edge_costs: dict[CellType, Tensor], log_z: dict[CellType, Tensor]) -> Tensor:
        """`log q(z) (C - baseline)` summed over edges: where the cost decomposes, each edge has its own reward."""
        sample = log_z[cell_type].detach()
        cost = edge_costs[cell_type].detach()
        cost = cost.sum(0) if sample.dim() == 2 else cost
        log_p = functional.log_softmax(self._alpha[cell_type], dim=-1)
        log_q = concrete_log_density(sample, log_p, self._temperature)
        baseline = self._baselines.setdefault(cell_type, cost.clone())
        score = (log_q * (cost - baseline)).sum()
        baseline.lerp_(cost, 1 - _BASELINE_MOMENTUM)  # in place, so that a CUDA graph finds it again
        return score
