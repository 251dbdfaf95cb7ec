"""Memory of one training step: so that a user can choose how many searches share a GPU.

Run as a program it measures one supernet: `python -m search_core.cost.memory JSON`, which `measure_apart` does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from search_core.network.supernet import Supernet
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one training step of the supernet.

    Attributes:
        weight_bytes: theta, its gradient and SGD's momentum, all three.
        saved_bytes: what the forward pass keeps for the backward pass, weights and statistics not counted.
        peak_bytes: most bytes in use at a time during forward and backward pass, weights and momentum included.
        device: where it was measured.
        process_bytes: all that a process takes from its GPU for such steps: tensors, what the allocator holds in
            reserve, and the CUDA context. `measure_apart` knows it, on a GPU alone.
    """

    weight_bytes: int
    saved_bytes: int
    peak_bytes: int
    device: str
    process_bytes: int | None = None


class MeasurementError(RuntimeError):
    """A step could not be run; the message says why, such as too little memory."""


def measure_step(size: NetworkSize, batch_size: int, device: torch.device | str = "cpu") -> StepMemory:
    """Run a step on blank images and count.

    Args:
        size: of the searchable network.
        batch_size: images of the step.
        device: where to run it.
    """
    device, options = torch.device(device), size.network
    supernet = Supernet(size, seed=0).to(device)
    images = torch.zeros(batch_size, *size.input_shape, device=device)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)
    shape = (len(cell_edges(options.nodes)), len(options.primitives))
    z: dict[CellType, Tensor] = {
        cell_type: torch.full(shape, 1 / shape[1], device=device, requires_grad=True) for cell_type in CELL_TYPES
    }

    def loss() -> Tensor:
        return functional.cross_entropy(supernet(images, z), labels)

    def step() -> None:
        loss().backward()

    step()  # gradients and compiled kernels are there from now on
    weight_bytes = sum(parameter.nbytes for parameter in supernet.parameters())
    own = [*supernet.parameters(), *supernet.buffers(), *z.values()]
    saved_bytes = _saved_bytes(loss, {tensor.untyped_storage().data_ptr() for tensor in own})
    momentum = [torch.zeros_like(parameter) for parameter in supernet.parameters()]
    peak_bytes = _peak_on_gpu(step, device) if device.type == "cuda" else _peak_on_cpu(step) + 3 * weight_bytes
    del momentum
    return StepMemory(
        weight_bytes=3 * weight_bytes, saved_bytes=saved_bytes, peak_bytes=peak_bytes, device=_name_of(device)
    )


def _saved_bytes(loss: Callable[[], Tensor], excluded: set[int]) -> int:
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the node that holds it, and never be freed

    with saved_tensors_hooks(note, lambda tensor: tensor):
        kept = loss()  # alive while the sizes are read, so that no address is used twice
    total = sum(sizes.values())
    del kept
    return total


def _peak_on_gpu(step: Callable[[], None], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def _peak_on_cpu(step: Callable[[], None]) -> int:
    """From the allocator's own events, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_use = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        in_use += event.nbytes()
        peak = max(peak, in_use)
    return peak


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def measure_apart(size: NetworkSize, batch_size: int, device: torch.device) -> StepMemory:
    """`measure_step` in a process of its own, where nothing else takes memory and the profiler may write what it likes.

    Args:
        size: as for `measure_step`.
        batch_size: likewise.
        device: likewise. The process's share of a GPU is wrong if others begin or end there in the meantime.

    Raises:
        MeasurementError: if the step fails, above all for lack of memory.
    """
    request = {
        **asdict(size),
        "batch_size": batch_size,
        "device": str(device),
        "free_bytes": torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "search_core.cost.memory", json.dumps(request)],
        env={**os.environ, "KINETO_LOG_LEVEL": "99"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise MeasurementError(_reason(ended.returncode, ended.stderr))
    return StepMemory(**json.loads(ended.stdout))


def _reason(code: int, messages: str) -> str:
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}; was there memory enough?"
    return next((line for line in reversed(messages.splitlines()) if line.strip()), f"exit code {code}")


def main(text: str) -> None:
    """Measure what `text` asks for and print the fields of `StepMemory` as JSON.

    Args:
        text: fields of the size, `batch_size` and `device` as a JSON object; `free_bytes` may say what was free there.
    """
    request: dict[str, Any] = json.loads(text)
    device = torch.device(request["device"])
    size = NetworkSize(
        NetworkOptions.from_dict(request["network"]), tuple(request["input_shape"]), request["num_classes"]
    )
    memory = measure_step(size, request["batch_size"], device)
    if (free_bytes := request.get("free_bytes")) is not None:
        taken = free_bytes - torch.cuda.mem_get_info(device)[0]
        memory = replace(memory, process_bytes=max(taken, memory.peak_bytes))
    print(json.dumps(asdict(memory)))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (MemoryError, RuntimeError, ValueError) as error:  # torch's own; the first line says what is wrong
        sys.exit((str(error) or type(error).__name__).splitlines()[0])
