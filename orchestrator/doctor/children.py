"""Checks of multi-trial searches: the order of their children, the children's journals and the search's own agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from orchestrator.doctor.case import Case, Recorded
from orchestrator.doctor.report import Notes
from orchestrator.driver.child_trials import OrderLog
from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.layout import child_label, trial_label
from orchestrator.study_file.spec import search_options
from search_core.errors import OptionsError
from search_core.strategies.multi_trial.options import MultiTrialOptions

CHILDREN = "children"


def check_children(case: Case, notes: Notes) -> None:
    """Every child was proposed and scored once, each scored one has a closed journal, and each epoch a report."""
    trials = {trial_label(trial.number): trial for trial in case.trials or ()}
    for label, recorded in case.searches.items():
        if not recorded.has_children or recorded.damage or label not in trials:
            continue
        try:
            log = OrderLog(case.study.folder.order_log(label))
            options = search_options(case.study.spec, trials[label].params)
        except (OrchestratorError, OptionsError, OSError) as error:
            notes.add(CHILDREN, recorded.unit, "error", str(error), "restore it from a backup")
            continue
        if isinstance(options.strategy, MultiTrialOptions):
            asked = [entry["asked"] for entry in log.entries if "asked" in entry]
            scored = [entry["told"] for entry in log.entries if "told" in entry]
            _check_order(recorded, asked, scored, notes)
            _check_reports(case, recorded, len(scored), options.strategy.children, notes)
            _check_journals(case, recorded, asked, scored, notes)


def _check_order(recorded: Recorded, asked: list[int], scored: list[int], notes: Notes) -> None:
    repeated = [child for child, count in Counter(scored).items() if count > 1]
    strangers = sorted(set(scored) - set(asked))
    if asked != list(range(len(asked))) or repeated or strangers:
        wrong = f"scored twice: {repeated}, scored but not proposed: {strangers}, proposed: {asked}"
        message = f"children must be proposed in order, and each scored once at most; {wrong}"
        notes.add(CHILDREN, recorded.unit, "error", message, "restore its order.jsonl from a backup")


def _check_reports(case: Case, recorded: Recorded, num_scored: int, per_epoch: int, notes: Notes) -> None:
    expected = num_scored // per_epoch
    if recorded.end != "failed" and len(recorded.metrics) != expected:
        message = f"after {num_scored} children it must have {expected} reports, got {len(recorded.metrics)}"
        remedy = f"{case.resume} appends what is missing" if recorded.end is None else "restore both from one backup"
        notes.add(CHILDREN, recorded.unit, case.lag, message, remedy)


def _check_journals(case: Case, recorded: Recorded, asked: list[int], scored: list[int], notes: Notes) -> None:
    journals = _read_journals(case, recorded, notes)
    notes.look(CHILDREN, len(journals))
    for child in scored:
        if child in journals and journals[child].end is None:
            message = "its score was reported to its strategy, so its journal must be closed, got one that is open"
            notes.add(CHILDREN, _place(recorded, child), "error", message, "restore the journal from a backup")
    for child in sorted(set(scored) - set(journals)):
        message = "its score was reported to its strategy, so it must have a journal that can be read, got none"
        notes.add(CHILDREN, _place(recorded, child), "error", message, "restore the journal from a backup")
    for child in sorted(set(journals) - set(asked)):
        message = "it has a journal, but was never proposed"
        notes.add(CHILDREN, _place(recorded, child), case.lag, message, "restore order.jsonl, or move the file away")
    for child, journal in journals.items():
        if journal.end not in (None, "complete") and not journal.reason.strip():
            message = f"it is {journal.end}, which must have a stated reason, got none"
            notes.add(CHILDREN, _place(recorded, child), "error", message)


def _read_journals(case: Case, recorded: Recorded, notes: Notes) -> Mapping[int, Journal]:
    journals = {}
    for file in sorted(case.study.folder.order_log(recorded.label).parent.glob("[0-9]*.jsonl")):
        try:
            journals[int(file.stem)] = Journal(file)
        except (OrchestratorError, OSError, ValueError) as error:
            notes.add(CHILDREN, f"{recorded.unit} {file.stem}", "error", str(error), f"restore {file} from a backup")
    return journals


def _place(recorded: Recorded, child: int) -> str:
    return f"trial-{child_label(int(recorded.label), child)}"
