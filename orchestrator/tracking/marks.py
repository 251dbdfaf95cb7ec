"""What people say of a trial: a note, a star, tags of their own; they are tags of its MLflow run and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import trial_label, unit_label
from orchestrator.study.study import Study
from orchestrator.tracking.stored import opened_run

NOTE, STAR = "snas.note", "snas.star"
#: Names that tags of people must not have: those that tracking sets, and MLflow.
_OURS = ("snas.", "mlflow.", "dataset", "version.", "git.", "machine.")


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
    with opened_run(study, unit) as (client, run):
        for name, text in tags.items():
            if text:
                client.set_tag(run.info.run_id, name, text)
            elif name in run.data.tags:
                client.delete_tag(run.info.run_id, name)


def marks_of(tags: Mapping[str, str]) -> dict[str, Any]:
    """The note, whether there is a star, and tags that people set."""
    own = {name: text for name, text in tags.items() if not name.startswith(_OURS)}
    return {"note": tags.get(NOTE, ""), "star": STAR in tags, "tags": own}
