"""What a search strategy is: it owns the supernet, its optimisers and the architecture distribution.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from search_core.cost.constraints import ChildLimits
from search_core.cost.counts import NetworkCost
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.network.child import inherit_child
from search_core.network.supernet import Supernet
from search_core.space.code_space import Code
from search_core.space.genotype import CELL_TYPES, CellType, Genotype
from search_core.space.plan import cell_edges
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.training.held_out import SearchImages


@dataclass(frozen=True, kw_only=True)
class EpochSettings:
    """What holds for one epoch.

    Attributes:
        temperature: lambda of the concrete distribution.
        eta: penalty strength.
        theta_lr: learning rate of theta.
        progress: 0 in the first epoch, then linear up to 1 in the last; 1 if there is only one.
        is_last: whether the search ends with this epoch.
    """

    temperature: float
    eta: float
    theta_lr: float
    progress: float = 0.0
    is_last: bool = False


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Outcome of one training step, as detached scalar tensors on the device (reading them is a host sync).

    Attributes:
        loss: task loss, mean cross entropy over the batch.
        penalty: eta * C(Z) of this step's sample.
        correct: number of correctly classified images.
    """

    loss: Tensor
    penalty: Tensor
    correct: Tensor


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """What a strategy is built from, beside its own options.

    Attributes:
        supernet: the searchable network, with seeded weights, on its device.
        images: the training images, in two parts if the strategy asks for held-out ones.
        penalty: the resource penalty; its strength comes with every epoch's settings.
        costs: cost table of the same network, on the same device.
        limits: hard limits on the children.
        theta: optimiser of the operation weights.
        alpha: optimiser of the architecture parameters.
        seed: seed of the initial architecture parameters.
        cuda_graph: whether to replay steps from a CUDA graph; `auto`: unless it turns out that none can be recorded.
        autocast: type in which convolutions and products run, None for that of the weights.
        child_latency: milliseconds of a whole child; None without a table, unless the penalty is of that kind.
    """

    supernet: Supernet
    images: SearchImages
    penalty: PenaltyOptions
    costs: CostTable
    limits: ChildLimits
    theta: ThetaOptions
    alpha: AlphaOptions
    seed: int
    cuda_graph: bool | Literal["auto"] = False
    autocast: torch.dtype | None = None
    child_latency: Callable[[Genotype], float] | None = None


class Strategy(ABC):
    """A weight-sharing search algorithm. It does no logging, no file access and guesses no device."""

    supernet: Supernet

    @abstractmethod
    def begin_epoch(self, settings: EpochSettings, generator: torch.Generator) -> None:
        """Take over this epoch's settings and forget what belongs to the last epoch, such as credits.

        Args:
            settings: what holds for the epoch.
            generator: source of the randomness of the epoch before its first step, such as the order of held-out
                images, on the strategy's device.
        """

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Train on one batch.

        Args:
            images: (N, C, H, W), normalised, on the strategy's device.
            labels: (N,) int64.
            generator: source of all randomness of the step, on the same device.
        """

    def end_epoch(self, generator: torch.Generator) -> None:  # noqa: B027 - many strategies need nothing here
        """What follows the last step of an epoch: training a controller, ranking candidates.

        Args:
            generator: source of its randomness, on the strategy's device.

        Raises:
            ConstraintsError: if no genotype keeps the hard limits.
        """

    @abstractmethod
    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of the supernet as it is validated: a sample of the architecture per batch."""

    def weights_of_pass(self, generator: torch.Generator) -> dict[CellType, Tensor] | None:
        """Architecture weights (E, O) or (L, E, O) of one pass, per cell type, with which `predict` runs the supernet.

        None where `predict` normalises by the batch itself: then running statistics are not what it depends on.
        """
        return None

    @abstractmethod
    def alpha(self) -> dict[CellType, Tensor]:
        """Architecture parameters (E, O) per cell type, detached; log probabilities where there are none."""

    @abstractmethod
    def probabilities(self) -> dict[CellType, Tensor]:
        """Probability (E, O) of every operation per cell type, detached; rows sum to 1."""

    def log_probabilities(self) -> dict[CellType, Tensor]:
        """Logarithm (E, O) of `probabilities` per cell type; that of the smallest float for 0, so that JSON has it."""
        smallest = torch.finfo(torch.get_default_dtype()).tiny
        return {cell_type: p.clamp_min(smallest).log() for cell_type, p in self.probabilities().items()}

    def credits(self) -> dict[CellType, Tensor]:
        """Mean task credit (E,) per edge and step since `begin_epoch`, per cell type; 0 for strategies without any."""
        weight = next(self.supernet.parameters())
        num_edges = len(cell_edges(self.supernet.options.nodes))
        return {cell_type: torch.zeros(num_edges, device=weight.device) for cell_type in CELL_TYPES}

    def resource_credits(self) -> dict[CellType, Tensor]:
        """Mean resource credit, likewise: minus what the edge's share of the penalty adds to the loss."""
        return {cell_type: torch.zeros_like(credit_E) for cell_type, credit_E in Strategy.credits(self).items()}

    def scores(self, codes: Sequence[Code], generator: torch.Generator) -> list[float]:
        """How much the strategy thinks of some genotypes: their log probability under its distribution.

        Only the order means anything, and only within one search.

        Args:
            codes: genotypes of the search space, see `GenotypeSpace`.
            generator: source of randomness where children are tried out, on the strategy's device.
        """
        log_probabilities = self.log_probabilities()
        log_p = torch.cat([log_probabilities[cell_type] for cell_type in CELL_TYPES]).cpu()
        chosen = torch.tensor(codes).reshape(len(codes), len(log_p))
        return log_p.expand(len(codes), -1, -1).gather(2, chosen.unsqueeze(2)).sum((1, 2)).tolist()

    @abstractmethod
    def genotype(self) -> Genotype:
        """The discrete architecture that the strategy would choose now."""

    def child(self) -> nn.Module:
        """The network of that architecture with a copy of the supernet's weights and statistics; nothing is trained."""
        return inherit_child(self.supernet, self.genotype())

    def child_cost(self, limits: ChildLimits) -> NetworkCost:
        """Exact counts of that network.

        Args:
            limits: counts children of the search.
        """
        return limits.cost(self.genotype())

    def pruned_kl(self) -> float | None:
        """How far networks with one operation an edge are from the whole one, nats, by the last `end_epoch`.

        None for strategies that do not train whole networks.
        """
        return None

    def choices(self) -> dict[str, Any]:
        """What that network has chosen beside its genotype, as plain data for JSON; empty for most strategies."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to resume bit for bit; loads with `weights_only=True`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an equal strategy."""
