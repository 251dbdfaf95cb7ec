"""`snas profile`: exact cost of a network."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from orchestrator.cli.common import DEFAULT_RUNS, JsonOption, RunsOption, make_table, stdout
from search_core.cell import NetworkOptions
from search_core.cost import child_cost, supernet_cost
from search_core.genotype import PUBLISHED, load_genotype

_CELLS_HELP = f"Genotype file, or a published cell: {', '.join(PUBLISHED)}."


def profile(
    genotype: Annotated[str | None, typer.Argument(metavar="GENOTYPE_FILE|NAME", help=_CELLS_HELP)] = None,
    init_channels: Annotated[int | None, typer.Option(help="Channels of the first cells. [36; imagenet 48]")] = None,
    cells: Annotated[int | None, typer.Option(help="Cells in the stack. [20; imagenet 14]")] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Image shape. [3x32x32; imagenet 3x224x224]")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes. [10; imagenet 1000]")] = None,
    network: Annotated[Literal["cifar", "imagenet"], typer.Option(help="Which stem.")] = "cifar",
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
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Count parameters, multiply-adds and memory accesses of a cell's network, for one image.

    Example: `snas profile SNAS_mild --init-channels 36 --cells 20 --input 3x32x32 --classes 10`
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
    )
    if supernet:
        cost, title = supernet_cost(options, shape, classes), "supernet"
    elif genotype is None:
        raise typer.BadParameter("name a genotype file or a published cell, or use --supernet", param_hint="GENOTYPE")
    else:
        title = genotype
        cost = child_cost(
            load_genotype(genotype),
            cells=options.cells,
            init_channels=options.init_channels,
            input_shape=shape,
            num_classes=classes,
            stem=network,
            pool_norm=pool_norm,
        )
    if as_json:
        print(json.dumps(asdict(cost)))
        return
    size = f"{options.cells} cells, {options.init_channels} channels, {'x'.join(map(str, shape))}, {classes} classes"
    table = make_table(f"{title}: {size}")
    table.add_column("count, one image")
    table.add_column(justify="right")
    table.add_row("parameters", f"{cost.params:,}")
    table.add_row("multiply-adds", f"{cost.madds:,}")
    table.add_row("memory accesses (elements)", f"{cost.memory_access:,}")
    table.add_row("auxiliary head's parameters (not included)", f"{cost.auxiliary_params:,}")
    stdout.print(table)


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
