"""What the numbers of an epoch depend on beside code and settings: processor, GPU, threads, PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from search_core.cost.latency_table import Place


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Plain data of this process and its device: what is equal on two machines computes the same, bit for bit, on CPUs.

    Args:
        device: where it computes; without a GPU, `gpu` and `cuda` are None.
    """
    cpu = Place.of(torch.device("cpu"))
    gpu = Place.of(device) if device.type == "cuda" else None
    return {
        "cpu": cpu.name,  # virtual machines may hide the model
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": cpu.threads,
        "torch": str(cpu.torch_version),  # what PyTorch says is a class of its own, which no checkpoint may hold
        "gpu": None if gpu is None else gpu.name,
        "cuda": None if gpu is None else gpu.cuda_version,
    }


@contextmanager
def with_threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads inside; None for as many as outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
