"""What of a study file may change between run and resume; with anything else, trials could not be compared.

The settings that a study ran with last lie beside its trials, in Optuna's storage, where an edited file does not reach.
Of a study that was begun before they were kept there, MLflow's parameters of its own run say as much as they can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from dashboards.mlflow_store.mlflow_access import unit_run
from orchestrator.errors import ConfigError
from orchestrator.files.layout import StudyFolder
from orchestrator.files.plugin_copies import copy_digests, with_digests
from orchestrator.files.relocation import moved
from orchestrator.sampling.samplers import patiently
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.yaml_file import DOTTED_SECTION, Place, place_text, read_yaml, split_key
from orchestrator.tracking.run_spec import flatten
from search_core.space.cell_files import load_genotype

#: User attribute of the Optuna study: the resolved study file, the digests of files that it names, its folder of runs.
ATTRIBUTE = "settings"

#: Settings and sections that change how a study runs, not what a trial is, which of them count, or where they are kept.
MAY_CHANGE = (
    "trials",  # but not below those that have begun
    "budget",
    "max_concurrent",
    "resources",
    "failure",
    "tracking.picture_every",
    "storage.keep",
    "storage.url",  # it must hold the study, or is refused when it is opened
    "search.dataset.root",  # the images are known by their digests
    "search.dataset.workers",
    "search.network.recompute",
    "search.cuda_graph",
)
#: Settings that name a file: what it holds must stay, wherever it lies.
_FILES = ("search.latency.table", "retrain.genotype")
#: Of `retrain`, all may change until the first retraining has begun; then these, `seeds` upwards.
_RETRAIN_MAY_CHANGE = ("retrain.seeds", "retrain.workers")

#: What to do about a change.
REMEDY = "put it back, or run the file as another study (`--name`)"


class Difference(NamedTuple):
    """A setting that has changed.

    Attributes:
        place: where it is in the study file.
        before: what the study ran with; None if it was not given.
        now: what the file says.
    """

    place: Place
    before: Any
    now: Any

    @property
    def key(self) -> str:
        """The setting as a user writes it."""
        return place_text(self.place)

    @property
    def rule(self) -> str:
        """What the value must be, and what it is."""
        return f"must stay {_shown(self.before)}, with which the study ran, got {_shown(self.now)}"


def require_unchanged(study: optuna.Study, spec: StudySpec, folder: StudyFolder, uri: str) -> None:
    """Refuse to resume a study whose file has changed in more than `MAY_CHANGE`, before anything is written.

    Args:
        study: in Optuna's storage.
        spec: the study file.
        folder: the study's.
        uri: MLflow store.

    Raises:
        ConfigError: with every such setting, what it was and what it is.
        GenotypeError: if the cell that the study names cannot be read.
        LatencyError: if the table that it names cannot be read.
    """
    differences = forbidden_changes(study, spec, folder, uri)
    if differences:
        file = read_yaml(folder.spec_file)
        raise ConfigError(file.source, [file.fault(found.place, f"{found.rule}; {REMEDY}") for found in differences])


def keep_settings(study: optuna.Study, spec: StudySpec, folder: StudyFolder) -> None:
    """Keep what the study runs with from now on; for the one driver of the study only."""
    current = {"file": spec.resolved(), "digests": _digests(spec), "runs": str(folder.path.parent)}
    current["plugins"] = copy_digests(current["file"])
    if study.user_attrs.get(ATTRIBUTE) != current:
        patiently(lambda: study.set_user_attr(ATTRIBUTE, current))


def tracked_settings(spec: StudySpec) -> dict[str, object]:
    """The settings that the study's own MLflow run has as parameters."""
    return {
        "seed": spec.seed,
        "sampler": spec.sampler,
        "objectives": json.dumps([asdict(objective) for objective in spec.objectives]),
        **flatten(asdict(spec.search), "search."),
        **{f"{DOTTED_SECTION}.{key}": json.dumps(entry.to_data()) for key, entry in spec.sweep.items()},
    }


def forbidden_changes(study: optuna.Study, spec: StudySpec, folder: StudyFolder, uri: str) -> list[Difference]:
    """The settings that must not have changed since the study ran, but have; in the order of the file.

    Args:
        study: in Optuna's storage.
        spec: the study file.
        folder: the study's.
        uri: MLflow store, asked about a study whose settings were not kept yet; one that is away says nothing.
    """
    kept = study.user_attrs.get(ATTRIBUTE)
    if kept is None:
        return _changes_of_old(study, spec, uri)
    here, digests = folder.path.parent, _digests(spec)
    before, now = (moved(file, kept["runs"], here) for file in (kept["file"], spec.resolved()))
    if before != now:
        before = _with_new_settings(before)
    for key in set(digests) & set(kept["digests"]):  # what a file holds counts, not where it lies
        *sections, name = key.split(".")
        for data, contents in ((before, kept["digests"][key]), (now, digests[key])):
            _inside(data, sections)[name] = f"contents {contents[:12]}"
    before = with_digests(before, kept.get("plugins", {}))
    now = with_digests(now, copy_digests(now))
    return [found for found in _differences(before, now) if not _may_change(found, study, folder)]


