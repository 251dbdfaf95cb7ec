"""What a training step costs beside time: bytes kept for the backward pass, operations launched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from search_core.kernels import backend

#: Operations beside views that launch nothing.
_NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


def saved_bytes(forward: Callable[[], Tensor], known: Iterable[Tensor]) -> int:
    """Bytes of what autograd keeps after a forward pass, each storage once.

    Args:
        forward: gives the output of the pass.
        known: tensors that are there anyway, such as weights and images, and do not count.
    """
    seen = {tensor.untyped_storage().data_ptr() for tensor in known}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # what is freed could leave its address to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    assert output.grad_fn is not None, "the output must depend on something that is learnt"
    return sum(sizes.values())


class Operations(NamedTuple):
    """Torch operations that launch work, Numba kernels included; all that are dispatched, views and `empty` too."""

    launched: int
    dispatched: int


def count_operations(step: Callable[[], object]) -> Operations:
    """Count the operations of a step, its backward pass included."""
    with _native_calls() as calls, _DispatchCount() as count:
        step()
    return Operations(count.launched + len(calls), count.dispatched)


class _DispatchCount(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.dispatched = self.launched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.dispatched += 1
        self.launched += not (func.is_view or func.namespace != "aten" or func.__name__.split(".")[0] in _NO_WORK)
        return func(*args, **(kwargs or {}))


@contextmanager
def _native_calls() -> Iterator[list[None]]:
    """A list that grows by one with every Numba kernel that runs over a batch."""
    calls: list[None] = []
    over_images = backend.over_images

    def counting(*arguments: Any) -> None:
        calls.append(None)
        over_images(*arguments)

    users = [module for name, module in sys.modules.items() if name.startswith(f"{backend.__package__}.")]
    with ExitStack() as stack:
        for module in users:
            if getattr(module, "over_images", None) is over_images:
                stack.enter_context(mock.patch.object(module, "over_images", counting))
        yield calls
