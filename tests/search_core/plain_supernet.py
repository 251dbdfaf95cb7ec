"""The published searchable network, edge by edge and operation by operation: the oracle of the fast one.

It is written as DARTS' `model_search.py` and the SNAS authors' code are: every edge owns modules for all its
operations, runs them all, and a node is the sum of its edges (SNAS equation 3). Nothing of `search_core` is used, so
that the two cannot share a mistake. `copy_weights`, `stacked_state` and `stacked_gradients` translate between its one
module per edge and the stacked tensors of `search_core.network.supernet`.

Shape suffixes: E edges, O operations, L cells of one type, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# Operations

#: Operations of plug-ins by name; a test puts in what it uses.
OWN: dict[str, Callable[[int, int, bool], nn.Module]] = {}


class Zero(nn.Module):
    """`none` as DARTS has it: the input times zero."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class FactorizedReduce(nn.Module):
    """ReLU, two 1x1 convs of stride 2 of which the second one starts one pixel later, batch norm."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_even = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.conv_odd = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        height, width = x.shape[2:]
        # DARTS has even sizes only; a row or column of zeros makes odd ones even.
        shifted = functional.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.conv_even(x), self.conv_odd(shifted)], dim=1))


def relu_conv_norm(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out, affine=False),
    )


def depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        channels, channels, kernel, stride=stride, padding=padding, dilation=dilation, groups=channels, bias=False
    )


def sep_conv(channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        depthwise(channels, kernel, stride),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
        nn.ReLU(),
        depthwise(channels, kernel, 1),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
    )


def dil_conv(channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        depthwise(channels, kernel, stride, dilation=2),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
    )


def conv_7x1_1x7(channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        nn.BatchNorm2d(channels, affine=False),
    )


def build_operation(name: str, channels: int, stride: int) -> nn.Module:
    """One candidate operation with fresh weights; batch norms have no scale and shift during search."""
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.BatchNorm2d(channels, affine=False))
    if name == "avg_pool_3x3":
        pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))
    if name == "conv_7x1_1x7":
        return conv_7x1_1x7(channels, stride)
    if name in OWN:
        return OWN[name](channels, stride, False)
    family, kernel = name[: len("sep_conv")], int(name[-1])
    return {"sep_conv": sep_conv, "dil_conv": dil_conv}[family](channels, kernel, stride)


# Cells and network


def edges_of(nodes: int) -> list[tuple[int, int]]:
    """(source, target) of every edge, ordered by target, then source, as the rows of alpha are."""
    return [(source, target) for target in range(2, nodes + 2) for source in range(target)]


class MixedOperation(nn.Module):
    """All operations of one edge: `sum_k z_k O_k(x)`."""

    def __init__(self, primitives: Sequence[str], channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(build_operation(name, channels, stride) for name in primitives)

    def forward(self, x: Tensor, z_O: Tensor, factors_ON: Tensor | None) -> Tensor:
        """(N, C, H, W) to (N, C, H', W'); `factors_ON` scale each operation's output image by image (drop path)."""
        outputs = [operation(x) for operation in self.operations]
        if factors_ON is not None:
            outputs = [
                output if isinstance(operation, (nn.Identity, Zero)) else output * factors_N.view(-1, 1, 1, 1)
                for operation, output, factors_N in zip(self.operations, outputs, factors_ON, strict=True)
            ]
        return sum(z * output for z, output in zip(z_O, outputs, strict=True))


class PlainCell(nn.Module):
    """One cell; node 0 comes from the cell before the previous one, node 1 from the previous one."""

    def __init__(
        self,
        channels_before: int,
        channels_previous: int,
        channels: int,
        *,
        nodes: int,
        primitives: Sequence[str],
        reduction: bool,
        halve_before: bool,
    ) -> None:
        super().__init__()
        self.nodes, self.reduction = nodes, reduction
        adapt = FactorizedReduce if halve_before else relu_conv_norm
        self.before_previous = adapt(channels_before, channels)
        self.previous = relu_conv_norm(channels_previous, channels)
        self.edges = nn.ModuleList(
            MixedOperation(primitives, channels, 2 if reduction and source < 2 else 1) for source, _ in edges_of(nodes)
        )

    def forward(self, before_previous: Tensor, previous: Tensor, z_EO: Tensor, factors_EON: Tensor | None) -> Tensor:
        states = [self.before_previous(before_previous), self.previous(previous)]
        offset = 0
        for _ in range(self.nodes):
            node = sum(
                self.edges[offset + source](
                    state, z_EO[offset + source], None if factors_EON is None else factors_EON[offset + source]
                )
                for source, state in enumerate(states)
            )
            offset += len(states)
            states.append(node)
        return torch.cat(states[2:], dim=1)


