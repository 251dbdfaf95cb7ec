"""What one MLflow run of a search or retraining stands for: its name, parameters, metrics, pictures and tags."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag

from dashboards.formatting import HOURS, shown_number, shown_setting
from orchestrator.credentials import masked
from orchestrator.files.journal import Journal
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData
from search_core.errors import printable
from search_core.search.reports import FINAL_METRICS, OPTIONAL_METRICS
from search_core.space.genotype import PRIMITIVES, Genotype

#: Characters of a digest that MLflow takes for a data set, at most 36.
_DIGEST = 32
_MOST_CHARACTERS = 1000  # of a tag; a thousand classes have more

UnitKind = Literal["search", "retrain"]

#: MLflow's pages grow slow with many metric keys: the rest of the report is in `history.parquet`.
SEARCH_METRICS: tuple[str, ...] = (
    "child_val_error",
    "child_val_accuracy",
    "child_val_accuracy_recalibrated",
    "supernet_val_accuracy",
    "discretization_gap",
    "train_loss",
    "entropy_normal",
    "entropy_reduce",
    "temperature",
    "eta",
    "expected_cost_madds",
    "child_madds",
    "child_params",
    "child_memory_access",
    "edges_normal",
    "edges_reduce",
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one MLflow run stands for.

    Attributes:
        label: unique in the experiment; the run's name, and the tag by which it is found again.
        kind: a search (with cells per epoch) or a retraining.
        parent: id of the parent run.
        params: flat parameters.
        tags: further tags.
        metrics: names of the metrics to log; others stay in the history.
        primitives: candidate operations, for the pictures of a search.
        pictures: epochs of which a picture of the cells is kept.
        histories: epochs after which the history and player are written.
        genotype: the cell that a retraining trains.
        about: one line for people that says what it is, such as its swept values.
    """

    label: str
    kind: UnitKind
    parent: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[str] | None = None
    primitives: Sequence[str] = PRIMITIVES
    pictures: Container[int] = ()
    histories: Container[int] = ()
    genotype: Genotype | None = None
    about: str = ""


def logged_metrics(*objectives: str) -> tuple[str, ...]:
    """Names of a search's metrics that MLflow gets if it reports them, those of the objectives among them."""
    return tuple(dict.fromkeys((*SEARCH_METRICS, *OPTIONAL_METRICS, *FINAL_METRICS, *HOURS, *objectives)))


def picture_epochs(every: int | None, epochs: int) -> list[int]:
    """The epochs of which a picture is kept or after which files are written, the first and the last among them.

    Args:
        every: epochs from one to the next; 0 for none; None for about ten over the whole search, for each takes a tenth
            of a second.
        epochs: of the search.
    """
    if every == 0:
        return []
    return sorted({*range(0, epochs, every or max(1, epochs // 10)), epochs - 1})


def about_search(options: Mapping[str, Any]) -> str:
    """One line about a search: penalty, temperature, strategy and seed.

    Args:
        options: plain data of `SearchOptions`, or sampled values that do not fit together.
    """
    flat = flatten(options)
    start, end = (flat.get(f"temperature.{name}") for name in ("start", "end"))
    kind = flat.get("temperature.kind")
    eta, cost = flat.get("penalty.strength"), flat.get("penalty.cost", "not known")
    targets = {key.split(".")[-1]: value for key, value in flat.items() if key.startswith("penalty.target.")}
    aims = "".join(f", steered to {name} {shown_number(value)}" for name, value in targets.items())
    parts = {
        "eta": f"{shown_number(eta)} with cost {cost}{aims}" if isinstance(eta, float | int) else None,
        "temperature": None if kind is None else f"{kind} {start}" + (f" to {end}" if kind != "constant" else ""),
        "strategy": flat.get("strategy.kind"),
        "seed": flat.get("seed"),
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def swept_values(keys: Iterable[str], options: Mapping[str, Any]) -> str:
    """The values of swept keys in one line; keys that these options lack are left out.

    Args:
        keys: dotted keys inside `search`.
        options: plain data of `SearchOptions`.
    """
    flat = flatten(options)
    return ", ".join(shown_setting(key, flat[key]) for key in keys if key in flat)


def run_tags(data: ImageData) -> dict[str, str]:
    """Data set with its classes and normalisation, versions and git commit, as tags of every run."""
    return {
        "dataset": data.name,
        "dataset.digest": data.digest,
        "dataset.split_digest": data.split_digest,
        "dataset.classes": ", ".join(map(printable, data.classes))[:_MOST_CHARACTERS],
        "dataset.mean": json.dumps(data.mean),
        "dataset.std": json.dumps(data.std),
        **environment_tags(),
        **user_tags(),
    }


def dataset_input(options: DatasetOptions, data: ImageData) -> DatasetInput:
    """What `mlflow.log_input` logs of a data set: digest, source and sizes, no copy of any image.

    Args:
        options: where it is from; a password in an option of a user's own function is hidden.
        data: the images.
    """
    asked = {name: value for name, value in asdict(options).items() if name in ("name", "root", "options") and value}
    shape = [-1, *data.input_shape]
    dataset = Dataset(
        name=data.name,
        digest=data.digest[:_DIGEST],
        source_type="snas",
        source=masked(json.dumps(asked, default=str)),
        schema=json.dumps(
            {"mlflow_tensorspec": {"features": [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": shape}}]}}
        ),
        profile=json.dumps({"images": data.sizes, "classes": data.num_classes, "split_digest": data.split_digest}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def user_tags() -> dict[str, str]:
    """MLflow's tag of the user, as its pages show it; none where the system has no name for them."""
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # as in a container that runs under a number
        return {}


def environment_tags() -> dict[str, str]:
    """Versions, git commit and whether the code differs from it, as tags of every run."""
    packages = ("snas-orchestrator", "torch", "ray", "optuna", "mlflow", "numpy")
    tags = {f"version.{package}": version(package) for package in packages}
    return {**tags, "version.python": platform.python_version(), **_git_facts()}


def machine_tags(journal: Journal) -> dict[str, str]:
    """Where the last epoch was computed: processor, threads, PyTorch, GPU."""
    machine = journal.machine_of(len(journal.epochs)) or {}
    return {f"machine.{name}": str(fact) for name, fact in machine.items() if fact is not None}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings as dotted keys; settings that are None are left out."""
    flat: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _git_facts() -> dict[str, str]:
    def said(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        is_dirty = said("status", "--porcelain", "--untracked-files=no") != ""
        return {"git.commit": said("rev-parse", "HEAD"), "git.dirty": str(is_dirty).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {"git.commit": "not a git checkout"}
