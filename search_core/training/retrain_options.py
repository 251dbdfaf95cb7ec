"""Size and recipe of a training from scratch: the options of `retrain`, apart from it, as they need no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from search_core.errors import Rule, literal_rules, require


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """Size and recipe of a child network trained from scratch (SNAS section 4.1, DARTS sections 3.2 and 3.3).

    Defaults are the CIFAR recipe but for `cutout`, which must fit the images (16 there).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        cells: cells in the stack.
        init_channels: channels of the first cells.
        stem: `cifar` or `imagenet`.
        lr: learning rate of the first epoch.
        lr_schedule: `cosine` to 0, or `exponential` with factor `lr_decay` per epoch.
        lr_decay: factor per epoch of the exponential schedule, in (0, 1].
        momentum: of SGD, in [0, 1).
        weight_decay: 0 or above.
        grad_clip: maximal norm of the gradient, above 0.
        label_smoothing: in [0, 1).
        auxiliary_weight: weight of the auxiliary head's loss; 0 leaves the head out.
        drop_path: drop path probability, grown linearly from 0 and reached after the last epoch, in [0, 1).
        cutout: side of the square that cutout erases, in pixels, below the image's; 0 for none.
        validation_fraction: share of the training images kept for validation; default: that of the data set.
        precision: type of convolutions and products in training on a GPU; weights, statistics, loss and evaluation stay
            float32.
        compile: run training passes through `torch.compile`, which needs a C compiler on the machine; where it fails,
            a warning says so and training goes on without.

    Raises:
        OptionsError: if a value is out of range.
    """

    epochs: int = 600
    batch_size: int = 96
    cells: int = 20
    init_channels: int = 36
    stem: Literal["cifar", "imagenet"] = "cifar"
    lr: float = 0.025
    lr_schedule: Literal["cosine", "exponential"] = "cosine"
    lr_decay: float = 0.97
    momentum: float = 0.9
    weight_decay: float = 3.0e-4
    grad_clip: float = 5.0
    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.4
    drop_path: float = 0.2
    cutout: int = 0
    validation_fraction: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        fraction = self.validation_fraction
        require(
            *literal_rules(self),
            *(
                (name, value >= low, f"must be at least {low}, got {value}")
                for name, value, low in (
                    ("epochs", self.epochs, 1),
                    ("batch_size", self.batch_size, 2),
                    ("cells", self.cells, 1),
                    ("weight_decay", self.weight_decay, 0),
                    ("auxiliary_weight", self.auxiliary_weight, 0),
                    ("cutout", self.cutout, 0),
                )
            ),
            (
                "init_channels",
                self.init_channels >= 2 and self.init_channels % 2 == 0,
                f"must be an even number of at least 2, got {self.init_channels}",
            ),
            ("lr", self.lr > 0 and math.isfinite(self.lr), f"must be a finite number above 0, got {self.lr}"),
            ("lr_decay", 0 < self.lr_decay <= 1, f"must be in (0, 1], got {self.lr_decay}"),
            ("momentum", 0 <= self.momentum < 1, f"must be in [0, 1), got {self.momentum}"),
            ("grad_clip", self.grad_clip > 0, f"must be above 0, got {self.grad_clip}"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, f"must be in [0, 1), got {self.label_smoothing}"),
            ("drop_path", 0 <= self.drop_path < 1, f"must be in [0, 1), got {self.drop_path}"),
            ("validation_fraction", fraction is None or 0 < fraction < 1, f"must be in (0, 1), got {fraction}"),
        )


def workers_rules(options: RetrainOptions, workers: int) -> tuple[Rule, ...]:
    """Rules for `require`: every worker has as many images of a batch as the others, and two for its batch norms."""
    size = options.batch_size
    holds = size % workers == 0 and (workers == 1 or size >= 2 * workers)
    rule = f"must divide by {workers} workers, at least 2 images for each, got {size}"
    alone = f"must be false with {workers} workers, one of which may fail to compile"
    return ("batch_size", holds, rule, "workers"), ("compile", workers == 1 or not options.compile, alone, "workers")


def chain_rules(options: RetrainOptions) -> tuple[tuple[str, bool, str], ...]:
    """Rules for `require`: what the recipe of a chain of layers leaves out, which has no cells."""
    parts = {"auxiliary_weight": options.auxiliary_weight, "drop_path": options.drop_path}
    return tuple((name, value == 0, f"must be 0 for a chain of layers, got {value}") for name, value in parts.items())
