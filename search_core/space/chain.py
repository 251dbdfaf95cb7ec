"""What a chain of convolutional layers is made of, and what there is to choose from (Zoph and Le, ICLR 2017)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from search_core.errors import GenotypeError, require

_KERNEL = re.compile(r"conv_([1-9]\d*)x([1-9]\d*)")


class Layer(NamedTuple):
    """What a layer has beside its kernel, which is the operation on the edges from its inputs."""

    filters: int
    stride_height: int = 1
    stride_width: int = 1


def kernel_name(height: int, width: int) -> str:
    """The convolution of a kernel as an operation, such as `conv_3x5`."""
    return f"conv_{height}x{width}"


def kernel_size(name: str) -> tuple[int, int] | None:
    """Height and width of such an operation's kernel; None if it is another operation."""
    match = _KERNEL.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def check_chain(layers: Sequence[Layer], edges: Sequence[tuple[str, int, int]], concat: Sequence[int]) -> None:
    """Check that edges and layers are a chain: layer t is node t + 2, node 0 the image.

    Args:
        layers: one for each node from 2.
        edges: operation, source and target.
        concat: nodes that are the output.

    Raises:
        GenotypeError: if they are not.
    """
    nodes = range(2, len(layers) + 2)
    strange = {node for edge in edges for node in edge[1:]}.union(concat) - {0, *nodes}
    if strange:
        raise GenotypeError(f"layers: must be one for each node from 2, got {len(layers)} and the nodes {[*strange]}")
    for node, layer in zip(nodes, layers, strict=True):
        if min(layer) < 1:
            raise GenotypeError(f"layers[{node - 2}]: must be filters and strides of at least 1, got {[*layer]}")
        own = [edge for edge in edges if edge[2] == node]
        kernels = {kernel_size(name) for name, _, _ in own}
        is_kernel = len(kernels) == 1 and all(size is not None and size[0] * size[1] % 2 for size in kernels)
        if not is_kernel or len({source for _, source, _ in own}) != len(own):
            rule = "must read the image (0) or earlier layers, each once, by one conv_HxW of odd height and width"
            raise GenotypeError(f"normal: node {node} {rule}, got {[list(edge) for edge in own]}")


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """What each layer of a chain chooses from, by default as in the paper (section 4.1).

    Attributes:
        heights: of the filters, odd numbers.
        widths: of the filters, odd numbers.
        strides: among which both strides of a layer are chosen; `[1, 2, 3]` in the paper's second experiment.
        filters: how many a layer has.

    Raises:
        OptionsError: if a value is out of range.
    """

    heights: tuple[int, ...] = (1, 3, 5, 7)
    widths: tuple[int, ...] = (1, 3, 5, 7)
    strides: tuple[int, ...] = (1,)
    filters: tuple[int, ...] = (24, 36, 48, 64)

    def __post_init__(self) -> None:
        odd = {"heights": self.heights, "widths": self.widths}
        whole = {"strides": self.strides, "filters": self.filters}
        require(
            *(
                (name, _is_choice(own, step=2), f"must be distinct odd numbers, got {[*own]}")
                for name, own in odd.items()
            ),
            *(
                (name, _is_choice(own), f"must be distinct numbers above 0, got {[*own]}")
                for name, own in whole.items()
            ),
            (
                "heights",
                len(self.heights) * len(self.widths) >= 2,
                f"must give at least two kernels with `widths` {[*self.widths]}, got {[*self.heights]}",
                "widths",
            ),
        )

    @property
    def operations(self) -> tuple[str, ...]:
        """What may be between two layers: nothing, or the convolution of any kernel."""
        return ("none", *(kernel_name(height, width) for height in self.heights for width in self.widths))


def _is_choice(values: Sequence[int], step: int = 1) -> bool:
    return bool(values) and len(set(values)) == len(values) and all(v >= 1 and (v - 1) % step == 0 for v in values)
