from __future__ import annotations

from pathlib import Path

from orchestrator.driver.start import _graph_notes
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.sections import Resources
from tests.orchestrator.tiny import tiny_spec


def test_a_study_on_gpus_says_once_why_searches_have_no_cuda_graph(tmp_path: Path) -> None:
    kinds = {"strategy.kind": {"choice": ["snas", "dsnas", "darts", "enas"]}}
    studies = {gpu: Study(tiny_spec(sweep=kinds, resources={"cpu": 1, "gpu": gpu}), Runs(tmp_path)) for gpu in (0, 0.5)}
    assert studies[0.5].spec.resources == Resources(cpu=1.0, gpu=0.5)
    assert _graph_notes(studies[0]) == set()
    assert _graph_notes(studies[0.5]) == {
        f"no CUDA graph of a step: strategy {kind} launches another child in every step" for kind in ("dsnas", "enas")
    }
