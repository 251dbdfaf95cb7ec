"""`snas trial`: one search of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dashboards.formatting import counted, duration, hours_text, metric_name, shown_metric, shown_number
from orchestrator.cli import steering
from orchestrator.cli.common import JsonOption, RunsOption, make_table, stdout
from orchestrator.cli.completion import study_names
from orchestrator.cli.views.cells import drawn_cells, sparkline
from orchestrator.cli.views.study_tables import faults
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import DEFAULT_RUNS, Runs
from orchestrator.study.hours import hours_of
from search_core.space.genotype import Genotype

app = typer.Typer(help="Single trials of a study.", no_args_is_help=True)

#: Metrics of the last epoch in groups.
_GROUPS = {
    "child": ("child_val_accuracy", "child_val_accuracy_recalibrated", "child_val_loss"),
    "supernet": ("supernet_val_accuracy", "supernet_val_accuracy_recalibrated", "train_loss", "pruned_kl"),
    "gap": ("discretization_gap", "discretization_gap_recalibrated"),
    "cost of the child": ("child_madds", "child_params", "child_memory_access", "expected_cost_madds"),
    "search": ("entropy_normal", "entropy_reduce", "temperature", "eta", "edges_normal", "edges_reduce"),
}

ExportOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the trial's cell to a genotype file, and nothing else.")
]


@app.callback()
def trial() -> None:
    """Single trials of a study."""


@app.command()
def show(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of a study in the folder of runs.", autocompletion=study_names)
    ],
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=0, help="Number of the trial.")],
    export: ExportOption = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Show how a trial went, its cell, and what to do with it next.

    Example: `snas trial show digits-quickstart 3`
    """
    from orchestrator.cli.views.trial_facts import trial_facts
    from orchestrator.study.study import Study

    loaded = Study.load(study, Runs(runs))
    facts = trial_facts(loaded, number)
    if export is not None:
        _export(facts, export)
    elif as_json:
        print(json.dumps(facts))
    else:
        _print(facts)


app.command()(steering.cancel)
app.command()(steering.retry)
app.command()(steering.fork)
app.command()(steering.note)
app.command()(steering.star)
app.command()(steering.tag)


def _export(facts: dict[str, Any], file: Path) -> None:
    if facts["genotype"] is None:
        raise OrchestratorError(f"trial {facts['number']} must have a whole epoch to have a cell, got none")
    file.write_text(Genotype.from_dict(facts["genotype"]).to_json(), encoding="utf-8")
    stdout.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


def _print(facts: dict[str, Any]) -> None:
    planned = f" of {facts['planned_epochs']}" if facts["planned_epochs"] is not None else ""
    front = ", on the front" if facts["on_front"] else ""
    _line(f"trial {facts['number']} of study {facts['study']}: {facts['state']}{front}")
    if facts["reason"]:
        _line(f"reason: {facts['reason']}")
    values = ", ".join(f"{key} {shown_number(value)}" for key, value in facts["values"].items())
    rows = {
        "values": values or "nothing was swept",
        "epochs": f"{facts['epochs']}{planned}, {duration(facts['seconds'])} of epochs",
        "reserved": hours_text(*hours) if (hours := hours_of(facts["metrics"])) else "not recorded",
        "survived": ", ".join(faults(facts["survived"])) or "no faults",
        "checkpoints": f"{counted(len(facts['checkpoints']['files']), 'file')} in {facts['checkpoints']['folder']}",
        "MLflow run": facts["run_id"] or "not found: the store does not answer, or has none yet",
    }
    if facts["parent"] is not None:
        parent = facts["parent"]
        rows["forked from"] = f"trial {parent['trial']} after {counted(parent['epoch'], 'epoch')}"
    for name, text in rows.items():
        _line(f"  {name:<12} {text}")
    marks = facts["marks"]
    said = ["starred"] * marks["star"] + [f"{key}={text}" for key, text in marks["tags"].items()]
    if said:
        _line(f"  {'marks':<12} {', '.join(said)}")
    if marks["note"]:
        _line(f"  {'note':<12} {marks['note']}")
    if facts["metrics"]:
        _print_metrics(facts["metrics"])
        _print_curves(facts["curves"])
    _print_retrainings(facts["retrainings"])
    if facts["genotype"] is not None:
        _line("")
        drawn = drawn_cells(facts["genotype"], facts["probabilities"], facts["primitives"])
        stdout.print(drawn, soft_wrap=True)
        _line("")
        _line("the cell as a file, its costs, its training from scratch, the trained child:")
        for command in facts["commands"].values():
            _line(f"  {command}")


def _print_metrics(metrics: dict[str, float]) -> None:
    table = make_table("last epoch")
    for column in ("", "metric", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for group, names in _GROUPS.items():
        for index, name in enumerate(name for name in names if name in metrics):
            table.add_row("" if index else group, metric_name(name), shown_metric(name, metrics[name]))
    stdout.print(table)


def _print_curves(curves: dict[str, list[float]]) -> None:
    from orchestrator.cli.views.trial_facts import CURVES

    table = make_table("how it went, first epoch to last")
    for column in ("", "first", "", "last"):
        table.add_column(column, justify="right" if column in ("first", "last") else "left", no_wrap=True)
    for name in CURVES:
        values = curves[name]
        first, last = (shown_metric(name, value) for value in (values[0], values[-1]))
        table.add_row(metric_name(name), first, sparkline(values), last)
    stdout.print(table)


def _print_retrainings(retrainings: list[dict[str, Any]]) -> None:
    for record in retrainings:
        tested = record["metrics"].get("test_accuracy")
        result = f"{record['epochs']} epochs so far"
        if tested is not None:
            result = f"test accuracy {shown_metric('test_accuracy', tested)}"
        ended = f" ({record['reason']})" if record["reason"] else ""
        _line(f"retrained with seed {record['seed']}: {record['state']}, {result}{ended}")


def _line(text: str) -> None:
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)
