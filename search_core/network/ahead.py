"""Compiles the kernels of CPUs ahead of the first search, which would take a minute and more for it.

Numba keeps the machine code beside its source. Run: `python -m search_core.network.ahead [float32] [float64]`.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import Pool

import torch

from search_core.network.supernet import Supernet
from search_core.space.plan import NetworkOptions, NetworkSize

#: Channels of networks whose one cell, a reduction with twice as many, uses each number of lanes of a register.
_CHANNELS = {"float32": (8, 4, 2), "float64": (4, 2)}


def compile_for(dtype: str, channels: int) -> None:
    """Train one step, and evaluate.

    Args:
        dtype: name of the precision, `float32` or `float64`.
        channels: of the network.
    """
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, dtype))
    network = Supernet(NetworkSize(NetworkOptions(nodes=1, cells=1, init_channels=channels), (1, 8, 8), 10), seed=0)
    images, z = torch.randn(4, 1, 8, 8), {name: torch.full((2, 8), 0.125) for name in ("normal", "reduce")}
    network(images, z).sum().backward()
    with torch.no_grad():
        network.eval()(images, z)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["float32"]
    if unknown := set(wanted) - set(_CHANNELS):
        print(f"error: a precision must be {' or '.join(_CHANNELS)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        sys.exit(2)
    jobs = [(dtype, channels) for dtype in wanted for channels in _CHANNELS[dtype]]
    with Pool(min(len(jobs), os.cpu_count() or 1)) as processes:
        processes.starmap(compile_for, jobs, chunksize=1)
