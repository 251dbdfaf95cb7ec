"""The study as a whole, on the parent run in MLflow: the table of the front and a picture of one page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dashboards.pictures.figures import figure_png
from dashboards.pictures.study_summary import render_study
from orchestrator.reports.comparison import compare
from orchestrator.reports.comparison_text import comparison_markdown
from orchestrator.reports.one_file import study_page, trial_point
from orchestrator.study.records import front_rows
from orchestrator.study_file.spec import StudySpec
from orchestrator.tracking.artifacts import log_files
from orchestrator.tracking.tracker import Tracker
from search_core.cost.counts import child_cost
from search_core.data.datasets import ImageData
from search_core.space.genotype import PUBLISHED
from search_core.space.plan import NetworkSize

if TYPE_CHECKING:
    from orchestrator.study.study import Study

PUBLISHED_COSTS, SUMMARY, PAGE = "published.json", "summary.png", "study.html"
COMPARISON = "comparison"
#: The same picture for descriptions, which MLflow shows at its own size in about 800 pixels.
NARROW = "summary-narrow.png"


def log_published(tracker: Tracker, run_id: str, spec: StudySpec, data: ImageData) -> None:
    """Log what the published cells cost at the size of the study's searches, once, for comparison with its children."""
    if any(entry.path == PUBLISHED_COSTS for entry in tracker.client.list_artifacts(run_id)):
        return
    size = NetworkSize(spec.search.network, data.input_shape, data.num_classes)
    costs = {name: child_cost(genotype, size) for name, genotype in PUBLISHED.items()}
    document = {
        name: {
            "child_params": cost.params,
            "child_madds": cost.madds,
            "child_memory_access": cost.memory_access,
        }
        for name, cost in costs.items()
    }
    tracker.client.log_dict(run_id, document, PUBLISHED_COSTS)


def log_comparison(tracker: Tracker, run_id: str, study: Study) -> None:
    """Keep how the strategies of a study compare, beside its journals and with its parent run.

    Nothing is written of a study with one strategy and no ground truth.
    """
    comparison = compare(study)
    if len({row.kind for row in comparison.rows}) < 2 and comparison.truth is None:
        return
    texts = {
        f"{COMPARISON}.md": comparison_markdown(comparison),
        f"{COMPARISON}.json": json.dumps(comparison.to_dict(), indent=1),
    }
    for name, text in texts.items():
        (study.folder.path / name).write_text(text, encoding="utf-8")
        tracker.client.log_text(run_id, text, name)


def log_summary(tracker: Tracker, run_id: str, study: Study) -> bool:
    """Log the one-page picture, the page to share, the table of the front and what a fork saved to the parent run.

    Returns:
        Whether there is a picture: there is none of a study without searches.
    """
    trials = study.trials()
    document = {"study": study.spec.name, "front": front_rows(trials, study.retrains(), study.spec)}
    tracker.client.log_dict(run_id, document, "front.json")
    savings = study.fork_savings()
    if savings is not None:
        tracker.client.set_tag(run_id, "snas.fork_savings", str(savings))
    points = [trial_point(trial, study) for trial in trials if trial.epochs]
    if points:
        figure = render_study(points, title=f"Study {study.spec.name}: {len(points)} searches")
        narrow = render_study(points, title=f"Study {study.spec.name}: {len(points)} searches", columns=1)
        pictures = {SUMMARY: figure_png(figure), NARROW: figure_png(narrow, dpi=96)}
        log_files(tracker.client, run_id, {**pictures, PAGE: study_page(study).encode()})
    return bool(points)
