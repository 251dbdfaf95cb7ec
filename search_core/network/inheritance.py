"""Weights that a child takes over from its trained parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.network.child import Child, ChildCell
from search_core.network.widening import widen
from search_core.space.genotype import Genotype, has_pool_norm
from search_core.space.morphisms import keeps_function


def inherit_weights(child: Child, parent: Genotype, state: Mapping[str, Tensor]) -> int:
    """Give a child the weights and batch norm statistics of a trained parent where primitive and shape agree.

    Stem, cell inputs and classifier are those of the parent; an edge's operation is, if the parent has the same
    primitive on that edge. What has another shape stays as it was.

    Args:
        child: changed in place.
        parent: genotype of the parent, of the same search space.
        state: state dict of the parent's network.

    Returns:
        Number of tensors that were taken over.
    """
    names: dict[str, str] = {}  # of the child -> of the parent
    for index, cell in enumerate(child.cells):
        assert isinstance(cell, ChildCell)
        positions = {edge: position for position, edge in enumerate(parent.edges(cell.plan.cell_type))}
        for number, edge in enumerate(cell.kept):
            if edge in positions:
                names[f"cells.{index}.operations.{number}."] = f"cells.{index}.operations.{positions[edge]}."
    own = child.state_dict()
    taken = {}
    for name, value in own.items():
        source = name
        if ".operations." in name:
            prefix = ".".join(name.split(".")[:4]) + "."
            if prefix not in names:
                continue
            source = names[prefix] + name.removeprefix(prefix)
        if source in state and state[source].shape == value.shape:
            taken[name] = state[source]
    child.load_state_dict({**own, **taken})
    return len(taken)


def morph(
    child: Child, parent: Genotype, state: Mapping[str, Tensor], init_channels: int, generator: torch.Generator
) -> bool:
    """Let a child begin as the function of its trained parent, as far as the cell space allows (network morphism).

    Chen et al. (Net2Net, ICLR 2016), Wei et al. (ICML 2016), Elsken et al. (arXiv:1711.04528), Cai et al. (AAAI 2018).
    The moves:

    - *wider*: channels are copied, and the weights that read them divided among the copies (`widen`);
    - *deeper, and branches*: an operation on an edge that had none begins with scale and shift of its last batch norm
      at zero; on an edge from an intermediate node a convolution lengthens the path;
    - *skip*: likewise, where a skip connection halves the size. One of stride 1 has no parameter that could be zero;
    - *kernels*: a depthwise kernel grows by zeros around it.

    After these alone logits are the parent's but for rounding: with the running statistics, with those of a batch, and
    with recomputed ones, since no value that a batch norm of the parent sees has changed. On any other edge
    (`keeps_function`) an operation of another primitive stays fresh, as by `inherit_weights`, and logits differ.

    Args:
        child: changed in place; without an auxiliary head.
        parent: genotype of the parent, of the same search space and concatenation.
        state: state dict of the parent's network, whose cells and stem are those of the child.
        init_channels: of the parent, at most those of the child.
        generator: draws which channels are copied, and how their weights are divided, on the CPU.

    Returns:
        Whether every change was one of these moves, so that the function is the parent's.
    """
    size = child.plan.size
    narrow = Child(parent, replace(size, network=replace(size.network, init_channels=init_channels)))
    narrow.load_state_dict(dict(state))
    whole = narrow if init_channels == size.network.init_channels else widen(narrow, size, generator)
    inherit_weights(child, parent, whole.state_dict())
    is_exact = has_pool_norm(parent) == has_pool_norm(child.genotype)
    for cell, trained in zip(child.cells, whole.cells, strict=True):
        assert isinstance(cell, ChildCell)
        assert isinstance(trained, ChildCell)
        is_exact = _morph_cell(cell, trained) and is_exact
    return is_exact


def _morph_cell(cell: ChildCell, parent: ChildCell) -> bool:
    before = {edge[1:]: (edge.primitive, own) for edge, own in zip(parent.kept, parent.operations, strict=True)}
    is_exact = {edge[1:] for edge in cell.kept} >= set(before)
    for edge, operation in zip(cell.kept, cell.operations, strict=True):
        primitive, trained = before.get(edge[1:], ("none", None))
        if edge.primitive == primitive:
            continue
        if not keeps_function(primitive, edge.primitive, cell.plan.edge_geometry(edge.source)[1]):
            is_exact = False
        elif trained is None:
            *_, last = operation.modules()
            if isinstance(last, nn.BatchNorm2d):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            else:  # a pool of a cell that was published without
                is_exact = False
        else:
            operation.load_state_dict(
                {name: _grown(value, operation.state_dict()[name]) for name, value in trained.state_dict().items()}
            )
    return is_exact


def _grown(value: Tensor, like: Tensor) -> Tensor:
    """A depthwise kernel (C, 1, k, k) with zeros around it; what has the shape of `like` is left as it is."""
    if value.shape == like.shape:
        return value
    return functional.pad(value, [(like.shape[-1] - value.shape[-1]) // 2] * 4)
