"""`snas gradients`: what the sampling of architectures does to the gradient of alpha."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated

import typer

from dashboards.formatting import counted
from orchestrator.cli.common import JsonOption, SetOption, filled_table, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_core.search.gradients import GradientRow

_COLUMNS = (
    "estimator",
    "lambda",
    "variance",
    "variance / |g|^2",
    "cosine",
    "cosine of mean",
    "loss before",
    "loss after",
)


def gradients(
    config: Annotated[
        Path, typer.Argument(help="A study file, or one with the settings of a search, of a small space.")
    ],
    settings: SetOption = [],  # noqa: B006 - typer copies it
    temperatures: Annotated[
        list[float], typer.Option("--temperature", help="Of the concrete distribution; repeatable.")
    ] = [1.0, 0.3, 0.1],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Searches, which differ in their seed.")] = 3,
    samples: Annotated[int, typer.Option(min=2, help="Estimates of each gradient.")] = 500,
    descents: Annotated[int, typer.Option(min=1, help="Descents by each estimator.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each descent.")] = 30,
    images: Annotated[int, typer.Option(min=2, help="Training images on which the loss is taken.")] = 128,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the comparison too: a PNG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare SNAS' gradient of alpha with REINFORCE's and the exact one, on the supernet of a small space.

    A search is run; then theta is fixed and every genotype is run on the same images, which gives the exact gradient of
    the expected loss. Variance and cosine are those of single estimates; the descents take steps of alpha alone.

    Example: `snas gradients studies/micro_space.yaml --set epochs=4 --figure gradients.png`
    """
    from orchestrator.driver.single import default_device
    from orchestrator.study_file.loading import load_search
    from search_core.data.datasets import load_data
    from search_core.search.gradients import check_comparable, compare_gradients
    from search_core.search.search import Search
    from search_core.strategies.gradient_estimates import Effort

    if any(temperature <= 0 for temperature in temperatures):
        raise typer.BadParameter(f"must be above 0, got {temperatures}", param_hint="--temperature")
    if figure is not None and not figure.absolute().parent.is_dir():
        raise typer.BadParameter(f"must be in a folder that is there, got {figure}", param_hint="--figure")
    options, device = load_search(config, settings), default_device()
    check_comparable(options)
    data, found = load_data(options.dataset, device), []
    for seed in range(options.seed, options.seed + seeds):
        search = Search(replace(options, seed=seed), data, device)
        for _ in search:
            pass
        effort = Effort(samples=samples, runs=descents, steps=steps)
        found.append(compare_gradients(search, temperatures=temperatures, effort=effort, images=images))
    estimators = list(zip(*found, strict=True))
    if figure is not None:
        _draw(figure, estimators)
    if as_json:
        rows = [
            {"seed": options.seed + number, **asdict(row)} for rows in estimators for number, row in enumerate(rows)
        ]
        print(json.dumps({"images": images, "samples": samples, "rows": rows}))
        return
    searches = f"{counted(options.epochs, 'epoch')} of {config.name}, {counted(seeds, 'seed')}"
    title = f"{searches}; {samples} estimates, {descents} x {steps} steps"
    stdout.print(filled_table(title, _COLUMNS, [_cells(rows) for rows in estimators], left=("estimator",)))
    if figure is not None:
        stdout.print(str(figure), markup=False, highlight=False, soft_wrap=True)


def _cells(rows: Sequence[GradientRow]) -> list[str]:
    """One estimator in words: mean and standard deviation over the seeds."""
    qualities = [row.quality for row in rows]
    columns = (
        [quality.variance for quality in qualities],
        [quality.relative_variance for quality in qualities],
        [quality.cosine for quality in qualities],
        [quality.cosine_of_mean for quality in qualities],
        [quality.losses[0] for quality in qualities],
        [quality.losses[-1] for quality in qualities],
    )
    shown = "-" if rows[0].temperature is None else f"{rows[0].temperature:g}"
    return [rows[0].name, shown, *map(_spread, columns)]


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.2g}" if len(set(values)) > 1 else ""
    return f"{mean(values):.3g}{spread}"


def _draw(file: Path, estimators: Sequence[Sequence[GradientRow]]) -> None:
    from dashboards.pictures.figures import figure_png
    from dashboards.pictures.gradient_figure import DrawnEstimator, gradient_figure

    drawn = [
        DrawnEstimator(
            name=rows[0].name,
            temperature=rows[0].temperature,
            variances=[row.quality.relative_variance for row in rows],
            cosines=[row.quality.cosine for row in rows],
            losses=[mean(losses) for losses in zip(*(row.quality.losses for row in rows), strict=True)],
        )
        for rows in estimators
    ]
    file.write_bytes(figure_png(gradient_figure(drawn)))
