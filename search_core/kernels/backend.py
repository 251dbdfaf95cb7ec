"""Which code runs the kernels: Numba's, Triton's or torch's own; and how images are shared among threads."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search_core.kernels.gpu import launch

_LANES = {torch.float32: (16, 8, 4), torch.float64: (8, 4)}
_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_PARTS = 8
_NUMBERS_OF_A_PART = 1 << 17  # fewer are not worth a thread
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
FLAGS: npt.NDArray[np.uint8] = np.zeros(1, np.uint8)

_native_allowed = True
_pool: ThreadPoolExecutor | None = None


@cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def use_native(x: Tensor) -> bool:
    """Whether the Numba kernels can work on a tensor (..., C): on a CPU, C a multiple of 4, Numba installed."""
    return _native_allowed and x.device.type == "cpu" and x.dtype in _LANES and x.shape[-1] % 4 == 0 and _has_numba()


def use_triton(x: Tensor) -> bool:
    """Whether the Triton kernels can work on a tensor: on a GPU, of at most 32 bits, with Triton and a C compiler."""
    return _native_allowed and x.device.type == "cuda" and x.dtype in _GPU_DTYPES and launch.has_triton()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What `torch.autocast` asks for on a device; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def check_layout(like: Tensor, *tensors: Tensor | None) -> None:
    """Hold what kernels take for granted of the tensors whose addresses they get: one type, one device, no gaps.

    Raises:
        TypeError: if types or devices differ.
    """
    for tensor in tensors:
        if tensor is None:
            continue
        if (tensor.dtype, tensor.device) != (like.dtype, like.device):
            raise TypeError(f"all must be {like.dtype} on {like.device}, got {tensor.dtype} on {tensor.device}")
        assert tensor.is_contiguous()


def defined(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Gradients of equal outputs, with zeros for those of outputs that nobody used; at least one was used."""
    like = next(gradient for gradient in gradients if gradient is not None)
    return [torch.zeros_like(like) if gradient is None else gradient for gradient in gradients]


@contextmanager
def torch_only() -> Iterator[None]:
    """Compute everything inside with torch's own operations, as on machines without Numba and Triton."""
    global _native_allowed
    before, _native_allowed = _native_allowed, False
    try:
        yield
    finally:
        _native_allowed = before


def kind_of(x: Tensor) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """What Numba specialises a kernel on: an array of the dtype of x (..., C), and a tuple as long as a register.

    A register takes the largest power of two that divides the channels; 16 floats are one of AVX-512 or two of AVX2.
    """
    lanes = next(lanes for lanes in _LANES[x.dtype] if x.shape[-1] % lanes == 0)
    return np.zeros(1, _DTYPES[x.dtype]), (0,) * lanes


def num_parts(num_images: int, numbers: int) -> int:
    """Into how many parts a batch is cut.

    It depends on the work alone, not on the threads at hand: sums over parts are the same on every machine.

    Args:
        num_images: images of the batch.
        numbers: elements of one feature map of the batch.
    """
    return max(1, min(_MAX_PARTS, num_images, numbers // _NUMBERS_OF_A_PART))


def over_images(kernel: Callable[..., None], num_images: int, parts: int, *arguments: Any) -> None:
    """Run `kernel(part, first image, image after the last, *arguments)` for every part, in parallel.

    The threads are those of torch's own OpenMP where it can be had: between torch's operations they wait in a busy
    loop, and threads of ours beside them find no core (a step of 16 channels and 8 cells took 1.3 times as long).
    """
    bounds = [num_images * part // parts for part in range(parts + 1)]
    remaining = iter(range(parts))

    def work(_: Any = None) -> None:
        for part in remaining:  # shared by all threads: each takes the next part
            kernel(part, bounds[part], bounds[part + 1], *arguments)

    threads = torch.get_num_threads()
    if min(parts, threads) == 1:
        work()
    elif (openmp := _openmp_of_torch()) is not None:
        _run_on_openmp(openmp, work, threads)  # all of them: a smaller team would end threads that torch needs
    else:
        for task in [_threads().submit(work) for _ in range(min(parts, threads))]:
            task.result()


@cache
def _openmp_of_torch() -> Callable[..., None] | None:
    """GNU OpenMP's entry point in the runtime that torch is linked with; None where torch has another one."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return cast("Callable[..., None]", library.GOMP_parallel)
    except (OSError, AttributeError):
        return None


def _run_on_openmp(openmp: Callable[..., None], work: Callable[[], None], threads: int) -> None:
    errors: list[BaseException] = []

    def guarded(_: Any) -> None:
        try:
            work()
        except BaseException as error:  # must not unwind through OpenMP
            errors.append(error)

    openmp(_CALLBACK(guarded), None, ctypes.c_uint(threads), ctypes.c_uint(0))
    if errors:
        raise errors[0]


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="kernels")
    return _pool


def _forget_threads() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_threads)  # a forked process has none of its parent's threads
