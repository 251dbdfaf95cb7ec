"""How study files, and files of one search or one retraining, are loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from orchestrator.errors import ConfigError
from orchestrator.study_file.sections import RetrainSection
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep_check import SearchFile
from orchestrator.study_file.validation import check, fields_of
from orchestrator.study_file.yaml_file import YamlFile, read_yaml
from search_core.data.dataset_options import DatasetOptions
from search_core.errors import PluginError
from search_core.plugins import beside, named_sources, trust
from search_core.recurrent.options import RecurrentRetrainOptions, RecurrentSearchOptions, TextOptions
from search_core.search.options import SearchOptions


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """What `snas retrain` takes from a file.

    Attributes:
        dataset: images to train on.
        retrain: size and recipe of the child.
        seed: seed of the first training.
    """

    dataset: DatasetOptions
    retrain: RetrainSection
    seed: int = 0


class _RetrainFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    dataset: DatasetOptions
    retrain: RetrainSection
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0


class RecurrentStudy(pydantic.BaseModel):
    """A study file of `snas recurrent`.

    Attributes:
        text: what is read.
        search: the search of a cell.
        retrain: how the cell is trained from scratch; default: not at all.
        seed: of both.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    text: TextOptions
    search: RecurrentSearchOptions = RecurrentSearchOptions()
    retrain: RecurrentRetrainOptions | None = None
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0


#: Values for required keys that are missing, so that the rest of the file is checked all the same.
_STUDY_STAND_INS = {"name": "study", "search": {}, "trials": 1}


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> StudySpec:
    """Load a study file.

    Args:
        path: the YAML file.
        overrides: `key=value` settings with dotted keys from the file's root and YAML values.

    Raises:
        ConfigError: with all faults.
    """
    file = read_yaml(path)
    file.override(overrides)
    _trust_named(file)
    return _study(file)


def parse_study(data: Mapping[str, Any], source: str = "study") -> StudySpec:
    """A study from plain data, such as `StudySpec.resolved` gave.

    Raises:
        ConfigError: with all faults.
    """
    return _study(YamlFile(source, copy.deepcopy(dict(data))))


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchOptions:
    """Load the settings of one search: a file that holds just these, or the `search` section of a study file.

    Args:
        path: the YAML file.
        overrides: `key=value` settings; for a study file, keys of `search` may leave out `search.`.

    Raises:
        ConfigError: with all faults of the file.
    """
    file = read_yaml(path)
    if not _is_study(file):
        file.override(overrides)
        _trust_named(file)
        return check(file, SearchFile, root="search").search
    file.override(overrides, lambda key: _from_root(key, {"search": SearchOptions}))
    _trust_named(file)
    return _study(file).search


def load_retrain(path: Path | str, overrides: Sequence[str] = (), *, is_own: bool = True) -> RetrainConfig:
    """Load a recipe for retraining: a study file, or one with the keys `dataset`, `retrain` and perhaps `seed`.

    Args:
        path: the YAML file.
        overrides: `key=value` settings; keys of `retrain`, and for a study file `search`, may leave out the section.
        is_own: whether the user names the file, so that code which it names may run; false for one from a store.

    Raises:
        ConfigError: with all faults of the file; also if a study has no `retrain`.
    """
    file = read_yaml(path)
    if not _is_study(file):
        file.override(overrides, lambda key: _from_root(key, {"retrain": RetrainSection}, _RetrainFile))
        if is_own:
            _trust_named(file)
        recipe = check(file, _RetrainFile, stand_ins={"dataset": {}, "retrain": {}})
        return RetrainConfig(dataset=recipe.dataset, retrain=recipe.retrain, seed=recipe.seed)
    file.override(overrides, lambda key: _from_root(key, {"retrain": RetrainSection, "search": SearchOptions}))
    if is_own:
        _trust_named(file)
    study = _study(file)
    if study.retrain is None:
        fault = file.fault(("retrain",), "must be given to retrain a cell; `retrain: {}` takes the defaults")
        raise ConfigError(file.source, [fault])
    return RetrainConfig(dataset=study.search.dataset, retrain=study.retrain, seed=study.seed)


def load_recurrent(path: Path | str, overrides: Sequence[str] = ()) -> RecurrentStudy:
    """Load a study file of `snas recurrent`.

    Args:
        path: the YAML file.
        overrides: `key=value` settings with dotted keys from the file's root.

    Raises:
        ConfigError: with all faults.
    """
    file = read_yaml(path)
    file.override(overrides)
    return check(file, RecurrentStudy, stand_ins={"text": {"folder": ""}})


def _study(file: YamlFile) -> StudySpec:
    for section, name in ((file.data, "scheduler"), (file.data.get("storage"), "keep")):
        if isinstance(section, dict) and isinstance(section.get(name), str):
            section[name] = {"kind": section[name]}
    search = file.data.get("search")
    if isinstance(search, dict) and "seed" in search:
        message = "must be left out: the study's own `seed` seeds its searches; or sweep `seed`"
        file.faults.append(file.fault(("search", "seed"), message))
        del search["seed"]
    return check(file, StudySpec, stand_ins=_STUDY_STAND_INS)


def _trust_named(file: YamlFile) -> None:
    """Let the code run that a file names; its files of Python lie beside it."""
    file.data = beside(file.data, Path(file.source).parent)
    for source, place in named_sources(file.data).items():
        try:
            trust(source)
        except PluginError as error:
            file.faults.append(file.fault(place, str(error)))


def _is_study(file: YamlFile) -> bool:
    return bool({"search", "trials", "sweep"} & set(file.data))


def _from_root(key: str, sections: Mapping[str, Any], root: Any = StudySpec) -> str:
    """The full dotted key of an override that leaves out its section; root keys win."""
    head = key.split(".")[0]
    if head in fields_of(root):
        return key
    return next((f"{section}.{key}" for section, schema in sections.items() if head in fields_of(schema)), key)