class CifarStem(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.conv(images))
        return x, x


class ImageNetStem(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.quarter = nn.Sequential(
            nn.Conv2d(channels_in, channels_out // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out // 2),
            nn.ReLU(),
            nn.Conv2d(channels_out // 2, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.eighth = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(images)
        return quarter, self.eighth(quarter)


class PlainSupernet(nn.Module):
    """Stem, cells of which those at L // 3 and 2 L // 3 halve the size and double the channels, linear classifier.

    Args:
        nodes: intermediate nodes of a cell.
        cells: cells L.
        init_channels: channels C of the first cells.
        primitives: names of the operations of every edge.
        stem: `cifar` (a 3x3 conv to 3 C channels) or `imagenet` (three convs of stride 2, to C channels).
        input_channels: channels of an image.
        num_classes: number of logits.
    """

    def __init__(
        self,
        *,
        nodes: int,
        cells: int,
        init_channels: int,
        primitives: Sequence[str],
        stem: str,
        input_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.nodes, self.primitives = nodes, tuple(primitives)
        width, channels = (3 * init_channels if stem == "cifar" else init_channels), init_channels
        self.stem = (CifarStem if stem == "cifar" else ImageNetStem)(input_channels, width)
        self.cells = nn.ModuleList()
        before, previous, halve_before = width, width, stem == "imagenet"
        for index in range(cells):
            reduction = index in {cells // 3, 2 * cells // 3}
            channels *= 2 if reduction else 1
            cell = PlainCell(
                before,
                previous,
                channels,
                nodes=nodes,
                primitives=primitives,
                reduction=reduction,
                halve_before=halve_before,
            )
            self.cells.append(cell)
            before, previous, halve_before = previous, nodes * channels, reduction
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(previous, num_classes)

    def forward(
        self,
        images: Tensor,
        z: Mapping[str, Tensor],
        drop_path_prob: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W).

        Args:
            images: normalised images.
            z: architecture sample of `normal` and `reduce` cells, (E, O) or (L, E, O).
            drop_path_prob: p in [0, 1): each operation's output is dropped for an image with probability p and scaled
                by 1 / (1 - p) otherwise, except that of an identity.
            generator: source of what is dropped, one draw (E, O, N) a cell.
        """
        before, previous = self.stem(images)
        seen = {"normal": 0, "reduce": 0}
        for cell in self.cells:
            kind = "reduce" if cell.reduction else "normal"
            z_EO = z[kind] if z[kind].dim() == 2 else z[kind][seen[kind]]
            seen[kind] += 1
            factors_EON = None
            if drop_path_prob > 0:
                shape = (*z_EO.shape, len(images))
                draw_EON = torch.rand(shape, generator=generator, device=z_EO.device, dtype=z_EO.dtype)
                factors_EON = (draw_EON >= drop_path_prob).to(images.dtype) / (1 - drop_path_prob)
            before, previous = previous, cell(before, previous, z_EO, factors_EON)
        return self.classifier(self.pool(previous).flatten(1))


# Translation to and from the stacked tensors of the fast supernet

# Where the parts of an operation lie in the plain module, by their names in the fast one.
_PARTS = {
    "sep_conv": {
        "depthwise1": "1",
        "pointwise1": "2",
        "norm1": "3",
        "depthwise2": "5",
        "pointwise2": "6",
        "norm2": "7",
    },
    "dil_conv": {"depthwise": "1", "pointwise": "2", "norm": "3"},
    "conv_7x1_1x7": {"conv_1x7": "1", "conv_7x1": "2", "norm": "3"},
    "max_pool_3x3": {"norm": "1"},
    "avg_pool_3x3": {"norm": "1"},
    "reduce": {"conv_even": "conv_even", "conv_odd": "conv_odd", "norm": "norm"},
}


class Place(NamedTuple):
    """Where a tensor of the plain network lies in the fast one: under which name and in which row, if in any."""

    fast_name: str
    row: int | None
    plain_name: str


def copy_weights(fast: nn.Module, plain: PlainSupernet) -> None:
    """Give the plain network the parameters and the running statistics of the fast one.

    Raises:
        AssertionError: if a tensor of either has no place in the other.
    """
    source, target = fast.state_dict(), plain.state_dict()
    rows: dict[str, set[int | None]] = {}
    for fast_name, row, plain_name in _places(plain):
        rows.setdefault(fast_name, set()).add(row)
        assert fast_name in source, f"the fast network has no {fast_name}"
        tensor = source[fast_name] if row is None else source[fast_name][row]
        assert tensor.shape == target[plain_name].shape, (fast_name, tensor.shape, target[plain_name].shape)
        target[plain_name].copy_(tensor)
    assert set(source) == set(rows), f"the plain network has no {sorted(set(source) - set(rows))}"
    for name, known in rows.items():
        assert known == {None} or len(source[name]) == len(known), (name, source[name].shape, known)


def stacked_state(plain: PlainSupernet) -> dict[str, Tensor]:
    """Parameters and running statistics of the plain network under the names and in the layout of the fast one."""
    return _stack(plain, plain.state_dict())


def stacked_gradients(plain: PlainSupernet) -> dict[str, Tensor]:
    """Gradients of the plain network's parameters under the names and in the layout of the fast one's."""
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in plain.named_parameters()
    }
    return _stack(plain, gradients)


def _stack(plain: PlainSupernet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rows: dict[str, dict[int | None, Tensor]] = {}
    for fast_name, row, plain_name in _places(plain):
        if plain_name in tensors:
            known = rows.setdefault(fast_name, {}).setdefault(row, tensors[plain_name])
            # The pools of all edges that leave a node see the same pixels: the fast network keeps one row for them.
            torch.testing.assert_close(tensors[plain_name], known, rtol=1e-6, atol=1e-12)
    return {
        name: parts[None] if None in parts else torch.stack([parts[row] for row in range(len(parts))])
        for name, parts in rows.items()
    }


def _places(plain: PlainSupernet) -> Iterator[Place]:
    """Every tensor of the plain network but its operations' `num_batches_tracked`, which the fast one does without."""
    edges = edges_of(plain.nodes)
    rows = {edge: row for row, edge in enumerate(sorted(edges))}  # the fast one works source by source
    for name in plain.state_dict():
        head, *tail = name.split(".")
        if head == "stem":
            yield Place(name, None, name)
        elif head == "classifier":
            yield Place(f"classifier.linear.{tail[0]}", None, name)
        elif tail[1] in ("before_previous", "previous"):
            yield Place(f"cells.{tail[0]}.inputs.{'.'.join(tail[1:])}", None, name)
    for index, cell in enumerate(plain.cells):
        for number, (edge, mixed) in enumerate(zip(edges, cell.edges, strict=True)):
            for position, (primitive, operation) in enumerate(zip(plain.primitives, mixed.operations, strict=True)):
                if primitive in OWN:  # modules of their own in both networks
                    own = [name for name in plain.primitives if name in OWN].index(primitive)
                    for tensor in operation.state_dict():
                        yield Place(
                            f"cells.{index}.own.edges.{own}.{rows[edge]}.{tensor}",
                            None,
                            f"cells.{index}.edges.{number}.operations.{position}.{tensor}",
                        )
                    continue
                row = edge[0] if "pool" in primitive else rows[edge]
                for part, path in _parts_of(primitive, operation).items():
                    for tensor in operation.get_submodule(path).state_dict():
                        if tensor != "num_batches_tracked":
                            yield Place(
                                f"cells.{index}.operations.{primitive}.{part}.{tensor}",
                                row,
                                f"cells.{index}.edges.{number}.operations.{position}.{path}.{tensor}",
                            )


def _parts_of(primitive: str, operation: nn.Module) -> dict[str, str]:
    if isinstance(operation, (Zero, nn.Identity)):
        return {}
    if isinstance(operation, FactorizedReduce):
        return _PARTS["reduce"]  # row of the edge: sources 0 and 1 come first
    return _PARTS[primitive if primitive in _PARTS else primitive[: len("sep_conv")]]
