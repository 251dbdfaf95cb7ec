"""Operations that launch kernels, counted on the pretended GPU at the size of the benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from search_core.network.supernet import Supernet
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions, NetworkSize
from tests.pretended_gpu.cuda import pretended_gpu
from tests.search_core.plain_supernet import PlainSupernet

_NETWORK = NetworkOptions(nodes=4, cells=8, init_channels=4)  # the count does not depend on channels and images
_DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def _build(form: str) -> nn.Module:
    if form == "fast":
        return Supernet(NetworkSize(_NETWORK, (3, 16, 16), 10), seed=0)
    return PlainSupernet(
        nodes=_NETWORK.nodes,
        cells=_NETWORK.cells,
        init_channels=_NETWORK.init_channels,
        primitives=_NETWORK.primitives,
        stem="cifar",
        input_channels=3,
        num_classes=10,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("form", "most"), [("fast", 15_140), ("plain", 13_630)])
def test_launches_of_forward_and_backward_pass_are_those_of_the_docs(form: str, most: int) -> None:
    with pretended_gpu() as gpu:
        network = _build(form).to("cuda")
        z = {name: torch.full((14, 8), 1 / 8, device="cuda", requires_grad=True) for name in CELL_TYPES}
        images, labels = torch.ones(4, 3, 16, 16, device="cuda"), torch.zeros(4, dtype=torch.long, device="cuda")
        gpu.launches.clear()
        functional.cross_entropy(network(images, z), labels).backward()
    assert gpu.launches.total() <= most
    assert f"{most:,}" in _DOCS.read_text(encoding="utf-8")
