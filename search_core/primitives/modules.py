"""Modules of the built-in operations, and the small blocks around them (SNAS section 4.1, DARTS section 3.1).

All take and return (N, C, H, W); with stride 2 the size is halved, odd sizes round up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Zero(nn.Module):
    """The primitive `none`: zeros of the size that the edge asks for."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of shape (N, C, ceil(H / stride), ceil(W / stride))."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class _SubsampledConv(nn.Conv2d):
    """1x1 conv of stride 2, as one of stride 1 of every second pixel.

    oneDNN 3.x corrupts memory in the backward pass of the strided form, with few channels in channels_last.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1, stride=2, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, ceil(H / 2), ceil(W / 2))."""
        return functional.conv2d(input[:, :, ::2, ::2], self.weight)


class FactorizedReduce(nn.Module):
    """Halve the size without losing pixels: two 1x1 convs of stride 2, the second one pixel off, side by side."""

    def __init__(self, channels_in: int, channels_out: int, *, affine: bool) -> None:
        super().__init__()
        self.conv_even = _SubsampledConv(channels_in, channels_out // 2)
        self.conv_odd = _SubsampledConv(channels_in, channels_out - channels_out // 2)
        self.norm = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, ceil(H / 2), ceil(W / 2))."""
        x = functional.relu(x)
        height, width = x.shape[2:]
        # An odd size has one odd position less than even ones: zeros stand in for it.
        shifted = functional.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.conv_even(x), self.conv_odd(shifted)], dim=1))  # type: ignore[no-any-return]


class ReluConvBn(nn.Sequential):
    """ReLU, 1x1 conv, batch norm: brings the inputs of a cell to its number of channels."""

    def __init__(self, channels_in: int, channels_out: int, *, affine: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out, affine=affine),
        )


class DilatedDepthwise(nn.Conv2d):
    """Depthwise conv of dilation 2.

    With stride 2 it reads every second pixel only, at every tap: so it is an ordinary conv of that sub-image, the same
    sums in a part of the time (`tests/benchmarks/dilated.py`).
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        padding = 2 * (kernel // 2)
        super().__init__(channels, channels, kernel, padding=padding, dilation=2, groups=channels, bias=False)
        self.outer_stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        if self.outer_stride == 1:
            return super().forward(x)
        padding = self.kernel_size[0] // 2
        return functional.conv2d(x[:, :, ::2, ::2], self.weight, padding=padding, groups=self.groups)


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels, bias=False)


def _pointwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 1, bias=False)


def _sep_conv(kernel: int, channels: int, stride: int, affine: bool) -> nn.Module:
    return _named(
        relu1=nn.ReLU(),
        depthwise1=_depthwise(channels, kernel, stride),
        pointwise1=_pointwise(channels),
        norm1=nn.BatchNorm2d(channels, affine=affine),
        relu2=nn.ReLU(),
        depthwise2=_depthwise(channels, kernel, 1),
        pointwise2=_pointwise(channels),
        norm2=nn.BatchNorm2d(channels, affine=affine),
    )


def _dil_conv(kernel: int, channels: int, stride: int, affine: bool) -> nn.Module:
    return _named(
        relu=nn.ReLU(),
        depthwise=DilatedDepthwise(channels, kernel, stride),
        pointwise=_pointwise(channels),
        norm=nn.BatchNorm2d(channels, affine=affine),
    )


def _factorized_conv(channels: int, stride: int, affine: bool) -> nn.Module:
    return _named(
        relu=nn.ReLU(),
        conv_1x7=nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        conv_7x1=nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        norm=nn.BatchNorm2d(channels, affine=affine),
    )


def _pool(pool: Callable[[int], nn.Module], channels: int, stride: int, affine: bool) -> nn.Module:
    return _named(pool=pool(stride), norm=nn.BatchNorm2d(channels, affine=affine))


def _max_pool(stride: int) -> nn.Module:
    return nn.MaxPool2d(3, stride=stride, padding=1)


def _average_pool(stride: int) -> nn.Module:
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


def _none(channels: int, stride: int, affine: bool) -> nn.Module:
    return Zero(stride)
