"""DSNAS: SNAS on one sampled child a step, forward and backward (Hu et al., CVPR 2020).

Shape suffixes: L cells of one type, E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_core.cost.penalty import total
from search_core.network.child import discretised_forward
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.strategies.base import SearchContext, StepResult
from search_core.strategies.weight_sharing.differentiable import DifferentiableStrategy
from search_core.strategies.weight_sharing.options import DsnasOptions
from search_core.strategies.weight_sharing.row_sgd import step_used

_BASELINE_MOMENTUM = 0.9


class Dsnas(DifferentiableStrategy):
    """Single-level: `min E_Z[L(theta, Z)] + eta E_Z[C(Z)]` with one-hot Z drawn from softmax(alpha).

    The operation chosen on an edge is multiplied by `s = p_k / stop_gradient(p_k)`, which is 1. So one backward pass
    through the sampled child gives alpha the gradient `dL/ds . grad log p_k` (DSNAS section 3), and `-dL/ds` is the
    credit of the edge. An edge that drew `none` has none of either.
    """

    def __init__(self, options: DsnasOptions, context: SearchContext) -> None:
        super().__init__(context)
        self._options, self._space = options, genotype_space(self.supernet.options)
        self._baselines: dict[CellType, Tensor] = {}
        self._decided = {
            name: torch.zeros(len(alpha), dtype=torch.bool, device=alpha.device) for name, alpha in self._alpha.items()
        }

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Update theta and alpha on one batch through one sampled child; arguments as in `Strategy.step`."""
        self.supernet.train()
        choices = self._sample(generator)
        log_p = {
            name: functional.log_softmax(alpha, -1).gather(1, choices[name].unsqueeze(1)).squeeze(1)
            for name, alpha in self._alpha.items()
        }
        scales = {name: (log_p_E - log_p_E.detach()).exp() for name, log_p_E in log_p.items()}
        for scale_E in scales.values():
            scale_E.retain_grad()
        logits = self._child_logits(images, choices, scales)
        task_loss = functional.cross_entropy(logits, labels)
        penalty, surrogate = self._penalise(choices, log_p)

        self._theta_optimiser.zero_grad()
        self._alpha_optimiser.zero_grad()
        (task_loss + self._settings.eta * surrogate).backward()
        for name, scale_E in scales.items():
            if scale_E.grad is not None:  # None when the stack has no cell of this type
                self._credit_sums[name] -= scale_E.grad
        self._clip_theta()
        step_used(self._theta_optimiser, self.supernet, {name: z > 0 for name, z in self._one_hot(choices).items()})
        self._step_alpha()
        self._num_steps += 1
        correct = (logits.detach().argmax(1) == labels).sum()
        return StepResult(loss=task_loss.detach(), penalty=self._settings.eta * penalty.detach(), correct=correct)

    def end_epoch(self, generator: torch.Generator) -> None:
        """Decide the edges whose most probable operation leads enough (`DsnasOptions`); once decided they stay so."""
        for name, probabilities_EO in self.probabilities().items():
            first_E, second_E = probabilities_EO.topk(2).values.unbind(-1)
            if self._options.stop_margin is not None:
                self._decided[name] |= first_E - second_E >= self._options.stop_margin
            if self._options.stop_at is not None:
                self._decided[name] |= first_E >= self._options.stop_at

    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of one sampled child with the shared weights and statistics."""
        with torch.no_grad():
            return self._child_logits(images, self._sample(generator))

    def weights_of_pass(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Those of one sampled child, one-hot."""
        return {name: z.to(self._alpha[name].dtype) for name, z in self._one_hot(self._sample(generator)).items()}

    def state_dict(self) -> dict[str, Any]:
        """Theta, alpha, both optimisers, the score function's baselines and the decided edges."""
        return {**super().state_dict(), "baselines": dict(self._baselines), "decided": dict(self._decided)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        super().load_state_dict(state)
        for own, name in ((self._baselines, "baselines"), (self._decided, "decided")):
            own.clear()
            own.update({key: value.to(self._alpha[key].device, copy=True) for key, value in state[name].items()})

    def _sample(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Chosen operation (E,) of every edge per cell type, drawn from softmax(alpha)."""
        return {
            name: torch.where(
                self._decided[name],
                probabilities_EO.argmax(-1),
                torch.multinomial(probabilities_EO, 1, generator=generator).squeeze(1),
            )
            for name, probabilities_EO in self.probabilities().items()
        }

    def _one_hot(self, choices: Mapping[CellType, Tensor]) -> dict[CellType, Tensor]:
        """Z (E, O) per cell type of chosen operations (E,)."""
        return {name: functional.one_hot(chosen_E, len(self._space.primitives)) for name, chosen_E in choices.items()}

    def _child_logits(
        self, images: Tensor, choices: Mapping[CellType, Tensor], scales: Mapping[CellType, Tensor] | None = None
    ) -> Tensor:
        """Logits of the child; `scales` (E,) multiply what its edges compute."""
        code = torch.cat([choices[name] for name in CELL_TYPES]).tolist()  # the one wait of a step
        genotype = self._space.decode(code)
        if scales is None:
            return discretised_forward(self.supernet, genotype, images)
        kept: dict[CellType, list[Tensor]] = {}
        for name, scale_E in scales.items():
            of_edges = dict(zip(self._space.edges, scale_E.unbind(), strict=True))
            kept[name] = [of_edges[edge.source, edge.target] for edge in genotype.edges(name)]
        return discretised_forward(self.supernet, genotype, images, scales=kept)

    def _penalise(self, choices: Mapping[CellType, Tensor], log_p: Mapping[CellType, Tensor]) -> tuple[Tensor, Tensor]:
        """C of this sample (or its expectation), and a scalar whose gradient estimates that of E_Z[C(Z)]."""
        penalty, costs = self._context.penalty, self._context.costs
        if penalty.estimator != "score_function":
            mixture = {name: alpha.softmax(-1) for name, alpha in self._alpha.items()}
            edge_costs = costs.expected_edge_costs(penalty, mixture)
            self._charge(edge_costs)
            return total(edge_costs), total(edge_costs)
        edge_costs = costs.edge_costs(penalty, self._one_hot(choices))
        self._charge(edge_costs)
        scores = [(log_p[name] * self._advantage(name, cost_LE.sum(0))).sum() for name, cost_LE in edge_costs.items()]
        return total(edge_costs), torch.stack(scores).sum()

    def _advantage(self, cell_type: CellType, cost_E: Tensor) -> Tensor:
        """Cost of every edge above the moving average of its samples, which then moves on."""
        baseline_E = self._baselines.setdefault(cell_type, cost_E.clone())
        advantage_E = cost_E - baseline_E
        baseline_E.lerp_(cost_E, 1 - _BASELINE_MOMENTUM)
        return advantage_E

    def _step_alpha(self) -> None:
        """One step of Adam, which would move rows without a gradient too: those of decided edges stay."""
        before = {name: alpha.clone() for name, alpha in self.alpha().items()}
        super()._step_alpha()
        with torch.no_grad():
            for name, alpha in self._alpha.items():
                alpha.copy_(torch.where(self._decided[name].unsqueeze(1), before[name], alpha))
