"""SMASH: a hypernetwork makes the pointwise weights of any child (Brock et al., ICLR 2018).

Shape suffixes: E edges, O operations, F features of the hypernetwork, S slots, C channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.network.child import discretised_forward, inherit_child
from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.randomness import seeded_weights
from search_core.space.codes import Code, GenotypeSpace
from search_core.space.plan import edges_by_source
from search_core.strategies.base import SearchContext, StepResult
from search_core.strategies.weight_sharing.ranked_draws import RankedDraws
from search_core.strategies.weight_sharing.ranked_draws_options import SmashOptions
from search_core.transfer import uploaded


class Slot(NamedTuple):
    """Place of one pointwise convolution in the supernet.

    Attributes:
        cell: index in the stack.
        primitive: the operation that it belongs to.
        edge: position in `edges_by_source`.
        name: of its weight in the operation.
    """

    cell: int
    primitive: str
    edge: int
    name: str


class HyperNetwork(nn.Module):
    """Maps a code to the weights (C, C, 1, 1) of the child's pointwise convolutions (SMASH section 3).

    The features of a slot are `relu(relu(A c + p) M)`, with c the code's one-hot choices of all edges of both cells and
    p learned for the slot: its place in stack, cell and operation. Its matrix is a mixture by these features of F
    learned ones, which all slots of its width share. Scales do not matter: batch norm follows every pointwise
    convolution.

    Args:
        supernet: has the slots.
        features: F, at least 1.
        seed: seed of the initial weights.
    """

    def __init__(self, supernet: Supernet, features: int, *, seed: int) -> None:
        super().__init__()
        self.space = GenotypeSpace(supernet.options)
        self._plans = supernet.plan.cells
        self._edges = {edge: row for row, edge in enumerate(edges_by_source(supernet.options.nodes))}
        self._rows = {slot: row for row, slot in enumerate(_slots(supernet))}
        self._names: dict[str, list[str]] = defaultdict(list)  # pointwise weights of each primitive
        for slot in self._rows:
            if slot.name not in self._names[slot.primitive]:
                self._names[slot.primitive].append(slot.name)
        widths = sorted({self._plans[slot.cell].channels for slot in self._rows})
        with seeded_weights(seed):  # deviations that keep the mean square of features at 1, of matrices at 1 / C
            choices = self.space.num_choices
            self.choices = _normal(choices, len(self.space.primitives), features, deviation=choices**-0.5)
            self.slots = _normal(len(self._rows), features, deviation=1.0)
            self.mixing = _normal(features, features, deviation=(2 / features) ** 0.5)
            self.matrices = nn.ParameterDict(
                {str(width): _normal(features, width, width, deviation=(features * width) ** -0.5) for width in widths}
            )

    def forward(self, code: Code) -> dict[str, Tensor]:
        """Pointwise weights (C, C, 1, 1) of a child by their names there; none if it has no such convolution."""
        slots, device = self.slots_of(code), self.slots.device
        of_code_F = self.choices[torch.arange(len(code), device=device), uploaded(torch.tensor(code), device)].sum(0)
        rows = uploaded(torch.tensor([self._rows[slot] for slot in slots.values()], dtype=torch.long), device)
        features_SF = functional.relu(functional.relu(of_code_F + self.slots[rows]) @ self.mixing)
        by_width: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for position, (name, slot) in enumerate(slots.items()):
            by_width[self._plans[slot.cell].channels].append((position, name))
        weights: dict[str, Tensor] = {}
        for width, members in by_width.items():
            own_SF = features_SF[uploaded(torch.tensor([position for position, _ in members]), device)]
            made_SCC11 = torch.einsum("sf,foi->soi", own_SF, self.matrices[str(width)])[..., None, None]
            weights |= {name: weight for (_, name), weight in zip(members, made_SCC11, strict=True)}
        return weights

    def slots_of(self, code: Code) -> dict[str, Slot]:
        """Where the pointwise weights of a child lie in the supernet, by their names in the child."""
        genotype = self.space.decode(code)
        slots: dict[str, Slot] = {}
        for index, plan in enumerate(self._plans):
            for number, edge in enumerate(genotype.edges(plan.cell_type)):
                row = self._edges[edge.source, edge.target]
                for name in self._names.get(edge.primitive, ()):
                    slots[f"cells.{index}.operations.{number}.{name}"] = Slot(index, edge.primitive, row, name)
        return slots


class Smash(RankedDraws):
    """Trains the hypernetwork and all other weights on a child drawn uniformly in every step.

    Pointwise weights of the supernet are not trained: they hold what the hypernetwork made last of the best child, so
    that this child inherits it.

    Raises:
        ConstraintsError: if no genotype keeps the hard limits.
    """

    def __init__(self, options: SmashOptions, context: SearchContext) -> None:
        super().__init__(options, context)
        self.hypernetwork = HyperNetwork(self.supernet, options.features, seed=context.seed).to(self._device)
        for slot in _slots(self.supernet):
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


def _slots(supernet: Supernet) -> Iterator[Slot]:
    """The pointwise convolutions of all separable and dilated ones."""
    for index, cell in enumerate(supernet.cells):
        assert isinstance(cell, SearchCell)
        for primitive, operation in cell.operations.items():
            for name, stacked in operation.named_parameters():
                if name.startswith("pointwise"):
                    yield from (Slot(index, primitive, edge, name) for edge in range(len(stacked)))


def _operation(supernet: Supernet, slot: Slot) -> nn.Module:
    cell = supernet.cells[slot.cell]
    assert isinstance(cell, SearchCell)
    return cell.operations[slot.primitive]


def _normal(*shape: int, deviation: float) -> nn.Parameter:
    return nn.Parameter(deviation * torch.randn(shape))
