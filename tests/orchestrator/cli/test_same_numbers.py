"""A quantity reads the same in the terminal, on a page and in what MLflow shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards.app import render
from dashboards.formatting import shown_metric
from orchestrator.cli import trial
from orchestrator.driver.progress import ConsoleView
from orchestrator.files.journal import Journal
from orchestrator.tracking.descriptions import search_facts
from tests.dashboards.generated import generated_study
from tests.dashboards.memory_store import MemoryStore
from tests.dashboards.tree import plain, words
from tests.orchestrator.tiny import made_up_record

_IN_ALL = ("child_val_error", "discretization_gap", "child_madds", "child_params")


def test_one_record_reads_the_same_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore([generated_study("s", trials=3, epochs=4)])
    metrics = dict(store.study("s").trials[0].run.metrics)
    page = words(plain(render(store, "/study/s/trial/0", "", "light")))
    note = ", ".join(search_facts(metrics))
    trial._print_metrics(metrics)
    table = capsys.readouterr().out
    journal = Journal(tmp_path / "0000.jsonl")
    journal.append_epoch(made_up_record(0, **metrics))
    journal.finish("complete")
    with ConsoleView(trial.stdout) as view:
        view.phase("searches", 0, 1, _IN_ALL)
        view.ended("0000", journal)
    progress = capsys.readouterr().out
    texts = {name: shown_metric(name, metrics[name]) for name in _IN_ALL}
    for said in (page, note, progress):
        assert [text for text in texts.values() if text not in said] == []
    assert [text for name, text in texts.items() if name != "child_val_error" and text not in table] == []
