"""How a ground truth is trained: the options of `ground_truth`, apart from it, as they need no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from search_core.errors import require
from search_core.space.plan import NetworkOptions
from search_core.training.retrain_options import RetrainOptions

#: A space with more genotypes is not small: a table of them would take longer than any search.
MOST_GENOTYPES = 20_000


@dataclass(frozen=True, kw_only=True)
class GroundTruthOptions:
    """How every genotype of the search space is trained, at the size of the search and without auxiliary head.

    Attributes:
        seeds: trainings of each genotype, with consecutive seeds, at least 1.
        epochs: passes over the training images, at least 1.
        batch_size: images a step, at least 2.
        lr: learning rate of the first epoch, above 0; cosine to 0.
        weight_decay: 0 or above.

    Raises:
        OptionsError: if a value is out of range.
    """

    seeds: int = 3
    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.1
    weight_decay: float = 3.0e-4

    def __post_init__(self) -> None:
        require(
            ("seeds", self.seeds >= 1, f"must be at least 1, got {self.seeds}"),
            ("epochs", self.epochs >= 1, f"must be at least 1, got {self.epochs}"),
            ("batch_size", self.batch_size >= 2, f"must be at least 2, got {self.batch_size}"),
            ("lr", self.lr > 0, f"must be above 0, got {self.lr}"),
            ("weight_decay", self.weight_decay >= 0, f"must be at least 0, got {self.weight_decay}"),
        )

    def recipe(self, network: NetworkOptions) -> RetrainOptions:
        """The training of one genotype."""
        return RetrainOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            cells=network.cells,
            init_channels=network.init_channels,
            stem=network.stem,
            lr=self.lr,
            weight_decay=self.weight_decay,
            auxiliary_weight=0.0,
            drop_path=0.0,
        )
