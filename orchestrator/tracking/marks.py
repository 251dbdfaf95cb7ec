"""What people say of a trial: a note, a star, tags of their own; they are tags of its MLflow run and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.exceptions import MlflowException

from dashboards.mlflow_store.mlflow_access import run_of
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import trial_label, unit_label
from orchestrator.stores import store_error
from orchestrator.study.study import Study
from orchestrator.tracking.stored import existing_store

NOTE, STAR = "snas.note", "snas.star"
#: Names that tags of people must not have: those that tracking sets, and MLflow.
_OURS = ("snas.", "mlflow.", "dataset", "version.", "git.")


def mark(study: Study, number: int, **tags: str) -> None:
    """Set tags of a trial's run; an empty text removes one.

    Args:
        study: running or not: tracking leaves these tags alone.
        number: of the trial.
        tags: by name.

    Raises:
        OrchestratorError: if the trial has no run yet, a name is tracking's own, or the store does not answer.
    """
    for name in tags:
        if name.startswith(_OURS) and name not in (NOTE, STAR):
            raise OrchestratorError(f"a tag must not begin with {', '.join(_OURS)}, which tracking sets, got `{name}`")
    unit = unit_label("search", trial_label(number))
    try:
        client = existing_store(study.tracking_uri)
        found = client.get_experiment_by_name(study.spec.name)
        run = None if found is None else run_of(client, found.experiment_id, unit)
        if run is None:
            raise OrchestratorError(
                f"trial {number} of study `{study.spec.name}` must have a run in MLflow, it has none"
            )
        for name, text in tags.items():
            if text:
                client.set_tag(run.info.run_id, name, text)
            elif name in run.data.tags:
                client.delete_tag(run.info.run_id, name)
    except (MlflowException, OSError) as error:
        raise store_error(f"the MLflow store {study.tracking_uri}", error) from error


def marks_of(tags: Mapping[str, str]) -> dict[str, Any]:
    """The note, whether there is a star, and tags that people set."""
    own = {name: text for name, text in tags.items() if not name.startswith(_OURS)}
    return {"note": tags.get(NOTE, ""), "star": STAR in tags, "tags": own}
