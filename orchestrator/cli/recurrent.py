"""`snas recurrent`: a recurrent cell of a text, searched and trained in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import RunsOption, SetOption, stdout
from orchestrator.files.layout import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from search_core.recurrent.retrain import RecurrentRetrainReport
    from search_core.recurrent.search import RecurrentReport


def recurrent(
    config: Annotated[Path, typer.Argument(help="A file with `text`, `search` and `retrain` (docs/recurrent.md).")],
    settings: SetOption = [],  # noqa: B006 - typer copies it
    genotype: Annotated[
        str | None, typer.Option(metavar="FILE|NAME", help="Train this cell in place of a search.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; one that is there is resumed. [the file's name]")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Search a recurrent cell on a text and train it from scratch, or resume that.

    Example: `snas recurrent studies/recurrent/ptb.yaml --set text.folder=data/ptb --set search.strategy.kind=darts`
    """
    from orchestrator.driver.recurrent import run_recurrent
    from orchestrator.study_file.loading import load_recurrent
    from search_core.space.recurrent import load_recurrent_genotype

    study = load_recurrent(config, settings)
    cell = None if genotype is None else load_recurrent_genotype(genotype)
    label = config.stem if name is None else name
    folder, metrics = run_recurrent(study, Runs(runs), label, _print_perplexities, genotype=cell)
    found = [f"genotype: {folder / 'genotype.json'}", f"picture:  {folder / 'cell.svg'}"]
    if metrics:
        found.append(
            f"test perplexity {metrics['test_perplexity']:.2f} (validation {metrics['best_val_perplexity']:.2f}), "
            f"{metrics['params']:,.0f} parameters"
        )
    stdout.print("\n".join(found), highlight=False, soft_wrap=True)


def _print_perplexities(report: RecurrentReport | RecurrentRetrainReport) -> None:
    metrics = report.to_dict()["metrics"]
    shown = "  ".join(
        f"{name.replace('_perplexity', '').replace('_', ' ')} {value:.2f}"
        for name, value in metrics.items()
        if name.endswith("_perplexity")
    )
    stdout.print(f"{report.epoch + 1:5d}  perplexity: {shown}  {report.seconds:.1f} s", highlight=False, soft_wrap=True)
