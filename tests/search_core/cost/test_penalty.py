"""The penalty in the units of the SNAS authors, against numbers from their code (tests/data/snas_penalty.json)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.errors import OptionsError
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.relaxations import concrete_log_sample

CASES = range(4)
CELLS: dict[CellType, tuple[int, ...]] = {"normal": (0, 1, 3, 4, 6, 7), "reduce": (2, 5)}


@cache
def reference() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "snas_penalty.json").read_text())
    return document


@cache
def table() -> CostTable:
    """Of the network of the file: 8 cells of 4 nodes and 16 channels on 3x32x32."""
    return CostTable(NetworkSize(NetworkOptions(), (3, 32, 32), 10), dtype=torch.float64)


def of(name: str, cell_type: CellType) -> Tensor:
    return torch.tensor(reference()[name][cell_type], dtype=torch.float64)


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@pytest.mark.parametrize(
    ("kind", "theirs"), [("snas_params", "params"), ("snas_madds", "flops"), ("memory_access", "memory_access")]
)
def test_every_operation_costs_what_it_costs_in_the_authors_code(kind: str, theirs: str, cell_type: CellType) -> None:
    expected = [reference()["tables"][cell][theirs] for cell in CELLS[cell_type]]
    assert table().table(kind, cell_type).tolist() == expected


@pytest.mark.parametrize("number", CASES)
def test_penalty_and_gradient_of_alpha_equal_those_of_the_authors_code(number: int) -> None:
    """From the same alpha and noise, so that their eta means the same here."""
    case = reference()["cases"][number]
    alpha = {name: of("alpha", name).requires_grad_() for name in CELL_TYPES}
    z = {
        name: concrete_log_sample(alpha[name].log_softmax(-1), case["temperature"], of("gumbel", name)).exp()
        for name in CELL_TYPES
    }
    options = PenaltyOptions(cost="snas", reduction_ratio=case["ratio"])
    penalty = torch.stack([share.sum() for share in table().edge_costs(options, z).values()]).sum()
    assert penalty.item() == pytest.approx(case["penalty"], rel=1e-9)
    penalty.backward()
    for name, key in (("normal", "grad_normal"), ("reduce", "grad_reduce")):
        expected = torch.tensor(case[key], dtype=torch.float64)
        torch.testing.assert_close(alpha[name].grad, expected, rtol=0, atol=1e-6)


def test_normal_and_reduction_cells_are_averaged_unless_said_otherwise() -> None:
    z = {name: of("alpha", name).softmax(-1) for name in CELL_TYPES}
    by_default, by_one = (
        table().edge_costs(PenaltyOptions(cost="snas", reduction_ratio=ratio), z) for ratio in (None, 1.0)
    )
    assert all(torch.equal(by_default[name], by_one[name]) for name in CELL_TYPES)


def test_discrete_is_the_logarithm_of_the_expected_cost() -> None:
    """And larger than the expectation of logarithms, where operations differ (Jensen)."""
    probabilities = {name: of("alpha", name).softmax(-1) for name in CELL_TYPES}
    discrete, expected = (
        table().expected_penalty(PenaltyOptions(cost="snas", estimator=estimator), probabilities)
        for estimator in ("discrete", "expected")
    )
    shares = table().edge_costs(PenaltyOptions(cost="snas"), probabilities)
    assert discrete.item() == pytest.approx(sum(share.sum().item() for share in shares.values()), rel=1e-12)
    assert discrete > expected + 1


def test_edge_without_cost_counts_nothing_and_has_no_gradient() -> None:
    none = {name: torch.zeros(14, 8, dtype=torch.float64).requires_grad_() for name in CELL_TYPES}
    shares = table().edge_costs(PenaltyOptions(cost="snas"), none)
    torch.stack([share.sum() for share in shares.values()]).sum().backward()
    for name in CELL_TYPES:
        assert not shares[name].any()
        gradient = none[name].grad
        assert gradient is not None
        assert not gradient.any()


def test_names_stand_for_numbers_in_the_unit_of_the_authors() -> None:
    named = {name: PenaltyOptions(strength=name).eta for name in ("mild", "moderate", "aggressive")}
    assert named == {"mild": 1e-3, "moderate": 1e-2, "aggressive": 3e-2}
    assert PenaltyOptions(strength="mild") == PenaltyOptions(strength=1e-3, cost="snas"), "a run keeps the number"
    with pytest.raises(OptionsError, match=r"`strength` must be a number for cost madds, .* got mild"):
        PenaltyOptions(strength="mild", cost="madds")
    with pytest.raises(OptionsError, match="or mild, moderate, aggressive, got 'wild'"):
        PenaltyOptions(strength="wild")


@pytest.mark.parametrize("changes", [{"cost": "snas"}, {"cost": "madds", "estimator": "discrete"}])
def test_what_is_a_logarithm_cannot_be_without(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="`log` must be true for"):
        PenaltyOptions(log=False, **changes)
