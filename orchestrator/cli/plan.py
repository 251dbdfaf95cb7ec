"""`snas study plan`: what a study will take, before it is begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboards.formatting import counted, duration
from orchestrator.cli.common import JsonOption, SetOption, filled_table, note, stdout

if TYPE_CHECKING:
    from orchestrator.cluster.forecast import Span
    from orchestrator.cluster.plan import Part, StudyPlan
    from orchestrator.study_file.spec import StudySpec


def plan(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    settings: SetOption = [],  # noqa: B006 - typer copies it
    address: Annotated[
        str | None, typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster. [starts Ray on this machine]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the hours, memory, disk and energy of a study from a few of its steps; nothing is written.

    With `budget.hours` or `budget.gpu_hours`: how many trials, or epochs, fit.

    Example: `snas study plan studies/quickstart.yaml --set budget.hours=0.02`
    """
    from orchestrator.study_file.loading import load_study

    spec = load_study(file, settings)
    from orchestrator.cluster.plan import plan_study  # a file with faults is refused before Ray is imported

    found = plan_study(spec, address, note)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _print(spec, found)


def _print(spec: StudySpec, found: StudyPlan) -> None:
    rows = []
    if found.searches is not None:
        rows += _rows("search", found.searches)
    if found.retrainings is not None:
        rows += _rows("retraining", found.retrainings)
    rows.append(["the whole study", *_times(found.study_s)])
    stdout.print(filled_table(f"plan of {found.name}", ["", "expected", "low", "high"], rows, left=[""]))
    for line in _lines(spec, found):
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _rows(noun: str, part: Part) -> list[list[str]]:
    count = part.count
    number = (
        f"{count.expected:g}" if count.low == count.high else f"{count.expected:g} ({count.low:g} to {count.high:g})"
    )
    every = f"all {number} {noun}{'es' if noun == 'search' else 's'}, {part.at_once} at a time"
    return [[f"one {noun}", *_times(part.one_s)], [every, *_times(part.all_s)]]


def _times(span: Span) -> list[str]:
    return [duration(span.expected), duration(span.low), duration(span.high)]


def _lines(spec: StudySpec, found: StudyPlan) -> list[str]:
    lines = []
    if found.memory_bytes is not None:
        gpu = "" if found.gpu_bytes is None else f", {found.gpu_bytes / 1e9:.1f} GB of its GPU"
        lines.append(f"memory of a search: {found.memory_bytes / 1e9:.1f} GB{gpu}")
    if found.searches is not None and found.searches.per_gpu is not None:
        lines.append(f"searches on a GPU: {found.searches.per_gpu}; {found.reservation.explanation}")
    disk = sum(part.disk_bytes.high for part in found.parts)
    lines.append(f"disk: {disk / 1e6:,.1f} MB of checkpoints at the end")
    energies = [part.energy_kwh for part in found.parts]
    if spec.resources.uses_gpu:
        known = [energy for energy in energies if energy is not None]
        total = sum(energy.expected for energy in known)
        ranged = f"{total:.3g} kWh of its GPUs ({sum(e.low for e in known):.3g} to {sum(e.high for e in known):.3g})"
        lines.append(f"energy: {ranged}" if len(known) == len(energies) else "energy: unknown, no GPU tells its power")
    if found.fitting is not None:
        lines.append(_fitting(spec, found))
    return [*lines, *found.notes]


def _fitting(spec: StudySpec, found: StudyPlan) -> str:
    """What fits the budget, in words."""
    assert found.fitting is not None
    assert found.searches is not None
    budget, fit = spec.budget, found.fitting
    hours = {"hours": budget.hours, "gpu_hours": budget.gpu_hours}
    named = " and ".join(f"`budget.{key}` {value:g}" for key, value in hours.items() if value is not None)
    trials, epochs = round(found.searches.count.expected), spec.search.epochs
    if fit.trials >= trials:
        return f"{named}: all searches are expected to fit"
    of_trials = f"{counted(fit.trials, 'trial')} of {epochs} epochs" if fit.trials else ""
    of_epochs = f"{counted(trials, 'trial')} of {counted(fit.epochs, 'epoch')}" if fit.epochs else ""
    offers = " or ".join(filter(None, (of_trials, of_epochs)))
    return f"{named}: {offers} are expected to fit" if offers else f"{named}: not even one trial, or one epoch, fits"
