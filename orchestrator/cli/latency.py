"""`snas latency`: how long the children of a search space take on a device."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonOption, SetOption, filled_table, make_table, stdout
from orchestrator.errors import OrchestratorError
from search_core.cost.latency_options import Dtype

if TYPE_CHECKING:
    import torch

    from orchestrator.cluster.latency import LatencyRequest
    from search_core.cost.latency_table import Comparison, LatencyTable, Place

app = typer.Typer(help="Latency of children: measure a table for a device.", no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """Keeps `measure` a sub-command while it is the only one."""


@app.command()
def measure(
    config: Annotated[Path, typer.Option(metavar="FILE", help="A study file, or one with the settings of a search.")],
    settings: SetOption = [],  # noqa: B006 - typer copies it
    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda|cuda:N|cluster", help="Device to measure. [a GPU if there is one; cluster with --address]"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="auto|HOST:PORT", help="Ray cluster: one table for each type of its GPUs and CPUs."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images of one inference.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Type of weights and images.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="Threads on a CPU. [torch's choice; on a cluster all]")] = None,
    repeats: Annotated[
        int, typer.Option(help="Timed runs, of which the median counts; 5 runs before them warm up.")
    ] = 30,
    cpu_time: Annotated[
        bool,
        typer.Option(
            "--cpu-time", help="Measure CPU time of the process, not wall-clock time: for a busy CPU, with --threads 1."
        ),
    ] = False,
    children: Annotated[int, typer.Option(help="Random children that are measured whole for comparison.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of the table; on a cluster a folder. [./latency-DEVICE.json]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every operation at every shape of a search space, and how well their sum predicts whole children.

    The file is what `latency.table` of a study names: for `penalty.cost: latency`, for `constraints.latency_ms`, and
    for `child_latency_ms` in the reports.

    Example: `snas latency measure --config studies/quickstart.yaml --device cpu --batch 1`

    On a cluster: `snas latency measure --config STUDY.yaml --address auto --output tables`
    """
    import torch
    from rich.console import Console

    from orchestrator.cluster.latency import LatencyRequest, measure_on_device
    from orchestrator.study_file.loading import load_search
    from search_core.cost.latency_measure import TimingOptions
    from search_core.cost.latency_table import Place
    from search_core.data.datasets import load_data
    from search_core.errors import is_out_of_gpu_memory
    from search_core.space.plan import NetworkSize

    if children < 2:
        raise typer.BadParameter(f"must be at least 2, got {children}", param_hint="--children")
    if threads is not None and threads < 1:
        raise typer.BadParameter(f"must be at least 1, got {threads}", param_hint="--threads")
    here = _device(device, address)
    search = load_search(config, settings)
    timing = TimingOptions(batch_size=batch, dtype=dtype, repeats=repeats, cpu_time=cpu_time)
    data = load_data(search.dataset, torch.device("cpu"))
    request = LatencyRequest(
        size=NetworkSize(search.network, data.input_shape, data.num_classes),
        timing=timing,
        children=children,
        threads=threads,
    )
    files = [_free(_file(output, Place.of(here)))] if here is not None else []
    messages = Console(stderr=True, soft_wrap=True)
    try:
        with messages.status("measuring"):
            tables = [measure_on_device(request, here)] if here is not None else _on_cluster(request, str(address))
    except RuntimeError as error:
        if not isinstance(error, NotImplementedError) and not is_out_of_gpu_memory(error):
            raise
        raise OrchestratorError(f"the search space must run on the device in {dtype}, got: {error}") from error
    if here is None:
        files = _named(output or Path(), tables)
    for file, table in zip(files, tables, strict=True):
        _write(file, table)
    if as_json:
        rows = [_data(file, table) for file, table in zip(files, tables, strict=True)]
        print(json.dumps({"tables": rows}))
        return
    for file, table in zip(files, tables, strict=True):
        _print(file, table)


