"""Checks of MLflow against the journals: one run per unit, every epoch once, all artifacts."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from mlflow.entities import Run

from dashboards.mlflow_store.databases import mlflow_command, sqlite_file
from orchestrator.doctor.case import Case, Recorded
from orchestrator.doctor.mlflow_store import READ_ERRORS, Artifacts, Points, StudyRuns
from orchestrator.doctor.model_checks import check_models
from orchestrator.doctor.report import Notes, Severity
from orchestrator.errors import StoreStateError, first_line
from orchestrator.study.lineage import fork_tags
from orchestrator.study.standing import ENDS
from orchestrator.tracking.artifacts import CELLS, GENOTYPE, HISTORY, PLAYER
from orchestrator.tracking.curves import FOLDER, file_of
from orchestrator.tracking.markdown import RUN_LIMIT
from orchestrator.tracking.run_spec import logged_metrics
from orchestrator.tracking.study_artifacts import PUBLISHED_COSTS
from orchestrator.tracking.tracker import kept_run
from search_core.space.genotype import Genotype

RUNS, METRICS, ARTIFACTS = "MLflow runs", "MLflow metrics", "MLflow artifacts"
_OUR_UNITS = re.compile(r"trial-\d{4,}|retrain-(\d{4,}|cell)-seed\d+|study")
_PARENT = "mlflow.parentRunId"
#: Of a run that a driver continues; a killed one is marked as such only if the driver could still do it.
_OPEN = ("RUNNING", "KILLED")


def read_runs(uri: str, experiment: str, notes: Notes) -> StudyRuns | None:
    """The study's runs, or None with a finding if MLflow does not answer or does not know the study."""
    try:
        return StudyRuns(uri, experiment)
    except StoreStateError as error:
        notes.add(RUNS, "MLflow", "error", error.fault.what, error.fault.remedy)
    except READ_ERRORS as error:
        message = f"the MLflow store {uri} must hold the experiment `{experiment}`, got: {first_line(error)}"
        is_file = sqlite_file(uri) is not None
        remedy = "restore it from a backup" if is_file else "start the server, or set `MLFLOW_TRACKING_URI`"
        notes.add(RUNS, "MLflow", "error", message, f"{remedy}; then ask again")
    return None


