"""A child network as a Python file that imports PyTorch alone: cells written out, blocks as this project has them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from textwrap import indent
from types import ModuleType
from typing import Any

from torch import nn

from search_core.errors import ExportError
from search_core.network import blocks, chain
from search_core.network.chain import Chain, ChildNetwork
from search_core.network.child import Child, ChildCell
from search_core.primitives import modules
from search_core.primitives.own import OwnPrimitive
from search_core.primitives.registry import find
from search_core.space.genotype import CellType

_HEAD = '''"""{title}

`model = child()`, then `model.load_state_dict(torch.load("state_dict.pt", weights_only=True))`.
It maps {takes} to logits (N, {classes}).
Written by SNAS Orchestrator, Apache License 2.0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
'''
_CELL = '''class {name}(nn.Module):
    """The {kind} cell: nodes s2 and on join operations on earlier ones."""

    def __init__(self, before_previous: int, previous: int, channels: int, *, is_after_reduction: bool) -> None:
        super().__init__()
        adapt = FactorizedReduce if is_after_reduction else ReluConvBn
        self.inputs = nn.ModuleDict({{
            "before_previous": adapt(before_previous, channels, affine={affine}),
            "previous": ReluConvBn(previous, channels, affine={affine}),
        }})
        self.operations = nn.ModuleList([
{operations}
        ])
{joins}
    def forward(self, before_previous: Tensor, previous: Tensor) -> Tensor:
        """(N, channels of each, H, W) to (N, {num_concat} * channels, {size})."""
        operation = self.operations
        s0 = self.inputs["before_previous"](before_previous)
        s1 = self.inputs["previous"](previous)
{nodes}
        return torch.cat([{concat}], dim=1)
'''
_NETWORK = '''class Network(nn.Module):
    """{takes} to logits (N, {classes})."""

    def __init__(self) -> None:
        super().__init__()
{normalisation}        self.stem = {stem}
        self.cells = nn.ModuleList([
{cells}
        ])
        self.classifier = Classifier({channels}, {classes})

    def forward(self, images: Tensor) -> Tensor:
        before_previous, previous = self.stem({images})
        for cell in self.cells:
            before_previous, previous = previous, cell(before_previous, previous)
        return self.classifier(previous)
'''
_CHAIN = '''class Network(nn.Module):
    """{takes} to logits (N, {classes}); node s0 is the image, the others are layers."""

    def __init__(self) -> None:
        super().__init__()
{normalisation}        self.layers = nn.ModuleList([
{layers}
        ])
        self.classifier = Classifier({channels}, {classes})

    def forward(self, images: Tensor) -> Tensor:
        s0 = {images}
{nodes}
        return self.classifier(joined([{concat}]))
'''
_BUILDER = '''def child() -> Network:
    """The network with fresh weights."""
    return Network()
