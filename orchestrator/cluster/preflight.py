"""Checks before a study is launched on a cluster: what would fail hours later fails now, all of it at once."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import ray
from mlflow.exceptions import MlflowException
from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.cluster.connection import Node, cluster, nodes
from orchestrator.cluster.node_check import (
    Finding,
    NodeTask,
    UnusableError,
    read_when_there,
    timed,
    versions,
    write_marker,
)
from orchestrator.credentials import masked
from orchestrator.errors import OrchestratorError, first_line, last_line
from orchestrator.files.layout import Runs
from orchestrator.study_file.spec import StudySpec
from search_core.cost.latency_table import load_table
from search_core.data.dataset_options import DatasetOptions

#: How long the nodes may take together; a data set on a cold network disk is slow.
PATIENCE_S = 600.0
#: How long Ray may take to say that a node is gone, after a task there was lost.
LOSS_PATIENCE_S = 10.0
#: What Ray makes of a task whose node is gone, or whose worker died by itself.
_LOST = (NodeDiedError, TaskUnschedulableError, WorkerCrashedError)
_SHARE = "set `storage: {path: /a/shared/folder}` to a folder that every node has mounted"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: `versions`, `storage`, `data`, `latency table`, `optuna` or `tracking`.
        node: where, as messages call the node; None for what the driver alone uses.
        ok: whether a study may be launched.
        detail: what was found, or the reason why not and what to do.
        seconds: how long it took.
    """

    name: str
    node: str | None
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a study needs of a cluster.

    Attributes:
        storage: absolute folder of the checkpoints; it is made if it is missing.
        tracking_uri: MLflow store.
        optuna_url: Optuna storage.
        dataset: images; None to leave the data out.
        digest: digest of the images on the driver's machine.
        latency_table: file of the searches; None if they use none.
    """

    storage: Path
    tracking_uri: str
    optuna_url: str
    dataset: DatasetOptions | None = None
    digest: str | None = None
    latency_table: str | None = None

    @classmethod
    def of(cls, spec: StudySpec, runs: Runs, digest: str) -> Needs:
        """What a study in a folder of runs needs, with the digest of its images on this machine."""
        return cls(
            storage=runs.study(spec.name).storage(spec),
            tracking_uri=runs.tracking_uri(spec.tracking.uri),
            optuna_url=runs.optuna_url(spec.storage.url),
            dataset=spec.search.dataset,
            digest=digest,
            latency_table=spec.search.latency.table,
        )


def preflight(address: str, needs: Needs) -> list[Check]:
    """Check a cluster before a study is launched on it.

    Args:
        address: `auto` or `HOST:PORT`.
        needs: what the study needs.

    Raises:
        OrchestratorError: if the cluster cannot be reached, or with everything that fails there.
    """
    with cluster(address):
        checks = run_checks(needs)
    faults = [check for check in checks if not check.ok]
    if faults:
        lines = [f"  {check.name}{f' on {check.node}' if check.node else ''}: {check.detail}" for check in faults]
        count = f"{len(faults)} check{'' if len(faults) == 1 else 's'}"
        raise OrchestratorError("\n".join([f"the cluster cannot run this study, {count} failed:", *lines]))
    return checks


def run_checks(needs: Needs) -> list[Check]:
    """All checks of the connected cluster, whether they pass or not, node by node and then the stores.

    A node that is lost while it is being checked is no longer part of the cluster, and is left out.
    """
    found = nodes()
    with _marked(needs.storage) as (storage, marker, content):
        tasks = [_task(node, needs, marker, content) for node in found]
        answers = _ask(found, tasks)
        checks = [] if storage.ok else [_of_driver(storage)]
        for node, task, answer in zip(found, tasks, answers, strict=True):
            if answer is not None:
                checks += [_judged(finding, node, task, needs) for finding in answer]
    num_machines = len({node.ip for node, answer in zip(found, answers, strict=True) if answer is not None})
    return [
        *checks,
        _of_driver(timed("optuna", lambda: _optuna(needs.optuna_url, num_machines))),
        _of_driver(timed("tracking", lambda: _tracking(needs.tracking_uri, num_machines))),
    ]


@contextmanager
def _marked(storage: Path) -> Iterator[tuple[Finding, Path | None, str]]:
    """The driver's file with random content in the storage; taken away again, with all folders that were made."""
    content = secrets.token_hex(16)
    made = [folder for folder in (storage, *storage.parents) if not folder.exists()]
    marker = storage / f".preflight-{secrets.token_hex(4)}"

    def write() -> str:
        marker.mkdir(parents=True)
        write_marker(marker / "driver", content)
        return str(storage)

    finding = timed("storage", write)
    try:
        yield finding, marker if finding.ok else None, content
    finally:
        shutil.rmtree(marker, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # somebody uses it by now
                folder.rmdir()


def _task(node: Node, needs: Needs, marker: Path | None, content: str) -> NodeTask:
    if not node.resources.get("CPU"):  # a head that runs no trials needs neither folder nor data
        return NodeTask(node=node.id)
    return NodeTask(
        node=node.id,
        marker=None if marker is None else str(marker),
        content=content,
        dataset=needs.dataset,
        latency_table=needs.latency_table,
    )


def _ask(found: Sequence[Node], tasks: Sequence[NodeTask]) -> list[list[Finding] | None]:
    """What each node answers; that it cannot run the study's code, or is silent, is a finding too. None: it is gone."""
    remote = ray.remote(num_cpus=0, max_retries=0)(_on_node)
    pending = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(task)
        for node, task in zip(found, tasks, strict=True)
    ]
    ready, _ = ray.wait(pending, num_returns=len(pending), timeout=PATIENCE_S)
    return [
        _answer(reference, node) if reference in ready else [_silent()]
        for reference, node in zip(pending, found, strict=True)
    ]


