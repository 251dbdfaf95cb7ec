"""Ray Tune asks for trials and tells their results; Optuna's storage holds the truth.

Ray ships `OptunaSearch`, but its state is a pickle that lags behind the storage: after a killed driver, trials are
tried twice or stay RUNNING for ever. Here a trial is its number in Optuna's storage, and a new driver asks for the
unfinished ones first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.config import StudySpec, search_options
from orchestrator.journal import Journal
from orchestrator.runs import trial_label
from orchestrator.samplers import enqueue_grid, make_sampler
from orchestrator.space import Scalar, suggest
from orchestrator.warm_start import enqueue_warm_start
from search_core.errors import OptionsError


class StudySearcher(Searcher):
    """Gives Ray Tune the unfinished trials of a study, then new ones until it has its number.

    Args:
        study: the Optuna study.
        spec: the study file.
        open_journal: the journal of a trial by number.
        checkpoints: checkpoint files of a trial by number, newest first.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: StudySpec,
        open_journal: Callable[[int], Journal],
        checkpoints: Callable[[int], list[str]],
    ) -> None:
        super().__init__(metric=spec.objectives[0].metric, mode=spec.objectives[0].mode)
        self._study, self._spec = study, spec
        self._open_journal, self._checkpoints = open_journal, checkpoints
        enqueue_grid(study, spec)
        enqueue_warm_start(study, spec)
        self._unfinished = study.get_trials(states=(TrialState.RUNNING,))
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it for its own restore, which is not used here: the storage and the journals are the state.
        return {}

    @staticmethod
    def num_open(study: optuna.Study, spec: StudySpec) -> int:
        """How many trials are unfinished or not yet asked for."""
        return spec.num_trials - sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The study file says what is searched and measured; Tune has nothing to add."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Configuration of the next trial, or `FINISHED`."""
        while (asked := self._ask()) is not None:
            number, values = asked
            try:
                options = search_options(self._spec, values)
            except OptionsError as error:  # ends of ranges were checked; a mixture of them may still not fit
                self._open_journal(number).finish("failed", str(error))
                self._study.tell(number, state=TrialState.FAIL)
                continue
            self._numbers[trial_id] = number
            job = {
                "label": trial_label(number),
                "options": asdict(options),
                "recorded": len(self._open_journal(number).epochs),
                "checkpoints": self._checkpoints(number),
            }
            return {"job": job}
        return Searcher.FINISHED  # type: ignore[return-value]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended, by its journal."""
        number = self._numbers.pop(trial_id)
        if error:  # the callback has not yet closed the journal
            self._study.tell(number, state=TrialState.FAIL)
        else:
            tell(self._study, self._spec, number, self._open_journal(number))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage and the journals are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def _ask(self) -> tuple[int, Mapping[str, Scalar]] | None:
        while self._unfinished:
            trial = self._unfinished.pop(0)
            journal = self._open_journal(trial.number)
            if journal.end is None:
                # A driver killed while it drew the values left a part of them: the rest is drawn now.
                self._study.sampler = make_sampler(self._spec, trial.number)
                drawn = optuna.trial.Trial(self._study, trial._trial_id)
                return trial.number, suggest(drawn, self._spec.sweep)
            tell(self._study, self._spec, trial.number, journal)  # the driver was killed before it could
        asked = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        if len(asked) >= self._spec.num_trials:
            return None
        self._study.sampler = make_sampler(self._spec, len(asked))
        new = self._study.ask()
        return new.number, suggest(new, self._spec.sweep)


def tell(study: optuna.Study, spec: StudySpec, number: int, journal: Journal) -> None:
    """Record the end of a trial in Optuna: COMPLETE, PRUNED if a scheduler stopped it, or FAIL.

    Optuna knows no pruned trials with two objectives; there, a stopped trial counts with its last values.
    """
    values = [journal.last_metric(objective.metric) for objective in spec.objectives]
    if journal.end == "failed" or not all(map(math.isfinite, values)):
        study.tell(number, state=TrialState.FAIL)
    elif journal.end == "stopped" and len(values) == 1:
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, values)
