"""A study as one HTML file, from its journals."""

from __future__ import annotations

from collections import Counter

from dashboards.formatting import counted
from dashboards.history import History, history_table, parquet_bytes, read_history
from dashboards.one_file.page import FrontCell, SharedStudy, render_study_page
from dashboards.pictures.study_summary import TrialPoint
from orchestrator.credentials import masked
from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label
from orchestrator.reports.comparison import compare
from orchestrator.reports.relations import study_answer
from orchestrator.study.records import TrialRecord, front_rows
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from orchestrator.study_file.yaml_file import dump_yaml
from search_core.cost.penalty_options import final_strength
from search_core.space.genotype import Genotype


def study_page(study: Study) -> str:
    """The page of a study as it is now; passwords in addresses are hidden."""
    trials, retrains = study.trials(), study.retrains()
    values = {trial.number: trial.values for trial in trials}
    comparison = compare(study)
    shared = SharedStudy(
        name=study.spec.name,
        summary=_summary(study, trials),
        answer=study_answer(study, trials, retrains),
        points=[trial_point(trial, study) for trial in trials if trial.epochs],
        front=[
            FrontCell(
                trial=row["trial"],
                eta=row["eta"],
                schedule=row["temperature"],
                child_error=1 - row["child_val_accuracy"],
                test_error=None if row["test_accuracy"] is None else 1 - row["test_accuracy"],
                test_spread=row["test_accuracy_sd"],
                madds=row["child_madds"],
                params=row["child_params"],
                genotype=Genotype.from_dict(row["genotype"]),
            )
            for row in front_rows(trials, retrains, study.spec)
        ],
        claims=comparison.claims,
        settings=masked(dump_yaml(study.spec.resolved())),
    )

    def history_of(number: int) -> History:
        records = Journal(study.folder.journal("search", trial_label(number))).epochs
        network = search_options(study.spec, values[number]).network
        return read_history(parquet_bytes(history_table(records, network.operations)), trial_label(number))

    return render_study_page(shared, history_of)


def trial_point(trial: TrialRecord, study: Study) -> TrialPoint:
    """What the pictures of a study show of one trial."""
    epochs = Journal(study.folder.journal("search", trial_label(trial.number))).epochs
    return TrialPoint(
        number=trial.number,
        eta=final_strength(search_options(study.spec, trial.values).penalty, trial.metrics),
        error=trial.metrics["child_val_error"],
        madds=trial.metrics["child_madds"],
        on_front=trial.on_front,
        epochs=[record["epoch"] + 1 for record in epochs],
        entropy=[record["metrics"]["entropy_total"] for record in epochs],
        gap=[record["metrics"]["discretization_gap"] for record in epochs],
        temperature=[record["metrics"]["temperature"] for record in epochs],
    )


def _summary(study: Study, trials: list[TrialRecord]) -> str:
    spec = study.spec
    goals = " and ".join(f"{objective.mode} {objective.metric}" for objective in spec.objectives)
    states = ", ".join(f"{count} {state}" for state, count in Counter(trial.state for trial in trials).items())
    searches = counted(spec.num_trials, "search", "searches")
    return f"{searches} on {spec.search.dataset.title}, {goals}: {states or 'none began'}"
