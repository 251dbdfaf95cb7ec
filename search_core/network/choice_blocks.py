"""The weights of a child with fewer channels, see `space.choices`.

The supernet holds the weights of the widest cells; a narrower one uses the first channels of them (SPOS section 3.3:
`[:c_out, :c_in]` of weights preallocated at the maximum), so that a child with fewer channels is a smaller network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn


class _Cut(NamedTuple):
    """Of each of `blocks` equal runs along dimension `dim`, the first `kept` entries in all."""

    dim: int
    blocks: int
    kept: int

    def of(self, tensor: Tensor) -> Tensor:
        if self.blocks == 1:
            return tensor.narrow(self.dim, 0, self.kept)
        runs: Tensor = tensor.unflatten(self.dim, (self.blocks, -1))
        runs = runs.narrow(self.dim + 1, 0, self.kept // self.blocks)
        return runs.flatten(self.dim, self.dim + 1)


def narrowed(weights: Mapping[str, Tensor], child: nn.Module, num_nodes: int) -> dict[str, Tensor]:
    """Cut weights and statistics of the widest child to the shapes of a narrower one, as slices where they can be.

    What reads a cell's output reads one run of channels per node, so the first channels of each run are cut.

    Args:
        weights: of the widest child, under its names.
        child: the narrower child, whose shapes count.
        num_nodes: intermediate nodes of a cell, all concatenated.
    """
    shapes = {name: value.shape for name, value in child.state_dict().items()}
    cut = {}
    for name, tensor in weights.items():
        for step in _cuts(name, tensor, shapes, num_nodes):
            tensor = step.of(tensor)
        cut[name] = tensor
    return cut


def keep_statistics(weights: Mapping[str, Tensor], cut: Mapping[str, Tensor]) -> None:
    """Write running statistics back that `narrowed` had to copy, because their channels lie in two runs.

    Args:
        weights: what was cut.
        cut: what `narrowed` made of it, after a training step.
    """
    for name, tensor in weights.items():
        if name.endswith(("running_mean", "running_var")) and cut[name].shape != tensor.shape:
            blocks = _norm_blocks(name, weights)
            if blocks > 1:
                runs = cut[name].unflatten(0, (blocks, -1))
                tensor.unflatten(0, (blocks, -1))[:, : runs.shape[1]].copy_(runs)


def _cuts(name: str, tensor: Tensor, shapes: Mapping[str, tuple[int, ...]], num_nodes: int) -> list[_Cut]:
    """What is cut along each dimension in which the child is smaller."""
    cuts = []
    for dim, (size, kept) in enumerate(zip(tensor.shape, shapes[name], strict=True)):
        if kept < size:
            if dim == 1:
                blocks = num_nodes if ".inputs." in name or name.startswith("classifier.") else 1
            else:
                blocks = _norm_blocks(name, shapes)
            cuts.append(_Cut(dim, blocks, kept))
    return cuts


def _norm_blocks(name: str, names: Mapping[str, object]) -> int:
    """2 for the statistics behind a factorized reduction, whose two convolutions lie side by side, else 1."""
    module, _, leaf = name.rpartition(".norm.")
    return 2 if leaf and f"{module}.conv_even.weight" in names else 1