def _on_node(task: NodeTask) -> list[Finding]:
    return task.run()


def _answer(reference: ray.ObjectRef[list[Finding]], node: Node) -> list[Finding] | None:
    try:
        return ray.get(reference)
    except (RayError, ImportError, AttributeError) as error:
        if isinstance(error, _LOST) and _is_gone(node):
            return None
        detail = f"it cannot run the study's code: {last_line(error)}"
        return [Finding(name="versions", ok=False, detail=detail, seconds=0.0)]


def _is_gone(node: Node) -> bool:
    """Whether Ray says by now, or soon, that the node is not alive any more."""
    end = time.monotonic() + LOSS_PATIENCE_S
    while any(other.id == node.id for other in nodes()):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _silent() -> Finding:
    return Finding(name="versions", ok=False, detail=f"it must answer within {PATIENCE_S:g} s", seconds=PATIENCE_S)


def _judged(finding: Finding, node: Node, task: NodeTask, needs: Needs) -> Check:
    """The node's finding in the light of what the driver knows."""
    ok, detail = finding.ok, finding.detail
    if finding.name == "storage":
        ok, detail = _judge_storage(finding, task)
    elif ok and finding.name == "versions":
        ok, detail = _judge_versions(detail)
    elif ok and finding.name == "data":
        ok, detail = _judge_data(detail, needs)
    elif ok and finding.name == "latency table":
        ok, detail = _judge_table(detail, needs)
    return Check(name=finding.name, node=node.label, ok=ok, detail=detail, seconds=finding.seconds)


def _judge_storage(finding: Finding, task: NodeTask) -> tuple[bool, str]:
    if not finding.ok:
        return False, f"{finding.detail}; {_SHARE}"
    assert task.marker is not None
    try:
        is_same = read_when_there(Path(task.marker) / task.node) == task.content
    except OSError:
        is_same = False
    return is_same, finding.detail if is_same else f"the driver does not see what it wrote; {_SHARE}"


def _judge_versions(theirs: str) -> tuple[bool, str]:
    ours = versions()
    found = dict(part.split("=", 1) for part in theirs.split())
    wrong = [f"{name} must be {ours[name]}, got {found.get(name)}" for name in ours if found.get(name) != ours[name]]
    return not wrong, "the driver's versions must be there: " + ", ".join(wrong) if wrong else theirs


def _judge_data(digest: str, needs: Needs) -> tuple[bool, str]:
    if needs.digest in (None, digest):
        return True, f"digest {digest[:12]}"
    return False, f"it must have the driver's images (digest {needs.digest[:12]}), got others (digest {digest[:12]})"


def _judge_table(digest: str, needs: Needs) -> tuple[bool, str]:
    assert needs.latency_table is not None
    ours = load_table(needs.latency_table).digest
    if digest == ours:
        return True, f"digest {digest[:12]}"
    return False, f"it must have the driver's latency table (digest {ours[:12]}), got another (digest {digest[:12]})"


def _of_driver(finding: Finding) -> Check:
    detail = masked(finding.detail)
    if finding.name == "storage" and not finding.ok:
        detail = f"the driver must be able to write there: {detail}; {_SHARE}"
    return Check(name=finding.name, node=None, ok=finding.ok, detail=detail, seconds=finding.seconds)


def _optuna(url: str, num_machines: int) -> str:
    if url.startswith("sqlite:") and num_machines > 1:
        raise UnusableError(
            f"it must be a database server on {num_machines} machines, got {url}: set OPTUNA_STORAGE or `storage: "
            "{url: ...}` to postgresql+psycopg://USER@HOST/DATABASE, and PGPASSWORD"
        )
    if not url.startswith("sqlite:"):  # a file is made by the study
        _connect(url)
    return url


def _tracking(uri: str, num_machines: int) -> str:
    if uri.startswith("sqlite:"):
        if num_machines > 1:
            raise UnusableError(
                f"it must be an MLflow server on {num_machines} machines, got {uri}: set MLFLOW_TRACKING_URI or "
                "`tracking: {uri: ...}` to http://HOST:5000"
            )
        return uri
    if not re.match("https?:", uri):
        _connect(uri)
        return uri
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise UnusableError(f"the MLflow server {uri} must answer, got: {first_line(error)}") from error
    return uri


def _connect(url: str) -> None:
    try:
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.execute(text("select 1"))
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise UnusableError(f"the database {url} must be reachable, got: {first_line(error)}") from error
