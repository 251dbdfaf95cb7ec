"""SGD on the weights that took part in a step, though the supernet stacks those of all edges of a cell in one tensor.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.space.genotype import CellType
from search_core.training.optimisers import SGD


@torch.no_grad()
def step_used(optimiser: SGD, supernet: Supernet, used: Mapping[CellType, Tensor]) -> None:
    """One step of SGD in which the weights of unused operations rest: neither decay nor momentum moves them.

    So it is where every edge has parameters of its own, whose gradient is None without use. Here a stack has a gradient
    as soon as one of its edges was used, and the rows of all others have zeros there. A row counts as used as a whole,
    even if a child with fewer channels has read a part of it.

    Args:
        optimiser: its first group has the supernet's weights; plain momentum, gradients clipped.
        supernet: the network.
        used: bool (E, O) per cell type, which operations took part in the step.
    """
    group = optimiser.param_groups[0]
    stacks = [(weight, rows) for weight, rows in _stacks(supernet, used) if weight.grad is not None]
    gradients = [weight.grad for weight, _ in stacks]
    for weight, _ in stacks:
        weight.grad = None
    optimiser.step()  # all others
    for (weight, rows), gradient in zip(stacks, gradients, strict=True):
        assert gradient is not None
        weight.grad = gradient
        _step_rows(weight, rows, group, optimiser.state[weight])


def _step_rows(weight: nn.Parameter, rows: Tensor, group: dict[str, float], state: dict[str, Tensor]) -> None:
    """`torch.optim.SGD` for one stack; a momentum of 0 is as good as none yet, since there is no dampening."""
    assert weight.grad is not None
    moved = torch.add(weight.grad, weight, alpha=group["weight_decay"]).mul_(rows)
    if group["momentum"]:
        before = state.get("momentum_buffer")
        momentum = torch.zeros_like(weight) if before is None else before
        moved = torch.where(rows, momentum * group["momentum"] + moved, momentum)
        state["momentum_buffer"] = moved
        moved = moved * rows
    weight.add_(moved, alpha=-group["lr"])


def _stacks(supernet: Supernet, used: Mapping[CellType, Tensor]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Every weight of an operation and which of its edges were used, of a shape that broadcasts."""
    for cell in supernet.cells:
        assert isinstance(cell, SearchCell)
        used_EO = used[cell.plan.cell_type][cell.order_E]
        for name, operation in cell.operations.items():
            rows_E = used_EO[:, cell.primitives.index(name)]
            for weight in operation.parameters():
                # The skips of a reduction cell have weights on edges from the first two nodes alone, which come first.
                yield weight, rows_E[: len(weight)].view(-1, *[1] * (weight.dim() - 1))
        for name, modules in zip(cell.own.names, cell.own.edges, strict=True):
            assert isinstance(modules, nn.ModuleList)
            for module, is_used in zip(modules, used_EO[:, cell.primitives.index(name)], strict=True):
                for weight in module.parameters():
                    yield weight, is_used
