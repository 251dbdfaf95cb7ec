"""`snas search`: one search in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboards.formatting import metric_name, shown_metric
from orchestrator.cli.common import RunsOption, SetOption, note, stamped, stdout, warn
from orchestrator.files.layout import DEFAULT_RUNS, Runs
from search_core.search.reports import FINAL_METRICS

if TYPE_CHECKING:
    from search_core.search.reports import EpochReport

_HEAD = "epoch  supernet   child  recalib.   loss  entropy  temp.  edges     madds     s"


def search(
    config: Annotated[
        Path, typer.Argument(help="A study file (its `search` section is used) or a file of search settings.")
    ],
    settings: SetOption = [],  # noqa: B006 - typer copies it
    name: Annotated[str | None, typer.Option(help="Name of the run. [the file's name and the time]")] = None,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Run one search without Ray.

    Example: `snas search studies/quickstart.yaml --set search.epochs=3 --set penalty.strength=1e-2`
    """
    from orchestrator.driver.single import run_search
    from orchestrator.study_file.loading import load_search

    options = load_search(config, settings)
    place, label = Runs(runs), stamped(config.stem) if name is None else name
    genotype, folder = run_search(options, place, label, _print_epoch, warn=warn, note=note)
    stdout.print(f"\nfound {len(genotype.normal)} normal and {len(genotype.reduce)} reduction edges", highlight=False)
    stdout.print(
        f"genotype: {folder / 'genotype.json'}\npicture:  {folder / 'cells.svg'}", highlight=False, soft_wrap=True
    )
    words = ["--genotype", str(folder / "genotype.json")]
    if (choices := folder / "choices.json").is_file():
        words += ["--choices", str(choices)]
    stdout.print(
        f"retrain:  {place.command('retrain', *words)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _print_epoch(report: EpochReport) -> None:
    if report.epoch == 0:
        stdout.print(_HEAD, highlight=False, soft_wrap=True)
    edges, madds = f"{report.edges_normal}+{report.edges_reduce}", shown_metric("child_madds", report.child_madds)
    stdout.print(
        f"{report.epoch + 1:5d}  {report.supernet_val_accuracy:8.2%}  {report.child_val_accuracy:6.2%}"
        f"  {report.child_val_accuracy_recalibrated:8.2%}  {report.train_loss:5.3f}  {report.entropy_total:7.2f}"
        f"  {report.temperature:5.3f}  {edges:>5}  {madds:>8}  {report.seconds:4.1f}",
        highlight=False,
        soft_wrap=True,
    )
    for name in FINAL_METRICS:
        if (value := report.metrics().get(name)) is not None:
            stdout.print(f"{metric_name(name)}: {shown_metric(name, value)}", highlight=False, soft_wrap=True)
