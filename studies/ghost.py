"""Ghost convolution (Han et al., CVPR 2020, section 3.1): half of the channels are made cheaply of the other half."""

import torch
from torch import Tensor, nn


class GhostConv(nn.Module):
    """ReLU, a 3x3 convolution to half of the channels, a depthwise one of these for the others, batch norm."""

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        half = channels // 2
        self.primary = nn.Conv2d(channels, half, 3, stride=stride, padding=1, bias=False)
        self.cheap = nn.Conv2d(half, channels - half, 3, padding=1, groups=half, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        first = self.primary(x.relu())
        return self.norm(torch.cat([first, self.cheap(first)], dim=1))