class RunsCheck:
    """Compares the runs of a study with its journals.

    Args:
        case: the study.
        store: MLflow.
        notes: gets the findings.
        uri: of MLflow's store.
        has_files: whether artifacts are where the store says.
    """

    def __init__(self, case: Case, store: StudyRuns, notes: Notes, uri: str, *, has_files: bool) -> None:
        self._case, self._store, self._notes = case, store, notes
        self._uri, self._has_files = uri, has_files
        self._runs: dict[str, Run] = {}

    def check(self) -> None:
        """Make all checks."""
        self._notes.look(RUNS, len(self._store.runs))
        self._find_runs(self._store.runs)
        recorded = [unit for unit in self._case.units if unit.unit in self._runs and unit.exists and not unit.damage]
        for unit in recorded:
            self._check_state(unit)
            self._check_parent(unit)
        self._check_study_run()
        for unit in recorded:
            self._check_metrics(unit, self._store.histories[self._runs[unit.unit].info.run_id])
        if self._has_files:
            self._check_artifacts(recorded)
        check_models(self._case, self._store, self._runs, self._notes)

    def _find_runs(self, runs: Sequence[Run]) -> None:
        by_unit: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_unit[run.data.tags.get("snas.unit", "")].append(run)
        units = {unit.unit: unit for unit in self._case.units}
        trial_runs = {run.info.run_id for name, found in by_unit.items() if name.startswith("trial-") for run in found}
        for name, found in by_unit.items():
            if name == "study" or name in units:
                self._runs[name] = kept = kept_run(found)
                if len(found) > 1:
                    ids = ", ".join(run.info.run_id for run in found)
                    message = f"it must have one MLflow run, got {len(found)}: {ids}"
                    extra = " and ".join(self._delete(run) for run in found if run is not kept)
                    self._add(RUNS, name, "error", message, f"compare them, then {extra}")
            else:
                self._report_stranger(name, found, trial_runs)
        strangers = self._case.strangers
        for name in ("study", *units):
            # A trial that has not reported yet has no run.
            is_begun = name == "study" or units[name].metrics or units[name].end is not None
            if name not in by_unit and is_begun and name not in strangers:
                deleted = [run.info.run_id for run in self._store.deleted if run.data.tags.get("snas.unit") == name]
                got = f"none: {' and '.join(deleted)} was deleted" if deleted else "none"
                self._add(RUNS, name, self._case.lag, f"it must have an MLflow run, got {got}", self._case.bring_up)

    def _report_stranger(self, name: str, found: Sequence[Run], trial_runs: set[str]) -> None:
        deleted = {run.info.run_id: run.data.tags.get("snas.unit", "") for run in self._store.deleted}
        for run in found:
            tags, place = run.data.tags, f"run {run.info.run_id}"
            is_ours = tags.get("snas.kind") != "retrain" or _OUR_UNITS.fullmatch(name) is not None
            parent = tags.get(_PARENT)
            if not is_ours and parent in trial_runs:
                self._add(RUNS, name, "info", "retrained with `snas retrain --run`; the study does not ask for it")
            elif not is_ours and parent in deleted:
                message = f"its run lies below {parent}, the run of `{deleted[parent]}`, which was deleted"
                self._add(RUNS, name, self._case.lag, message, self._case.bring_up)
            elif not is_ours and parent is not None and not self._store.has_run(parent):
                self._add(RUNS, name, "info", f"retrained by hand; its trial's run {parent} was removed for good")
            else:
                called = f"`{run.info.run_name}`, tag snas.unit {name!r}"
                message = f"every run must belong to a trial or retraining of the study, got {called}"
                self._add(RUNS, place, "error", message, self._delete(run))

    def _check_state(self, unit: Recorded) -> None:
        run = self._runs[unit.unit]
        wanted = _OPEN if unit.end is None else ("FAILED",) if unit.end == "failed" else ("FINISHED",)
        status, tag = run.info.status, run.data.tags.get("snas.end")
        if status not in wanted:
            message = f"its run must be {' or '.join(wanted)}, as the journal is {unit.end or 'open'}, got {status}"
        elif unit.end is not None and tag != unit.end:
            message = f"the tag snas.end of its run must be `{unit.end}`, got `{tag}`"
        elif unit.reason.strip() and run.data.tags.get("snas.reason") != unit.reason[:RUN_LIMIT]:
            got = run.data.tags.get("snas.reason")
            message = f"the tag snas.reason of its run must be `{unit.reason}`, as in the journal, got `{got}`"
        else:
            return
        # A run that is closed is not touched again by a driver.
        self._add(RUNS, unit.unit, self._case.lag, message, self._remedy(run, is_late=status in _OPEN))

    def _check_parent(self, unit: Recorded) -> None:
        trial = unit.label.partition("-")[0]
        parent = "study" if unit.phase == "search" or trial == "cell" else f"trial-{trial}"
        run = self._runs[unit.unit]
        wanted = self._runs.get(parent)
        got = run.data.tags.get(_PARENT)
        if wanted is not None and got != wanted.info.run_id:
            message = f"its run must lie below {wanted.info.run_id}, the run of `{parent}` ({_PARENT}), got {got}"
            self._add(RUNS, unit.unit, self._case.lag, message, self._case.bring_up)
        for tag, value in fork_tags(self._case.parents.get(unit.label) if unit.phase == "search" else None).items():
            if (got := run.data.tags.get(tag)) != value:
                message = f"the tag {tag} of its run must be {value}, where it was forked, got {got}"
                self._add(RUNS, unit.unit, self._case.lag, message, self._case.bring_up)

    def _check_study_run(self) -> None:
        run = self._runs.get("study")
        if run is None:
            return
        if run.data.tags.get(_PARENT) is not None:
            message = f"its run must have no parent, got {run.data.tags[_PARENT]}"
            self._add(RUNS, "study", self._case.lag, message, self._case.bring_up)
        if self._case.is_running or self._case.trials is None:
            return
        wanted: tuple[str, ...] = (*_OPEN, "FAILED")
        if self._case.is_done:
            phases = (tuple(self._case.searches.values()), tuple(self._case.retrains.values()))
            all_failed = any(units and all(unit.end == "failed" for unit in units) for units in phases)
            wanted = ("FAILED",) if all_failed else ("FINISHED",)
        if run.info.status not in wanted:
            message = f"its run must be {' or '.join(wanted)}, got {run.info.status}"
            self._add(RUNS, "study", "error", message, self._case.bring_up)

    def _check_metrics(self, unit: Recorded, found: Mapping[str, Points]) -> None:
        alike: dict[tuple[str, bool], list[str]] = defaultdict(list)  # an epoch is missing in all metrics at once
        for metric in sorted({*self._metrics_of(unit), *found}):
            wanted = {step: metrics[metric] for step, metrics in enumerate(unit.metrics) if metric in metrics}
            points = found.get(metric, [])
            self._notes.look(METRICS, len(points))
            for kind in _step_faults(wanted, points, len(unit.metrics)):
                alike[kind].append(f"`{metric}`")
        run = self._runs[unit.unit]
        for (fault, is_behind), metrics in alike.items():
            # A driver logs what lies beyond the last step of an open run; it fills no holes.
            is_late = is_behind and run.info.status in _OPEN
            named = ", ".join(metrics[:3]) + (f" and {len(metrics) - 3} more" if len(metrics) > 3 else "")
            severity = self._case.lag if is_late else "error"
            self._add(METRICS, unit.unit, severity, f"{named} {fault}", self._remedy(run, is_late=is_late))

    def _metrics_of(self, unit: Recorded) -> set[str]:
        """Metrics that must be logged; whatever else is logged must be right, too."""
        recorded = {name for metrics in unit.metrics for name in metrics}
        if unit.phase == "retrain":
            return recorded
        return recorded & set(logged_metrics(*(goal.metric for goal in self._case.study.spec.objectives)))

    def _check_artifacts(self, recorded: Sequence[Recorded]) -> None:
        closed = {unit.unit: unit for unit in recorded if unit.end is not None}
        names = [name for name in ("study", *closed) if name in self._runs]
        found = self._store.artifacts([self._runs[name] for name in names])
        for name in names:
            run = self._runs[name]
            artifacts = found[run.info.run_id]
            self._notes.look(ARTIFACTS, len(artifacts.names))
            if artifacts.fault:
                message = f"the artifacts of run {run.info.run_id} must be readable, got: {artifacts.fault}"
                self._add(ARTIFACTS, name, self._case.lag, message, "see that the artifact store can be reached")
            elif name == "study":
                self._check_study_artifacts(artifacts)
            else:
                self._check_unit_artifacts(closed[name], run, artifacts)

    def _check_study_artifacts(self, artifacts: Artifacts) -> None:
        wanted = {"study.yaml", "front.json", PUBLISHED_COSTS} if self._case.is_done else {"study.yaml"}
        for name in sorted(wanted - artifacts.names):
            self._add(ARTIFACTS, "study", self._case.lag, f"its run must have {name}, got none", self._case.bring_up)
        searches = self._case.searches.values()
        are_sound = all(unit.exists and not unit.damage and unit.unit not in self._case.strangers for unit in searches)
        if self._case.is_done and are_sound and searches:  # else the faults of the journals are reported
            self._check_curves()
            self._check_counts()

    def _check_curves(self) -> None:
        """The files with the metrics of all trials have all epochs."""
        wanted = Counter[str]()
        for unit in self._case.searches.values():
            wanted[file_of(int(unit.label))] += len(unit.metrics)
        rows = self._store.curve_rows(self._runs["study"].info.run_id, tuple(wanted))
        self._notes.look(ARTIFACTS, len(rows))
        for name, count in wanted.items():
            if rows.get(name) != count:
                message = f"{FOLDER}/{name} must have {count} rows, one an epoch, got {rows.get(name, 'no such file')}"
                self._add(ARTIFACTS, "study", self._case.lag, message, self._case.bring_up)

    def _check_counts(self) -> None:
        """The newest counts of how searches ended are those of the journals."""
        logged = self._runs["study"].data.metrics
        ends = Counter(unit.end for unit in self._case.searches.values())
        for end in ENDS:
            self._notes.look(METRICS)
            found = logged.get(f"trials_{end}", 0.0 if end == "cancelled" else None)  # it is logged from the first on
            if found != ends[end]:
                message = f"`trials_{end}` must be {ends[end]}, as the journals say, got {found}"
                self._add(METRICS, "study", self._case.lag, message, self._case.bring_up)

    def _check_unit_artifacts(self, unit: Recorded, run: Run, artifacts: Artifacts) -> None:
        wanted = {HISTORY}
        if unit.phase == "retrain" or unit.metrics:
            wanted |= {GENOTYPE, CELLS}
        if unit.phase == "search" and unit.metrics:
            wanted.add(PLAYER)
        remedy = self._remedy(run, is_late=run.info.status in _OPEN)
        for name in sorted(wanted - artifacts.names):
            self._add(ARTIFACTS, unit.unit, self._case.lag, f"its run must have {name}, got none", remedy)
        if "history.parquet" in artifacts.names and artifacts.num_rows != len(unit.metrics):
            got = "no Parquet file" if artifacts.num_rows is None else f"{artifacts.num_rows}"
            message = f"history.parquet must have {len(unit.metrics)} rows, one an epoch, got {got}"
            self._add(ARTIFACTS, unit.unit, "error", message, remedy)
        if "genotype.json" in artifacts.names:
            self._check_genotype(unit, artifacts.genotype, remedy)

    def _check_genotype(self, unit: Recorded, found: Genotype | None, remedy: str) -> None:
        jobs = {job.label: job.genotype for job in self._case.jobs or ()}
        wanted = unit.genotype if unit.phase == "search" else jobs.get(unit.label)
        what = "of the last epoch" if unit.phase == "search" else "that is trained"
        if found is None:
            self._add(ARTIFACTS, unit.unit, "error", f"genotype.json must hold the cell {what}, got no cell", remedy)
        elif wanted is not None and found != wanted:
            message = f"genotype.json must hold the cell {what}, got another one"
            self._add(ARTIFACTS, unit.unit, "error", message, remedy)

    def _add(self, check: str, place: str, severity: Severity, message: str, remedy: str = "") -> None:
        self._notes.add(check, place, severity, message, remedy)

    def _remedy(self, run: Run, *, is_late: bool) -> str:
        """A run that is closed or has holes is not repaired but made again, from its journal."""
        if is_late:
            return self._case.bring_up
        return f"{self._delete(run)}; {self._case.resume} then makes it again from the journal"

    def _delete(self, run: Run) -> str:
        return f"`{mlflow_command(self._uri, 'runs', 'delete', '--run-id', run.info.run_id)}`"


