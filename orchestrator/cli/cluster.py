"""`snas cluster`: look at a Ray cluster before a study is launched on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonOption, RunsOption, make_table, stdout
from orchestrator.files.layout import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from orchestrator.cluster.connection import Node
    from orchestrator.cluster.preflight import Check, Needs

app = typer.Typer(help="Ray clusters: is everything there that a study needs?", no_args_is_help=True)

_UNFIT = 2


@app.callback()
def _commands() -> None:
    """Keeps `check` a sub-command while it is the only one."""


@app.command()
def check(
    address: Annotated[str, typer.Option(metavar="auto|HOST:PORT", help="The running Ray cluster.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="STUDY.yaml", help="A study file: check its storage, stores and data too.")
    ] = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Check nodes, versions, shared folder, stores and data; exit code 2 if a study would fail.

    Example: `snas cluster check --address auto studies/quickstart.yaml`
    """
    from orchestrator.cluster.connection import cluster, nodes
    from orchestrator.cluster.node_check import versions
    from orchestrator.cluster.preflight import run_checks

    needs = needs_of(file, Runs(runs))
    with cluster(address):
        checks = run_checks(needs)
        found = nodes()  # without those that were lost meanwhile
    ok = all(check.ok for check in checks)
    if as_json:
        document = {
            "ok": ok,
            "versions": versions(),
            "nodes": [_node_data(node) for node in found],
            "checks": [asdict(check) for check in checks],
        }
        print(json.dumps(document))
    else:
        _print(found, checks)
    if not ok:
        raise typer.Exit(_UNFIT)


def needs_of(file: Path | None, runs: Runs) -> Needs:
    """What the study of a file needs; without one, a study without settings of its own, and no data.

    Raises:
        ConfigError: if the file has faults.
        DataError: if this machine cannot read the data.
    """
    import torch

    from orchestrator.cluster.preflight import Needs
    from orchestrator.study_file.loading import load_study
    from search_core.data.datasets import load_data

    if file is None:
        return Needs(storage=runs.root, tracking_uri=runs.tracking_uri(), optuna_url=runs.optuna_url())
    spec = load_study(file)
    return Needs.of(spec, runs, load_data(spec.search.dataset, torch.device("cpu")).digest)


def _node_data(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "ip": node.ip,
        "hostname": node.hostname,
        "is_head": node.is_head,
        "cpus": node.cpu,
        "memory_bytes": int(node.resources.get("memory", 0)),
        "gpus": node.gpu,
        "gpu_type": node.gpu_type or None,
    }


def _print(found: list[Node], checks: list[Check]) -> None:
    table = make_table(f"{len(found)} node{'' if len(found) == 1 else 's'}")
    table.add_column("node", overflow="fold")
    for column in ("CPUs", "memory (GB)", "GPUs"):
        table.add_column(column, justify="right")
    table.add_column("GPU type")
    for node in found:
        data = _node_data(node)
        label = f"{node.label}{', head' if node.is_head else ''}"
        memory = f"{data['memory_bytes'] / 1e9:.1f}"
        table.add_row(label, f"{data['cpus']:g}", memory, f"{data['gpus']:g}", data["gpu_type"] or "-")
    stdout.print(table)
    table = make_table("checks")
    for column in ("check", "node", "result"):
        table.add_column(column, no_wrap=column != "node", overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("found", overflow="fold")
    for check in checks:
        result = "ok" if check.ok else "FAILED"
        table.add_row(check.name, check.node or "driver", result, f"{check.seconds:.2f}", check.detail)
    stdout.print(table)
