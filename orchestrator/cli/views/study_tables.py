"""Tables of a study: its trials, its front, its retrainings, what mattered, and how its strategies compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dashboards.analysis.answer_text import answer_words
from dashboards.formatting import MISSING, counted, percent_with_spread, shown_metric, shown_number
from orchestrator.cli.common import filled_table, make_table, stdout

if TYPE_CHECKING:
    from dashboards.analysis.answer import Answer
    from orchestrator.reports.comparison import Comparison
    from orchestrator.reports.comparison_text import Columns
    from orchestrator.study.records import RetrainRecord, TrialRecord

#: What a trial may survive, by `journal.Event`.
_FAULTS = {
    "restart": "restart",
    "hang": "hang",
    "out_of_memory": "shortage of memory",
    "checkpoint": "checkpoint that could not be written",
}

#: How a verdict on a claim looks.
_STYLES = {"holds": "bold green", "does not hold": "bold red", "cannot be said": "yellow"}


def print_trials(trials: Sequence[TrialRecord]) -> None:
    """All trials, those of the front marked, and what they survived."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    names = [key.replace(".", "\n") for key in keys]
    columns = ("trial", "state", *names, "epochs", "supernet", "child", "multiply-adds")
    rows = [
        (
            f"{'* ' if trial.on_front else ''}{trial.number}",
            trial.state,
            *(shown_number(trial.values.get(key)) for key in keys),
            str(trial.epochs),
            shown_metric("supernet_val_accuracy", trial.metrics.get("supernet_val_accuracy")),
            shown_metric("child_val_accuracy", trial.metrics.get("child_val_accuracy")),
            shown_metric("child_madds", trial.metrics.get("child_madds")),
        )
        for trial in trials
    ]
    stdout.print(filled_table("trials (* on the front)", columns, rows, left=("trial", "state")))
    for trial in trials:
        _print_events(f"trial {trial.number}", trial)


def print_front(front: Sequence[Mapping[str, Any]]) -> None:
    """The best trade-offs."""
    if not front:
        stdout.print("no trial is complete yet")
        return
    has_latency = any("child_latency_ms" in row for row in front)
    columns = ["trial", "eta", "temperature", "supernet", "child", "retrained test", "params", "multiply-adds"]
    columns += ["latency"] if has_latency else []
    rows = []
    for row in front:
        rows.append(
            (
                str(row["trial"]),
                shown_number(row["eta"]),
                row["temperature"],
                shown_metric("supernet_val_accuracy", row["supernet_val_accuracy"]),
                shown_metric("child_val_accuracy", row["child_val_accuracy"]),
                percent_with_spread(row["test_accuracy"], row["test_accuracy_sd"]),
                shown_metric("child_params", row["child_params"]),
                shown_metric("child_madds", row["child_madds"]),
                *([shown_metric("child_latency_ms", row.get("child_latency_ms"))] if has_latency else []),
            )
        )
    title = "front: the best trade-offs between the objectives"
    stdout.print(filled_table(title, columns, rows, left=("temperature",)))
    stdout.print(
        "supernet and child: validation accuracy, the child without retraining; params and multiply-adds of the child "
        "at the size of the search",
        style="dim",
    )


def print_retrains(retrains: Sequence[RetrainRecord]) -> None:
    """All retrainings."""
    if not retrains:
        return
    table = make_table("retrained from scratch, tested once")
    for column in ("trial", "seed", "state", "epochs", "validation", "test", "params", "multiply-adds"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for record in retrains:
        metrics = record.metrics
        accuracies = [shown_metric(name, metrics.get(name)) for name in ("val_accuracy", "test_accuracy")]
        costs = [shown_metric(name, metrics.get(name)) for name in ("params", "madds")]
        trial = MISSING if record.trial is None else str(record.trial)
        table.add_row(trial, str(record.seed), record.state, str(record.epochs), *accuracies, *costs)
    stdout.print(table)
    for record in retrains:
        _print_events(f"retraining {record.label}", record)


def print_answer(answer: Answer) -> None:
    """Which cell to keep, and how sure that is."""
    stdout.print(f"\n{answer_words(answer)}", style="bold", markup=False, highlight=False, soft_wrap=True)


def print_facts(facts: Mapping[str, Any]) -> None:
    """What mattered: importance of the swept parameters, how eta relates to cost and gap; and what failed."""
    lines = []
    for metric, found in facts["importance"].items():
        text = found if isinstance(found, str) else ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        lines.append(f"importance for {metric}: {text}")
    lines += [record["words"] for record in facts["relations"]]
    if facts["failures"]:
        lines.append(f"{counted(len(facts['failures']), 'failure')}:")
        for failure in facts["failures"]:
            name = f"trial {failure['trial']}" if "trial" in failure else f"retraining {failure['retraining']}"
            lines.append(f"  {name}: {failure['reason']}")
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_events(name: str, record: TrialRecord | RetrainRecord) -> None:
    """Which faults it survived, and why it ended early."""
    survived = faults(record.survived)
    lines = [f"{name} survived: {', '.join(survived)}"] if survived else []
    lines += [f"{name} {record.state}: {record.reason}"] if record.reason else []
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def faults(survived: Mapping[str, int]) -> list[str]:
    """Faults by kind, such as `2 restarts`."""
    return [counted(count, _FAULTS[kind]) for kind, count in survived.items()]


def print_comparison(comparison: Comparison) -> None:
    """A row per strategy, its regret where there is a ground truth, and the verdict on each claim."""
    from orchestrator.reports.comparison_text import (  # with a ground truth, which other tables do without
        ACCURACY_COLUMNS,
        COST_COLUMNS,
        HOW_TO_READ,
        TRUTH_COLUMNS,
        control_text,
        pruned_text,
        truth_text,
    )

    _print_columns(f"strategies of study {comparison.study}", ACCURACY_COLUMNS, comparison)
    stdout.print(Text(HOW_TO_READ, style="dim"))
    _print_columns("what they cost, and the size of their children", COST_COLUMNS, comparison)
    if missing := control_text(comparison):
        stdout.print(Text(missing, style="yellow"))
    if comparison.truth is not None:
        _print_columns("against the ground truth", TRUTH_COLUMNS, comparison)
        stdout.print(truth_text(comparison.truth), highlight=False)
    if pruned := pruned_text(comparison):
        stdout.print(pruned, highlight=False)
    stdout.print("\nclaims of the SNAS paper", style="bold")
    for claim in comparison.claims:
        verdict = (claim.verdict, _STYLES[claim.verdict])
        stdout.print(Text.assemble(f"({claim.letter}) {claim.text}: ", verdict, f"\n    {claim.evidence}"))


def _print_columns(title: str, columns: Columns, comparison: Comparison) -> None:
    table = make_table(title)
    for position, heading in enumerate(columns):
        table.add_column(heading, justify="left" if position == 0 else "right")
    for row in comparison.rows:
        table.add_row(*(text(row) for text in columns.values()))
    stdout.print(table)
