"""What stands for `torch.cuda` and for what C++ decides by the device before an operation is dispatched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode

from search_core.kernels.gpu import launch
from tests.pretended_gpu.device import CUDA, MACHINES, CaptureError, PretendedGenerator, PretendedTensor
from tests.pretended_gpu.gpu import Gpu
from tests.pretended_gpu.recording import Recording

_engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
_autocast = torch.autocast
_group = torch.utils._foreach_utils._group_tensors_by_device_and_dtype  # type: ignore[attr-defined]


class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.recording: Recording | None = None

    def replay(self) -> None:
        """Run what was recorded, in one launch."""
        assert self.recording is not None, "a graph must be recorded before it is replayed"
        self._gpu.launches["cudaGraphLaunch"] += 1
        with torch._C._DisableTorchDispatch(), torch.no_grad():  # type: ignore[attr-defined]
            self.recording.replay()


class Stream:
    """Stands for `torch.cuda.Stream`: everything runs at once, so there is nothing to wait for."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        """The GPU waits, not the host."""

    def is_capturing(self) -> bool:
        """Whether a graph is being recorded."""
        return self._gpu.recording is not None

    def synchronize(self) -> None:
        """The host waits."""
        self._gpu.note_sync("stream")


class Cuda:
    """The functions of `torch.cuda` that the product calls, by their names there.

    Args:
        gpu: the one that they are about.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._capture_error_mode: str | None = None  # of the capture that runs
        self._is_broken = False

    def names(self) -> dict[str, Any]:
        """What each name of `torch.cuda` stands for."""
        gpu = self._gpu
        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "is_bf16_supported": lambda *_, **__: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda *_: "pretended GPU",
            "_lazy_init": lambda: None,
            "synchronize": lambda *_: gpu.note_sync("synchronize"),
            "empty_cache": lambda: None,
            "mem_get_info": lambda *_: (100 << 30, 140 << 30),
            "memory_reserved": lambda *_: 1 << 30,
            "max_memory_reserved": lambda *_: 1 << 30,
            "max_memory_allocated": lambda *_: 1 << 29,
            "reset_peak_memory_stats": lambda *_: None,
            "Stream": lambda *_: Stream(gpu),
            "current_stream": lambda *_: Stream(gpu),
            "stream": lambda stream: stream,
            "CUDAGraph": lambda: Graph(gpu),
            "graph": self.capturing,
        }

    def names_of_accelerator(self) -> dict[str, Any]:
        """Likewise of `torch.accelerator`."""
        return {
            "is_available": lambda: True,
            "current_accelerator": lambda **_: CUDA,
            "current_stream": lambda *_: Stream(self._gpu),
        }

    @contextmanager
    def capturing(self, graph: Graph, *, capture_error_mode: str = "global") -> Iterator[None]:
        """Stands for `torch.cuda.graph`; what other threads did is found out at the end, as there."""
        gpu = self._gpu
        gpu.recording, self._capture_error_mode = Recording(), capture_error_mode
        gpu.recordings += 1
        try:
            yield
        finally:
            graph.recording, gpu.recording, self._capture_error_mode = gpu.recording, None, None
            with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
                graph.recording.end()
        if self._is_broken:
            self._is_broken = False
            raise CaptureError("operation failed due to a previous error during capture")

    def pin_memory(self, tensor: Tensor) -> Tensor:
        """Stands for `Tensor.pin_memory`, which allocates through CUDA."""
        if self._capture_error_mode == "global":
            self._is_broken = True
            raise CaptureError("operation not permitted when stream is capturing")
        pinned = tensor.clone()
        pinned.is_pretended_pinned = True  # type: ignore[attr-defined]
        return pinned


