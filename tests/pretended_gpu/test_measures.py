"""What is measured on a GPU before a study: latency tables, the memory of a step, and of a search for its packing."""

from __future__ import annotations

import pytest

from search_core.cost.latency_measure import TimingOptions, compare, measure_table
from search_core.cost.memory import measure_step
from search_core.kernels.backend import torch_only
from search_core.search.dry_run import measure_search
from search_core.space.plan import NetworkSize
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.device import CUDA
from tests.pretended_gpu.runs import NETWORK, options_of

_SIZE = NetworkSize(NETWORK, (1, 8, 8), 10)


def test_latency_table_is_measured_and_compared() -> None:
    timing = TimingOptions(repeats=2, warmup=1)
    with pretended_gpu() as gpu:
        table = compare(measure_table(_SIZE, timing, "cuda"), _SIZE, timing, "cuda", children=2)
    assert table.place.device == "cuda"
    assert table.comparison is not None
    assert gpu.syncs.total() > len(table.parts), "a clock must wait for what it times"


def test_memory_of_a_step_is_counted_as_on_the_cpu() -> None:
    with pretended_gpu():
        on_gpu = measure_step(_SIZE, 4, "cuda")
    with torch_only():
        on_cpu = measure_step(_SIZE, 4)
    assert on_gpu.device == "pretended GPU"
    assert (on_gpu.weight_bytes, on_gpu.saved_bytes) == (on_cpu.weight_bytes, on_cpu.saved_bytes)


@pytest.mark.parametrize("name", [pytest.param("snas", marks=pytest.mark.slow), "random_sampling"])
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_a_search_is_packed_by_a_short_run_of_it(name: str) -> None:
    """With a graph where there is one: it is recorded and replayed in the short run, too."""
    options = options_of(name, cuda_graph=name == "snas", batch_size=2 if name == "snas" else 8)
    with pretended_gpu() as gpu:
        memory = measure_search(options, CUDA, free_bytes=120 << 30)
    assert memory.gpu_bytes == 20 << 30, "the fall of the free memory, not only what the allocator holds"
    assert (gpu.launches["cudaGraphLaunch"] > 0) == options.cuda_graph
