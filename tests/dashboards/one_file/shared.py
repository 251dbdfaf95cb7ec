"""A generated study as what its page to share is made of."""

from collections.abc import Callable

from dashboards.analysis.claims import claims, searches_of
from dashboards.analysis.study_answer import answer_of
from dashboards.history import History
from dashboards.one_file.page import FrontCell, SharedStudy
from dashboards.pictures.study_summary import TrialPoint
from tests.dashboards.generated import GeneratedStudy
from tests.dashboards.memory_store import MemoryStore


def shared_study(study: GeneratedStudy) -> tuple[SharedStudy, Callable[[int], History]]:
    """What is shown of a generated study, and its histories by number of the trial."""
    store = MemoryStore(studies=[study])
    record = store.study(study.name)
    searches = {search.number: search for search in study.searches}
    shown = [trial for trial in record.trials if trial.run.num_epochs and trial.eta is not None]
    points = [
        TrialPoint(
            number=trial.number,
            eta=trial.eta,
            error=trial.run.metrics["child_val_error"],
            madds=trial.run.metrics["child_madds"],
            on_front=trial.on_front,
        )
        for trial in shown
    ]
    front = [
        FrontCell(
            trial=trial.number,
            eta=trial.eta,
            schedule=trial.schedule_text,
            child_error=trial.run.metrics["child_val_error"],
            test_error=None,
            test_spread=None,
            madds=trial.run.metrics["child_madds"],
            params=trial.run.metrics["child_params"],
            genotype=searches[trial.number].genotype(),
        )
        for trial in shown
        if trial.on_front
    ]
    curves = {trial.run.run_id: searches[trial.number].curves() for trial in shown}
    found = claims(searches_of(record.trials, curves), "snas", "darts")
    shared = SharedStudy(
        name=record.overview.name,
        summary="made up",
        answer=answer_of(record),
        points=points,
        front=sorted(front, key=lambda cell: cell.child_error),
        claims=found,
        settings="seed: 0\n",
    )
    return shared, lambda number: searches[number].history()