def _device(device: str | None, address: str | None) -> torch.device | None:
    """A device of this machine; None for the cluster."""
    import torch

    from orchestrator.driver.single import default_device

    if (device == "cluster") != (address is not None) and (device == "cluster" or device is not None):
        raise typer.BadParameter("cluster and --address go together", param_hint="--device")
    if address is not None:
        return None
    if device is None:
        return default_device()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if device not in known:
        rule = f"must be `cluster` or a device of this machine ({', '.join(known)}), got {device!r}"
        raise typer.BadParameter(rule, param_hint="--device")
    return torch.device(device)


def _on_cluster(request: LatencyRequest, address: str) -> list[LatencyTable]:
    from orchestrator.cluster.connection import cluster
    from orchestrator.cluster.latency import measure_on_cluster

    with cluster(address):
        return measure_on_cluster(request)


def _file(output: Path | None, place: Place) -> Path:
    from orchestrator.cluster.latency import file_stem

    return output if output is not None else Path(f"{file_stem(place)}.json")


def _named(folder: Path, tables: list[LatencyTable]) -> list[Path]:
    """A free file for each table: what took minutes is not lost because of its name."""
    from orchestrator.cluster.latency import file_stem

    files = []
    for table in tables:
        stem, number = file_stem(table.place), 1
        file = folder / f"{stem}.json"
        while file.exists():
            number += 1
            file = folder / f"{stem}-{number}.json"
        files.append(file)
    return files


def _free(file: Path) -> Path:
    """Refuse to replace a table: searches that began with it could not be resumed."""
    if file.exists():
        raise OrchestratorError(f"{file} exists, and studies may use it: choose another --output")
    return file


def _write(file: Path, table: LatencyTable) -> None:
    """Write a table whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}-{os.getpid()}.tmp")
    try:
        draft.write_text(table.to_json(), encoding="utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _data(file: Path, table: LatencyTable) -> dict[str, Any]:
    return {"file": str(file), "digest": table.digest, **table.to_dict(), "summary": _summary(table)}


def _summary(table: LatencyTable) -> dict[str, float | None]:
    """How well a table predicts: median ratio of predicted to measured, Spearman's rho, largest |ratio - 1|."""
    from dashboards.analysis.importance import rank_correlation

    comparison = _compared(table)
    return {
        "median_ratio": median(comparison.ratios),
        "rank_correlation": rank_correlation(comparison.predicted_ms, comparison.measured_ms),
        "worst_error": max(abs(ratio - 1) for ratio in comparison.ratios),
    }


def _compared(table: LatencyTable) -> Comparison:
    assert table.comparison is not None, "measured with the table"
    return table.comparison


def _print(file: Path, table: LatencyTable) -> None:
    columns = ("part", "median (ms)", "lower quartile", "upper quartile")
    rows = [(key, *(f"{value:.4f}" for value in asdict(timing).values())) for key, timing in table.parts.items()]
    clock = ", time of the process" if table.cpu_time else ""
    title = f"{table.place}; batch {table.batch_size}, {table.dtype}{clock}"
    stdout.print(filled_table(title, columns, rows, left=("part",)))
    comparison = _compared(table)
    shown = make_table(f"{len(comparison.ratios)} random children: predicted against measured")
    for column in ("child", "predicted (ms)", "measured (ms)", "predicted / measured"):
        shown.add_column(column, justify="right")
    pairs = zip(comparison.predicted_ms, comparison.measured_ms, comparison.ratios, strict=True)
    for number, (predicted, measured, ratio) in enumerate(pairs):
        shown.add_row(str(number), f"{predicted:.3f}", f"{measured:.3f}", f"{ratio:.3f}")
    stdout.print(shown)
    found = _summary(table)
    rho = "-" if found["rank_correlation"] is None else f"{found['rank_correlation']:.3f}"
    stdout.print(
        f"median ratio {found['median_ratio']:.3f}, rank correlation {rho}, worst error {found['worst_error']:.1%}\n"
        f"{file}",
        highlight=False,
        soft_wrap=True,
    )
