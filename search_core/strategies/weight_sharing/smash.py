"""SMASH: a hypernetwork makes the pointwise weights of any child (Brock et al., ICLR 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from search_core.network.child import discretised_forward, inherit_child
from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.space.code_space import Code
from search_core.strategies.base import SearchContext, StepResult
from search_core.strategies.weight_sharing.hypernetworks import Slot, build_hypernetwork, slots
from search_core.strategies.weight_sharing.ranked_draws import RankedDraws
from search_core.strategies.weight_sharing.ranked_draws_options import SmashOptions


class Smash(RankedDraws):
    """Trains the hypernetwork and all other weights on a child drawn uniformly in every step.

    Pointwise weights of the supernet are not trained: they hold what the hypernetwork made last of the best child, so
    that this child inherits it.

    Raises:
        ConstraintsError: if no genotype keeps the hard limits.
    """

    def __init__(self, options: SmashOptions, context: SearchContext) -> None:
        super().__init__(options, context)
        self.hypernetwork = build_hypernetwork(options, self.supernet, seed=context.seed).to(self._device)
        for slot in slots(self.supernet):
            _operation(self.supernet, slot).get_parameter(slot.name).requires_grad_(False)
        self._theta_optimiser.add_param_group({"params": list(self.hypernetwork.parameters())})
        self._write(self._best)

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Train what makes one sampled child on a batch; arguments as in `Strategy.step`."""
        self.supernet.train()
        code = self.sample(generator)
        return self._descend(code, self._child_logits(images, code), labels)

    def end_epoch(self, generator: torch.Generator) -> None:
        """Rank fresh draws and the best so far by their generated weights; the supernet gets those of the best."""
        super().end_epoch(generator)
        self._write(self._best)

    def _child_of(self, code: Code) -> nn.Module:
        """A child with generated weights and a copy of all others."""
        child = inherit_child(self.supernet, self.space.decode(code))
        with torch.no_grad():
            child.load_state_dict(self.hypernetwork(code), strict=False)
        return child

    def state_dict(self) -> dict[str, Any]:
        """Theta, the hypernetwork, their optimiser and the best child."""
        return {**super().state_dict(), "hypernetwork": self.hypernetwork.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        super().load_state_dict(state)
        self.hypernetwork.load_state_dict(state["hypernetwork"])

    def _child_logits(self, images: Tensor, code: Code) -> Tensor:
        weights = self.hypernetwork(code)
        return discretised_forward(self.supernet, self.space.decode(code), images, replaced=weights)

    def _write(self, code: Code) -> None:
        """Put the generated weights of a child where it inherits them."""
        with torch.no_grad():
            weights = self.hypernetwork(code)
            for name, slot in self.hypernetwork.slots_of(code).items():
                _operation(self.supernet, slot).get_parameter(slot.name)[slot.edge].copy_(weights[name])


def _operation(supernet: Supernet, slot: Slot) -> nn.Module:
    cell = supernet.cells[slot.cell]
    assert isinstance(cell, SearchCell)
    return cell.operations[slot.primitive]
