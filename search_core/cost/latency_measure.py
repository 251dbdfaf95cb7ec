"""Measure the latency of a search space's parts, and of whole children, on the device of this process.

Parts are run in turn, round after round: so a disturbance from outside falls on all alike, and each runs with caches
that another one has filled, as in a network. On a GPU a part is run several times between two synchronisations, since
kernels are launched while others run; a whole child is run once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from search_core.cost.latency_options import Dtype, LatencyOptions
from search_core.cost.latency_parts import Shape, network_parts
from search_core.cost.latency_table import Comparison, LatencyTable, Place, Timing
from search_core.errors import literal_rules, require
from search_core.network.child import Child
from search_core.randomness import seeded_weights
from search_core.space.codes import genotype_space
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkSize

#: Seconds of a clock that never goes back.
Clock = Callable[[], float]

_CALLS_ON_GPU = 10
_SETTLING_BATCH = 8
#: Children whose latency is remembered.
_MOST_CHILDREN = 10_000


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """How latency is measured.

    Attributes:
        batch_size: images of one inference, at least 1.
        dtype: type of weights and images.
        warmup: runs before the time is taken, 0 or above: libraries set themselves up and choose kernels in them.
        repeats: runs of which median and quartiles are taken, at least 1.
        cpu_time: count the time of this process instead of the wall's: on a CPU that others use too, with one thread.

    Raises:
        OptionsError: if a value is out of range.
    """

    batch_size: int = 1
    dtype: Dtype = "float32"
    warmup: int = 5
    repeats: int = 30
    cpu_time: bool = False

    def __post_init__(self) -> None:
        require(
            *literal_rules(self),
            ("batch_size", self.batch_size >= 1, f"must be at least 1, got {self.batch_size}"),
            ("warmup", self.warmup >= 0, f"must be at least 0, got {self.warmup}"),
            ("repeats", self.repeats >= 1, f"must be at least 1, got {self.repeats}"),
        )


def measure_table(
    size: NetworkSize,
    options: TimingOptions,
    device: torch.device | str = "cpu",
    clock: Clock | None = None,
) -> LatencyTable:
    """Measure every distinct part of a search space, in inference mode, with fresh weights and random inputs.

    Args:
        size: of the searchable network, which the children have too.
        options: how.
        device: where.
        clock: seconds; default: that of `options`.

    Raises:
        RuntimeError: `is_out_of_gpu_memory`, if the parts do not fit on the device together.
        OptionsError: if `cpu_time` is asked for on a GPU or with several threads.
    """
    device = torch.device(device)
    place = Place.of(device)
    is_alone = place.threads == 1
    require(("cpu_time", is_alone or not options.cpu_time, f"must be false unless on a CPU with one thread: {place}"))
    runs: dict[str, Callable[[], object]] = {}
    inputs: dict[Shape, Tensor] = {}
    for part in network_parts(size):
        for shape in part.inputs:
            if shape not in inputs:
                is_image = shape == size.input_shape
                inputs[shape] = _batch(shape, options, device, channels_last=not is_image)
        with seeded_weights(0):
            module = part.build()
        runs[part.key] = _run(module, [inputs[shape] for shape in part.inputs], options, device)
    calls = _CALLS_ON_GPU if device.type == "cuda" else 1
    return LatencyTable(
        place=place,
        dtype=options.dtype,
        batch_size=options.batch_size,
        cpu_time=options.cpu_time,
        parts=time_rounds(runs, options, device, calls=calls, clock=clock),
    )


def measure_child(
    genotype: Genotype,
    size: NetworkSize,
    options: TimingOptions,
    device: torch.device | str = "cpu",
    clock: Clock | None = None,
) -> Timing:
    """Measure a whole child, in inference mode, with fresh weights and random images.

    Arguments as in `measure_table`; pools have a batch norm behind them, as in the search.
    """
    device = torch.device(device)
    run = _child_run(genotype, size, options, device)
    return time_rounds({"child": run}, options, device, clock=clock)["child"]


def latency_of_children(
    options: LatencyOptions,
    table: LatencyTable | None,
    size: NetworkSize,
    device: torch.device,
    *,
    is_measured: bool,
) -> Callable[[Genotype], float] | None:
    """Milliseconds of a child of a search, remembered for the children that were asked for last.

    Args:
        options: how a child is measured.
        table: predicts it, whatever `is_measured` says.
        size: of the searchable network.
        device: of the search.
        is_measured: whether children are measured if there is no table.

    Returns:
        None if there is no table and nothing is to be measured.
    """
    if table is not None:
        return lru_cache(_MOST_CHILDREN)(lambda genotype: table.child_ms(genotype, size))
    if not is_measured:
        return None
    timing = TimingOptions(batch_size=options.batch_size, warmup=options.warmup, repeats=options.repeats)
    return lru_cache(_MOST_CHILDREN)(lambda genotype: measure_child(genotype, size, timing, device).median_ms)


def compare(
    table: LatencyTable,
    size: NetworkSize,
    options: TimingOptions,
    device: torch.device | str = "cpu",
    *,
    children: int = 20,
    seed: int = 0,
    clock: Clock | None = None,
) -> LatencyTable:
    """The table with what it predicts for random children beside what these take when they are measured whole.

    Args:
        table: of this device.
        size: as `measure_table`, and so are the next two.
        options: see there.
        device: see there.
        children: how many, drawn uniformly from the search space.
        seed: of the draws.
        clock: seconds; default: that of `options`.
    """
    device = torch.device(device)
    space, generator = genotype_space(size.network), torch.Generator().manual_seed(seed)
    genotypes = [space.decode(space.sample(generator)) for _ in range(children)]
    runs = {str(number): _child_run(genotype, size, options, device) for number, genotype in enumerate(genotypes)}
    timings = time_rounds(runs, options, device, clock=clock)
    comparison = Comparison(
        predicted_ms=tuple(table.child_ms(genotype, size) for genotype in genotypes),
        measured_ms=tuple(timing.median_ms for timing in timings.values()),
    )
    return replace(table, comparison=comparison)


def time_rounds(
    runs: Mapping[str, Callable[[], object]],
    options: TimingOptions,
    device: torch.device,
    *,
    calls: int = 1,
    clock: Clock | None = None,
) -> dict[str, Timing]:
    """Time functions, each once in every round.

    Args:
        runs: by name; what they start on a GPU is waited for.
        options: rounds before and while the time is taken.
        device: where they run.
        calls: of a function between two looks at the clock; their mean counts.
        clock: seconds; default: that of `options`.
    """
    if clock is None:
        clock = time.process_time if options.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for number in range(options.warmup + options.repeats):
            for name, run in runs.items():
                _wait(device)
                start = clock()
                for _ in range(calls):
                    run()
                _wait(device)
                if number >= options.warmup:
                    seconds[name].append((clock() - start) / calls)
    return {name: _timing(taken) for name, taken in seconds.items()}


def _timing(seconds: list[float]) -> Timing:
    lower, median, upper = (1e3 * np.quantile(seconds, (0.25, 0.5, 0.75))).tolist()
    return Timing(median_ms=median, lower_ms=lower, upper_ms=upper)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _child_run(
    genotype: Genotype, size: NetworkSize, options: TimingOptions, device: torch.device
) -> Callable[[], object]:
    child = Child(genotype, size, pool_norm=True)
    child.to(device)
    _settle(child, size.input_shape, device)
    return _run(child, [_batch(size.input_shape, options, device, channels_last=False)], options, device)


def _settle(child: Child, input_shape: Shape, device: torch.device) -> None:
    """Give batch norms the statistics of random images, so that numbers keep their scale through the network.

    With the initial ones they would shrink from cell to cell, down to where a CPU computes slowly.
    """
    for module in child.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    images = _batch(input_shape, TimingOptions(batch_size=_SETTLING_BATCH), device, channels_last=False)
    with torch.no_grad():
        child.train()(images)


def _run(module: nn.Module, inputs: list[Tensor], options: TimingOptions, device: torch.device) -> Callable[[], object]:
    module = module.to(device, getattr(torch, options.dtype)).eval()
    return lambda: module(*inputs)


def _batch(shape: Shape, options: TimingOptions, device: torch.device, *, channels_last: bool) -> Tensor:
    """Random numbers: zeros would be faster than what a network sees, where a processor stumbles over subnormals."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    drawn = torch.randn(options.batch_size, *shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(device, getattr(torch, options.dtype)).contiguous(memory_format=layout)
