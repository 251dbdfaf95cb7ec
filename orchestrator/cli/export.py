"""`snas export`: a trained child as files for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import JsonOption, PluginOption, RunsOption, filled_table, stdout, warn
from orchestrator.cli.completion import study_names
from orchestrator.files.layout import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_core.export import ExportedFile

_COMPARED = 256  # images


def export(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the files; must be empty or new.")],
    run: Annotated[str | None, typer.Option(metavar="RUN_ID", help="MLflow run of the retraining.")] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Study, with --trial.", autocompletion=study_names)
    ] = None,
    trial: Annotated[int | None, typer.Option(metavar="N", min=0, help="Trial whose cell was retrained.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of the retraining. [the first]")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME@ALIAS", help="Registered model; NAME/VERSION is one, too.")
    ] = None,
    formats: Annotated[
        list[str], typer.Option("--format", help="onnx, pt2, state-dict, python or all; repeatable.")
    ] = ["all"],  # noqa: B006 - typer copies it
    without_normalisation: Annotated[
        bool, typer.Option("--without-normalisation", help="Images come normalised, not as pixels in [0, 1].")
    ] = False,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    plugins: PluginOption = [],  # noqa: B006 - typer copies it
) -> None:
    """Write a trained child as ONNX, PyTorch program, weights and readable Python, and compare each with the child.

    Example: `snas export --study digits-quickstart --trial 2 --to child`
    """
    if [run is not None, study is not None, model is not None].count(True) != 1:
        raise typer.BadParameter("give one of them", param_hint="--run / --study / --model")
    if (study is None) != (trial is None) or (seed is not None and study is None):
        raise typer.BadParameter("belong together", param_hint="--study / --trial / --seed")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise typer.BadParameter(f"must be an empty folder or none, got {to}", param_hint="--to")

    from orchestrator.driver.child_card import write_card
    from orchestrator.driver.trained import load_trained, run_of_model, run_of_trial
    from search_core.export import FORMATS, export_child, missing_for_onnx

    if unknown := [name for name in formats if name not in (*FORMATS, "all")]:
        known = ", ".join((*FORMATS, "all"))
        raise typer.BadParameter(f"must be one of {known}, got {', '.join(unknown)}", param_hint="--format")
    wanted = [name for name in FORMATS if name in formats or "all" in formats]
    if "onnx" in wanted and missing_for_onnx() and "onnx" not in formats:
        wanted.remove("onnx")
        warn(f"no ONNX file: {missing_for_onnx()}")
    folder = Runs(runs)
    if study is not None and trial is not None:
        found = run_of_trial(folder, study, trial, seed)
    else:
        found = run_of_model(folder, model) if model is not None else (folder.tracking_uri(), str(run))
    child = load_trained(*found)
    images, _ = next(iter(child.data.validation.batches(_COMPARED)))
    statistics = {} if without_normalisation else {"mean": child.data.mean, "std": child.data.std}
    title, classes = f"{child.name}, run {child.run_id}", child.data.classes
    files = export_child(child.network, to, images, title=title, classes=classes, formats=wanted, **statistics)
    card = write_card(child, files, to, is_normalising=bool(statistics))
    if as_json:
        print(json.dumps([{**asdict(file), "file": str(file.file)} for file in files]))
    else:
        _print(files, len(images), card)


def _print(files: Sequence[ExportedFile], count: int, card: Path) -> None:
    rows = [[file.format, file.file.name, f"{file.difference:.1e}", f"{file.latency_ms:.2f}"] for file in files]
    title = f"{card.parent}, read again and compared on {count} validation images; the child itself takes "
    title += f"{files[0].child_ms:.2f} ms an image"
    stdout.print(
        filled_table(title, ("format", "file", "largest difference of a logit, of the largest", "ms an image"), rows)
    )
    stdout.print(f"card: {card}", highlight=False, soft_wrap=True)
