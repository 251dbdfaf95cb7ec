"""Where the latency of children comes from: the options of `latency`, apart from it, as they need no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from search_core.errors import require

#: Type of weights and images of a measurement.
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """Where the latency of children comes from.

    Attributes:
        table: file of `snas latency measure`, of the device that will run the child. It predicts latency for the
            penalty, for the limit and for the reports.
        same_device: refuse a table that was not measured on the device of the search with its versions.
        batch_size: images of one inference, where children are measured (`penalty.cost: child_latency` without a
            table), at least 1; a table has its own.
        warmup: inferences of a measured child before its time is taken, 0 or above.
        repeats: inferences of which the median counts, at least 1.

    Raises:
        OptionsError: if a value is out of range.
    """

    table: str | None = None
    same_device: bool = False
    batch_size: int = 1
    warmup: int = 2
    repeats: int = 5

    def __post_init__(self) -> None:
        require(
            ("table", self.table is None or self.table.strip() != "", "must be a file, got nothing"),
            ("same_device", not self.same_device or self.table is not None, "must be false without a `table`", "table"),
            ("batch_size", self.batch_size >= 1, f"must be at least 1, got {self.batch_size}"),
            ("warmup", self.warmup >= 0, f"must be at least 0, got {self.warmup}"),
            ("repeats", self.repeats >= 1, f"must be at least 1, got {self.repeats}"),
        )


def absolute_table(options: LatencyOptions) -> LatencyOptions:
    """The same table for a process with another working directory."""
    return options if options.table is None else replace(options, table=str(Path(options.table).absolute()))
