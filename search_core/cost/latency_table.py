"""Latency of a child, predicted from a table of its parts that was measured on one device (SNAS section 3.3).

A child runs its parts one after another, so its latency is close to the sum of theirs: `sum over edges of the kept
operation + the additions of its nodes + stem, cell inputs, concatenations and classifier`. How close is measured with
every table (`latency_measure.compare`). A part that no child has, such as `none`, takes no time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from search_core.cost.latency_options import LatencyOptions
from search_core.cost.latency_parts import child_parts, network_parts, operation_key, sum_key
from search_core.errors import LatencyError
from search_core.json_text import TextError, load_json
from search_core.primitives.counting import Size
from search_core.space.genotype import Genotype
from search_core.space.plan import CellPlan, NetworkSize

TABLE_FORMAT = 1
_REMEDY = "measure one: `snas latency measure --config FILE`"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and with what something was measured.

    Attributes:
        device: `cpu` or `cuda`.
        name: of the processor or GPU.
        torch_version: of PyTorch.
        cuda_version: of CUDA that PyTorch uses; None on the CPU.
        threads: that torch computes with on the CPU; None on a GPU.
    """

    device: str
    name: str
    torch_version: str
    cuda_version: str | None = None
    threads: int | None = None

    @classmethod
    def of(cls, device: torch.device) -> Place:
        """This process and one of its devices."""
        if device.type == "cuda":
            return cls(
                device="cuda",
                name=torch.cuda.get_device_name(device),
                torch_version=torch.__version__,
                cuda_version=torch.version.cuda,
            )
        return cls(device="cpu", name=_processor(), torch_version=torch.__version__, threads=torch.get_num_threads())

    def __str__(self) -> str:
        more = f"CUDA {self.cuda_version}" if self.device == "cuda" else f"{self.threads} threads"
        return f"{self.name}, torch {self.torch_version}, {more}"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of repeated runs: the median and the quartiles.

    Attributes:
        median_ms: half of the runs took no longer.
        lower_ms: a quarter did not.
        upper_ms: three quarters did not.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How well a table predicts whole children that were measured.

    Attributes:
        predicted_ms: of each child.
        measured_ms: median of the same child.
    """

    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Predicted / measured, child by child."""
        return tuple(a / b for a, b in zip(self.predicted_ms, self.measured_ms, strict=True))


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """What each part of a search space's children takes on one device, for a whole batch.

    Attributes:
        place: device and versions.
        dtype: type of weights and images, such as `float32`.
        batch_size: images of one inference.
        parts: by key (`latency_parts`).
        cpu_time: whether the time of the process was counted instead of the wall's.
        comparison: how well it predicts; not part of the digest.
    """

    place: Place
    dtype: str
    batch_size: int
    parts: Mapping[str, Timing]
    cpu_time: bool = False
    comparison: Comparison | None = field(default=None, compare=False)

    def part_ms(self, key: str) -> float:
        """Median of a part.

        Raises:
            LatencyError: if it was not measured.
        """
        if key not in self.parts:
            raise LatencyError(
                f"the latency table must have every part of the search space, got none for `{key}` (measured on "
                f"{self.place.name}, batch {self.batch_size}): it belongs to another network, image size or number of "
                f"classes; {_REMEDY}"
            )
        return self.parts[key].median_ms

    def operation_ms(self, primitive: str, channels: int, size: Size, stride: int) -> float:
        """Median of a candidate operation; 0 for `none`, which no child has.

        Raises:
            LatencyError: if it was not measured.
        """
        return 0.0 if primitive == "none" else self.part_ms(operation_key(primitive, channels, size, stride))

    def edge_ms(self, primitive: str, cell: CellPlan, source: int) -> float:
        """What an edge of a cell adds: its operation, and the addition to its node; 0 for `none`.

        Raises:
            LatencyError: if either was not measured.
        """
        if primitive == "none":
            return 0.0
        return self.operation_ms(primitive, cell.channels, *cell.edge_geometry(source)) + self.part_ms(sum_key(cell))

    def child_ms(self, genotype: Genotype, size: NetworkSize) -> float:
        """Predicted milliseconds of a whole child for one batch: the sum of the medians of its parts.

        Args:
            genotype: the child, with a batch norm behind pools as in the search.
            size: of the child.

        Raises:
            LatencyError: if a part was not measured.
        """
        return math.fsum(self.part_ms(part.key) for part in child_parts(genotype, size))

    def require_network(self, size: NetworkSize) -> None:
        """Check that every part of a search space was measured.

        Raises:
            LatencyError: naming the first part that was not.
        """
        for part in network_parts(size):
            self.part_ms(part.key)

    def require_place(self, place: Place) -> None:
        """Check that the table was measured on a device with these versions.

        Raises:
            LatencyError: naming all that differs.
        """
        mine, theirs = asdict(self.place), asdict(place)
        differing = [f"{name} must be {theirs[name]}, got {mine[name]}" for name in mine if mine[name] != theirs[name]]
        if differing:
            raise LatencyError(
                f"the latency table must have been measured here (`latency.same_device`): {'; '.join(differing)}; "
                f"{_REMEDY}"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of all that predictions depend on, hexadecimal."""
        content = {name: value for name, value in self.to_dict().items() if name != "comparison"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"format": TABLE_FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """The table as `load_table` reads it."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """The table that `to_dict` gave.

        Raises:
            LatencyError: if the data is something else.
        """
        try:
            if data["format"] != TABLE_FORMAT:
                raise LatencyError(f"a latency table's format must be {TABLE_FORMAT}, got {data['format']!r}")
            comparison = data.get("comparison")
            table = cls(
                place=Place(**data["place"]),
                dtype=str(data["dtype"]),
                batch_size=int(data["batch_size"]),
                cpu_time=bool(data["cpu_time"]),
                parts={key: _timing(key, row) for key, row in data["parts"].items()},
                comparison=comparison and Comparison(**{name: tuple(ms) for name, ms in comparison.items()}),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, LatencyError):
                raise
            raise LatencyError(f"a latency table must be what `snas latency measure` writes, got: {error!r}") from error
        return table


def load_table(file: str | Path) -> LatencyTable:
    """Read a table.

    Raises:
        LatencyError: if the file is missing or is no table; the message names it.
    """
    try:
        document = load_json(file)
    except OSError as error:
        raise LatencyError(f"the latency table {file} must be readable, got: {error.strerror}; {_REMEDY}") from error
    except TextError as error:
        raise LatencyError(error.of(file)) from error
    try:
        return LatencyTable.from_dict(document.value)
    except LatencyError as error:
        raise LatencyError(document.located(file, str(error))) from error


def _timing(key: str, row: Mapping[str, Any]) -> Timing:
    """Read the timing of a part.

    Raises:
        LatencyError: if it is something else; the message begins with its path.
    """
    names = [each.name for each in fields(Timing)]
    values = [row.get(name) for name in names] if isinstance(row, Mapping) and set(row) == set(names) else [None]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(names) or not all(0 <= number < math.inf for number in numbers):
        rule = f"must have {', '.join(names)}, each a finite number of at least 0"
        raise LatencyError(f"parts.{key}: {rule}, got {row}")
    return Timing(**dict(zip(names, map(float, numbers), strict=True)))


def table_for(options: LatencyOptions, size: NetworkSize, device: torch.device) -> LatencyTable | None:
    """The table of a search, checked; None if it names none.

    Raises:
        LatencyError: if it cannot be read, lacks a part of the search space, or was measured elsewhere although
            `same_device` forbids it.
    """
    if options.table is None:
        return None
    table = load_table(options.table)
    try:
        table.require_network(size)
        if options.same_device:
            table.require_place(Place.of(device))
    except LatencyError as error:
        raise LatencyError(f"{options.table}: {error}") from error
    return table


def _processor() -> str:
    """Name of the CPU, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else torch.backends.cpu.get_cpu_capability()
