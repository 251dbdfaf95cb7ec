"""`snas profile`: exact cost of a network, and the memory of a training step of the searchable one."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from orchestrator.cli.common import JsonOption, PluginOption, RunsOption, make_table, note, stdout
from orchestrator.cli.completion import published_cells
from orchestrator.files.layout import DEFAULT_RUNS, Runs
from search_core.space.cell_files import load_genotype
from search_core.space.genotype import PUBLISHED
from search_core.space.plan import NetworkOptions, NetworkSize

if TYPE_CHECKING:
    from orchestrator.cli.views.profile_memory import Step
    from search_core.cost.counts import NetworkCost
    from search_core.space.genotype import Genotype

_CELLS_HELP = f"Genotype file, or a published cell: {', '.join(PUBLISHED)}."


def profile(
    genotype: Annotated[
        str | None,
        typer.Argument(metavar="GENOTYPE_FILE|NAME", help=_CELLS_HELP, autocompletion=published_cells),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN_ID", help="MLflow run of the search that found it.")] = None,
    init_channels: Annotated[int | None, typer.Option(help="Channels of the first cells. [36; imagenet 48]")] = None,
    cells: Annotated[int | None, typer.Option(help="Cells in the stack. [20; imagenet 14]")] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Image shape. [3x32x32; imagenet 3x224x224]")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes. [10; imagenet 1000]")] = None,
    network: Annotated[Literal["cifar", "imagenet"], typer.Option(help="Kind of stem.")] = "cifar",
    supernet: Annotated[
        bool, typer.Option("--supernet", help="Profile the searchable network instead; params counts theta. [16 x 8]")
    ] = False,
    pool_norm: Annotated[
        bool | None,
        typer.Option(
            "--pool-norm/--no-pool-norm",
            help="Affine batch norm behind pools, as in SNAS. [as the cell was published; yes for others]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="With --supernet: run a training step of this many images and add the memory that it takes."),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="With --batch-size: keep only the inputs of cells, as `network.recompute` does."
        ),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda|cuda:N", help="With --batch-size: where the step runs. [a GPU if there is one]"),
    ] = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    plugins: PluginOption = [],  # noqa: B006 - typer copies it
) -> None:
    """Count parameters, multiply-adds and memory accesses of a cell's network, for one image.

    Example: `snas profile SNAS_mild --init-channels 36 --cells 20 --input 3x32x32 --classes 10`

    The cell that a search found: `snas profile --run RUN_ID`

    How many searches share a GPU: `snas profile --supernet --batch-size 64`
    """
    imagenet = network == "imagenet"
    shape = _parse_shape(input_shape or ("3x224x224" if imagenet else "3x32x32"))
    classes = _positive("--classes", classes if classes is not None else (1000 if imagenet else 10))
    small = (16, 8) if supernet else (36, 20)
    channels, depth = (48, 14) if imagenet and not supernet else small
    options = NetworkOptions(  # checks both numbers, for children too
        cells=cells if cells is not None else depth,
        init_channels=init_channels if init_channels is not None else channels,
        stem=network,
        recompute=recompute,
    )
    step = _parse_step(supernet, batch_size, recompute, device)
    title = _title(genotype, run, supernet)
    cell = None if supernet else _cell(genotype, run, runs)
    size = NetworkSize(options, shape, classes)
    cost = _cost(cell, size, pool_norm)
    memory = None if step is None else step.measured(size)
    if as_json:
        asked = {} if step is None or memory is None else {"memory": step.memory_data(memory)}
        print(json.dumps({**asdict(cost), **asked}))
        return
    shown = f"{options.cells} cells, {options.init_channels} channels, {'x'.join(map(str, shape))}, {classes} classes"
    stdout.print(_cost_table(f"{title}: {shown}", cost))
    if step is not None and memory is not None:
        stdout.print(step.memory_table(memory))


def _parse_step(supernet: bool, batch_size: int | None, recompute: bool, device: str | None) -> Step | None:
    given = {"--batch-size": batch_size is not None, "--recompute": recompute, "--device": device is not None}
    for name in (name for name, is_given in given.items() if is_given):
        if not supernet:
            raise typer.BadParameter("goes with --supernet: only a search's memory is measured", param_hint=name)
        if batch_size is None:
            raise typer.BadParameter("goes with --batch-size N, which asks for the memory", param_hint=name)
    if batch_size is None:
        return None
    from orchestrator.cli.views.profile_memory import Step, parse_device

    return Step(_positive("--batch-size", batch_size), recompute, parse_device(device))


def _title(genotype: str | None, run: str | None, supernet: bool) -> str:
    """What is profiled, in words; exactly one thing must be named."""
    named = [name for name in (genotype, run and f"cell of run {run}", "supernet" if supernet else None) if name]
    if len(named) != 1:
        raise typer.BadParameter(
            "name one of: a genotype file or a published cell, --run, --supernet", param_hint="GENOTYPE"
        )
    return named[0]


def _cell(genotype: str | None, run: str | None, runs: Path) -> Genotype:
    if genotype is not None:
        return load_genotype(genotype, note)
    from orchestrator.driver.single import found_cell

    return found_cell(Runs(runs), str(run))


def _cost(cell: Genotype | None, size: NetworkSize, pool_norm: bool | None) -> NetworkCost:
    from search_core.cost.counts import child_cost, supernet_cost

    return supernet_cost(size) if cell is None else child_cost(cell, size, pool_norm=pool_norm)


def _cost_table(title: str, cost: NetworkCost) -> Table:
    table = make_table(title)
    table.add_column("count, one image")
    table.add_column(justify="right")
    table.add_row("parameters", f"{cost.params:,}")
    table.add_row("multiply-adds", f"{cost.madds:,}")
    table.add_row("memory accesses (elements)", f"{cost.memory_access:,}")
    table.add_row("auxiliary head's parameters (not included)", f"{cost.auxiliary_params:,}")
    return table


def _parse_shape(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise typer.BadParameter(f"must be CHANNELSxHEIGHTxWIDTH such as 3x32x32, got {text!r}", param_hint="--input")
    channels, height, width = map(int, match.groups())
    return channels, height, width


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise typer.BadParameter(f"must be at least 1, got {value}", param_hint=name)
    return value
