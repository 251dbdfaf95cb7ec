"""What a candidate operation is, in one value: its modules, its counts, its look. PyTorch is imported by none of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from search_core.primitives.counting import Cost, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

#: How the fused supernet computes an operation: zeros, a pool, the input itself (halved by stride 2), separable
#: convolution twice or once, or a full one in two factors. `own`: by its own modules, edge by edge.
Kind = Literal["none", "pool", "skip", "separable", "dilated", "factorized", "own"]


@dataclass(frozen=True)
class Style:
    """Look of an operation: `label` on its edges, `colour`, `dashes` as on-off lengths in points (empty: solid).

    `terminal` is the nearest colour of a terminal's own palette, empty for that of text.
    """

    label: str
    colour: str
    dashes: tuple[float, ...] = ()
    terminal: str = ""


class Primitive(ABC):
    """A candidate operation. It takes and gives (N, C, H, W); stride 2 halves the size, odd sizes round up.

    Attributes:
        name: in study files, genotypes and tables.
        kind: how the supernet computes it.
        kernel: width of its kernels in pixels; of one kind, larger kernels can compute what smaller ones do.
        style: how it is drawn; None: as `dashboards.pictures.cell_style` finds.
    """

    name: str
    kind: Kind
    kernel: int = 0
    style: Style | None = None

    @abstractmethod
    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """The operation with fresh weights.

        Args:
            channels: channels of input and output.
            stride: 1 or 2.
            affine: whether batch norms have a scale and a shift (they have none during search).
        """

    @abstractmethod
    def cost(self, channels: int, size: Size, stride: int, affine: bool) -> Cost:
        """Exact counts of the operation; `size` is that of its input, (height, width) in pixels."""

    @abstractmethod
    def source(self, stride: int, affine: bool) -> str:
        """What makes the module, as an expression of Python with `channels` in it."""

    def outputs(self, modules: Sequence[nn.Module], x: Tensor) -> Sequence[Tensor]:
        """What each of several modules of this operation makes of x (N, C, H, W)."""
        return [module(x) for module in modules]
