"""Searches in the spaces of NASNet and ENAS from the command line, and what a study file may not ask of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_core.space.cell_files import load_genotype
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkOptions
from tests.orchestrator.tiny import snas, with_empty_store

NETWORK: dict[str, Any] = {"nodes": 2, "cells": 3, "init_channels": 4}
PRIMITIVES = ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"]
ESTIMATE = {"epochs": 1, "data_fraction": 0.1, "batch_size": 16}
SHARING = {"kind": "enas", "controller_steps": 2, "derive_samples": 2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "nasnet": {"kind": "nasnet", "children": 2, "batch": 2, "estimate": ESTIMATE},
    "enas": {"kind": "regularised_evolution", "children": 2, "population": 2, "sample": 1, "estimate": ESTIMATE},
}


def written(folder: Path, space: str, strategy: dict[str, Any], **search: Any) -> Path:
    file = folder / "space.yaml"
    network = {**NETWORK, "primitives": PRIMITIVES, "space": space}
    content = {"dataset": {"name": "digits"}, "network": network, "strategy": strategy, "epochs": 2, **search}
    file.write_text(yaml.safe_dump({"name": "space", "search": content, "trials": 1}))
    return file


@pytest.mark.parametrize(
    ("space", "strategy"),
    [
        ("nasnet", STRATEGIES["nasnet"]),
        pytest.param("enas", STRATEGIES["enas"], marks=pytest.mark.slow),
        pytest.param("enas", SHARING, marks=pytest.mark.slow),
        pytest.param("choice_blocks", {"kind": "one_shot", "samples": 2}, marks=pytest.mark.slow),
    ],
    ids=["nasnet", "enas", "enas-sharing-weights", "choice-blocks"],
)
def test_search_ends_with_a_child_of_the_space(tmp_path: Path, space: str, strategy: dict[str, Any]) -> None:
    runs = with_empty_store(tmp_path / "runs")
    outcome = snas("search", written(tmp_path, space, strategy), "--runs", runs, "--name", "one")
    assert outcome.code == 0, outcome.said
    folder = runs / "searches" / "one"
    found = load_genotype(folder / "genotype.json")
    codes = genotype_space(NetworkOptions(**{**NETWORK, "primitives": tuple(PRIMITIVES), "space": space}))
    assert codes.decode(codes.encode(found)) == found
    picture = (folder / "cells.svg").read_text(encoding="utf-8")
    first = found.normal[0]
    assert f"normal-{first.source}-{first.target}-0-{first.primitive}" in picture
    counted = snas("profile", folder / "genotype.json", "--json")
    assert counted.code == 0, counted.said


@pytest.mark.parametrize(
    ("strategy", "search", "message"),
    [
        ({"kind": "snas"}, {}, "search.network.space: must be darts with strategy snas, got nasnet"),
        ({"kind": "enas"}, {}, "search.network.space: must be darts or enas with strategy enas, got nasnet"),
        (
            STRATEGIES["nasnet"],
            {"latency": {"table": "some.json"}},
            "search.latency.table: must be left out with `network.space` nasnet",
        ),
        (
            {"kind": "regularised_evolution", "estimate": {"inherit": True, "morphism": True}},
            {},
            "search.strategy.estimate.morphism: must be false with `network.space` nasnet, got True",
        ),
        (
            {"kind": "regularised_evolution", "mutation": "morphism"},
            {},
            "search.strategy.mutation: must be any with `network.space` nasnet, got morphism",
        ),
    ],
)
def test_study_file_that_the_space_does_not_fit_has_one_message(
    tmp_path: Path, strategy: dict[str, Any], search: dict[str, Any], message: str
) -> None:
    outcome = snas("study", "validate", written(tmp_path, "nasnet", strategy, **search))
    assert outcome.code == 2
    assert "1 fault " in outcome.said
    assert message in outcome.said


RL_NAS: dict[str, Any] = {"kind": "rl_nas", "children": 2, "batch": 2, "estimate": {"epochs": 1}}


@pytest.mark.parametrize(
    ("network", "strategy", "root", "message"),
    [
        ({}, {"kind": "snas"}, {}, "search.network.space: must be darts with strategy snas, got nas_chain"),
        ({}, {"kind": "enas"}, {}, "search.network.space: must be darts or enas with strategy enas, got nas_chain"),
        ({}, {"kind": "nasnet"}, {}, "darts or nasnet or enas or choice_blocks with strategy nasnet, got nas_chain"),
        ({"primitives": PRIMITIVES}, RL_NAS, {}, "primitives: must be left out with `space` nas_chain"),
        ({"chain": {"heights": [2, 3]}}, RL_NAS, {}, "chain.heights: must be distinct odd numbers, got [2, 3]"),
        (
            {},
            {"kind": "regularised_evolution", "estimate": {"inherit": True}},
            {},
            "search.strategy.estimate.inherit: must be left out with `network.space` nas_chain",
        ),
        (
            {},
            {**RL_NAS, "growth": {"every": 8}},
            {},
            "search.strategy.growth.start: must be at most `network.nodes` 4, got 6",
        ),
        (
            {"space": "darts"},
            {**RL_NAS, "growth": {"every": 8, "start": 2}},
            {},
            "search.strategy.growth.every: must be left out with `network.space` darts: only chains grow",
        ),
        (
            {},
            RL_NAS,
            {"retrain": {"drop_path": 0.0}},
            "retrain.auxiliary_weight: must be 0 for a chain of layers, got 0.4, as `network.space` nas_chain gives",
        ),
    ],
)
def test_study_of_chains_is_refused_what_only_cells_have(
    tmp_path: Path, network: dict[str, Any], strategy: dict[str, Any], root: dict[str, Any], message: str
) -> None:
    search = {"dataset": {"name": "digits"}, "network": {"space": "nas_chain", **network}, "strategy": strategy}
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"name": "chain", "search": search, "trials": 1, **root}))
    outcome = snas("study", "validate", file)
    assert outcome.code == 2
    assert "1 fault " in outcome.said
    assert message in outcome.said


def test_chain_from_a_file_is_counted(tmp_path: Path) -> None:
    chain = {
        "normal": [["conv_3x1", 0, 2], ["conv_5x5", 2, 3]],
        "normal_concat": [3],
        "reduce": [],
        "reduce_concat": [],
    }
    file = tmp_path / "chain.json"
    file.write_text(json.dumps({**chain, "layers": [[4, 1, 1], [8, 2, 1]]}))
    counted = snas("profile", file, "--json")
    assert counted.code == 0, counted.said
    # Convolutions 3*4*3 and 4*8*25, two numbers for each of 12 filters, and 8*10 + 10 of the classifier.
    assert json.loads(counted.out)["params"] == 36 + 800 + 24 + 90


def test_latency_of_another_space_is_not_measured(tmp_path: Path) -> None:
    file = written(tmp_path, "enas", STRATEGIES["enas"])
    outcome = snas("latency", "measure", "--config", file, "--output", tmp_path / "table.json")
    assert outcome.code == 2
    assert "`network.space` must be darts for a table of latency, got enas" in outcome.said
