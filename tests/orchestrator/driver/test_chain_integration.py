"""A study of chains of layers and cells of choice blocks, as a user runs it: a process, real Ray, real stores."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from dashboards.app import render
from dashboards.mlflow_store.mlflow_store import MlflowStore
from orchestrator.doctor import examine
from orchestrator.files.layout import Runs
from orchestrator.reports.one_file import study_page
from orchestrator.study.study import Study
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.spec import search_options
from search_core.data.datasets import load_data
from search_core.search.child_search import make_search
from search_core.search.options import SearchOptions
from search_core.space.codes import genotype_space
from search_core.space.genotype import Genotype
from tests.orchestrator.studies import Done, run_to_its_end
from tests.orchestrator.tiny import snas

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: Of the chains the first two children have one layer, the next two have two, and the last two three.
CHAINS: dict[str, Any] = {
    "name": "chains",
    "search": {
        "dataset": {"name": "digits", "train_images": 120, "validation_images": 50},
        "network": {
            "space": "nas_chain",
            "nodes": 3,
            "cells": 3,
            "init_channels": 4,
            "chain": {"heights": [1, 3], "widths": [1, 3], "strides": [1, 2], "filters": [4, 8]},
        },
        "strategy": {
            "kind": "rl_nas",
            "children": 3,
            "batch": 2,
            "growth": {"start": 1, "by": 1},
            "estimate": {"epochs": 1, "batch_size": 32},
        },
        "epochs": 2,
    },
    "sweep": {
        "network.space": {"choice": ["nas_chain", "choice_blocks"]},
        "strategy.growth.every": {"choice": [2], "when": {"network.space": "nas_chain"}},
    },
    "sampler": "grid",
    "trials": 2,
    "resources": {"cpu": 0.5},
    "retrain": {
        "cells": 3,
        "init_channels": 4,
        "top": "all",
        "epochs": 1,
        "batch_size": 32,
        "auxiliary_weight": 0.0,
        "drop_path": 0.0,
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run_to_its_end(tmp_path_factory.mktemp("chains"), CHAINS)


def options_of(done: Done, number: int) -> SearchOptions:
    return search_options(parse_study(CHAINS), done.shown()["trial_records"][number]["values"])


def test_chains_grow_and_the_best_is_retrained_drawn_and_whole(done: Done) -> None:
    assert done.outcome.code == 0, done.outcome.said
    epochs = done.journal(0).epochs
    space = genotype_space(options_of(done, 0).network)
    codes = [tuple(child["code"]) for record in epochs for child in record["children"]]
    assert [len(space.decode(code).layers) for code in codes] == [1, 1, 2, 2, 3, 3]
    found = Genotype.from_dict(epochs[-1]["genotype"])
    assert space.encode(found) in codes
    assert list(epochs[-1]["cells"]) == ["normal"]
    retrained = [run for name, run in done.mlflow_runs.items() if name.startswith("retrain")]
    expected = {done.journal(number).epochs[-1]["metrics"]["child_params"] for number in (0, 1)}
    assert {run.data.metrics["params"] for run in retrained} == expected
    report = examine("chains", Runs(done.runs))
    assert report.is_whole, report.findings
    shown = snas("trial", "show", "chains", 0, "--runs", done.runs)
    assert (shown.code, "Chain of" in shown.said) == (0, True)


def test_children_of_choice_blocks_lie_in_their_space(done: Done) -> None:
    space, epochs = genotype_space(options_of(done, 1).network), done.journal(1).epochs
    found = Genotype.from_dict(epochs[-1]["genotype"])
    assert space.decode(space.encode(found)) == found
    codes = [tuple(child["code"]) for record in epochs for child in record["children"]]
    assert found in map(space.decode, codes)


def test_search_in_one_process_finds_the_same(done: Done) -> None:
    """It stops between two depths and resumes there."""
    options = options_of(done, 0)
    data = load_data(options.dataset, torch.device("cpu"))
    first, second = make_search(options, data), make_search(options, data)
    reports = [first.run_epoch()]
    second.load_state_dict(first.state_dict())
    reports.append(second.run_epoch())
    for report, record in zip(reports, done.journal(0).epochs, strict=True):
        found = json.loads(json.dumps(report.to_dict()))
        assert [found[key] for key in ("children", "genotype")] == [record[key] for key in ("children", "genotype")]


def test_page_of_the_search_shows_one_cell(done: Done) -> None:
    store = MlflowStore(Runs(done.runs).tracking_uri())
    (trial,) = (trial for trial in store.study("chains").trials if trial.number == 0)
    history = store.history(trial.run)
    assert history is not None
    assert list(history.cells) == ["normal"]
    view = render(store, "/study/chains/trial/0", "", "light")
    assert [chart.key for chart in view.charts if chart.key.startswith("alpha")] == ["alpha-normal"]
    assert "image" in str(view.body)
    assert "Chain of layers" in study_page(Study.load("chains", Runs(done.runs)))
