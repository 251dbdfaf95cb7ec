from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.kernels.backend import torch_only
from search_core.kernels.depthwise import relu_depthwise
from search_core.network.child import discretised_forward
from search_core.network.supernet import Supernet
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges
from tests.search_core.tiny import FEW_PRIMITIVES, TINY_NETWORK, TINY_SIZE, seeded


def relaxed(options: NetworkOptions, *leading: int, seed: int = 0) -> dict[CellType, Tensor]:
    shape = (*leading, len(cell_edges(options.nodes)), len(options.primitives))
    generator = seeded(seed)
    return {cell_type: torch.randn(shape, generator=generator).softmax(-1) for cell_type in CELL_TYPES}


def test_a_shared_sample_equals_the_same_sample_in_every_cell() -> None:
    supernet, shared = Supernet(TINY_SIZE, seed=0), relaxed(TINY_NETWORK)
    per_cell = {name: z.expand(supernet.num_cells(name), -1, -1).clone() for name, z in shared.items()}
    images = torch.randn(4, 1, 8, 8, generator=seeded(1))
    assert torch.equal(supernet(images, shared), supernet(images, per_cell))


def test_every_cell_reads_its_own_sample() -> None:
    supernet = Supernet(TINY_SIZE, seed=0).eval()
    z: dict[CellType, Tensor] = {
        "normal": relaxed(TINY_NETWORK, 1)["normal"],
        "reduce": relaxed(TINY_NETWORK, 2)["reduce"],
    }
    images = torch.randn(4, 1, 8, 8, generator=seeded(1))
    swapped = {**z, "reduce": z["reduce"].flip(0)}
    assert not torch.allclose(supernet(images, z), supernet(images, swapped))


@pytest.mark.parametrize(("cells", "normal", "reduction"), [(1, 0, 1), (2, 0, 2), (3, 1, 2), (8, 6, 2)])
def test_number_of_cells_of_each_type(cells: int, normal: int, reduction: int) -> None:
    options = NetworkOptions(nodes=1, cells=cells, init_channels=2, primitives=("none", "skip_connect"))
    supernet = Supernet(NetworkSize(options, (1, 8, 8), 10), seed=0)
    assert (supernet.num_cells("normal"), supernet.num_cells("reduce")) == (normal, reduction)
    assert supernet(torch.randn(2, 1, 8, 8), relaxed(options)).isfinite().all()


@pytest.mark.parametrize("position", [0, 3])
def test_none_adds_nothing_wherever_it_stands(position: int) -> None:
    others = [name for name in FEW_PRIMITIVES if name != "none"]
    options = NetworkOptions(
        nodes=2, cells=3, init_channels=4, primitives=(*others[:position], "none", *others[position:])
    )
    supernet = Supernet(NetworkSize(options, (1, 8, 8), 10), seed=0).eval()
    images, z = torch.randn(4, 1, 8, 8, generator=seeded(1)), relaxed(options)
    logits = supernet(images, z)
    for z_EO in z.values():
        z_EO[:, position] = 7.0
    assert torch.equal(supernet(images, z), logits)
    z["normal"][0, position - 1] += 0.5
    assert not torch.allclose(supernet(images, z), logits)


def test_all_none_leaves_only_the_classifiers_bias() -> None:
    supernet = Supernet(TINY_SIZE, seed=0)
    z = {cell_type: torch.zeros(5, 4) for cell_type in CELL_TYPES}
    logits = supernet(torch.randn(4, 1, 8, 8), z)
    torch.testing.assert_close(logits, supernet.classifier.linear.bias.expand(4, 10))


def test_gradients_reach_every_edge_operation_and_weight() -> None:
    supernet = Supernet(TINY_SIZE, seed=0)
    z = {name: weights.requires_grad_() for name, weights in relaxed(TINY_NETWORK).items()}
    supernet(torch.randn(8, 1, 8, 8, generator=seeded(1)), z).square().sum().backward()
    for weights in z.values():
        assert weights.grad is not None
        gradient = weights.grad
        assert gradient.isfinite().all()
        assert not gradient[:, 0].any()  # none
        assert (gradient[:, 1:] != 0).all()
    missing = [name for name, parameter in supernet.named_parameters() if parameter.grad is None]
    assert missing == []


