"""The training images of a search, of which a part may be held out for the architecture.

The data set's validation split judges searches against each other, so no strategy looks at it: DARTS' alpha, ENAS'
rewards and the rankings of one-shot methods use images held out of the training split instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from search_core.data.augment import Augmentation
from search_core.data.datasets import ImageData
from search_core.data.splits import Split
from search_core.errors import DataError
from search_core.training.evaluation import recalibrate

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class SearchImages:
    """What a strategy may look at.

    Attributes:
        weights: images on which theta is trained.
        held_out: images for the architecture; None if the strategy asks for none.
        augmentation: random changes to training images.
        batch_size: images a step.
        recalibration_batches: batches from which a child's BN statistics are recomputed.
    """

    weights: Split
    held_out: Split | None
    augmentation: Augmentation
    batch_size: int
    recalibration_batches: int = 16

    @classmethod
    def of(
        cls, data: ImageData, held_out_fraction: float, *, batch_size: int, recalibration_batches: int
    ) -> SearchImages:
        """Divide the training split of a data set.

        Args:
            data: the images; neither its validation nor its test split is used.
            held_out_fraction: share of the training split that is held out, in [0, 1).
            batch_size: images a step.
            recalibration_batches: as the attribute.

        Raises:
            DataError: if a part has less than one batch.
        """
        number = len(data.train)
        if held_out_fraction == 0:
            weights, held_out = data.train, None
        else:
            # The same images whatever the seed of the search: by a permutation of their own.
            order = np.random.default_rng(0).permutation(number)
            num_held_out = round(held_out_fraction * number)
            weights, held_out = data.train.part(order[num_held_out:]), data.train.part(order[:num_held_out])
            fewest = min(len(weights), len(held_out))
            if fewest < batch_size:
                raise DataError(
                    f"`batch_size` must be at most {fewest}, the images of the smaller part when "
                    f"{held_out_fraction:g} of {number} training images are held out, got {batch_size}"
                )
        return cls(
            weights=weights,
            held_out=held_out,
            augmentation=data.augmentation,
            batch_size=batch_size,
            recalibration_batches=recalibration_batches,
        )

    def training_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One pass over the images of theta: shuffled, augmented, whole batches."""
        return self.weights.batches(self.batch_size, generator=generator, augment=self.augmentation, drop_last=True)

    def held_out_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of held-out images without end: shuffled again in every pass, augmented, whole."""
        while True:
            yield from self.held_out_split.batches(
                self.batch_size, generator=generator, augment=self.augmentation, drop_last=True
            )

    @property
    def held_out_split(self) -> Split:
        """The images held out; the strategy must have asked for some."""
        assert self.held_out is not None, "the strategy's options must hold images out"
        return self.held_out

    def recalibrate(
        self, network: nn.Module, generator: torch.Generator, forward: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Recompute the BN statistics of a network from images of theta, in place (`evaluation.recalibrate`)."""
        recalibrate(
            network,
            self.weights,
            batch_size=self.batch_size,
            num_batches=self.recalibration_batches,
            generator=generator,
            forward=forward,
        )
