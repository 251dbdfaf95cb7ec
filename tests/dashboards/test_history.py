"""Files of histories that are odd or hostile: each is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dashboards.errors import BrokenArtifactError
from dashboards.history import curves_table, history_table, parquet_bytes, read_curves, read_history
from search_core.space.genotype import PRIMITIVES
from tests.dashboards.generated import generated_study


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return history_table(generated_study(trials=1, epochs=3).searches[0].records(), PRIMITIVES)


def with_column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        metadata = table.schema.metadata
        changed = table.set_column(table.column_names.index(name), name, pa.array(values))
        return changed.replace_schema_metadata(metadata)

    return change


def with_primitives(names: object) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.replace_schema_metadata({"snas.primitives": json.dumps(names)})


def rows(*shape: int) -> list[Any]:
    found: list[Any] = np.zeros(shape).tolist()
    return found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_column("alpha_normal", [0.0, 1.0, 2.0]), "alpha_normal must hold lists, nested 2 deep, got double"),
        (with_column("alpha_normal", rows(3, 14)), "alpha_normal must hold lists, nested 2 deep"),
        (with_column("alpha_normal", [[["x"] * 8] * 14] * 3), "alpha_normal must hold numbers"),
        (with_column("alpha_normal", rows(3, 13, 8)), "normal cell must have 2, 5, 9, 14, 20, .* edges, got 13"),
        (with_column("alpha_normal", rows(3, 0, 8)), "edges, got 0|must hold"),
        (with_column("alpha_normal", [*rows(2, 14, 8), rows(13, 8)]), r"lists of one length, got lengths \[14, 13\]"),
        (with_column("alpha_normal", [*rows(2, 14, 8), None]), r"lists of one length, got lengths \[14, None\]"),
        (with_column("probabilities_reduce", rows(3, 14, 7)), r"must be \(3, 14, 8\), got \(3, 14, 7\)"),
        (with_column("credit_reduce", rows(3, 9)), r"credit of the reduce cell must be \(3, 14\), got \(3, 9\)"),
        (with_primitives("none"), "snas.primitives must be a list of names, got none"),
        (with_primitives({"none": 1}), "snas.primitives must be a list of names"),
        (with_primitives([1, 2, 3, 4, 5, 6, 7, 8]), "snas.primitives must be a list of names"),
        (with_primitives(list(PRIMITIVES[:3])), r"must be \(3, 14, 3\), got \(3, 14, 8\)"),
        (lambda table: table.drop_columns("genotype"), "genotype"),
        (lambda table: table.drop_columns("alpha_reduce"), "alpha_reduce"),
        (with_column("genotype", [1, 2, 3]), "genotype must be a text in every epoch, got int64"),
        (with_column("genotype", ["{}", None, "{}"]), "genotype must be a text in every epoch, got string and 1 nulls"),
        (with_column("epoch", [0.0, 1.0, float("nan")]), "epoch must be a whole number in every row, got double"),
        (with_column("train_loss", ["a", "b", "c"]), "could not convert"),
    ],
)
def test_odd_history_is_refused_with_the_reason(
    table: pa.Table, change: Callable[[pa.Table], pa.Table], reason: str
) -> None:
    content = parquet_bytes(change(table))
    with pytest.raises(BrokenArtifactError, match=rf"^history of x must be a history of epochs .*({reason})"):
        read_history(content, "history of x")


def test_resource_credits_that_were_not_reported_yet_are_unknown() -> None:
    records = generated_study(trials=1, epochs=3).searches[0].records()
    for record in records[:2]:
        for cell in record["cells"].values():
            del cell["resource_credit"]
    cell = read_history(parquet_bytes(history_table(records, PRIMITIVES)), "history of x").cells["reduce"]
    assert np.isnan(cell.resource_credit[:2]).all()
    assert np.isfinite(cell.resource_credit[2]).all()
    np.testing.assert_array_equal(cell.full_credit[:2], cell.credit[:2])
    np.testing.assert_array_equal(cell.full_credit[2], cell.credit[2] + cell.resource_credit[2])


def test_history_of_before_resource_credits_is_read(table: pa.Table) -> None:
    old = table.drop_columns(["resource_credit_normal", "resource_credit_reduce"])
    cell = read_history(parquet_bytes(old), "history of x").cells["normal"]
    assert np.isnan(cell.resource_credit).all()
    np.testing.assert_array_equal(cell.full_credit, cell.credit)


def test_whole_history_is_read(table: pa.Table) -> None:
    history = read_history(parquet_bytes(table), "history of x")
    assert history.cells["normal"].alpha.shape == (3, 14, 8)
    assert len(history.genotypes) == len(history.epochs) == 3
    empty = read_history(parquet_bytes(table.slice(0, 0)), "history of x")
    assert len(empty.epochs) == 0


@pytest.mark.parametrize("values", [["a", "b"], [0.5, 1.5], [None, 1], [[0], [1]]])
@pytest.mark.parametrize("name", ["trial", "epoch"])
def test_curves_need_whole_numbers_of_trials_and_epochs(name: str, values: list[Any]) -> None:
    record = {"epoch": 0, "metrics": {"train_loss": 1.0}}
    table = with_column(name, values)(curves_table([(0, [record]), (1, [record])]))
    with pytest.raises(BrokenArtifactError, match=f"^curves must be curves of trials .*{name} must be a whole number"):
        read_curves(parquet_bytes(table), "curves")