'''
_POOLS = {nn.MaxPool2d: "_max_pool", nn.AvgPool2d: "_average_pool"}
_STATISTIC = '        self.register_buffer("{name}", torch.tensor({values}).reshape(1, -1, 1, 1), persistent=False)\n'


def child_source(
    network: ChildNetwork, title: str, mean: Sequence[float], std: Sequence[float], classes: Sequence[str] = ()
) -> str:
    """The text of a Python module with a function `child`, whose module has the weights' names of `network`.

    Args:
        network: the child; an auxiliary head is left out.
        title: first line of the module's docstring.
        mean: of each channel of pixels in [0, 1]; empty if images come normalised.
        std: standard deviation, likewise.
        classes: names of the logits; none if they are not known.
    """
    plan = network.plan
    takes = f"images ({', '.join(map(str, ('N', *plan.size.input_shape)))}), float32"
    takes += " in [0, 1]" if mean else ", normalised as in training"
    statistics = (("mean", mean), ("std", std)) if mean else ()
    ends = {
        "takes": takes[0].upper() + takes[1:],
        "classes": plan.size.num_classes,
        "normalisation": "".join(_STATISTIC.format(name=name, values=list(values)) for name, values in statistics),
        "images": "(images - self.mean) / self.std" if mean else "images",
        "channels": plan.out_channels,
    }
    parts = [f"#: Names of the logits.\nCLASSES = {list(classes)!r}\n"] if classes else []
    parts += _chain_parts(network, ends) if isinstance(network, Chain) else _cell_parts(network, ends)
    head = _HEAD.format(title=title, takes=takes, classes=plan.size.num_classes)
    needed = _needed((modules, blocks, chain), "\n".join(parts))
    own = [] if isinstance(network, Chain) else _own_sources(network, {name.lstrip("_") for name in needed})
    text = "\n\n".join([head, *own, *needed.values(), *parts, _BUILDER])
    for name in needed:  # private in this project only
        text = re.sub(rf"\b{name}\b", name.lstrip("_"), text)
    return re.sub(r"  # type: ignore\[.*\]", "", text)


def _chain_parts(network: Chain, ends: Mapping[str, Any]) -> list[str]:
    """The network of a chain of layers."""
    layers, nodes = [], []
    for number, plan in enumerate(network.plan.layers):
        call = f"ChainLayer({plan.channels_in}, {plan.filters}, {plan.kernel}, {plan.stride})"
        layers.append(f"            {call},  # s{number + 2}")
        nodes.append(f"        s{number + 2} = self.layers[{number}]([{_states(plan.sources)}])")
    texts = {"layers": "\n".join(layers), "nodes": "\n".join(nodes), "concat": _states(network.plan.concat)}
    return [_CHAIN.format(**ends, **texts)]


def _states(nodes: Sequence[int]) -> str:
    return ", ".join(f"s{node}" for node in nodes)


def _cell_parts(network: Child, ends: Mapping[str, Any]) -> list[str]:
    """The classes of the cells, and the network."""
    plan = network.plan
    cells = [cell for cell in network.cells if isinstance(cell, ChildCell)]
    names: dict[CellType, str] = {"normal": "NormalCell", "reduce": "ReductionCell"}
    written = {cell.plan.cell_type: _cell_source(cell, names[cell.plan.cell_type]) for cell in cells}
    body = _NETWORK.format(
        **ends,
        stem=f"{type(network.stem).__name__}({plan.size.input_shape[0]}, {plan.stem_channels})",
        cells="\n".join(
            f"            {names[cell.cell_type]}({cell.channels_prev_prev}, {cell.channels_prev}, {cell.channels}, "
            f"is_after_reduction={cell.reduction_prev}),"
            for cell in plan.cells
        ),
    )
    return [*written.values(), body]


def _cell_source(cell: ChildCell, name: str) -> str:
    """A class whose `forward` says node by node what is computed."""
    is_reduction, affine = cell.plan.cell_type == "reduce", bool(cell.inputs.previous[-1].affine)
    terms: dict[int, list[str]] = {node: [] for node in range(2, cell.num_nodes + 2)}
    operations = []
    for number, (edge, operation) in enumerate(zip(cell.kept, cell.operations, strict=True)):
        terms[edge.target].append(f"operation[{number}](s{edge.source})")
        stride = cell.plan.edge_geometry(edge.source)[1]
        # Some cells have no batch norm behind pools.
        pool = _POOLS.get(type(operation))
        call = find(edge.primitive).source(stride, affine) if pool is None else f"{pool}({stride})"
        operations.append(f"            {call},  # {edge.source} -> {edge.target}: {edge.primitive}")
    joins = [
        f'            "{node}": ReluConvBn({len(terms[int(node)])} * channels, channels, affine={affine}),\n'
        for node in cell.joins
    ]
    empty = "torch.zeros_like(s0[:, :, ::2, ::2])" if is_reduction else "torch.zeros_like(s0)"
    sums = {
        node: f'self.joins["{node}"](torch.cat([{", ".join(found)}], dim=1))'
        if str(node) in cell.joins
        else " + ".join(found) or empty
        for node, found in terms.items()
    }
    return _CELL.format(
        name=name,
        kind="reduction" if is_reduction else "normal",
        affine=affine,
        operations="\n".join(operations),
        joins=f"        self.joins = nn.ModuleDict({{\n{''.join(joins)}        }})\n" if joins else "",
        nodes=indent("\n".join(f"s{node} = {sums[node]}" for node in terms), " " * 8),
        concat=", ".join(f"s{node}" for node in cell.concat),
        num_concat=len(cell.concat),
        size="ceil(H / 2), ceil(W / 2)" if is_reduction else "H, W",
    )


def _own_sources(network: Child, taken: set[str]) -> list[str]:
    """The files of plug-ins whose operations a child has, as they are.

    Raises:
        ExportError: if one imports another package than PyTorch, or defines a name of `taken`.
    """
    taken = {*taken, "NormalCell", "ReductionCell", "Network", "child"}
    used = {edge.primitive for cell in network.cells if isinstance(cell, ChildCell) for edge in cell.kept}
    own = [primitive for primitive in map(find, sorted(used)) if isinstance(primitive, OwnPrimitive)]
    sources = {}
    for primitive in own:
        module = inspect.getmodule(primitive.module_class)
        assert module is not None
        text, name = inspect.getsource(module), f"child.py has the file of the primitive {primitive.name}, which"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in taken:
                raise ExportError(f"{name} must not define {node.name}: a block of the child has this name")
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [f"{'.' * node.level}{node.module or ''}"] if isinstance(node, ast.ImportFrom) else []
            if strange := {path.split(".")[0] for path in imported} - sys.stdlib_module_names - {"torch"}:
                raise ExportError(f"{name} must import PyTorch alone, got {', '.join(map(repr, sorted(strange)))}")
        sources[module.__name__] = re.sub(r"^from __future__ .*\n", "", text, flags=re.MULTILINE).strip() + "\n"
    return list(sources.values())


def _needed(modules: Sequence[ModuleType], text: str) -> dict[str, str]:
    """Sources of the classes and functions of these modules that a text uses, and those that they use, in order."""
    found: dict[str, tuple[int, int, str]] = {}
    queue = [text]
    while queue:
        used = set(re.findall(r"\w+", queue.pop()))
        for position, module in enumerate(modules):
            for name, value in vars(module).items():
                if name in used and name not in found and getattr(value, "__module__", None) == module.__name__:
                    lines, number = inspect.getsourcelines(value)
                    found[name] = (position, number, "".join(lines).rstrip() + "\n")
                    queue.append(found[name][2])
    return {name: source for name, (_, _, source) in sorted(found.items(), key=lambda item: item[1])}
