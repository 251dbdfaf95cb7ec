"""Networks, data and oracles that are as small as the behaviour under test allows."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.search.options import SearchOptions
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges

PUBLISHED_CELLS = Path(__file__).parent.parent / "data" / "published_cells.json"
CPU = torch.device("cpu")

#: Half of the primitives: each kind of block once.
FEW_PRIMITIVES = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
TINY_NETWORK = NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=FEW_PRIMITIVES)
TINY_SIZE = NetworkSize(TINY_NETWORK, (1, 8, 8), 10)
TINY_DATASET = DatasetOptions(name="fake", shape=(1, 8, 8), images=100)


@cache
def published_cells() -> dict[str, Any]:
    return json.loads(PUBLISHED_CELLS.read_text(encoding="utf-8"))


def tiny_options(**changes: Any) -> SearchOptions:
    """Two steps an epoch on 64 training images."""
    options = SearchOptions(
        dataset=TINY_DATASET, network=TINY_NETWORK, epochs=3, batch_size=32, recalibration_batches=2
    )
    return replace(options, **changes)


@cache
def images_of(options: DatasetOptions = TINY_DATASET) -> ImageData:
    return load_data(options, CPU)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_choices(options: NetworkOptions, generator: torch.Generator) -> dict[CellType, Tensor]:
    """One-hot (E, O) per cell type; every operation is as likely."""
    num_ops, num_edges = len(options.primitives), len(cell_edges(options.nodes))
    return {
        cell_type: nn.functional.one_hot(torch.randint(num_ops, (num_edges,), generator=generator), num_ops)
        for cell_type in CELL_TYPES
    }


def genotype_of(options: NetworkOptions, choices: dict[CellType, Tensor]) -> Genotype:
    """Genotype of one-hot choices, spelled out as plain loops."""
    kept: dict[CellType, tuple[Edge, ...]] = {}
    for cell_type in CELL_TYPES:
        edges = []
        for (source, target), row in zip(cell_edges(options.nodes), choices[cell_type].tolist(), strict=True):
            name = options.primitives[row.index(1)]
            if name != "none":
                edges.append(Edge(name, source, target))
        kept[cell_type] = tuple(edges)
    concat = tuple(range(2, 2 + options.nodes))
    return Genotype(kept["normal"], concat, kept["reduce"], concat)


def num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_madds(network: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of every convolution and linear layer that a forward pass of one image really runs."""
    counts: list[int] = []

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        per_output = module.weight[0].numel()  # what one output element sums
        counts.append(output[0].numel() * per_output)

    handles = [
        module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    network(*inputs)
    for handle in handles:
        handle.remove()
    return sum(counts)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict as a checkpoint gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def differences(left: Any, right: Any, place: str = "state") -> list[str]:
    """Places where two nested states are not equal bit for bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
        return [] if same else [place]
    if isinstance(left, dict) and isinstance(right, dict):
        if set(left) != set(right):
            return [f"{place}: keys"]
        return [found for key in left for found in differences(left[key], right[key], f"{place}.{key}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [f"{place}: length"]
        return [
            found
            for index, (a, b) in enumerate(zip(left, right, strict=True))
            for found in differences(a, b, f"{place}[{index}]")
        ]
    return [] if type(left) is type(right) and left == right else [place]
