"""`snas retrain`: train a cell from scratch in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated

import typer

from dashboards.formatting import percent_with_spread, shown_metric
from orchestrator.cli.common import PluginOption, RunsOption, SetOption, note, stamped, stdout, warn
from orchestrator.cli.completion import published_cells
from orchestrator.files.layout import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from orchestrator.study_file.loading import RetrainConfig
    from search_core.training.retrain import RetrainReport


def retrain(
    genotype: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="Genotype file or published cell.", autocompletion=published_cells),
    ] = None,
    choices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Channels and bits of its cells: `choices.json` of the search. [the run's]"),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN_ID", help="MLflow run of the search that found it.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A study file, or one with `dataset` and `retrain`. [the run's study; else digits, 15 epochs]"
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of trainings. [the file's]")] = None,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    name: Annotated[str | None, typer.Option(help="Name of the run. [the cell's name and the time]")] = None,
    runs: RunsOption = DEFAULT_RUNS,
    plugins: PluginOption = [],  # noqa: B006 - typer copies it
) -> None:
    """Train the child network of a cell from scratch, test it once, and register it in MLflow.

    Example: `snas retrain --genotype SNAS_mild --config studies/quickstart.yaml --seeds 3`
    """
    from orchestrator.driver.single import found_cell, found_choices, run_retrain, study_recipe
    from orchestrator.study_file.loading import load_retrain
    from search_core.space.cell_files import load_genotype
    from search_core.space.choices import load_choices

    if (genotype is None) == (run is None):
        raise typer.BadParameter("give either --genotype or --run", param_hint="--genotype / --run")
    if settings and config is None:
        raise typer.BadParameter("needs --config, whose settings it replaces", param_hint="--set")
    folder = Runs(runs)
    cell = load_genotype(genotype, note) if genotype is not None else found_cell(folder, str(run))
    chosen = None if run is None else found_choices(folder, run)
    if choices is not None:
        chosen = load_choices(choices)
    if config is not None:
        recipe = load_retrain(config, settings)
    else:
        recipe = study_recipe(folder, run) if run is not None else _small_recipe()
    if seeds is not None:
        recipe = replace(recipe, retrain=replace(recipe.retrain, seeds=seeds))
    stem = Path(genotype).stem if genotype is not None else f"run-{str(run)[:8]}"
    label = stamped(stem) if name is None else name
    results = run_retrain(cell, recipe, folder, label, _print_epoch, choices=chosen, parent_run=run, warn=warn)
    accuracies = [result["test_accuracy"] for result in results]
    found = shown_metric("test_accuracy", accuracies[0])
    if len(accuracies) > 1:
        found = f"{percent_with_spread(mean(accuracies), stdev(accuracies))} over {len(accuracies)} seeds"
    cost = f"{shown_metric('params', results[0]['params'])} parameters, "
    cost += f"{shown_metric('madds', results[0]['madds'])} multiply-adds"
    if chosen is not None:
        cost += f", {shown_metric('bit_operations', results[0]['bit_operations'])} bit operations"
    stdout.print(f"\ntest accuracy {found}; {cost}", highlight=False)


def _small_recipe() -> RetrainConfig:
    """What is trained when neither a file nor a study says: a small child on digits, minutes on a laptop."""
    from orchestrator.study_file.loading import RetrainConfig
    from orchestrator.study_file.sections import RetrainSection
    from search_core.data.dataset_options import DatasetOptions

    retrain = RetrainSection(epochs=15, cells=8, init_channels=16, drop_path=0.0)
    return RetrainConfig(dataset=DatasetOptions(name="digits"), retrain=retrain)


def _print_epoch(seed: int, report: RetrainReport) -> None:
    stdout.print(
        f"seed {seed}  epoch {report.epoch + 1:3d}  loss {report.train_loss:.3f}  train {report.train_accuracy:6.2%}"
        f"  validation {report.val_accuracy:6.2%}  {report.seconds:.1f} s",
        highlight=False,
    )
