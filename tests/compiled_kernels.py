"""Compiles the kernels of CPUs in both precisions; Numba keeps them beside their source.

Processes side by side would each compile them, which takes a minute of CPU time on a new machine.
Run: `python -m tests.compiled_kernels`.
"""

from __future__ import annotations

from multiprocessing import get_context

import torch

from search_core.cell import NetworkOptions
from search_core.supernet import Supernet


def compile_for(dtype: torch.dtype) -> None:
    """Train one step, and evaluate, in this precision."""
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    network = Supernet(NetworkOptions(nodes=2, cells=3, init_channels=4), (1, 8, 8), 10, seed=0)
    images, z = torch.randn(4, 1, 8, 8), {name: torch.full((5, 8), 0.125) for name in ("normal", "reduce")}
    network(images, z).sum().backward()
    with torch.no_grad():
        network.eval()(images, z)


if __name__ == "__main__":
    with get_context("spawn").Pool(2) as processes:
        processes.map(compile_for, [torch.float32, torch.float64])
