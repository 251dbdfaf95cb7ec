"""CUDA kernels that operations of the pretended GPU would launch, by phase of a step and by file, with bytes.

An operation of PyTorch launches one kernel, or as many as its CUDA code does: the table below was read there. Kernels
of libraries (cuDNN, cuBLAS) count as one each, of which more may come: conversions of layouts, sums of parts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from search_core.kernels.gpu import launch
from tests.pretended_gpu.device import PretendedTensor
from tests.pretended_gpu.gpu import Gpu
from tests.pretended_gpu.trees import tensors_of

#: Kernels of an operation, fills and copies of memory among them; what is not here launches one.
_KERNELS = {
    "native_batch_norm": 3,  # statistics, running statistics, the norm
    "native_batch_norm_backward": 2,
    "max_pool2d_with_indices_backward": 2,
    "nll_loss_backward": 2,
    "index_add": 2,
    "index_put": 3,
    "slice_backward": 2,
    "select_backward": 2,
    "constant_pad_nd": 2,
    "select_scatter": 2,
    "embedding_dense_backward": 3,
    "baddbmm": 2,  # a copy of what is added to, then the product
    "addmm": 2,
}
_MAX_CAT = 128  # tensors that one launch joins
#: Tensors and blocks of 65,536 numbers of one launch over many tensors (`multi_tensor_apply`), by lists that it takes.
_TENSORS_OF_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS_OF_A_LAUNCH, _BLOCK = 320, 65_536
#: A kernel of a graph takes this long, or as long as its bytes at the bandwidth of an H100's memory.
LAUNCH_S, BYTES_PER_S = 2.5e-6, 3.35e12
_ROOT = Path(__file__).parents[2]
_PRODUCT = (f"{_ROOT}/search_core/", f"{_ROOT}/tests/search_core/", f"{_ROOT}/tests/benchmarks/")
_PHASES = {
    "utils/clip_grad.py": "clip",
    "optim/sgd.py": "theta",
    "training/optimisers.py": "theta",
    "optim/adam.py": "alpha",
    "network/supernet.py": "forward",
    "search_core/plain_supernet.py": "forward",
}


@dataclass
class Launches:
    """What one step launches.

    Attributes:
        kernels: by phase and file.
        operations: kernels by operation.
        bytes_of: read and written by operation, each tensor of one once.
        graph_s: predicted time of the kernels in a CUDA graph.
    """

    kernels: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    bytes_of: Counter[str] = field(default_factory=Counter)
    graph_s: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Of all operations."""
        return self.bytes_of.total()

    def clear(self) -> None:
        """Forget all."""
        vars(self).update(vars(Launches()))

    def add(self, name: str, kernels: int, tensors: list[Tensor]) -> None:
        """One operation."""
        num_bytes = sum({_memory(tensor): _bytes(tensor) for tensor in tensors}.values())
        self.kernels[_origin(sys._getframe(1))] += kernels
        self.operations[name] += kernels
        self.bytes_of[name] += num_bytes
        self.graph_s += max(kernels * LAUNCH_S, num_bytes / BYTES_PER_S)

    def add_triton(self, kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        """In place of `search_core.kernels.gpu.launch.launch`: one kernel, not run, since counts need no numbers."""
        name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"
        self.add(name, 1, [_memory_of(tensor) for tensor in tensors_of(arguments)])

    def observe(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """One operation of PyTorch."""
        name = func.__name__.split(".")[0]
        self.add(name, _kernels(name, args), [*tensors_of((args, list(kwargs.values()), result))])


@contextmanager
def counted(gpu: Gpu, launches: Launches) -> Iterator[None]:
    """Adds what is launched inside."""
    before, gpu.observe = gpu.observe, launches.observe
    try:
        yield
    finally:
        gpu.observe = before


@contextmanager
def with_triton(launches: Launches) -> Iterator[None]:
    """As if Triton's kernels ran on the pretended GPU: they are counted, and what they would write is left as it is."""
    with (
        mock.patch.object(launch, "has_triton", return_value=True),
        mock.patch.object(launch, "launch", launches.add_triton),
    ):
        yield


def _memory_of(tensor: Tensor) -> Tensor:
    return tensor.memory if isinstance(tensor, PretendedTensor) else tensor


def _kernels(name: str, args: Any) -> int:
    if name.startswith("_foreach"):
        lists = [value for value in args if isinstance(value, list | tuple) and isinstance(value[0], Tensor)]
        depth = len(lists) + (not name.endswith("_") and "norm" not in name)
        return _launches_over([tensor.numel() for tensor in lists[0]], depth) + ("norm" in name)
    if name == "convolution_backward":
        return int(sum(args[10]))
    if name == "cat" or name == "stack":
        return -(-len(args[0]) // _MAX_CAT)
    return _KERNELS.get(name, 1)


def _launches_over(sizes: list[int], depth: int) -> int:
    """As `multi_tensor_apply` fills them: a launch is full of tensors, or of blocks."""
    launches = tensors = blocks = 0
    for size in sizes:
        tensors += 1
        chunks = -(-size // _BLOCK)
        for chunk in range(chunks):
            blocks += 1
            is_last = chunk == chunks - 1
            if blocks == _BLOCKS_OF_A_LAUNCH or (is_last and tensors == _TENSORS_OF_A_LAUNCH[depth]):
                launches, blocks, tensors = launches + 1, 0, 0 if is_last else 1
    return launches + (blocks > 0)


def _memory(tensor: Tensor) -> tuple[int, int, torch.Size]:
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape


def _bytes(tensor: Tensor) -> int:
    """Of the numbers themselves: what is repeated without a copy is read once."""
    own = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0]
    return int(torch.Size(own).numel()) * tensor.element_size()


def _origin(frame: FrameType | None) -> tuple[str, str]:
    """Phase of the step, and the file of the product that launched; `autograd` for what its engine does by itself."""
    phase, file = "other", ""
    while frame is not None:
        path, function = frame.f_code.co_filename, frame.f_code.co_name
        place = "/".join(path.rsplit("/", 2)[-2:])
        if function == "_engine_run_backward":
            return "backward", file or "autograd"
        if phase == "other":
            phase = _PHASES.get(place, phase)
        if not file and path.startswith(_PRODUCT):
            file = place.rpartition("/")[2]
        frame = frame.f_back
    return phase, file
