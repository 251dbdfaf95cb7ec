"""Operations of plug-ins: a class of PyTorch modules, and what is taken from it.

```python
class GhostConv(nn.Module):
    def __init__(self, channels: int, stride: int, affine: bool) -> None: ...
    def forward(self, x: Tensor) -> Tensor: ...  # (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))

    @staticmethod  # optional: (params, madds, memory_access) of an image; without it they are measured
    def cost(channels: int, size: tuple[int, int], stride: int, affine: bool) -> tuple[int, int, int]: ...

    @staticmethod  # optional: what [module(x) for module in modules] gives, faster
    def together(modules: Sequence[GhostConv], x: Tensor) -> Sequence[Tensor]: ...
```
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from search_core.errors import PluginError
from search_core.primitives.base import Primitive
from search_core.primitives.counting import Cost, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


class OwnPrimitive(Primitive):
    """An operation of a plug-in.

    Args:
        name: in study files and genotypes.
        module_class: see the head of this file.

    Raises:
        PluginError: if it is no class of modules, or called with something else than channels, stride and affine.
    """

    kind = "own"

    def __init__(self, name: str, module_class: Any) -> None:
        from torch import nn

        if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
            raise PluginError(f"the primitive {name} must be a class of torch.nn.Module, got {module_class!r:.80}")
        try:
            inspect.signature(module_class).bind(8, 1, True)
        except TypeError as error:
            raise PluginError(f"the primitive {name} must be called with channels, stride, affine: {error}") from error
        self.name, self.module_class = name, module_class
        self._costs: dict[tuple[int, Size, int, bool], Cost] = {}

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """An instance of the class."""
        made: nn.Module = self.module_class(channels, stride, affine)
        return made

    def cost(self, channels: int, size: Size, stride: int, affine: bool) -> Cost:
        """What the class says, or else what is measured; once for each size."""
        key = (channels, size, stride, affine)
        if key not in self._costs:
            self._costs[key] = self._counted(*key)
        return self._costs[key]

    def source(self, stride: int, affine: bool) -> str:
        """A call of the class."""
        return f"{self.module_class.__name__}(channels, {stride}, {affine})"

    def outputs(self, modules: Sequence[nn.Module], x: Tensor) -> Sequence[Tensor]:
        """By the fast form, if there is one."""
        together = getattr(self.module_class, "together", None)
        return super().outputs(modules, x) if together is None else together(modules, x)

    def _counted(self, channels: int, size: Size, stride: int, affine: bool) -> Cost:
        given = getattr(self.module_class, "cost", None)
        if given is None:
            from search_core.primitives.measured import measured_cost

            return measured_cost(self, channels, size, stride, affine)
        counts = tuple(given(channels, size, stride, affine))
        if len(counts) != 3 or any(type(count) is not int or count < 0 for count in counts):
            rule = "must be three whole numbers of at least 0 (params, madds, memory_access)"
            raise PluginError(f"cost of the primitive {self.name} {rule}, got {counts}")
        return Cost(*counts)
