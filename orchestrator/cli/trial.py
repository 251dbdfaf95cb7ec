"""`snas trial`: one search of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboards.formatting import compact, counted, duration, hours_text, percent
from orchestrator.cli.cells import drawn_cells, sparkline
from orchestrator.cli.common import DEFAULT_RUNS, JsonOption, RunsOption, make_table, stdout
from orchestrator.cli.completion import study_names
from orchestrator.cli.study_tables import faults, shown
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.study.hours import hours_of
from search_core.space.genotype import Genotype

if TYPE_CHECKING:
    from orchestrator.study.study import Study

app = typer.Typer(help="Single trials of a study.", no_args_is_help=True)

#: Metrics of the last epoch in groups: metric -> what it is called, and its unit.
_GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "child": {
        "child_val_accuracy": ("accuracy, weights inherited", "%"),
        "child_val_accuracy_recalibrated": ("accuracy, recalibrated", "%"),
        "child_val_loss": ("loss", "nats"),
    },
    "supernet": {
        "supernet_val_accuracy": ("accuracy", "%"),
        "discretization_gap": ("discretization gap", "points"),
        "train_loss": ("training loss", "nats"),
    },
    "cost of the child": {
        "child_madds": ("multiply-adds", "an image"),
        "child_params": ("parameters", ""),
        "child_memory_access": ("elements moved", "an image"),
        "expected_cost_madds": ("expected multiply-adds, searched edges", "an image"),
    },
    "search": {
        "entropy_normal": ("entropy, normal cell", "nats"),
        "entropy_reduce": ("entropy, reduction cell", "nats"),
        "temperature": ("temperature", ""),
        "eta": ("eta", ""),
        "edges_normal": ("edges, normal cell", ""),
        "edges_reduce": ("edges, reduction cell", ""),
    },
}
_COSTS = ("child_madds", "child_params", "child_memory_access", "expected_cost_madds")

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
    from orchestrator.cli.trial_facts import trial_facts
    from orchestrator.study.study import Study

    loaded = Study.load(study, Runs(runs))
    facts = trial_facts(loaded, number)
    if export is not None:
        _export(facts, export)
    elif as_json:
        print(json.dumps(facts))
    else:
        _print(facts, loaded)


def _export(facts: dict[str, Any], file: Path) -> None:
    if facts["genotype"] is None:
        raise OrchestratorError(f"trial {facts['number']} must have a whole epoch to have a cell, got none")
    file.write_text(Genotype.from_dict(facts["genotype"]).to_json(), encoding="utf-8")
    stdout.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


def _print(facts: dict[str, Any], study: Study) -> None:
    planned = f" of {facts['planned_epochs']}" if facts["planned_epochs"] is not None else ""
    front = ", on the front" if facts["on_front"] else ""
    _line(f"trial {facts['number']} of study {facts['study']}: {facts['state']}{front}")
    if facts["reason"]:
        _line(f"reason: {facts['reason']}")
    values = ", ".join(f"{key} {shown(value)}" for key, value in facts["values"].items())
    rows = {
        "values": values or "nothing was swept",
        "epochs": f"{facts['epochs']}{planned}, {duration(facts['seconds'])} of epochs",
        "reserved": hours_text(*hours) if (hours := hours_of(facts["metrics"])) else "not recorded",
        "survived": ", ".join(faults(facts["survived"])) or "no faults",
        "checkpoints": f"{counted(len(facts['checkpoints']['files']), 'file')} in {facts['checkpoints']['folder']}",
        "MLflow run": facts["run_id"] or "not found: the store does not answer, or has none yet",
    }
    for name, text in rows.items():
        _line(f"  {name:<12} {text}")
    if facts["metrics"]:
        _print_metrics(facts["metrics"])
        _print_curves(facts["curves"])
    _print_retrainings(facts["retrainings"])
    if facts["genotype"] is not None:
        _line("")
        primitives = study.spec.search.network.primitives
        stdout.print(drawn_cells(facts["genotype"], facts["probabilities"], primitives), soft_wrap=True)
        _line("")
        _line("the cell as a file, its costs, its training from scratch:")
        for command in facts["commands"].values():
            _line(f"  {command}")


def _print_metrics(metrics: dict[str, float]) -> None:
    table = make_table("last epoch")
    for column in ("", "metric", "value", "unit"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for group, names in _GROUPS.items():
        known = [(name, *words) for name, words in names.items() if name in metrics]
        for index, (name, text, unit) in enumerate(known):
            table.add_row("" if index else group, text, _value(name, metrics[name], unit), unit)
    stdout.print(table)


def _value(name: str, value: float, unit: str) -> str:
    if unit in ("%", "points"):
        return f"{100 * value:+.1f}" if unit == "points" else f"{100 * value:.1f}"
    return compact(value) if name in _COSTS else f"{value:.4g}"


def _print_curves(curves: dict[str, list[float]]) -> None:
    from orchestrator.cli.trial_facts import CURVES

    table = make_table("how it went, first epoch to last")
    for column in ("", "first", "", "last"):
        table.add_column(column, justify="right" if column in ("first", "last") else "left", no_wrap=True)
    for name, text in CURVES.items():
        values = curves[name]
        style = "{:+.1%}" if name == "discretization_gap" else "{:.1%}" if "accuracy" in name else "{:.3g}"
        table.add_row(text, style.format(values[0]), sparkline(values), style.format(values[-1]))
    stdout.print(table)


def _print_retrainings(retrainings: list[dict[str, Any]]) -> None:
    for record in retrainings:
        tested = record["metrics"].get("test_accuracy")
        result = f"test accuracy {percent(tested)}" if tested is not None else f"{record['epochs']} epochs so far"
        ended = f" ({record['reason']})" if record["reason"] else ""
        _line(f"retrained with seed {record['seed']}: {record['state']}, {result}{ended}")


def _line(text: str) -> None:
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)