def _step_faults(wanted: Mapping[int, float], points: Points, num_epochs: int) -> Iterator[tuple[str, bool]]:
    """What is wrong with a metric of so many epochs, and whether it is only that its last steps are missing."""
    counts = Counter(step for step, _ in points)
    missing = sorted(set(wanted) - set(counts))
    repeated = sorted(step for step, count in counts.items() if count > 1)
    strange = sorted(set(counts) - set(wanted))
    if missing:
        is_behind = not counts or missing[0] > max(counts)
        yield f"must have the steps of all {num_epochs} epochs, missing: {_listed(missing)}", is_behind
    if repeated:
        yield f"must have every step once, repeated: {_listed(repeated)}", False
    if strange:
        yield f"must have no steps but those of {len(wanted)} epochs, got also: {_listed(strange)}", False
    for step, value in points:
        if step in wanted and not _same(value, wanted[step]):
            yield f"of step {step} must be {wanted[step]}, as in the journal, got {value}", False


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:10])) + (f" and {len(steps) - 10} more" if len(steps) > 10 else "")


def _same(logged: float, recorded: float) -> bool:
    """Equal as far as a database keeps it; MLflow stores infinity as the largest float."""
    if math.isnan(recorded) or math.isnan(logged):
        return math.isnan(recorded) and math.isnan(logged)
    if math.isinf(recorded):
        recorded = math.copysign(sys.float_info.max, recorded)
    return math.isclose(logged, recorded, rel_tol=1e-12, abs_tol=0.0)
