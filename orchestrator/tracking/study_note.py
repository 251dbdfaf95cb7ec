"""How a study stands, on its parent run and experiment in MLflow: metrics over trials, and a description."""

from __future__ import annotations

from dashboards.analysis.answer_text import answer_words
from dashboards.formatting import MISSING, hours_text, shown_metric, shown_number
from orchestrator.files.layout import trial_label, unit_label
from orchestrator.study.standing import EndedRetraining, EndedTrial, Tally
from orchestrator.study_file.spec import StudySpec
from orchestrator.tracking.markdown import RunAddress, code, joined, link, plain, table
from orchestrator.tracking.study_artifacts import NARROW
from orchestrator.tracking.tracker import Tracker

_MAX_FRONT, _MAX_FAILURES, _MAX_REASON = 20, 8, 200

#: A metric of each group, whose newest step shows how much was logged: searches that are over, retrainings that are.
_SEARCHES, _RETRAININGS = "trials_complete", "retrainings_complete"


class StudyProgress:
    """Brings the parent run up to a tally.

    Args:
        spec: the study file.
        tally: counts.
        tracker: MLflow.
        parent: the parent run.
    """

    def __init__(self, spec: StudySpec, tally: Tally, tracker: Tracker, parent: str) -> None:
        self._spec, self._tally, self._tracker, self._parent = spec, tally, tracker, parent
        self._steps: dict[str, int] | None = None  # newest step of each group; None if the store must be asked
        self._note = ""
        self.has_picture = False

    def log(self) -> None:
        """Log what is new: each step once, whatever driver did it before."""
        tally = self._tally.snapshot()
        try:
            self._log_metrics(tally)
            note = self.note(tally)
            if note != self._note:
                self._tracker.describe_study(self._parent, note)
                self._note = note
        except BaseException:
            self._steps, self._note = None, ""
            raise

    def _log_metrics(self, tally: Tally) -> None:
        steps = self._known_steps()
        if len(tally.trials) > max(steps[_SEARCHES], 0):
            self._tracker.log_metrics(self._parent, tally.trial_metrics(), len(tally.trials))
            steps[_SEARCHES] = len(tally.trials)
        if tally.num_retrainings is not None and len(tally.retrainings) > steps[_RETRAININGS]:
            self._tracker.log_metrics(self._parent, tally.retraining_metrics(), len(tally.retrainings))
            steps[_RETRAININGS] = len(tally.retrainings)

    def _known_steps(self) -> dict[str, int]:
        if self._steps is None:
            self._steps = {name: self._tracker.last_step(self._parent, name) for name in (_SEARCHES, _RETRAININGS)}
        return self._steps

    def note(self, tally: Tally) -> str:
        """The description: what the study is, how far it is, its front, what failed, in markdown."""
        goals = " and ".join(f"{objective.mode} {code(objective.metric)}" for objective in self._spec.objectives)
        sweep = "".join(f"\n- {code(f'{key}: {entry.to_data()}')}" for key, entry in self._spec.sweep.items())
        parent = RunAddress(self._tracker.experiment_id, self._parent)
        answer = tally.answer()
        said = "" if answer is None else f"**{plain(answer_words(answer))}**"
        # MLflow shows the first line of an experiment's description, the rest on demand.
        head = (said, self._numbers(tally)) if answer is not None and answer.is_over else (self._numbers(tally), said)
        return joined(
            *head,
            f"SNAS searches on {plain(self._spec.search.dataset.title)}: {goals}. "
            f"{link('Parent run', parent.page)}, {link('study file', parent.artifact('study.yaml'))}.",
            self._front(tally),
            parent.image(NARROW) if self.has_picture else "",
            self._failures(tally),
            f"Swept:\n{sweep}" if sweep else "",
        )

    def _numbers(self, tally: Tally) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in tally.ends.items() if count)
        over = f"**{len(tally.trials)} of {self._spec.num_trials} searches are over**"
        parts = [f"{over} ({ends})" if ends else over]
        if tally.num_retrainings is not None:
            parts.append(f"{len(tally.retrainings)} of {tally.num_retrainings} retrainings")
        if tally.hours is not None:
            parts.append(f"{hours_text(*tally.hours)} in searches")
        return ", ".join(parts) + "."

    def _front(self, tally: Tally) -> str:
        front = tally.front
        if not front:
            return ""
        columns = ("trial", "eta", "temperature", "child error", "multiply-adds", "parameters", "retrained test")
        more = f"\n\n{len(front) - _MAX_FRONT} more of the front are in front.json." if len(front) > _MAX_FRONT else ""
        title = "Front" if len(self._spec.objectives) > 1 else "Best"
        return (
            f"### {title}\n\n" + table(columns, [self._front_row(tally, trial) for trial in front[:_MAX_FRONT]]) + more
        )

    def _front_row(self, tally: Tally, trial: EndedTrial) -> tuple[str, ...]:
        names = ("child_val_error", "child_madds", "child_params")
        return (
            self._trial_link(trial.number),
            shown_number(trial.eta),
            plain(trial.temperature),
            *(shown_metric(name, trial.metrics.get(name)) for name in names),
            _tested(tally, trial),
        )

    def _failures(self, tally: Tally) -> str:
        failed: list[tuple[str, EndedTrial | EndedRetraining]] = [
            (self._trial_link(trial.number), trial) for trial in tally.trials.values() if trial.end == "failed"
        ]
        failed += [(plain(label), record) for label, record in tally.retrainings.items() if record.end == "failed"]
        lines = [f"- {name}: {plain(record.reason[:_MAX_REASON])}" for name, record in failed[:_MAX_FAILURES]]
        lines += [f"- and {len(failed) - _MAX_FAILURES} more"] if len(failed) > _MAX_FAILURES else []
        return "### Failures\n\n" + "\n".join(lines) if lines else ""

    def _trial_link(self, number: int) -> str:
        run_id = self._tracker.known_run(unit_label("search", trial_label(number)))
        text = f"trial {number}"
        return plain(text) if run_id is None else link(text, RunAddress(self._tracker.experiment_id, run_id).page)


def _tested(tally: Tally, trial: EndedTrial) -> str:
    """Mean accuracy of the retrainings of a trial's cell, which another trial may have found too."""
    tests = [
        record.test_accuracy
        for record in tally.retrainings.values()
        if record.test_accuracy is not None
        and record.trial in tally.trials
        and tally.trials[record.trial].cell == trial.cell
    ]
    return shown_metric("test_accuracy", sum(tests) / len(tests)) + f" (n = {len(tests)})" if tests else MISSING