def test_batch_norms_of_cells_are_not_affine() -> None:
    supernet = Supernet(TINY_SIZE, seed=0)
    norms = [module for module in supernet.cells.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.affine for norm in norms)
    assert supernet.stem.norm.affine


def test_weights_follow_the_seed_and_leave_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (Supernet(TINY_SIZE, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == name.endswith("norm.weight") or name.endswith("norm.bias")


@pytest.mark.gpu
def test_weights_leave_the_global_random_state_of_the_gpu_alone() -> None:
    before = torch.cuda.get_rng_state()
    Supernet(TINY_SIZE, seed=0)
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_weights_do_not_seed_any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for machines without a GPU: `torch.manual_seed` would seed every device through this function."""
    seeds: list[Any] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    Supernet(TINY_SIZE, seed=0)
    assert seeds == []


def test_alpha_is_no_parameter_of_the_supernet() -> None:
    supernet = Supernet(NetworkSize(NetworkOptions(cells=2, init_channels=2), (1, 8, 8), 10), seed=0)
    assert {name.split(".")[0] for name, _ in supernet.named_parameters()} == {"stem", "cells", "classifier"}
    assert not any(f"operations.{PRIMITIVES[0]}" in name for name, _ in supernet.named_modules())


# Several passes


def test_recomputed_cells_can_be_gone_through_backward_twice() -> None:
    images, z = torch.randn(4, 1, 8, 8, generator=seeded(1)), relaxed(TINY_NETWORK)
    gradients = []
    for recompute in (False, True):
        supernet = Supernet(NetworkSize(replace(TINY_NETWORK, recompute=recompute), (1, 8, 8), 10), seed=0)
        loss = supernet(images, z).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        gradients.append([parameter.grad for parameter in supernet.parameters()])
        statistics = {name: value for name, value in supernet.named_buffers() if "num_batches" in name}
        assert all(count == 1 for count in statistics.values())
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_discretised_pass_and_one_of_the_whole_can_share_a_backward() -> None:
    supernet, z = Supernet(TINY_SIZE, seed=0), relaxed(TINY_NETWORK)
    edges = (Edge("dil_conv_3x3", 0, 2), Edge("max_pool_3x3", 2, 3))
    images = torch.randn(4, 1, 8, 8, generator=seeded(1))
    discretised = discretised_forward(supernet, Genotype(edges, (2, 3), edges, (2, 3)), images)
    (discretised.sum() + supernet(images, z).sum()).backward()
    assert all(parameter.grad is not None for parameter in supernet.parameters())


# Half precision


@pytest.mark.slow
def test_autocast_keeps_logits_and_gradients_close_and_nodes_and_statistics_in_float32() -> None:
    """On torch's code, as on GPUs. bfloat16 has 8 bits, so single values are off by 4e-3 and sums by a few percent."""
    options = NetworkOptions(nodes=3, cells=3, init_channels=8)
    images = torch.randn(16, 1, 16, 16, generator=seeded(1))
    results = []
    for enabled in (False, True):
        supernet = Supernet(NetworkSize(options, (1, 16, 16), 10), seed=0)
        z = {name: weights.requires_grad_() for name, weights in relaxed(options).items()}
        with torch_only():
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = supernet(images, z).float()
            (logits * torch.randn(logits.shape, generator=seeded(2))).sum().backward()
        gradients = [*(weights.grad for weights in z.values()), *(p.grad for p in supernet.parameters())]
        results.append((logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
        assert all(buffer.dtype != torch.bfloat16 for buffer in supernet.buffers())
    (logits, gradient), (half_logits, half_gradient) = results
    assert not torch.equal(logits, half_logits)
    assert (logits - half_logits).norm() < 0.05 * logits.norm()
    assert torch.cosine_similarity(gradient, half_gradient, dim=0) > 0.98


def test_autocast_halves_what_depthwise_convolutions_keep() -> None:
    kept = {}
    for enabled in (False, True):
        x, weight = torch.randn(1, 4, 16, 16, 8).requires_grad_(), torch.randn(2, 8, 3, 3).requires_grad_()
        with torch_only(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (output,) = relu_depthwise(x, [weight], [1], 1)
        kept[enabled] = output.element_size() * output.numel()
    assert kept[True] * 2 == kept[False]
