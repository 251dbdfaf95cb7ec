"""Arguments and results of operations: tensors and numbers in lists and tuples. PyTorch's own trees are slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

_NUMBERS = {bool, int, float, type(None), str}  # told apart first: to ask whether they are tensors takes longer


def tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    """All tensors among values, also in lists and tuples."""
    for value in values:
        if type(value) in _NUMBERS:
            continue
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same value with all tensors changed."""
    if type(value) in _NUMBERS:
        return value
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([mapped(change, item) for item in value])
    return value


def mapped_values(change: Callable[[Tensor], Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """As `mapped`, of keyword arguments."""
    return {name: mapped(change, value) for name, value in values.items()}
