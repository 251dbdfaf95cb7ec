"""The history of one search or retraining as a Parquet file: a row per epoch, all metrics, the distribution per edge.

A trial of 150 epochs takes about 200 KB and is read in milliseconds; the same numbers through MLflow's metric API would
be a request per metric.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dashboards.errors import BrokenArtifactError
from dashboards.pictures.cell_layout import cell_edges
from search_core.space.chain import kernel_size
from search_core.space.genotype import CELL_TYPES, CellType, Genotype

_PRIMITIVES = b"snas.primitives"  # in the metadata of the file: names of the columns of alpha


@dataclass(frozen=True, kw_only=True)
class CellHistory:
    """The distribution over one cell type; T epochs, E edges in the order of `cell_layout.cell_edges`, O operations.

    Attributes:
        alpha: architecture parameters, (T, E, O).
        probabilities: of the operations, in [0, 1], (T, E, O).
        entropy: nats, (T, E).
        credit: mean task credit of the epoch's steps, nats (SNAS section 2.3), (T, E).
        resource_credit: likewise that of the penalty (SNAS section 2.4), (T, E); NaN in searches of before it was
            reported.
    """

    alpha: np.ndarray
    probabilities: np.ndarray
    entropy: np.ndarray
    credit: np.ndarray
    resource_credit: np.ndarray

    @property
    def full_credit(self) -> np.ndarray:
        """Task and resource credit together, (T, E): the task's alone where the other is not known."""
        return np.asarray(self.credit + np.nan_to_num(self.resource_credit, nan=0.0))


@dataclass(frozen=True, kw_only=True)
class History:
    """What one search or retraining reported; T epochs.

    Attributes:
        epochs: their numbers as people count them, from 1, ascending, (T,); reports and MLflow's steps count from 0.
        metrics: by name, float64 (T,); NaN where an epoch did not report it.
        genotypes: JSON of the derived architecture per epoch, as `Genotype.to_json` writes it; empty for retrainings.
        cells: the distributions of a search; empty for retrainings.
        primitives: candidate operations; empty for retrainings.
    """

    epochs: np.ndarray
    metrics: Mapping[str, np.ndarray]
    genotypes: Sequence[str] = ()
    cells: Mapping[CellType, CellHistory] = field(default_factory=dict)
    primitives: Sequence[str] = ()


def history_table(records: Sequence[Mapping[str, Any]], primitives: Sequence[str]) -> pa.Table:
    """Reports of one search or retraining as a table.

    Columns: `epoch` from 0, every metric, and for searches `genotype` (JSON) and, per cell type, `alpha_*`,
    `probabilities_*` (rows of edges by operations), `edge_entropy_*`, `credit_*` and `resource_credit_*` (per edge),
    the latter five in single precision.

    Args:
        records: plain data of `EpochReport.to_dict` or `RetrainReport.to_dict`, one per epoch.
        primitives: candidate operations of a search; ignored for retrainings.
    """
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))  # the last may have more
    columns: dict[str, Any] = {"epoch": pa.array([record["epoch"] for record in records], pa.int64())}
    for name in names:
        columns[name] = pa.array([record["metrics"].get(name) for record in records], pa.float64())
    metadata = {}
    if records and all("cells" in record for record in records):
        metadata[_PRIMITIVES] = json.dumps(list(primitives))
        columns["genotype"] = [Genotype.from_dict(record["genotype"]).to_json() for record in records]
        rows, tables = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32()))
        for cell_type in _cell_types(primitives):
            cells = [record["cells"][cell_type] for record in records]
            columns[f"alpha_{cell_type}"] = pa.array([cell["alpha"] for cell in cells], tables)
            columns[f"probabilities_{cell_type}"] = pa.array([cell["probabilities"] for cell in cells], tables)
            columns[f"edge_entropy_{cell_type}"] = pa.array([cell["entropy"] for cell in cells], rows)
            columns[f"credit_{cell_type}"] = pa.array([cell["credit"] for cell in cells], rows)
            # Epochs of before it was reported have none.
            resource = [cell.get("resource_credit", [math.nan] * len(cell["credit"])) for cell in cells]
            columns[f"resource_credit_{cell_type}"] = pa.array(resource, rows)
    return pa.table(columns).replace_schema_metadata(metadata)


