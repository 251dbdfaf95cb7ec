"""Processes that work together in a process group of gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import distributed

from search_core.ranks import Ranks

Part = Callable[[Ranks], Any]


def _process(rank: int, count: int, part: Part, folder: str) -> Any:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    try:
        return part(Ranks(rank, count))
    finally:
        distributed.destroy_process_group()


class Processes:
    """Processes that are started once, since that takes longer than any test here."""

    def __init__(self, most: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._executors = [ProcessPoolExecutor(1, mp_context=context) for _ in range(most)]

    def __call__(self, part: Part, count: int = 2) -> list[Any]:
        """What each of `count` ranks got from `part`, a function of a module or a `partial` of one."""
        with tempfile.TemporaryDirectory() as folder:
            running = [
                executor.submit(_process, rank, count, part, folder)
                for rank, executor in enumerate(self._executors[:count])
            ]
            return [future.result(timeout=300) for future in running]

    def close(self) -> None:
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
