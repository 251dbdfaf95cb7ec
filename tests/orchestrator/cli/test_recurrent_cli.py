"""`snas recurrent`: a search of a recurrent cell on a small text, its retraining, and both resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.files.journal import Journal
from orchestrator.study_file.loading import load_recurrent
from search_core.recurrent.search import RecurrentSearch
from search_core.space.recurrent import PUBLISHED_RECURRENT, load_recurrent_genotype
from tests.orchestrator.cli.test_cli import refused, written
from tests.orchestrator.tiny import snas
from tests.search_core.recurrent.texts import write_text

SMALL = {"hidden": 6, "epochs": 2, "batch_size": 10, "bptt": 8}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    text = {"folder": str(write_text(tmp_path / "text")), "level": "char"}
    return written(tmp_path / "small.yaml", {"text": text, "search": {**SMALL, "nodes": 2}, "retrain": SMALL})


def epochs(folder: Path, phase: str) -> list[dict[str, object]]:
    """What the journal has of each epoch, but for what the clock decides."""
    journal = Journal(folder / f"{phase}.jsonl")
    assert journal.end == "complete"
    clock = ("seconds", "words_per_s")
    return [{name: v for name, v in epoch["metrics"].items() if name not in clock} for epoch in journal.epochs]


def test_run_that_was_stopped_ends_as_if_it_had_not_been(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = snas("recurrent", file, "--runs", tmp_path / "whole")
    assert whole.code == 0, whole.said
    assert "test perplexity" in whole.out
    run_epoch, done = RecurrentSearch.run_epoch, []

    def stopped(search: RecurrentSearch) -> object:
        if done:
            raise KeyboardInterrupt
        done.append(search.epoch)
        return run_epoch(search)

    with monkeypatch.context() as patch:
        patch.setattr(RecurrentSearch, "run_epoch", stopped)
        outcome = snas("recurrent", file, "--runs", tmp_path / "twice")
    assert outcome.code == 130
    assert "the same command resumes the search" in outcome.said
    outcome = snas("recurrent", file, "--runs", tmp_path / "twice")
    assert outcome.code == 0, outcome.said
    one, other = (tmp_path / name / "recurrent" / "small" for name in ("whole", "twice"))
    for phase in ("search", "retrain"):
        assert epochs(one, phase) == epochs(other, phase)
        assert len(epochs(one, phase)) == 2
    assert (one / "genotype.json").read_text() == (other / "genotype.json").read_text()
    assert 'id="recurrent-0-2-0-tanh"' in (one / "cell.svg").read_text()
    assert epochs(one, "retrain")[-1]["test_perplexity"] > 1


def test_published_cell_is_trained_in_place_of_a_search(file: Path, tmp_path: Path) -> None:
    outcome = snas("recurrent", file, "--genotype", "DARTS_V1", "--name", "v1", "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.said
    folder = tmp_path / "runs" / "recurrent" / "v1"
    assert load_recurrent_genotype(folder / "genotype.json") == PUBLISHED_RECURRENT["DARTS_V1"]
    assert not (folder / "search.jsonl").exists()
    again = ("recurrent", file, "--genotype", "DARTS_V2", "--name", "v1", "--runs", tmp_path / "runs")
    refused(snas(*again), "is of another study, choose another --name", "they differ in genotype")
    assert json.loads((folder / "genotype.json").read_text()) == PUBLISHED_RECURRENT["DARTS_V1"].to_dict()


def test_faults_of_a_file_are_all_named(file: Path, tmp_path: Path) -> None:
    settings = ("search.nodes=0", "search.strategy.kind=enas", "retrain.dropout.words=1.5", "text.level=line", "a.b=1")
    outcome = snas("recurrent", file, *(word for setting in settings for word in ("--set", setting)))
    refused(
        outcome,
        "must be at least 1, got 0",
        "must be one of snas, darts, got `enas`",
        "must be in [0, 1), got 1.5",
        "must be word or char, got `line`",
        "unknown key `a`",
    )
    refused(snas("recurrent", file, "--set", f"text.folder={tmp_path}"), "train.txt must be there")


def test_studies_of_the_repository_are_valid() -> None:
    folder = Path(__file__).parents[3] / "studies" / "recurrent"
    studies = {file.stem: load_recurrent(file) for file in folder.glob("*.yaml")}
    sizes = {name: (study.search.hidden, study.retrain and study.retrain.hidden) for name, study in studies.items()}
    assert sizes == {"ptb": (300, 850), "topics": (64, 64)}
