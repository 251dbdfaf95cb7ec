"""What the supernet and the child network share: stem, cell inputs, classifier and the way cells are chained."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.nn import functional

from search_core.primitives.modules import FactorizedReduce, ReluConvBn
from search_core.space.plan import CellPlan, StackPlan


class FrozenNorms(AbstractContextManager[None]):
    """Leave the running statistics of a module's batch norms alone inside, also in training. Can be entered again.

    Args:
        module: has `torch.nn.BatchNorm2d` inside.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
        self._before: list[tuple[float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, count) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class CifarStem(nn.Module):
    """3x3 conv and batch norm at full size; both inputs of the first cell are its output."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to twice (N, C_out, H, W)."""
        x = self.norm(self.conv(images))
        return x, x


class ImageNetStem(nn.Module):
    """Three 3x3 convs of stride 2; the first cell's inputs are their outputs at 1/4 and 1/8 of the size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.quarter = nn.Sequential(
            nn.Conv2d(channels_in, channels_out // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out // 2),
            nn.ReLU(),
            nn.Conv2d(channels_out // 2, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.eighth = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, C_out, H / 4, W / 4) and (N, C_out, H / 8, W / 8)."""
        quarter = self.quarter(images)
        return quarter, self.eighth(quarter)


def build_stem(plan: StackPlan) -> nn.Module:
    """The stem that a plan names."""
    stem = CifarStem if plan.size.network.stem == "cifar" else ImageNetStem
    return stem(plan.size.input_shape[0], plan.stem_channels)


class CellInputs(nn.Module):
    """Bring the outputs of the two previous cells to the channels and the size of this cell."""

    def __init__(self, plan: CellPlan, *, affine: bool) -> None:
        super().__init__()
        adapt = FactorizedReduce if plan.reduction_prev else ReluConvBn
        self.before_previous = adapt(plan.channels_prev_prev, plan.channels, affine=affine)
        self.previous = ReluConvBn(plan.channels_prev, plan.channels, affine=affine)

    def forward(self, before_previous: Tensor, previous: Tensor) -> list[Tensor]:
        """Nodes 0 and 1 of the cell, each (N, channels, *size_in)."""
        return [self.before_previous(before_previous), self.previous(previous)]


class Classifier(nn.Module):
    """Global average pool and one linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class AuxiliaryHead(nn.Module):
    """A second classifier on the cell at two thirds of the depth (DARTS' `AuxiliaryHeadCIFAR`).

    The published head pools 8x8 (CIFAR) and 7x7 (ImageNet) to 2x2 with 5x5 windows; other sizes are pooled adaptively.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.linear = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        x = functional.relu(x)
        height, width = x.shape[2:]
        if height in (7, 8) and width in (7, 8):
            x = functional.avg_pool2d(x, 5, stride=(height - 5, width - 5))
        else:
            x = functional.adaptive_avg_pool2d(x, 2)
        return self.linear(self.features(x).flatten(1))  # type: ignore[no-any-return]
