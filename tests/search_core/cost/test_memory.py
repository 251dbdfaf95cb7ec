"""Memory of a training step, against counts that are made another way."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from weakref import ref

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional

from search_core.cost import memory
from search_core.cost.memory import MeasurementError, StepMemory, measure_apart, measure_step
from search_core.network.supernet import Supernet
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges, plan_supernet
from tests.search_core.tiny import CPU, FEW_PRIMITIVES, num_params

NETWORK = NetworkOptions(nodes=2, cells=5, init_channels=8, primitives=FEW_PRIMITIVES)
SHAPE = (3, 16, 16)
CLASSES = 10
BATCH = 8
FLOAT = 4  # bytes


@cache
def measured(*, recompute: bool = False, batch_size: int = BATCH) -> StepMemory:
    return measure_step(NetworkSize(replace(NETWORK, recompute=recompute), SHAPE, CLASSES), batch_size)


def saved_tensors(node: Node) -> Iterator[Tensor]:
    """Of torch's own nodes and of those written in Python."""
    attributes = [name for name in dir(node) if name.startswith("_saved_")] or ["saved_tensors"]
    for name in attributes:
        saved = getattr(node, name, None)
        for tensor in saved if isinstance(saved, list | tuple) else [saved]:
            if isinstance(tensor, Tensor):
                yield tensor


def bytes_in_the_graph(options: NetworkOptions, batch_size: int) -> int:
    """Storages that the nodes of the graph hold, found by walking it; weights, statistics and Z apart."""
    supernet = Supernet(NetworkSize(options, SHAPE, CLASSES), seed=0)
    edges, operations = len(cell_edges(options.nodes)), len(options.primitives)
    z = {cell_type: torch.full((edges, operations), 0.25, requires_grad=True) for cell_type in CELL_TYPES}
    logits = supernet(torch.zeros(batch_size, *SHAPE), z)
    loss = functional.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.long))
    own = {x.untyped_storage().data_ptr() for x in (*supernet.parameters(), *supernet.buffers(), *z.values())}
    sizes: dict[int, int] = {}
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            storages = [tensor.untyped_storage() for tensor in saved_tensors(node)]
            sizes |= {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for address, size in sizes.items() if address not in own)


@pytest.mark.parametrize("nodes", [1, 2])
def test_saved_bytes_are_those_that_the_graph_holds(nodes: int) -> None:
    options = replace(NETWORK, nodes=nodes, cells=3)
    assert measure_step(NetworkSize(options, SHAPE, CLASSES), BATCH).saved_bytes == bytes_in_the_graph(options, BATCH)


def test_recompute_saves_the_stem_and_the_outputs_of_cells() -> None:
    plan = plan_supernet(NetworkSize(NETWORK, SHAPE, 10))
    pixels = SHAPE[1] * SHAPE[2]
    numbers = (SHAPE[0] + 2 * plan.stem_channels) * pixels  # images, the stem's convolution, its batch norm
    for cell in plan.cells[:-1]:  # the classifier needs the mean of the last one's output only
        numbers += NETWORK.nodes * cell.channels * cell.size_out[0] * cell.size_out[1]
    # The rest is what the classifier and the loss keep: some hundred numbers an image of about 40,000.
    assert measured(recompute=True).saved_bytes == pytest.approx(BATCH * numbers * FLOAT, rel=0.01)


def test_recompute_lowers_what_is_saved_and_the_peak() -> None:
    kept, recomputed = measured(), measured(recompute=True)
    assert recomputed.saved_bytes < 0.25 * kept.saved_bytes
    assert recomputed.peak_bytes < 0.7 * kept.peak_bytes
    assert recomputed.weight_bytes == kept.weight_bytes


def test_weights_are_counted_with_gradients_and_momentum() -> None:
    assert measured().weight_bytes == 3 * FLOAT * num_params(Supernet(NetworkSize(NETWORK, SHAPE, CLASSES), seed=0))


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_grow_with_the_batch(recompute: bool) -> None:
    half, full = measured(recompute=recompute, batch_size=BATCH // 2), measured(recompute=recompute)
    # Some of what is kept is a function of the weights, not of images.
    assert full.saved_bytes == pytest.approx(2 * half.saved_bytes, rel=0.05)
    assert full.peak_bytes - full.weight_bytes == pytest.approx(2 * (half.peak_bytes - half.weight_bytes), rel=0.1)
    assert full.weight_bytes == half.weight_bytes


@pytest.mark.parametrize("recompute", [False, True])
def test_the_peak_holds_all_that_is_saved_and_the_weights(recompute: bool) -> None:
    step = measured(recompute=recompute)
    assert step.peak_bytes >= step.saved_bytes + step.weight_bytes
    assert step.device == "cpu"
    assert step.process_bytes is None


def test_nothing_that_was_saved_outlives_its_count() -> None:
    """Without a collection: on a GPU the next step's peak would hold it, too."""
    weight, outputs = torch.ones(4, requires_grad=True), []

    def loss() -> Tensor:
        saved_by_its_own_node = weight.exp()
        outputs.append(ref(saved_by_its_own_node))
        return saved_by_its_own_node.sum()

    gc.disable()
    try:
        assert memory._saved_bytes(loss, set()) == weight.nbytes
        assert outputs[0]() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_process_of_its_own_prints_one_json_object() -> None:
    request = {
        **asdict(NetworkSize(NETWORK, SHAPE, CLASSES)),
        "batch_size": BATCH,
        "device": "cpu",
    }
    words = [sys.executable, "-m", "search_core.cost.memory", json.dumps(request)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == asdict(measured())


@pytest.mark.slow
def test_measuring_apart_says_in_one_line_why_it_failed() -> None:
    with pytest.raises(MeasurementError, match="more than 1 value per channel") as raised:
        measure_apart(NetworkSize(NETWORK, (3, 2, 2), CLASSES), 1, CPU)  # batch norm of one pixel in the last cells
    assert "\n" not in str(raised.value)


def test_the_reason_of_a_killed_process_names_its_signal() -> None:
    assert "SIGKILL" in memory._reason(-9, "")
    assert "memory" in memory._reason(-9, "")


@pytest.mark.gpu
def test_a_gpu_step_and_its_process() -> None:
    on_gpu = measure_apart(NetworkSize(NETWORK, SHAPE, CLASSES), BATCH, torch.device("cuda"))
    assert on_gpu.weight_bytes == measured().weight_bytes
    assert on_gpu.saved_bytes > 0
    assert on_gpu.process_bytes is not None
    assert on_gpu.process_bytes >= on_gpu.peak_bytes >= on_gpu.saved_bytes + on_gpu.weight_bytes