class _Calls(TorchFunctionMode):
    """Python's calls of torch: what C++ would decide by a device that it does not know of."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it, with the device and the generator that it was given in Python."""
        kwargs = kwargs or {}
        if func is nn.functional.one_hot and isinstance(args[0], PretendedTensor):
            return self._one_hot(*args, **kwargs)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda) and isinstance(args[0], Tensor):
            wanted = {Tensor.cpu: ("cpu",), Tensor.cuda: ("cuda",)}.get(func, args[1:])
            return self._moved(args[0], wanted, kwargs)
        gpu, generator = self._gpu, kwargs.get("generator")
        if generator is None and not gpu.is_host_free:
            return func(*args, **kwargs)
        before = gpu.generator, gpu.is_host_free
        gpu.generator, gpu.is_host_free = generator, False
        try:
            return func(*args, **kwargs)
        finally:
            gpu.generator, gpu.is_host_free = before

    @staticmethod
    def _one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
        """On CUDA it does not look at the values."""
        assert num_classes > 0, "one_hot without a number of classes waits for the GPU"
        zeros = torch.zeros((*labels.shape, num_classes), dtype=torch.int64, device=labels.device)
        return zeros.scatter_(-1, labels.unsqueeze(-1), 1)

    def _moved(self, tensor: Tensor, wanted: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if wanted and isinstance(wanted[0], Tensor):
            wanted = (wanted[0].device, wanted[0].dtype, *wanted[1:])
        options = {name: value for name, value in kwargs.items() if name != "copy"}
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*wanted, **options)
        if device is None and isinstance(tensor, PretendedTensor) and kwargs.get("memory_format") is not None:
            return tensor.contiguous(memory_format=kwargs["memory_format"])
        if device is not None and device.type != tensor.device.type:
            return self._copied(tensor, device, dtype, non_blocking)
        if device is None or device.type != "cuda":
            return tensor.to(*wanted, **kwargs)
        if dtype is not None and dtype != tensor.dtype:
            return tensor.to(dtype)
        return tensor.clone() if kwargs.get("copy") else tensor

    def _copied(self, tensor: Tensor, device: torch.device, dtype: torch.dtype | None, non_blocking: bool) -> Tensor:
        if not (non_blocking and getattr(tensor, "is_pretended_pinned", False)):
            return torch.ops.aten._to_copy(tensor, dtype=dtype, device=device)  # type: ignore[no-any-return]
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            return PretendedTensor(tensor.to(dtype, copy=True))


class _Autocast(_autocast):  # type: ignore[misc,valid-type]
    """CUDA's autocast, on for the CPU too, where C++ takes the tensors to be."""

    def __init__(self, device_type: str, *arguments: Any, **options: Any) -> None:
        super().__init__(device_type, *arguments, **options)
        self._cpu = _autocast("cpu", *arguments, **options) if device_type == "cuda" else None

    def __enter__(self) -> Any:
        if self._cpu is not None:
            self._cpu.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        result = super().__exit__(*error)
        if self._cpu is not None:
            self._cpu.__exit__(*error)
        return result


def _grouped(tensors: Any, with_indices: bool = False) -> Any:
    """Groups of tensors under the device that they say they are on."""
    groups = {}
    for (_, dtype), value in _group(tensors, with_indices).items():
        first = next(tensor for column in value[0] for tensor in column if tensor is not None)
        groups[first.device, dtype] = value
    return groups


@contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """A machine with one pretended GPU, of which all that `torch` says inside is true for the product.

    Yields:
        The GPU, which counts.
    """
    gpu = Gpu()
    cuda = Cuda(gpu)

    def backward(*args: Any, **kwargs: Any) -> Any:
        before = gpu.is_host_free
        gpu.is_host_free = any(isinstance(tensor, PretendedTensor) for tensor in args[0])
        try:
            with _Calls(gpu):  # the engine was called from inside one
                return _engine(*args, **kwargs)
        finally:
            gpu.is_host_free = before

    lifts_cpu = torch._C._only_lift_cpu_tensors()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts_cpu)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `Module.to` makes new parameters
        substitutes = (
            (torch.cuda, cuda.names()),
            (torch.accelerator, cuda.names_of_accelerator()),
            (torch, {"Generator": PretendedGenerator, "autocast": _Autocast}),
            (torch.autograd, {"_engine_run_backward": backward}),
            (Tensor, {"pin_memory": lambda tensor, *_: cuda.pin_memory(tensor)}),
            (clip_grad, {"_group_tensors_by_device_and_dtype": _grouped}),
            (optimizer, {"_group_tensors_by_device_and_dtype": _grouped}),
            (launch, {"has_triton": lambda: False}),
        )
        for owner, names in substitutes:
            for name, substitute in names.items():
                stack.enter_context(mock.patch.object(owner, name, substitute))
        MACHINES.append(gpu)
        stack.callback(MACHINES.pop)
        stack.enter_context(_Calls(gpu))
        stack.enter_context(gpu)
        yield gpu