def param_changes(logged: Mapping[str, str], current: Mapping[str, object], prefix: str = "") -> list[Difference]:
    """Parameters of an MLflow run that the study file contradicts.

    Args:
        logged: of the run; MLflow keeps text, and nothing of settings that are None.
        current: what the file says, flat.
        prefix: of the keys in the study file.
    """
    both = [key for key in current if key in logged and logged[key] != str(current[key])]
    found = [Difference(split_key(f"{prefix}{key}"), logged[key], str(current[key])) for key in both]
    return [difference for difference in found if difference.key not in _FILES and not _is_listed(difference.key)]


def _may_change(difference: Difference, study: optuna.Study, folder: StudyFolder) -> bool:
    key, before, now = difference.key, difference.before, difference.now
    if key == "trials":
        return bool(now >= before or now >= num_begun(study))
    if key.split(".")[0] == "retrain" and not any(folder.journal("retrain", "any").parent.glob("*.jsonl")):
        return True
    if key == "retrain.seeds":
        return bool(now >= before)
    return _is_listed(key)


def num_begun(study: optuna.Study) -> int:
    """How many trials were asked for."""
    return sum(trial.state != TrialState.WAITING for trial in patiently(lambda: study.get_trials(deepcopy=False)))


def _is_listed(key: str) -> bool:
    listed = (*MAY_CHANGE, *_RETRAIN_MAY_CHANGE)
    return any(key == name or key.startswith(f"{name}.") for name in listed)


def _with_new_settings(kept: dict[str, Any]) -> dict[str, Any]:
    """The kept file with the defaults of settings that a later version has brought."""
    try:
        return parse_study(kept).resolved()
    except ConfigError:
        return kept


def _differences(before: Any, now: Any, place: Place = ()) -> Iterator[Difference]:
    """Settings that differ; a swept entry, a list, and a section that one side lacks each count as one."""
    is_entry = place[:1] == (DOTTED_SECTION,) and len(place) == 2
    if not (isinstance(before, dict) and isinstance(now, dict)) or is_entry:
        if before != now:
            yield Difference(place, before, now)
        return
    is_other_kind = before.get("kind") != now.get("kind")
    for key in {**now, **before}:
        if (key in before and key in now) or not is_other_kind:  # else a setting that only one of the kinds has
            yield from _differences(before.get(key), now.get(key), (*place, key))


def _inside(data: dict[str, Any], sections: Iterable[str]) -> dict[str, Any]:
    for section in sections:
        data = data[section]
    return data


def _digests(spec: StudySpec) -> dict[str, str]:
    """SHA-256 of what the files hold that a study names."""
    digests = {}
    if spec.search.latency.table is not None:
        # Not above: it needs PyTorch, and few studies name a table.
        from search_core.cost.latency_table import load_table

        digests["search.latency.table"] = load_table(spec.search.latency.table).digest
    if spec.retrain is not None and spec.retrain.genotype is not None:
        cell = load_genotype(spec.retrain.genotype).to_json()
        digests["retrain.genotype"] = hashlib.sha256(cell.encode()).hexdigest()
    return digests


def _changes_of_old(study: optuna.Study, spec: StudySpec, uri: str) -> list[Difference]:
    """As far as Optuna and MLflow know the settings that a study began with before they were kept."""
    current = tracked_settings(spec)
    del current["objectives"]
    names = study.metric_names or [objective.metric for objective in spec.objectives]  # older studies name none
    modes = ["min" if direction == StudyDirection.MINIMIZE else "max" for direction in study.directions]
    began = [{"metric": name, "mode": mode} for name, mode in zip(names, modes, strict=False)]
    objectives = [asdict(objective) for objective in spec.objectives]
    found = [Difference(("objectives",), began, objectives)] if began != objectives else []
    run = unit_run(uri, spec.name, "study")
    return found + param_changes(run.data.params if run is not None else {}, current)


def _shown(value: object) -> str:
    """A value as it is written in the study file."""
    if value is None:
        return "not given"
    return value if isinstance(value, str) else json.dumps(value)
