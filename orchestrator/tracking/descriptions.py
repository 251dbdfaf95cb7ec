"""What MLflow's own pages say about runs and models: a line of facts, why it ended, the cell.

MLflow shows the first lines of a run's description and the rest on demand, so the facts come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow.entities import Run

from dashboards.formatting import counted, hours_text, shown_metric
from orchestrator.files.journal import Journal
from orchestrator.study.hours import hours_of
from orchestrator.tracking.artifacts import CELLS, GENOTYPE, PLAYER
from orchestrator.tracking.markdown import RUN_LIMIT, RunAddress, code, joined, link, plain
from orchestrator.tracking.run_spec import Unit
from search_core.errors import first_few


def describe_run(unit: Unit, journal: Journal, address: RunAddress) -> str:
    """The description of a search or retraining that is over."""
    metrics = journal.epochs[-1]["metrics"] if journal.epochs else {}
    epochs = f"**{journal.end}** after {counted(len(journal.epochs), 'epoch')}"
    facts = search_facts(metrics) if unit.kind == "search" else retrain_facts(metrics)
    has_cell = bool(journal.epochs) or unit.genotype is not None
    links = [link("genotype", address.artifact(GENOTYPE))] if has_cell else []
    if unit.kind == "search" and journal.epochs:
        links.insert(0, link("play how the cells evolved", address.artifact(PLAYER)))
    return joined(
        ", ".join((epochs, *facts)),
        plain(unit.about),
        f"Reason: {plain(journal.reason[:2000])}" if journal.reason else "",
        ", ".join(links),
        address.image(CELLS) if has_cell else "",
        limit=RUN_LIMIT,
    )


def search_facts(metrics: Mapping[str, float]) -> list[str]:
    """Error, cost and hours of a search, from the metrics of an epoch."""
    if not metrics:
        return []
    facts = [
        f"child error {shown_metric('child_val_error', metrics['child_val_error'])}",
        *_costs(metrics, "child_madds", "child_params"),
        f"discretization gap {shown_metric('discretization_gap', metrics['discretization_gap'])}",
    ]
    return [*facts, *_hours(metrics)]


def retrain_facts(metrics: Mapping[str, float]) -> list[str]:
    """Accuracy, cost and hours of a retraining, from the metrics of an epoch."""
    shown = {"test_accuracy": "test accuracy", "val_accuracy": "validation accuracy"}
    facts = [f"{text} {shown_metric(name, metrics[name])}" for name, text in shown.items() if name in metrics]
    return [*facts, *_costs(metrics, "madds", "params"), *_hours(metrics)]


def describe_version(run: Run, name: str, version: str, input_shape: Sequence[int], classes: Sequence[str]) -> str:
    """The description of a registered child, from the MLflow run of its retraining."""
    address, tags, params = RunAddress(run.info.experiment_id, run.info.run_id), run.data.tags, run.data.params
    parent = tags.get("mlflow.parentRunId")
    trial = params.get("trial", "none")
    cell = "a named cell" if trial == "none" else f"the cell of trial {plain(trial)}"
    if parent is not None:
        cell = link(cell, RunAddress(run.info.experiment_id, parent).page)
    study = f" of study {plain(tags['snas.study'])}" if "snas.study" in tags else ""
    seed = f" with seed {plain(params['seed'])}" if "seed" in params else ""
    trained = f"{link(run.info.run_name, address.page)}: {cell}{study}, trained from scratch{seed}"
    shape = " x ".join(map(str, input_shape))
    return joined(
        ", ".join((trained, *retrain_facts(run.data.metrics))),
        f"Takes images (batch x {shape}, float32 in [0, 1]; it normalises by itself), gives {len(classes)} logits: "
        f"{plain(first_few(classes))}.",
        f"Load it to train or evaluate, with this project installed: {_load(name, version)}; to predict: "
        f"{_load(name, version, 'pyfunc')}; to serve it: "
        f"{code(f'mlflow models serve -m models:/{name}/{version} --env-manager local')}.",
        "It is a pickle of classes of PyTorch and this project: load it only if you trust this store. "
        "`snas export` writes files that need no such trust.",
        address.image(CELLS),
    )


def describe_model(run: Run, name: str) -> str:
    """The description of a registered model, whose versions are the retrained children of one study or command."""
    study = run.data.tags.get("snas.study")
    source = f"the cells that study {plain(study)} found" if study else "a cell"
    address = RunAddress(run.info.experiment_id, run.info.run_id)
    newest = f"The newest is from run {link(run.info.run_name, address.page)}."
    return joined(
        f"Child networks of {source}, trained from scratch: one version per cell and seed, each with its test accuracy "
        f"and costs in its description. {newest}",
        f"Load one: {_load(name, '1')}",
        address.image(CELLS),
    )


def _load(name: str, version: str, flavour: str = "pytorch") -> str:
    return code(f'mlflow.{flavour}.load_model("models:/{name}/{version}")')


def _costs(metrics: Mapping[str, float], madds: str, params: str) -> list[str]:
    shown = {madds: "multiply-adds", params: "parameters"}
    return [f"{shown_metric(name, metrics[name])} {text}" for name, text in shown.items() if name in metrics]


def _hours(metrics: Mapping[str, float]) -> list[str]:
    known = hours_of(metrics)
    return [] if known is None else [hours_text(*known)]
