"""What users ask of a study, decided and carried out by whoever holds its lock: its driver, or the command itself.

Needs neither Ray nor PyTorch, so that a command on a study that does not run answers at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from dashboards.formatting import counted
from orchestrator.driver.forking import forked_values, keep_fork_point, require_fit
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.files.decisions import Decisions, Request, RequestKind, pending, post
from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label
from orchestrator.files.lock import driver_lock, lock_holder
from orchestrator.files.whole_file import write_whole
from orchestrator.jobs import Parent
from orchestrator.sampling.samplers import patiently
from orchestrator.study.lineage import FORK, parent_of
from orchestrator.study.study import Study
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.spec import search_options
from orchestrator.study_file.sweep import Scalar
from orchestrator.study_file.sweep_check import checked_values
from orchestrator.study_file.yaml_file import dump_yaml
from search_core.errors import OptionsError

#: User attribute of a trial that a request enqueued: its id.
REQUEST = "snas.request"
#: How long a command waits for the driver, and how often it looks.
_PATIENCE_S, _LOOK_S = 60.0, 0.2


class Steering:
    """Takes the requests of one study; for the holder of its lock.

    Args:
        study: the study; `trials` of its spec may grow.
        open_journal: the journal of a trial by number; default: read anew.

    Attributes:
        decisions: what was decided so far.
        is_running: whether trials run in this process.
    """

    def __init__(self, study: Study, open_journal: Callable[[int], Journal] | None = None) -> None:
        self._study, self.is_running = study, False
        self._open_journal = open_journal or self._read_journal
        self.decisions = Decisions(study.folder.decisions_file)

    def take(self) -> list[dict[str, Any]]:
        """Decide on what is asked for, carry it out, and return the decisions."""
        decided = []
        for request in pending(self._study.folder.requests):
            decision = self.decisions.on(request.id) or self._decide(request)
            self._carry_out(decision)
            request.file.unlink(missing_ok=True)
            decided.append(decision)
        return decided

    def _read_journal(self, number: int) -> Journal:
        return Journal(self._study.folder.journal("search", trial_label(number)))

    def _decide(self, request: Request) -> dict[str, Any]:
        rules: dict[str, Callable[..., dict[str, Any]]] = {
            "extend": self._extended,
            "enqueue": self._enqueued,
            "cancel": self._cancelled,
            "retry": self._retried,
            "fork": self._forked,
            "pause": self._paused,
        }
        try:
            if request.kind not in rules:
                raise OrchestratorError(f"{request.file.name} must ask for one of {', '.join(rules)}")
            return self.decisions.append(request.kind, request=request.id, **rules[request.kind](**request.facts))
        except (OrchestratorError, OptionsError, TypeError) as error:
            return self.decisions.append("refused", request=request.id, asked=request.kind, reason=str(error))

    def _extended(self, more: int) -> dict[str, Any]:
        spec = self._study.spec
        grown = self._grown(spec.trials + more)
        if spec.sampler == "grid" and grown["num_trials"] == spec.num_trials:
            raise OrchestratorError(
                f"the grid must have points that were not tried, but {spec.num_trials} are all it has"
            )
        return grown

    def _enqueued(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        spec = self._study.spec
        self._refuse_grid("tries every point anyway")
        checked = checked_values(spec.sweep, values)
        if not checked:
            raise OrchestratorError("at least one `--set KEY=VALUE` must be given, with a swept key")
        require_fit(spec, checked)
        room = spec.num_trials - len(self._trials())
        return {"values": checked, **self._grown(spec.trials + (room < 1))}

    def _cancelled(self, trial: int) -> dict[str, Any]:
        state = self._trial(trial).state
        if state != TrialState.RUNNING:
            raise OrchestratorError(
                f"trial {trial} must be running or unfinished to be cancelled, it is {state.name.lower()}"
            )
        return {"trial": trial, "reason": "cancelled by a user"}

    def _retried(self, trial: int) -> dict[str, Any]:
        self._refuse_grid("searches each point once")
        found, end = self._trial(trial), self._open_journal(trial).end
        if end in (None, "complete"):
            how = "unfinished" if end is None else end
            raise OrchestratorError(f"trial {trial} must have failed or been stopped to be tried again, it is {how}")
        parent = parent_of(found)
        if parent is not None:  # it began there, so it does again
            keep_fork_point(self._study, parent, self._open_journal(parent.trial))
        forked = {} if parent is None else {"parent": asdict(parent)}
        return {"of": trial, "values": found.params, **forked, **self._grown(self._study.spec.trials + 1)}

    def _forked(
        self, trial: int, epoch: int, values: Mapping[str, Scalar], count: int, of: int | None = None
    ) -> dict[str, Any]:
        self._refuse_grid("searches each point once")
        spec, parent, params = self._study.spec, Parent(trial, epoch), self._trial(trial).params
        if epoch >= (last := search_options(spec, params).epochs):
            raise OrchestratorError(f"--epoch must be below {last}, after which trial {trial} is over, got {epoch}")
        taken = forked_values(spec, params, values, count)
        grown = self._grown(spec.trials + count)
        keep_fork_point(self._study, parent, self._open_journal(trial))
        replaced = {} if of is None else {"of": of}
        return {"parent": asdict(parent), "values": taken, "count": count, **replaced, **grown}

    def _paused(self) -> dict[str, Any]:
        if not self.is_running:
            raise OrchestratorError(
                f"study `{self._study.spec.name}` must be running to be paused: no driver is at work"
            )
        return {"reason": "paused by a user", "on_end": "checkpoint"}

    def _refuse_grid(self, why: str) -> None:
        if self._study.spec.sampler == "grid":
            raise OrchestratorError(f"`sampler` must not be grid, which {why}")

    def _grown(self, trials: int) -> dict[str, Any]:
        """The study with this many trials, if it may have them."""
        data = {**self._study.spec.resolved(), "trials": trials}
        try:
            return {"trials": trials, "num_trials": parse_study(data).num_trials}
        except ConfigError as error:
            raise OrchestratorError("; ".join(f"`{fault.place}` {fault.message}" for fault in error.faults)) from error

    def _trials(self) -> list[FrozenTrial]:
        return patiently(lambda: self._study.optuna_study.get_trials(deepcopy=False))

    def _trial(self, number: int) -> FrozenTrial:
        trials = self._trials()
        if not 0 <= number < len(trials):
            raise OrchestratorError(f"the study must have trial {number}, it has {len(trials)}")
        return trials[number]

    def _carry_out(self, decision: Mapping[str, Any]) -> None:
        """Do what was decided; once more, if it was done already."""
        if "values" in decision:
            attributes = {REQUEST: decision["request"]}
            if "parent" in decision:
                attributes[FORK] = decision["parent"]
            num_known = sum(trial.user_attrs.get(REQUEST) == decision["request"] for trial in self._trials())
            for _ in range(num_known, decision.get("count", 1)):
                patiently(lambda: self._study.optuna_study.enqueue_trial(decision["values"], user_attrs=attributes))
        if "trials" in decision and decision["trials"] > self._study.spec.trials:
            # One object in the whole driver, frozen but for this: whoever counts sees it at once.
            object.__setattr__(self._study.spec, "trials", decision["trials"])
            write_study_file(self._study)
        if decision["kind"] == "cancel":
            self._cancel(decision["trial"], decision["reason"])

    def _cancel(self, number: int, reason: str) -> None:
        from orchestrator.driver.searcher import tell  # needs Ray

        journal = self._open_journal(number)
        journal.finish("cancelled", reason)
        tell(self._study.optuna_study, self._study.spec, number, journal)


def said(decision: Mapping[str, Any]) -> str:
    """A decision on a request in words."""
    kind, total = decision["kind"], f"the study has {decision.get('num_trials')} trials"
    parent = Parent(**decision["parent"]) if "parent" in decision else None
    place = f" in place of trial {decision['of']}" if "of" in decision else ""
    words = {
        "extend": f"{total} now",
        "enqueue": f"queued {_listed(decision.get('values', {}))}; {total}",
        "retry": f"trial {decision.get('of')} is tried again with its values, as another trial; {total} now",
        "fork": f"{counted(decision.get('count', 1), 'trial')} forked from {parent}{place}, with "
        f"{_listed(decision.get('values', {}))}; {total} now",
        "cancel": f"trial {decision.get('trial')} is cancelled",
        "pause": "pausing: trials stop at their checkpoints",
        "refused": f"refused to {decision.get('asked')}: {decision.get('reason')}",
    }
    return words[kind]


def _listed(values: Mapping[str, Scalar]) -> str:
    texts = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key}={text}" for key, text in texts.items())


def ask(study: Study, kind: RequestKind, **facts: Any) -> dict[str, Any]:
    """Ask something of a study and wait for the decision; without a driver, it is taken here.

    Args:
        study: the study.
        kind: what is asked for.
        facts: what it needs.

    Raises:
        OrchestratorError: if it is refused, with the reason; or if the driver does not answer: it stays asked for.
    """
    request = post(study.folder.requests, kind, **facts)
    decisions, deadline = Decisions(study.folder.decisions_file), time.monotonic() + _PATIENCE_S
    while (decision := decisions.on(request.id)) is None or request.file.exists():
        if lock_holder(study.folder.lock_file) is None:
            try:
                with driver_lock(study.folder.lock_file, study.spec.name):
                    Steering(Study.load(study.spec.name, study.runs)).take()
            except (OrchestratorError, OSError, KeyboardInterrupt) as error:
                is_late = isinstance(error, OrchestratorError) and lock_holder(study.folder.lock_file) is not None
                if not is_late:  # else a driver was faster, and takes it
                    _withdraw(request, decisions)
                    raise
        elif time.monotonic() > deadline:
            raise OrchestratorError(
                f"the driver of study `{study.spec.name}` must answer, it has not for {_PATIENCE_S:.0f} s; it takes "
                f"the request {request.file} as soon as it can, unless that file is deleted"
            )
        else:
            time.sleep(_LOOK_S)
        decisions.read()
    if decision["kind"] == "refused":
        raise OrchestratorError(decision["reason"])
    return decision


def _withdraw(request: Request, decisions: Decisions) -> None:
    """Nobody shall do later what failed here, unless it was decided: then it is completed."""
    decisions.read()
    if decisions.on(request.id) is None:
        request.file.unlink(missing_ok=True)


def write_study_file(study: Study) -> None:
    """Keep the settings of a study in its folder, whole or not at all."""
    draft = study.folder.path / f"study-{os.getpid()}.tmp"
    write_whole(study.folder.spec_file, dump_yaml(study.spec.resolved()).encode(), draft)
