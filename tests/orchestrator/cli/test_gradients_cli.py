"""`snas gradients`: a search, then its estimators of the gradient of alpha."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.orchestrator.cli.test_cli import refused, written
from tests.orchestrator.tiny import SEARCH, snas

SMALL = {"nodes": 1, "cells": 3, "init_channels": 4, "primitives": ["none", "sep_conv_3x3"]}
QUICK = ("--seeds", 2, "--samples", 2, "--descents", 1, "--steps", 2, "--images", 16, "--temperature", 0.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "small.yaml", {**SEARCH, "network": SMALL, "epochs": 1})


@pytest.mark.slow
def test_gradients_are_compared_over_seeds_and_drawn(file: Path, tmp_path: Path) -> None:
    figure = tmp_path / "gradients.png"
    outcome = snas("gradients", file, *QUICK, "--figure", figure, "--json")
    assert outcome.code == 0, outcome.said
    rows = json.loads(outcome.out)["rows"]
    names = ["exact", "SNAS", "REINFORCE, relaxed", "REINFORCE"]
    assert [(row["name"], row["seed"]) for row in rows] == [(name, seed) for name in names for seed in (0, 1)]
    assert rows[2]["quality"]["variance"] > 0
    assert rows[2]["quality"] != rows[3]["quality"]
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_gradients_table_has_a_row_per_estimator(file: Path) -> None:
    outcome = snas("gradients", file, *QUICK, "--seeds", 1)
    assert outcome.code == 0, outcome.said
    title, *lines = [line.strip() for line in outcome.out.splitlines() if line.strip()]
    assert title == "1 epoch of small.yaml, 1 seed; 2 estimates, 1 x 2 steps"
    assert [line.split("  ")[0] for line in lines[-4:]] == ["exact", "SNAS", "REINFORCE, relaxed", "REINFORCE"]


def test_gradients_refuses_a_temperature_of_0(file: Path) -> None:
    refused(snas("gradients", file, "--temperature", 0), "--temperature", "must be above 0")


def test_gradients_refuses_before_the_search_what_would_fail_after_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_core.search.search.Search.run_epoch", lambda search: pytest.fail("a search was run"))
    refused(snas("gradients", file, "--figure", tmp_path / "none" / "a.png"), "--figure", "a folder that is there")
    refused(snas("gradients", file, "--set", "network.nodes=4"), "network", "must span at most 4,096 genotypes")
    refused(snas("gradients", file, "--set", "strategy.kind=spos"), "strategy.kind", "got spos")
    refused(snas("gradients", file, "--set", "strategy.kind=random"), "strategy.kind", "got random")
