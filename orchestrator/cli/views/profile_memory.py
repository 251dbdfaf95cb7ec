"""The memory of a training step, for `snas profile --supernet --batch-size N`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.common import make_table
from orchestrator.driver.single import default_device
from search_core.cost.memory import MeasurementError, StepMemory, measure_apart
from search_core.space.plan import NetworkSize

#: Share of a GPU that searches may fill; data sets and fragmentation take some of the rest.
_USABLE = 0.9


@dataclass(frozen=True)
class Step:
    """The training step whose memory is asked for."""

    batch_size: int
    recompute: bool
    device: torch.device

    def measured(self, size: NetworkSize) -> StepMemory:
        """The memory of the step; ends the program if it cannot be run."""
        messages = Console(stderr=True, soft_wrap=True)
        try:
            with messages.status("running a training step"):
                return measure_apart(size, self.batch_size, self.device)
        except MeasurementError as error:
            where = f"a step of batch {self.batch_size} on {self.device}"
            messages.print(f"failed: {where}: {error}", markup=False, highlight=False)
            raise typer.Exit(1) from None

    def memory_data(self, memory: StepMemory) -> dict[str, Any]:
        """The memory as plain data."""
        figures = {name: figure for name, figure in asdict(memory).items() if name != "process_bytes"}
        return {**figures, "batch_size": self.batch_size, "recompute": self.recompute}

    def memory_table(self, memory: StepMemory) -> Table:
        """The memory as a table."""
        title = f"one training step: batch {self.batch_size}, {memory.device}"
        table = make_table(f"{title}, recompute" if self.recompute else title)
        table.add_column("memory, 1 MB = 10^6 bytes")
        table.add_column(justify="right")
        table.add_row("weights, gradients and momentum (MB)", _megabytes(memory.weight_bytes))
        table.add_row("saved for the backward pass (MB)", _megabytes(memory.saved_bytes))
        table.add_row("peak of a step (MB)", _megabytes(memory.peak_bytes))
        if memory.process_bytes is not None:
            total_bytes = torch.cuda.mem_get_info(self.device)[1]
            table.add_row("peak of the process, with CUDA's own (MB)", _megabytes(memory.process_bytes))
            searches = int(_USABLE * total_bytes / memory.process_bytes)
            table.add_row(f"searches of this size per GPU ({_USABLE:.0%} of it, data sets apart)", f"{searches:,}")
        return table


def parse_device(text: str | None) -> torch.device:
    """The device that was asked for, or else a GPU if there is one.

    Raises:
        typer.BadParameter: if this machine has none of this name.
    """
    if text is None:
        return default_device()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = ["cuda", *(f"cuda:{number}" for number in range(count))] if count else []
    if text not in ["cpu", *gpus]:
        here = ", ".join(["cpu", *gpus])
        raise typer.BadParameter(f"must be a device of this machine ({here}), got {text!r}", param_hint="--device")
    return torch.device(text)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}"
