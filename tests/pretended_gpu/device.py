"""Tensors and generators of a pretended CUDA device: they say `cuda:0` and compute on the CPU, with torch's own code.

What a GPU would not do is not done here either: no silent conversion to NumPy, and a CUDA generator has states that a
CPU generator does not take. What makes the host wait for the GPU is reported to the machine that is `current`.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

CUDA = torch.device("cuda", 0)
#: What CUDA gives as the state of a generator: seed and offset.
_STATE_BYTES = 16


class DeviceMixError(RuntimeError):
    """An operation got tensors, indices or a generator of two devices."""


class CaptureError(RuntimeError):
    """A CUDA graph was being recorded, and something happened that it cannot contain."""


class Machine(Protocol):
    """Counts what tensors report; also a dispatch mode, in which their operations run."""

    def note_sync(self, why: str) -> None:
        """The host waits for the GPU."""

    def __enter__(self) -> Any:
        """Enter the mode."""

    def __exit__(self, *error: Any) -> Any:
        """Leave it."""


#: The machines of the pretended GPUs that are entered; the last one is the current one.
MACHINES: list[Machine] = []


def current() -> Machine:
    """The machine that pretended tensors belong to."""
    assert MACHINES, "pretended tensors live inside `pretended_gpu` only"
    return MACHINES[-1]


def is_cuda(device: torch.device | str | None) -> bool:
    """Whether this names the GPU."""
    return device is not None and torch.device(device).type == "cuda"


class PretendedTensor(Tensor):
    """A tensor on the pretended GPU. C++ takes it for one on the CPU, so that autograd's engine runs."""

    memory: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, memory: Tensor) -> PretendedTensor:
        """The tensor whose numbers are in `memory`, on the CPU."""
        tensor: PretendedTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            memory.size(),
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            layout=memory.layout,
            requires_grad=False,
            device="cpu",
        )
        tensor.memory = memory
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside the mode's own stack, such as in a backward pass: run it there."""
        with current():
            return func(*args, **(kwargs or {}))

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.memory!r})"

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.memory.untyped_storage()

    def _read(self, why: str) -> Tensor:
        current().note_sync(why)
        return self.memory.detach()

    def tolist(self) -> Any:
        return self._read("tolist").tolist()

    def item(self) -> Any:
        return self._read("item").item()

    def __bool__(self) -> bool:
        return bool(self._read("bool"))

    def __int__(self) -> int:
        return int(self._read("int"))

    def __float__(self) -> float:
        return float(self._read("float"))

    def __index__(self) -> int:
        return self._read("index").__index__()

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def numpy(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            found: Tensor = memo[id(self)]
            return found
        with torch.no_grad():
            new: Tensor = self.detach().clone()
        if isinstance(self, nn.Parameter):
            new = nn.Parameter(new, self.requires_grad)
        else:
            new.requires_grad_(self.requires_grad)
        if self.grad is not None:
            new.grad = self.grad.__deepcopy__(memo)
        memo[id(self)] = new
        return new


#: States that generators on the GPU gave: what they hand out is a key of 16 bytes, as CUDA's is.
_STATES: list[Tensor] = []


class PretendedGenerator(torch._C.Generator):
    """Stands for `torch.Generator`: one on the GPU draws a CPU generator's numbers, so that both can be compared."""

    def __new__(cls, device: torch.device | str = "cpu") -> PretendedGenerator:
        generator: PretendedGenerator = super().__new__(cls)
        generator.pretends = is_cuda(device)
        return generator

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.pretends = is_cuda(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA if self.pretends else torch.device("cpu")

    def get_state(self) -> Tensor:
        state = super().get_state()
        if not self.pretends:
            return state
        _STATES.append(state)
        return torch.tensor([len(_STATES) - 1, 0]).view(torch.uint8)

    def set_state(self, new_state: Tensor) -> Any:
        if isinstance(new_state, PretendedTensor) or new_state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if self.pretends:
            if new_state.numel() != _STATE_BYTES:
                raise RuntimeError("RNG state is wrong size")
            new_state = _STATES[int(new_state.view(torch.int64)[0])]
        return super().set_state(new_state)

    def clone_state(self) -> PretendedGenerator:
        clone = PretendedGenerator(self.device)
        clone.set_state(self.get_state())
        return clone
