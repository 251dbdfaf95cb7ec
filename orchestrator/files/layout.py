"""Where everything lies that a run writes: one folder, `runs/` by default.

runs/mlflow.db, runs/mlartifacts/     MLflow's embedded store
runs/optuna.db                        Optuna's storage
runs/.stores.lock                     held by the one process that opens or makes these two
runs/recurrent/<name>/                a study of `snas recurrent`, with journals and checkpoints of its own
runs/<study>/study.yaml               the resolved study file
runs/<study>/plugins/my_data.py       files of Python that it names, as they were when the study began
runs/<study>/trials/0003.jsonl        journal of a trial
runs/<study>/trials/0004/0012.jsonl   journal of a child of trial 4, whose strategy trains each independently
runs/<study>/trials/0004/order.jsonl  in which order its children were proposed and scored
runs/<study>/retrains/0003-seed0.jsonl
runs/<study>/ground_truth/00000.jsonl  journal of a part of the ground truth
runs/<study>/ground_truth.json        its table, when it is whole
runs/<study>/requests/              what commands ask of a study, until it is done
runs/<study>/decisions.jsonl        what was decided on it: more trials, pauses, budgets that were spent
runs/<study>/comparison.md, .json     how the strategies of a study compare, when it is over
runs/<study>/verification.json        what `snas study verify` found last
runs/<study>/trunk.jsonl              journal of the epochs that forked trials share
runs/<study>/checkpoints/trial-0003/  checkpoints, unless `storage.path` names another folder
runs/<study>/checkpoints/fork-0003-0010/  that of trial 3 after 10 epochs, while trials that are forked there are open
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dashboards.mlflow_store.databases import ARTIFACTS, DATABASE, sqlite_url
from orchestrator.credentials import take_tracking_credentials
from orchestrator.errors import OrchestratorError
from orchestrator.stores import check_tracking_uri

if TYPE_CHECKING:
    from orchestrator.study_file.spec import StudySpec

DEFAULT_RUNS = Path("runs")

#: The epochs that forked trials share, the ground truth, the trials, the retrainings.
Phase = Literal["trunk", "truth", "search", "retrain"]
#: What forked trials grow from: the label of their shared epochs.
TRUNK = "trunk"


def trial_label(number: int) -> str:
    """Name of a trial's journal and folders."""
    return f"{number:04d}"


def child_label(number: int, child: int) -> str:
    """Name of the Tune trial of a child of a multi-trial search."""
    return f"{trial_label(number)}-{trial_label(child)}"


def split_child_label(label: str) -> tuple[int, int] | None:
    """Search and child of a label, or None if it names a whole search."""
    number, dash, child = label.partition("-")
    return (int(number), int(child)) if dash else None


def unit_label(phase: Phase, label: str) -> str:
    """Name of a trial's or retraining's MLflow run and of its checkpoint folder, unique in the study."""
    return label if phase == "trunk" else f"{'trial' if phase == 'search' else phase}-{label}"


@dataclass(frozen=True)
class Runs:
    """The folder of all runs; `root` is made absolute, since Ray's workers have other working directories."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())

    def tracking_uri(self, configured: str | None = None) -> str:
        """MLflow store: the study file's, else `MLFLOW_TRACKING_URI`, else SQLite in this folder.

        Raises:
            OrchestratorError: if it is of a kind that is not supported, or if no database can be in this folder,
                because of its name.
        """
        given = configured or os.environ.get("MLFLOW_TRACKING_URI")
        return check_tracking_uri(take_tracking_credentials(given)) if given else self._database(DATABASE)

    def artifact_location(self, tracking_uri: str, experiment: str) -> str | None:
        """Folder of an experiment's artifacts; None where a tracking server decides."""
        is_embedded = tracking_uri.startswith("sqlite:")
        return (self.root / ARTIFACTS / experiment).as_uri() if is_embedded else None

    def optuna_url(self, configured: str | None = None) -> str:
        """Optuna storage: the study file's, else `OPTUNA_STORAGE`, else SQLite in this folder.

        Raises:
            OrchestratorError: if no database can be in this folder, because of its name.
        """
        return configured or os.environ.get("OPTUNA_STORAGE") or self._database("optuna.db")

    def _database(self, name: str) -> str:
        try:
            return sqlite_url(self.root / name)
        except ValueError as error:
            raise OrchestratorError(f"--runs: {error}") from error

    def command(self, *words: str) -> str:
        """A command `snas` on this folder, for a shell."""
        return shlex.join(["snas", *words, "--runs", str(self.root)])

    def study(self, name: str) -> StudyFolder:
        """Folder of one study, whether it exists or not."""
        return StudyFolder(self.root / name)

    def study_names(self) -> list[str]:
        """Names of all studies in this folder, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/study.yaml"))


@dataclass(frozen=True)
class StudyFolder:
    """Folder of one study."""

    path: Path

    @property
    def spec_file(self) -> Path:
        """The resolved study file; the study exists if and only if this file does."""
        return self.path / "study.yaml"

    @property
    def lock_file(self) -> Path:
        """Locked by the one driver that may run the study."""
        return self.path / ".lock"

    @property
    def requests(self) -> Path:
        """What commands ask of the study (`decisions`)."""
        return self.path / "requests"

    @property
    def decisions_file(self) -> Path:
        """What was decided on the study."""
        return self.path / "decisions.jsonl"

    def journal(self, phase: Phase, label: str) -> Path:
        """Journal of one trial or child (`phase` search), retraining, part of the ground truth, or the trunk."""
        if phase == "search":
            label = label.replace("-", "/")
        folders: dict[Phase, str] = {"search": "trials", "retrain": "retrains", "truth": "ground_truth", "trunk": "."}
        return self.path / folders[phase] / f"{label}.jsonl"

    def order_log(self, label: str) -> Path:
        """In which order the children of a multi-trial search were proposed and scored."""
        return self.path / "trials" / label / "order.jsonl"

    def storage(self, spec: StudySpec) -> Path:
        """Folder of the study's checkpoints, shared by all nodes."""
        shared = spec.storage.path
        return Path(shared).expanduser().absolute() / spec.name if shared else self.path / "checkpoints"

    def checkpoints(self, spec: StudySpec, phase: Phase, label: str) -> Path:
        """Folder of the checkpoints of one trial, child or retraining."""
        name, _, child = label.partition("-") if phase == "search" else (label, "", "")
        return self.storage(spec) / unit_label(phase, name) / child

    def fork_point(self, spec: StudySpec, trial: int, epoch: int) -> Path:
        """Folder of the copy of a trial's checkpoint after so many epochs, from which forked trials begin."""
        return self.storage(spec) / f"fork-{trial_label(trial)}-{epoch:04d}"
