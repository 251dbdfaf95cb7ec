"""This project's operations (SNAS section 4.1, DARTS section 3.1), and those that NASNet and AmoebaNet cells need.

Here a new one is named, and nowhere else; `modules` has what computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_core.primitives.base import Kind, Primitive, Style
from search_core.primitives.counting import (
    Cost,
    Size,
    conv_cost,
    factorized_reduce_cost,
    halved,
    moved_cost,
    norm_cost,
    separable_cost,
    total,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _BuiltIn(Primitive):
    """An operation whose module a function of `modules` makes.

    Attributes:
        function: name of that function, called with `given`, channels, stride and whether norms are affine.
        given: a kernel, or the name of a function of `modules`.
    """

    name: str
    kind: Kind
    function: str
    given: tuple[int | str, ...] = ()
    kernel: int = 0
    style: Style | None = None

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        from search_core.primitives import modules

        given = [getattr(modules, value) if isinstance(value, str) else value for value in self.given]
        made: nn.Module = getattr(modules, self.function)(*given, channels, stride, affine)
        return made

    def cost(self, channels: int, size: Size, stride: int, affine: bool) -> Cost:
        out = halved(size) if stride == 2 else size
        match self.kind:
            case "none":
                return Cost()
            case "skip":
                reduced = stride == 2
                return (
                    factorized_reduce_cost(channels, channels, size, affine)
                    if reduced
                    else moved_cost(channels, size, size)
                )
            case "pool":
                return total((moved_cost(channels, size, out), norm_cost(channels, affine)))
            case "separable":
                first = separable_cost(channels, self.kernel, size, out, affine)
                return total((first, separable_cost(channels, self.kernel, out, out, affine)))
            case "dilated":
                return separable_cost(channels, self.kernel, size, out, affine)
        between = (size[0], out[1])
        first, second = (
            conv_cost(channels, channels, (1, self.kernel), size, between),
            conv_cost(channels, channels, (self.kernel, 1), between, out),
        )
        return total((first, second, norm_cost(channels, affine)))

    def source(self, stride: int, affine: bool) -> str:
        return f"{self.function}({', '.join([*map(str, self.given), 'channels', str(stride), str(affine)])})"


def _separable(kernel: int, style: Style) -> _BuiltIn:
    return _BuiltIn(f"sep_conv_{kernel}x{kernel}", "separable", "_sep_conv", (kernel,), kernel, style)


def _dilated(kernel: int, style: Style) -> _BuiltIn:
    return _BuiltIn(f"dil_conv_{kernel}x{kernel}", "dilated", "_dil_conv", (kernel,), kernel, style)


#: Colours are Okabe and Ito's, which stay apart under the common colour deficiencies, and Tol's for the rare ones. The
#: first eight are those of DARTS and SNAS, in DARTS' order.
_ALL = (
    _BuiltIn("none", "none", "_none"),
    _BuiltIn("max_pool_3x3", "pool", "_pool", ("_max_pool",), 3, Style("max 3x3", "#D55E00", (6, 2), "red")),
    _BuiltIn("avg_pool_3x3", "pool", "_pool", ("_average_pool",), 3, Style("avg 3x3", "#E69F00", (3, 1.6), "yellow")),
    _BuiltIn("skip_connect", "skip", "_skip", style=Style("skip", "#545E68")),
    _separable(3, Style("sep 3x3", "#0072B2", terminal="blue")),
    _separable(5, Style("sep 5x5", "#56B4E9", (12, 2), "cyan")),
    _dilated(3, Style("dil 3x3", "#009E73", (9, 2, 2, 2), "green")),
    _dilated(5, Style("dil 5x5", "#CC79A7", (9, 2, 2, 2, 2, 2), "magenta")),
    _separable(7, Style("sep 7x7", "#332288", (18, 2), "bright_blue")),
    _BuiltIn(
        "conv_7x1_1x7",
        "factorized",
        "_factorized_conv",
        kernel=7,
        style=Style("7x1 1x7", "#882255", (12, 2, 2, 2), "bright_magenta"),
    ),
)

BUILT_IN: dict[str, Primitive] = {primitive.name: primitive for primitive in _ALL}
#: Candidate operations of the DARTS and SNAS search space, in DARTS order.
PRIMITIVES: tuple[str, ...] = tuple(BUILT_IN)[:8]
#: All of this project: the above and those that only NASNet and AmoebaNet cells need.
KNOWN_PRIMITIVES: tuple[str, ...] = tuple(BUILT_IN)
POOLS: tuple[str, ...] = tuple(name for name, primitive in BUILT_IN.items() if primitive.kind == "pool")
