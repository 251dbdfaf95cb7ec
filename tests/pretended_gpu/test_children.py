"""Children of a supernet on the pretended GPU: they are judged by the hundred, and the host must not wait for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from search_core.network.child import inherit_child
from search_core.network.supernet import Supernet
from search_core.space.choices import Bits, CellChoices
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkSize
from search_core.training.evaluation import recalibrate
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.gpu import Gpu
from tests.pretended_gpu.runs import NETWORK, data_on, options_of
from tests.search_core.tiny import seeded

_GENOTYPE = genotype_space(NETWORK).decode(genotype_space(NETWORK).sample(seeded(1)))


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended_gpu() as pretended:
        yield pretended


@pytest.mark.parametrize(
    "choices", [None, CellChoices((1.0, 0.5, 0.5), (Bits(), Bits(4, 4), Bits()))], ids=["whole", "narrow, few bits"]
)
def test_a_child_inherits_without_a_copy_through_the_host(choices: CellChoices | None, gpu: Gpu) -> None:
    supernet = Supernet(NetworkSize(NETWORK, (1, 8, 8), 10), seed=0).to("cuda")
    gpu.syncs.clear()
    child = inherit_child(supernet, _GENOTYPE, choices)
    assert not gpu.syncs
    assert {tensor.device.type for tensor in child.state_dict().values()} == {"cuda"}
    assert all(parameter.requires_grad for parameter in child.parameters())


@pytest.mark.parametrize("kind", ["child", "supernet"])
def test_recomputed_statistics_do_not_wait(kind: str, gpu: Gpu) -> None:
    supernet = Supernet(NetworkSize(NETWORK, (1, 8, 8), 10), seed=0).to("cuda")
    network: nn.Module = supernet if kind == "supernet" else inherit_child(supernet, _GENOTYPE)
    z = {name: torch.full((2, 4), 0.25, device="cuda") for name in ("normal", "reduce")}
    forward = (lambda images: supernet(images, z)) if kind == "supernet" else None
    images = data_on("cuda", options_of("snas")).train
    generator = torch.Generator("cuda").manual_seed(0)
    gpu.syncs.clear()
    recalibrate(network, images, batch_size=4, num_batches=3, generator=generator, forward=forward)
    assert not gpu.syncs
