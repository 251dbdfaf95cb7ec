"""What a search strategy is: it owns the supernet, its optimisers and the architecture distribution.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_core.genotype import CellType, Genotype
from search_core.supernet import Supernet


@dataclass(frozen=True, kw_only=True)
class EpochSettings:
    """What schedules set for one epoch: temperature lambda, penalty strength eta, learning rate of theta."""

    temperature: float
    eta: float
    theta_lr: float


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


class Strategy(ABC):
    """A weight-sharing search algorithm. It does no logging, no file access and guesses no device."""

    supernet: Supernet

    @abstractmethod
    def begin_epoch(self, settings: EpochSettings) -> None:
        """Take over this epoch's settings and forget the credits of the last one."""

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Train on one batch.

        Args:
            images: (N, C, H, W), normalised, on the strategy's device.
            labels: (N,) int64.
            generator: source of all randomness of the step, on the same device.
        """

    @abstractmethod
    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of the supernet as it is validated: a sample of the architecture per batch."""

    @abstractmethod
    def alpha(self) -> dict[CellType, Tensor]:
        """Architecture parameters (E, O) per cell type, detached."""

    @abstractmethod
    def probabilities(self) -> dict[CellType, Tensor]:
        """Probability (E, O) of every operation per cell type, detached; rows sum to 1."""

    @abstractmethod
    def credits(self) -> dict[CellType, Tensor]:
        """Mean credit (E,) per edge and step since `begin_epoch`, per cell type."""

    @abstractmethod
    def genotype(self) -> Genotype:
        """The discrete architecture that the distribution stands for now."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit; loads with `weights_only=True`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an equal strategy."""
