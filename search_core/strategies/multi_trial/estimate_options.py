"""How a child is trained for its score: the options of `estimate`, apart from it, as they need no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from search_core.errors import require
from search_core.strategies.multi_trial.learning_curve import CurveStop


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """How a child is trained, and how its score is measured: accuracy on held-out images after its last epoch.

    Attributes:
        held_out: share of the training images by which children are scored, in (0, 1).
        epochs: passes over the other training images, at least 1.
        data_fraction: share of these that are used, classes in proportion, in (0, 1].
        resolution: the shorter side to which images are made smaller, in pixels; default: as they are.
        init_channels: channels of the first cells, an even number of at least 2; default: as in `network`.
        cells: cells in the stack, at least 1; default: as in `network`.
        batch_size: images a step, at least 2; default: that of the search.
        lr: learning rate of the first epoch, above 0, with a cosine to 0; default: `theta.lr`.
        drop_path: probability that grows linearly from 0 (ScheduledDropPath, NASNet appendix A.7), in [0, 1).
        recalibrate: measure the accuracy on held-out images with batch norm statistics recomputed on training images:
            in a short training the running ones lag behind the weights; without `stop` in the last epoch only.
        stop: when a child is stopped early, which then has the score that it reached.
        inherit: begin with the weights of the parent's child where primitive and shape agree, and others fresh; for
            strategies that name a parent.
        morphism: begin as the function of the parent's child where the change allows it (`network.inheritance.morph`),
            as in searches by network morphism (Elsken et al., arXiv:1711.04528); with `inherit`.
        widths: channels of the first cells in as many equal parts of the search, ascending even numbers of at least 2;
            default: `init_channels` throughout.

    Raises:
        OptionsError: if a value is out of range.
    """

    held_out: float = 0.2
    epochs: int = 10
    data_fraction: float = 1.0
    resolution: int | None = None
    init_channels: int | None = None
    cells: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    drop_path: float = 0.0
    recalibrate: bool = True
    stop: CurveStop = field(default_factory=CurveStop)
    inherit: bool = False
    morphism: bool = False
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        channels, lr, widths = self.init_channels, self.lr, self.widths
        require(
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
            ("epochs", self.epochs >= 1, f"must be at least 1, got {self.epochs}"),
            ("data_fraction", 0 < self.data_fraction <= 1, f"must be in (0, 1], got {self.data_fraction}"),
            *(
                (name, value is None or value >= low, f"must be at least {low}, got {value}")
                for name, value, low in (
                    ("resolution", self.resolution, 4),
                    ("cells", self.cells, 1),
                    ("batch_size", self.batch_size, 2),
                )
            ),
            (
                "init_channels",
                channels is None or (channels >= 2 and channels % 2 == 0),
                f"must be an even number of at least 2, got {channels}",
            ),
            ("lr", lr is None or (lr > 0 and math.isfinite(lr)), f"must be a finite number above 0, got {lr}"),
            ("drop_path", 0 <= self.drop_path < 1, f"must be in [0, 1), got {self.drop_path}"),
            ("morphism", self.inherit or not self.morphism, "must be false without `inherit`", "inherit"),
            (
                "widths",
                list(widths) == sorted({width for width in widths if width >= 2 and width % 2 == 0}),
                f"must be ascending even numbers of at least 2, got {list(widths)}",
            ),
            ("widths", not widths or channels is None, "must be empty with `init_channels`", "init_channels"),
        )
