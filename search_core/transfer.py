"""From the host to a device without making the host wait."""

from __future__ import annotations

import torch
from torch import Tensor


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device.

    From pageable memory the host would wait until the GPU has done all that was launched before; from pinned memory it
    goes on. PyTorch keeps the pinned memory until the copy is done.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
