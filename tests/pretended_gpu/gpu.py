"""The pretended GPU: every operation passes through it, is checked as CUDA would check it, and counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretended_gpu.device import CaptureError, DeviceMixError, PretendedGenerator, PretendedTensor, is_cuda
from tests.pretended_gpu.recording import Recording
from tests.pretended_gpu.trees import mapped, tensors_of

_ROOT = Path(__file__).parents[2]
_PRODUCT = (f"{_ROOT}/search_core/", f"{_ROOT}/orchestrator/")
_MACHINERY = tuple(str(Path(__file__).with_name(name)) for name in ("cuda.py", "device.py", "gpu.py", "recording.py"))
_MACHINERY += (str(Path(torch.__file__).parent),)

#: Operations whose result's size depends on what the GPU computes, or that hand it to the host: CUDA waits inside.
_WAITING = {"nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero", "_local_scalar_dense"}
_RANDOM = {
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "multinomial", "bernoulli"),
    *("bernoulli_", "exponential_", "normal_", "random_", "uniform_"),
}
#: Besides views: operations that launch no kernel.
_NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_unsafe_view", "detach", "alias", "lift_fresh"),
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Gpu(TorchDispatchMode):
    """A mode in which operations on pretended tensors run, on the memory behind them.

    Attributes:
        syncs: how often the host waited for the GPU, by reason and line of the product. A copy from pageable memory
            waits, as PyTorch has it, until all that was launched before is done.
        launches: operations that launch at least one kernel, by name; a replayed graph is one of `cudaGraphLaunch`.
        recording: of the CUDA graph that is being captured; None outside.
        recordings: how many were begun.
        generator: the one that the present call was given: C++ hands on another object of the same state.
        observe: called with every operation that launches, its plain arguments and its result; None outside of counts.
        is_host_free: whether a backward pass runs outside any other call: autograd's engine then makes tensors on the
            device that C++ knows, which are meant for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.recording: Recording | None = None
        self.recordings = 0
        self.generator: PretendedGenerator | None = None
        self.observe: Callable[[Any, Any, Any, Any], None] | None = None
        self.is_host_free = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, for 4 CPU seconds, to have it pass this class by

    def note_sync(self, why: str) -> None:
        """Count that the host waits for the GPU.

        Raises:
            CaptureError: if a graph is being recorded.
        """
        place = f"{why} at {_line_of_product()}"
        self.syncs[place] += 1
        if self.recording is not None:
            raise CaptureError(f"the host cannot wait while a CUDA graph is recorded: {place}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check an operation, count it and run it."""
        kwargs, name = dict(kwargs or {}), func.__name__.split(".")[0]
        tensors = [*tensors_of(args), *tensors_of(kwargs.values())]
        on_gpu = self._place(name, args, kwargs, tensors)
        if on_gpu and name in _WAITING:
            self.note_sync(name)
        if name in _RANDOM:
            self._check_randomness(func, kwargs.get("generator"), on_gpu)
        launches = on_gpu and not func.is_view and name not in _NO_KERNEL
        if launches:
            self.launches[name] += 1
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        plain = _plain(args), {name: _plain(value) for name, value in kwargs.items()}
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            run = self.recording.run if self.recording is not None and on_gpu else _run
            result = run(func, *plain)
            if launches and self.observe is not None:
                self.observe(func, *plain, result)
        if not on_gpu:
            return result
        written = {id(tensor.memory): tensor for tensor in tensors if isinstance(tensor, PretendedTensor)}
        return mapped(lambda tensor: written[id(tensor)] if id(tensor) in written else _on_gpu(tensor), result)

    def _place(self, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        """Whether an operation runs on the GPU, or what it gives lies there; copies between devices are counted.

        Raises:
            DeviceMixError: if its tensors are of two devices.
        """
        here = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        elsewhere = [tensor for tensor in tensors if not isinstance(tensor, PretendedTensor)]
        if name == "_to_copy":
            return self._copy_between(bool(here), self._wanted(kwargs, bool(here)))
        if name == "copy_":
            return self._copy_between(isinstance(args[1], PretendedTensor), isinstance(args[0], PretendedTensor))
        if name in _INDEXING:
            return self._place_of_indices(args[0], [index for index in args[1] if index is not None])
        # Numbers as tensors without dimensions may come from the CPU.
        if here and any(tensor.dim() and tensor.device.type != "meta" for tensor in elsewhere) and name != "set_":
            shapes = [f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors]
            raise DeviceMixError(f"{name}: all tensors must be on one device, got {shapes} at {_line_of_product()}")
        return self._wanted(kwargs, bool(here))

    def _wanted(self, kwargs: Any, default: bool) -> bool:
        device = kwargs.get("device")
        return default if device is None else is_cuda(device) or self.is_host_free

    def _copy_between(self, from_gpu: bool, to_gpu: bool) -> bool:
        if from_gpu and not to_gpu:
            self.note_sync("copy to the CPU")
        if to_gpu and not from_gpu:
            self.note_sync("copy from pageable memory")
        return to_gpu

    def _place_of_indices(self, tensor: Tensor, indices: list[Tensor]) -> bool:
        on_gpu = isinstance(tensor, PretendedTensor)
        for index in indices:
            if on_gpu and not isinstance(index, PretendedTensor):
                self.note_sync("index on the CPU")
            elif not on_gpu and isinstance(index, PretendedTensor):
                raise DeviceMixError(f"an index must be on the CPU as the tensor is, got {index.device}")
            if on_gpu and index.dtype in (torch.bool, torch.uint8):
                self.note_sync("index by a mask")
        return on_gpu

    def _check_randomness(self, func: Any, generator: torch._C.Generator | None, on_gpu: bool) -> None:
        if on_gpu and self.recording is not None:
            raise CaptureError(f"{func}: random numbers in a CUDA graph, of a generator that it does not know")
        if generator is None:
            return
        known = self.generator or generator
        if is_cuda(known.device) != on_gpu:
            expected = "cuda" if on_gpu else "cpu"
            raise DeviceMixError(
                f"{func}: expected a {expected!r} generator, got one on {known.device} at {_line_of_product()}"
            )


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _plain(value: Any) -> Any:
    """The same arguments, with the memory of pretended tensors in their place."""
    kind = type(value)  # faster than `isinstance`, and this is called for each argument of each operation
    if kind is PretendedTensor:
        return value.memory
    return kind([_plain(item) for item in value]) if kind is list or kind is tuple else value


def _on_gpu(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, PretendedTensor) else PretendedTensor(tensor)


def _line_of_product() -> str:
    """The innermost line of the product that is being run, else of whoever else asked."""
    lines = [(frame.f_code.co_filename, frame.f_lineno) for frame in _stack(sys._getframe(1))]
    own = [line for line in lines if line[0].startswith(_PRODUCT)]
    file, number = (own or [line for line in lines if not line[0].startswith(_MACHINERY)])[0]
    return f"{file.removeprefix(f'{_ROOT}/')}:{number}"


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
