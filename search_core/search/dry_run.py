"""Memory of a whole search, measured on a short one: all that a trial does, with few steps an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from search_core.cost.penalty import CostTable
from search_core.data.datasets import ImageData, load_data
from search_core.data.splits import DerivedSplit, Split
from search_core.errors import NonFiniteLossError
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.search.options import SearchOptions
from search_core.search.search import Search
from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import CellSpace, Code
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkSize
from search_core.strategies.multi_trial.options import MultiTrialOptions

#: Steps of an epoch: momenta exist after the first one, a CUDA graph is recorded and replayed after some more.
_STEPS, _STEPS_OF_GRAPH = 3, 6
_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class SearchMemory:
    """Most memory that the process of a search takes, in bytes.

    Attributes:
        host_bytes: resident memory of the process, of which the libraries are a large part; the loader processes of
            `image-folder` are not in it.
        gpu_bytes: all that it takes from its GPU: data set, tensors, the allocator's reserve and the CUDA context;
            None on the CPU.
        device: where it was measured.
    """

    host_bytes: int
    gpu_bytes: int | None
    device: str


def measure_search(options: SearchOptions, device: torch.device, free_bytes: int | None = None) -> SearchMemory:
    """Run two short epochs of a search in this process, which should be a fresh one, and read its peaks.

    The data set is loaded whole, as a trial holds it; training, validation, the child and the copy of the state for a
    checkpoint are those of a trial.

    Args:
        options: the search.
        device: where it runs.
        free_bytes: on a GPU, what was free there before this process used it, from another process.

    Raises:
        DataError: if the data set cannot be read or has less than one batch.
        RuntimeError: `is_out_of_gpu_memory`, if the search does not fit on the GPU.
    """
    data = load_data(options.dataset, device)
    steps = _STEPS_OF_GRAPH if options.has_graph and device.type == "cuda" else _STEPS
    short = replace(data, train=_Beginning(data.train, steps), validation=_Beginning(data.validation, steps))
    work: Search | ChildTraining
    if isinstance(options.strategy, MultiTrialOptions):  # a trial trains one child
        work = _heaviest_child(options, short, device)
    else:
        work = Search(replace(options, epochs=max(options.epochs, _EPOCHS)), short, device)
    try:
        for _ in range(_EPOCHS):
            work.run_epoch()
            work.state_dict()
    except NonFiniteLossError:  # the memory was taken all the same
        pass
    return SearchMemory(
        host_bytes=peak_resident_bytes(),
        gpu_bytes=_taken(device, free_bytes) if device.type == "cuda" else None,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )


def _heaviest_child(options: SearchOptions, data: ImageData, device: torch.device) -> ChildTraining:
    """A child of the operations which move most elements: about the largest that there is."""
    assert isinstance(options.strategy, MultiTrialOptions)
    estimate = replace(options.strategy.estimate, epochs=max(options.strategy.estimate.epochs, _EPOCHS))
    last = options.epochs * options.strategy.children - 1  # `widths` grow
    order = ChildOrder(
        number=last, code=_heaviest_code(NetworkSize(options.network, data.input_shape, data.num_classes))
    )
    strategy = replace(options.strategy, estimate=estimate)  # type: ignore[arg-type]  # `replace` kept its class
    return ChildTraining(replace(options, strategy=strategy), data, order, device)


def _heaviest_code(size: NetworkSize) -> Code:
    space = genotype_space(size.network)
    if isinstance(space, ChainSpace):
        return space.largest()
    assert isinstance(space, CellSpace)
    costs = CostTable(size)
    return space.heaviest({name: costs.table("memory_access", name).sum(0) for name in CELL_TYPES})


def peak_resident_bytes() -> int:
    """Most resident memory that this process has had, since its program began."""
    # Not `ru_maxrss`, which begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _taken(device: torch.device, free_bytes: int | None) -> int:
    """What this process takes from the GPU at its peak: the allocator gives some of its reserve back at times."""
    reserve = torch.cuda.max_memory_reserved(device)
    if free_bytes is None:
        return reserve
    given_back = reserve - torch.cuda.memory_reserved(device)
    return max(free_bytes - torch.cuda.mem_get_info(device)[0] + given_back, reserve)


class _Beginning(DerivedSplit):
    """A split of which a pass ends after a few batches."""

    def __init__(self, split: Split, num_batches: int) -> None:
        super().__init__(split)
        self._num_batches = num_batches

    def _changed(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(batches, self._num_batches)