def curves_table(searches: Iterable[tuple[int, Sequence[Mapping[str, Any]]]]) -> pa.Table:
    """Metrics of several searches as one table with the columns `trial`, `epoch` and every metric, a row per epoch.

    Args:
        searches: trial number and reports of each search.
    """
    rows = [(number, record) for number, records in searches for record in records]
    names = list(dict.fromkeys(name for _, record in rows for name in record["metrics"]))
    columns: dict[str, Any] = {
        "trial": pa.array([number for number, _ in rows], pa.int64()),
        "epoch": pa.array([record["epoch"] for _, record in rows], pa.int64()),
    }
    for name in names:
        columns[name] = pa.array([record["metrics"].get(name) for _, record in rows], pa.float64())
    return pa.table(columns)


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_history(content: bytes, place: str) -> History:
    """Read what `history_table` wrote.

    Args:
        content: the Parquet file.
        place: names the file in messages.

    Raises:
        BrokenArtifactError: if it is no such file, or if its parts do not fit together.
    """
    try:
        table = pq.read_table(io.BytesIO(content))
        primitives = _primitives(table)
        skipped = {"epoch", "genotype"} | {name for name in table.column_names if pa.types.is_nested(table[name].type)}
        metrics = {name: _floats(table[name]) for name in table.column_names if name not in skipped}
        return History(
            epochs=_whole(table["epoch"], "epoch") + 1,
            metrics=metrics,
            genotypes=_genotypes(table) if primitives else (),
            cells={cell_type: _cell(table, cell_type, len(primitives)) for cell_type in _cell_types(primitives)}
            if primitives
            else {},
            primitives=primitives,
        )
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError, RecursionError) as error:
        raise BrokenArtifactError(f"{place} must be a history of epochs (Parquet), got: {error}") from error


def read_curves(content: bytes, place: str) -> dict[int, History]:
    """Read what `curves_table` wrote, by trial number.

    Args:
        content: the Parquet file.
        place: names the file in messages.

    Raises:
        BrokenArtifactError: if it is no such file.
    """
    try:
        table = pq.read_table(io.BytesIO(content))
        trials, epochs = _whole(table["trial"], "trial"), _whole(table["epoch"], "epoch") + 1
        metrics = {name: _floats(table[name]) for name in table.column_names if name not in ("trial", "epoch")}
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
        raise BrokenArtifactError(f"{place} must be curves of trials (Parquet), got: {error}") from error
    borders = [0, *(np.flatnonzero(np.diff(trials)) + 1).tolist(), len(trials)]
    return {
        int(trials[start]): History(
            epochs=epochs[start:end], metrics={name: values[start:end] for name, values in metrics.items()}
        )
        for start, end in pairwise(borders)
        if start < end
    }


def _primitives(table: pa.Table) -> tuple[str, ...]:
    names = json.loads((table.schema.metadata or {}).get(_PRIMITIVES, b"[]"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{_PRIMITIVES.decode()} must be a list of names, got {str(names)[:60]}")
    return tuple(names)


def _cell_types(primitives: Sequence[str]) -> tuple[CellType, ...]:
    """Cells whose distribution is reported: a chain of layers is a single one."""
    return CELL_TYPES[:1] if any(map(kernel_size, primitives)) else CELL_TYPES


def _genotypes(table: pa.Table) -> tuple[str, ...]:
    texts = table["genotype"].to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"genotype must be a text in every epoch, got {table['genotype'].type} and {texts.count(None)} nulls"
        )
    return tuple(texts)


def _cell(table: pa.Table, cell_type: CellType, num_primitives: int) -> CellHistory:
    alpha = _array(table, f"alpha_{cell_type}", 3)
    num_edges = alpha.shape[1]
    num_nodes = next(count for count in range(num_edges + 2) if len(cell_edges(count)) >= num_edges)
    if len(alpha) and (num_edges == 0 or len(cell_edges(num_nodes)) != num_edges):
        raise ValueError(f"the {cell_type} cell must have 2, 5, 9, 14, 20, ... edges, got {num_edges}")
    credit, resource = _array(table, f"credit_{cell_type}", 2), f"resource_credit_{cell_type}"
    cell = CellHistory(
        alpha=alpha,
        probabilities=_array(table, f"probabilities_{cell_type}", 3),
        entropy=_array(table, f"edge_entropy_{cell_type}", 2),
        credit=credit,
        resource_credit=_array(table, resource, 2) if resource in table.column_names else np.full_like(credit, np.nan),
    )
    expected = (len(alpha), num_edges, num_primitives)
    for name, array in vars(cell).items():
        if len(alpha) and array.shape != expected[: array.ndim]:
            raise ValueError(f"{name} of the {cell_type} cell must be {expected[: array.ndim]}, got {array.shape}")
    return cell


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy(), dtype=np.float64)  # null becomes NaN


def _whole(column: pa.ChunkedArray, name: str) -> np.ndarray:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"{name} must be a whole number in every row, got {column.type} and {column.null_count} nulls")
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _array(table: pa.Table, name: str, ndim: int) -> np.ndarray:
    """A column of nested lists of equal lengths as an array with `ndim` axes."""
    column = table[name]
    values, shape = column.combine_chunks(), [len(column)]
    for _ in range(ndim - 1):
        if not pa.types.is_list(values.type):
            raise ValueError(f"{name} must hold lists, nested {ndim - 1} deep, got {column.type}")
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()  # None of a null
        if None in lengths or len(lengths) > 1:
            raise ValueError(f"{name} must hold lists of one length, got lengths {lengths[:5]}")
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    if not pa.types.is_floating(values.type):
        raise ValueError(f"{name} must hold numbers, got {column.type}")
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(shape)
