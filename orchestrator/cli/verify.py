"""`snas study verify`: recompute epochs of a study and compare them with what it recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from dashboards.formatting import counted
from orchestrator.cli.common import JsonOption, RunsOption, filled_table, note, stdout
from orchestrator.cli.completion import study_names
from orchestrator.files.layout import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from orchestrator.doctor.verification import Certificate


def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a study in the folder of runs.", autocompletion=study_names)
    ],
    trials: Annotated[int, typer.Option(min=1, help="Most trials.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs of each.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample of trials and epochs.")] = 0,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Recompute sampled epochs of a study, and compare them with its journals.

    The first epoch, and those that follow a checkpoint: bit for bit on a machine like the one that computed them, else
    within a tolerance. The certificate is kept with the study and in MLflow. Exit code 0 if all values are the same,
    1 if not.

    Example: `snas study verify digits-quickstart --trials 2`
    """
    from orchestrator.study.study import Study

    study = Study.load(name, Runs(runs))
    from orchestrator.doctor.verification import CERTIFICATE, verify  # an unknown study needs no PyTorch

    found = verify(study, trials=trials, epochs=epochs, seed=seed, say=note)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _print(found)
        note(f"certificate: {study.folder.path / CERTIFICATE}")
    raise typer.Exit(1 if found.verdict == "different" else 0)


def _print(found: Certificate) -> None:
    rows = [
        [str(epoch.trial), str(epoch.epoch + 1), f"{epoch.values:,}", f"{epoch.differing:,}", epoch.verdict]
        for epoch in found.epochs
    ]
    columns = ["trial", "epoch", "values", "differ", "result"]
    stdout.print(filled_table(f"study {found.study}, recomputed", columns, rows, left=["result"]))
    for epoch in found.epochs:
        for said in filter(None, (epoch.fault, *epoch.differences)):
            line = f"trial {epoch.trial}, epoch {epoch.epoch + 1}: {said}"
            stdout.print(line, markup=False, highlight=False, soft_wrap=True)
    stdout.print(f"{counted(len(found.epochs), 'epoch')}, {counted(found.values, 'value')}: {found.verdict}")
