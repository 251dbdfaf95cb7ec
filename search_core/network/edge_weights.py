"""Weights of one candidate operation on many edges, kept together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EdgeWeights(nn.Module):
    """State of equal operations, stacked: every tensor has one more dimension, the edge, in front.

    Names are those of one operation, so that slicing gives its state (`state_of`). Nothing is computed here.

    Args:
        operations: one operation per edge, with the initial weights.
    """

    def __init__(self, operations: Sequence[nn.Module]) -> None:
        super().__init__()
        parameters = dict(operations[0].named_parameters())
        states = [operation.state_dict() for operation in operations]
        for name in states[0]:
            path, _, leaf = name.rpartition(".")
            if leaf == "num_batches_tracked":  # only counts; the child's own count is right
                continue
            if not hasattr(self, path):
                self.add_module(path, nn.Module())
            stacked = torch.stack([state[name] for state in states])
            if name in parameters:
                self.get_submodule(path).register_parameter(leaf, nn.Parameter(stacked))
            else:
                self.get_submodule(path).register_buffer(leaf, stacked)

    def state_of(self, edge: int) -> dict[str, Tensor]:
        """Weights and statistics of one edge, as views: gradients flow back through them."""
        tensors = [*self.named_parameters(), *self.named_buffers()]
        return {name: tensor[edge] for name, tensor in tensors}
