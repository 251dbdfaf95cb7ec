"""What a pretended CUDA graph holds: the operations of a capture, each with the memory that it reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.pretended_gpu.trees import mapped, mapped_values, tensors_of

#: Operations that compute nothing: what they gave shares memory with what they got.
_ALIASES = {"detach", "alias", "lift_fresh", "_unsafe_view"}


class Recording:
    """Operations on CPU tensors, recorded as they run and undone at the end, since a capture computes nothing."""

    def __init__(self) -> None:
        self._operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # by storage: all of it, and a copy from before the capture

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation and remember it with its memory under the shapes of this moment, which others may change."""
        self._save_written(func, args, kwargs)
        remembered = mapped(Tensor.detach, args), mapped_values(Tensor.detach, kwargs)
        result = func(*args, **kwargs)
        self._operations.append((func, *remembered, mapped(Tensor.detach, result)))
        return result

    def end(self) -> None:
        """Give the memory that in-place operations have written its contents from before the capture."""
        for whole, before in self._before.values():
            whole.copy_(before)
        self._before = {}

    def replay(self) -> None:
        """Run all operations again, on the same memory."""
        for func, args, kwargs, result in self._operations:
            if func.is_view or _name(func) in _ALIASES:  # type: ignore[attr-defined]
                continue
            for new, old in zip(tensors_of([func(*args, **kwargs)]), tensors_of([result]), strict=True):
                if new.data_ptr() != old.data_ptr() and new.numel():
                    old.copy_(new)

    def _save_written(self, func: Any, args: Any, kwargs: Any) -> None:
        moves_statistics = "batch_norm" in _name(func) and "backward" not in _name(func)  # its schema does not say so
        for position, argument in enumerate(func._schema.arguments):
            is_statistic = moves_statistics and argument.name in ("running_mean", "running_var")
            if not is_statistic and not (argument.alias_info is not None and argument.alias_info.is_write):
                continue
            written = args[position] if position < len(args) else kwargs.get(argument.name)
            for tensor in tensors_of([written]):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._before:
                    whole = torch.empty(0, dtype=tensor.dtype).set_(storage)  # type: ignore[call-overload]
                    self._before[storage._cdata] = whole, whole.clone()


def _name(func: Any) -> str:
    name: str = func.__name__
    return name.split(".")[0]
