"""Ray Tune asks for trials and reports their results; Optuna's storage holds the truth.

Ray ships `OptunaSearch`, but its state is a pickle that lags behind the storage: after a killed driver, trials are
tried twice or stay RUNNING forever. Here a trial is its number in Optuna's storage, and a new driver asks for the
unfinished ones first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from orchestrator.adapters.optuna_internals import running_trial
from orchestrator.driver.child_trials import OpenSearch
from orchestrator.driver.launch import OwnFault
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.files.journal import Journal
from orchestrator.files.layout import split_child_label
from orchestrator.jobs import ChildJob, SearchJob
from orchestrator.sampling.constraints import excesses, limits_of, store_excesses
from orchestrator.sampling.ranking import is_result
from orchestrator.sampling.samplers import enqueue_grid, make_sampler, patiently
from orchestrator.sampling.warm_start import enqueue_warm_start
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import Scalar, suggest
from search_core.errors import ConstraintsError, DataError, LatencyError, OptionsError
from search_core.search.child_training import ChildOrder
from search_core.search.options import SearchOptions
from search_core.strategies.multi_trial.options import MultiTrialOptions


class ChildWork(Protocol):
    """What a searcher needs of the driver to run multi-trial searches."""

    def open(self, number: int, options: SearchOptions) -> OpenSearch:
        """A search, brought up to what its files say.

        Raises:
            ConstraintsError, DataError, LatencyError, OptionsError: if it cannot be run.
        """

    def job(self, search: OpenSearch, order: ChildOrder) -> ChildJob:
        """What a worker is given to train a child."""

    def progressed(self, search: OpenSearch) -> None:
        """Show and log what is new in the journal of a search, and drop checkpoints that are not needed any more."""

    def was_over(self, number: int, journal: Journal) -> None:
        """Drop what a driver left that was killed at the end of a trial, which need not be multi-trial."""


class StudySearcher(Searcher):
    """Gives Ray Tune the unfinished trials of a study, then new ones until it has its number.

    A trial whose strategy trains every child independently becomes one Tune trial for each child.

    Args:
        study: the Optuna study.
        spec: the study file.
        open_journal: the journal of a trial by number.
        make_job: what a worker is given to run a trial, by number and options.
        fault: keeps what goes wrong in here.
        children: for multi-trial searches; None if the study has none.
        may_begin: whether another trial may begin after so many.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: StudySpec,
        open_journal: Callable[[int], Journal],
        make_job: Callable[[int, SearchOptions], SearchJob],
        fault: OwnFault,
        children: ChildWork | None = None,
        may_begin: Callable[[int], bool] = lambda num_begun: True,
    ) -> None:
        super().__init__(metric=spec.objectives[0].metric, mode=spec.objectives[0].mode)
        self._study, self._spec = study, spec
        self._open_journal, self._make_job, self._fault = open_journal, make_job, fault
        enqueue_grid(study, spec)
        enqueue_warm_start(study, spec)
        running = patiently(lambda: study.get_trials(states=(TrialState.RUNNING,)))
        self._too_big = [trial for trial in running if self._ran_out_of_memory(trial)]
        self._unfinished = [trial for trial in running if not self._ran_out_of_memory(trial)]
        self._numbers: dict[str, int] = {}
        self._children, self._may_begin = children, may_begin
        self._searches: dict[int, OpenSearch] = {}  # multi-trial ones
        self._child_of: dict[str, tuple[int, int]] = {}  # search and child of a Tune trial
        self._asked_all = False

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it for its own restore, which is not used here: the storage and the journals are the state.
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The study file says what is searched and measured; Tune has nothing to add."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Configuration of the next trial; None while an end of another is needed first; or `FINISHED`."""
        with self._fault.noted():
            return self._suggest(trial_id)

    def _suggest(self, trial_id: str) -> dict[str, Any] | None:
        while (child := self._next_child(trial_id)) is None and (asked := self._ask()) is not None:
            number, values = asked
            try:
                options = search_options(self._spec, values)
                if isinstance(options.strategy, MultiTrialOptions):
                    self._open(number, options)
                    continue
            except (OptionsError, ConstraintsError, DataError, LatencyError) as error:
                # Ends of ranges were checked; a mixture of them may still not fit.
                self._open_journal(number).finish("failed", str(error))
                _tell(self._study, number, state=TrialState.FAIL)
                continue
            self._numbers[trial_id] = number
            return self._make_job(number, options).to_config()
        if child is not None:
            return child.to_config()
        if self._numbers or any(search.is_waiting for search in self._searches.values()):
            return None  # while trials run, a user may ask for more of them
        return Searcher.FINISHED  # type: ignore[return-value]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report to Optuna how a trial ended, by its journal.

        That of a failed trial has no end yet: the callback writes it, and calls `tell_failed`.
        """
        if trial_id in self._child_of:
            with self._fault.noted():
                self._child_ended(*self._child_of.pop(trial_id))
            return
        number = self._numbers.pop(trial_id)
        journal = self._open_journal(number)
        if journal.end is not None:  # else it failed, or ran out of memory and is tried again by the next launch
            with self._fault.noted():
                tell(self._study, self._spec, number, journal)

    def tell_failed(self, label: str) -> None:
        """Report to Optuna that a trial failed, or to its strategy that a child did; the journal has it already."""
        child = split_child_label(label)
        if child is not None:
            self._child_ended(*child)
        else:
            _tell(self._study, int(label), state=TrialState.FAIL)

    def steered(self, cancelled: int | None) -> None:
        """A user asked for more trials, or cancelled one; its journal has the end already."""
        self._asked_all = False
        if cancelled in self._searches:
            self._progressed(self._searches[cancelled])

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage and the journals are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def _open(self, number: int, options: SearchOptions) -> None:
        assert self._children is not None, "the driver of such a study runs children"
        search = self._searches[number] = self._children.open(number, options)
        self._progressed(search)

    def _next_child(self, trial_id: str) -> ChildJob | None:
        """The job of a child of an open search, the first search first."""
        for search in list(self._searches.values()):
            order = search.next_order()
            if order is not None:
                assert self._children is not None
                self._child_of[trial_id] = search.number, order.number
                return self._children.job(search, order)
        return None

    def _child_ended(self, number: int, child: int) -> None:
        search = self._searches.get(number)
        if search is None:  # it could not continue without this one
            return
        search.set_aside(child)
        # Else the child failed and `tell_failed` comes, or it ran out of memory and is tried again by the next launch.
        if search.journal_of(child).end is not None:
            search.tell(child)
            self._progressed(search)

    def _progressed(self, search: OpenSearch) -> None:
        assert self._children is not None
        self._children.progressed(search)
        if search.is_over:
            del self._searches[search.number]
            tell(self._study, self._spec, search.number, search.journal)

    def _ask(self) -> tuple[int, Mapping[str, Scalar]] | None:
        """Unfinished trials, then new ones, then those that ran out of memory: by then others have ended."""
        while (trial := self._next_unfinished()) is not None:
            journal = self._open_journal(trial.number)
            if journal.end is None:
                # A driver killed while it drew the values left a part of them: the rest is drawn now.
                return trial.number, self._drawn(self._begun(trial))
            if self._children is not None:
                self._children.was_over(trial.number, journal)
            tell(self._study, self._spec, trial.number, journal)  # the driver was killed before it could
        if self._asked_all or not self._has_new:
            self._asked_all = True  # Tune asks ten times a second while a multi-trial search waits
            return None
        self._study.sampler = make_sampler(self._spec, self._num_asked())
        new = patiently(self._study.ask)
        return new.number, self._drawn(new)

    def _begun(self, trial: FrozenTrial) -> optuna.trial.Trial:
        """A trial as it was when its driver was killed: what was drawn is drawn again, for the rest to be alike."""
        sampler = self._study.sampler = make_sampler(self._spec, trial.number)
        begun = patiently(lambda: running_trial(self._study, trial))
        for name, distribution in trial.distributions.items():
            if name not in begun.relative_params:
                sampler.sample_independent(self._study, trial, name, distribution)
        return begun

    def _drawn(self, trial: optuna.trial.Trial) -> Mapping[str, Scalar]:
        try:
            return patiently(lambda: suggest(trial, self._spec.sweep))
        except ValueError as error:  # of a study that was begun before its settings were kept (`study_changes`)
            rule = "`sweep` must be that of the trials in Optuna's storage"
            raise OrchestratorError(f"{rule}, got for trial {trial.number}: {first_line(error)}") from error

    @property
    def _has_new(self) -> bool:
        num_asked = self._num_asked()
        return num_asked < self._spec.num_trials and self._may_begin(num_asked)

    def _num_asked(self) -> int:
        trials = patiently(lambda: self._study.get_trials(deepcopy=False))
        return sum(trial.state != TrialState.WAITING for trial in trials)

    def _next_unfinished(self) -> FrozenTrial | None:
        if self._unfinished:
            return self._unfinished.pop(0)
        return self._too_big.pop(0) if self._too_big and not self._has_new else None

    def _ran_out_of_memory(self, trial: FrozenTrial) -> bool:
        return self._open_journal(trial.number).count("out_of_memory") > 0


def tell(study: optuna.Study, spec: StudySpec, number: int, journal: Journal) -> None:
    """Record the end of a trial in Optuna: COMPLETE, PRUNED if it was stopped, or FAIL.

    What is no result though it did not fail is pruned with one objective, and fails with several, where Optuna cannot
    prune. By how much it is above the hard limits is reported first.
    """
    _store_excesses(study, spec, number, journal)
    values = [journal.last_metric(objective.metric) for objective in spec.objectives]
    if journal.end == "failed" or not all(map(math.isfinite, values)):
        _tell(study, number, state=TrialState.FAIL)
    elif is_result(journal.end, len(values)):
        _tell(study, number, values)
    else:
        _tell(study, number, state=TrialState.PRUNED if len(values) == 1 else TrialState.FAIL)


def _store_excesses(study: optuna.Study, spec: StudySpec, number: int, journal: Journal) -> None:
    if journal.end == "failed" or not journal.epochs:
        return
    values = patiently(lambda: study.get_trials(deepcopy=False))[number].params
    found = excesses(limits_of(spec, values), journal.epochs[-1]["metrics"])
    patiently(lambda: store_excesses(study, number, found))


def _tell(
    study: optuna.Study, number: int, values: Sequence[float] | None = None, state: TrialState | None = None
) -> None:
    patiently(lambda: study.tell(number, values, state, skip_if_finished=True))
