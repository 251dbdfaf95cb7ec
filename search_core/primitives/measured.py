"""Counts of an operation that says none of its own: taken from what it does with one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from search_core.errors import PluginError
from search_core.primitives.base import Primitive
from search_core.primitives.counting import Cost, Size, halved, moved_cost
from search_core.randomness import seeded_weights

_POOLS = (
    torch.ops.aten.max_pool2d_with_indices,
    torch.ops.aten.avg_pool2d,
    torch.ops.aten._adaptive_avg_pool2d,
    torch.ops.aten.adaptive_max_pool2d,
)


class _Counter(TorchDispatchMode):
    """Multiply-adds of products and convolutions, and what they and pools read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.madds = self.moved = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or PyTorch imports its compiler first, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        flops: Callable[..., int] | None = flop_registry.get(packet)
        if flops is not None:
            self.madds += flops(*args, **(kwargs or {}), out_val=out) // 2
        if flops is not None or packet in _POOLS:
            written = out[0] if isinstance(out, tuple) else out
            self.moved += sum(x.numel() for x in (*tree_leaves((args, kwargs)), written) if isinstance(x, Tensor))
        return out


def measured_cost(primitive: Primitive, channels: int, size: Size, stride: int, affine: bool) -> Cost:
    """Counts by the rules of `counting`, of a pass in evaluation.

    Multiply-adds are those of convolutions, matrix products and attention. An operation without these and without pools
    counts as an identity, which is read and written.

    Args:
        primitive: the operation.
        channels: channels of input and output.
        size: input height and width in pixels.
        stride: 1 or 2.
        affine: whether batch norms have a scale and a shift.

    Raises:
        PluginError: if it does not give (N, C, ceil(H / stride), ceil(W / stride)).
    """
    out = halved(size) if stride == 2 else size
    with seeded_weights(0), torch.no_grad():
        module = primitive.module(channels, stride, affine).cpu().eval()
        with _Counter() as counter:
            given = module(torch.zeros(1, channels, *size))
    if tuple(given.shape) != (1, channels, *out):
        expected = (1, channels, *out)
        message = f"must give {expected} of (1, {channels}, {size[0]}, {size[1]}) with stride {stride}"
        raise PluginError(f"the primitive {primitive.name} {message}, got {tuple(given.shape)}")
    params = sum(parameter.numel() for parameter in module.parameters())
    return Cost(params, counter.madds, counter.moved or moved_cost(channels, size, out).memory_access)
