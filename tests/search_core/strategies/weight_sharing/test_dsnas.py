from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.errors import OptionsError
from search_core.network.child import discretised_forward
from search_core.network.supernet import Supernet
from search_core.search.search import build_context
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.strategies.base import EpochSettings
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.weight_sharing.dsnas import Dsnas
from search_core.strategies.weight_sharing.options import DsnasOptions
from tests.search_core.tiny import CPU, TINY_NETWORK, TINY_SIZE, images_of, seeded, tiny_options

THETA, ALPHA = ThetaOptions(grad_clip=0.5), AlphaOptions(lr=0.01)
NUM_OPS = len(TINY_NETWORK.primitives)


def build(penalty: PenaltyOptions | None = None, *, eta: float = 0.3, **stop: float) -> Dsnas:
    """A strategy of the default float type whose alpha is far from uniform."""
    options = tiny_options(penalty=penalty or PenaltyOptions(), theta=THETA, alpha=ALPHA)
    costs = CostTable(TINY_SIZE, dtype=torch.get_default_dtype())
    context = replace(build_context(options, images_of(), CPU), costs=costs)
    dsnas = Dsnas(DsnasOptions(**{"stop_margin": None, **stop}), context)
    with torch.no_grad():
        for seed, alpha in enumerate(dsnas._alpha.values()):
            alpha.copy_(torch.randn(alpha.shape, generator=seeded(seed)))
    dsnas.begin_epoch(EpochSettings(temperature=1.0, eta=eta, theta_lr=0.025), seeded())
    return dsnas


def batch(num: int = 8) -> tuple[Tensor, Tensor]:
    generator = seeded(50)
    return torch.randn(num, 1, 8, 8, generator=generator), torch.randint(10, (num,), generator=generator)


def one_hot(choices: dict[CellType, Tensor]) -> dict[CellType, Tensor]:
    return {name: functional.one_hot(chosen, NUM_OPS).to(torch.get_default_dtype()) for name, chosen in choices.items()}


@pytest.mark.usefixtures("float64")
def test_scales_multiply_what_edges_compute() -> None:
    """Against Z of the whole supernet, in which the same numbers stand in place of the ones."""
    supernet = Supernet(TINY_SIZE, seed=0)
    edges = (Edge("dil_conv_3x3", 0, 2), Edge("skip_connect", 1, 2), Edge("max_pool_3x3", 2, 3))
    scales: dict[CellType, Tensor] = {"normal": torch.tensor([0.5, 2.0, -1.0]), "reduce": torch.tensor([3.0, 0.1, 1.5])}
    # Rows of Z: 0 -> 2, 1 -> 2, 0 -> 3, 1 -> 3, 2 -> 3; columns: none, max pool, skip, dilated convolution.
    z = {name: torch.zeros(5, 4) for name in CELL_TYPES}
    for name, (first, second, third) in scales.items():
        z[name][0, 3], z[name][1, 2], z[name][4, 1] = first, second, third
    images = batch()[0]
    genotype = Genotype(edges, (2, 3), edges, (2, 3))
    scaled = discretised_forward(supernet, genotype, images, scales=scales)
    torch.testing.assert_close(scaled, supernet(images, z), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(scaled, discretised_forward(supernet, genotype, images))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("estimator", ["reparam", "score_function"])
def test_step_updates_theta_and_alpha_as_written_in_the_paper(estimator: Any) -> None:
    """`grad_alpha L = sum over edges of dL/dZ_k grad log p_k` at one-hot Z, computed with all operations and by hand.

    In float64, hence 1e-9: only the order of sums may differ.
    """
    penalty = PenaltyOptions(estimator=estimator, strength=0.3)
    dsnas, reference = build(penalty), build(penalty)
    images, labels = batch()
    choices = reference._sample(seeded(9))
    assert any((chosen == 0).any() for chosen in choices.values())  # `none` is among them
    for name in CELL_TYPES if estimator == "score_function" else ():
        for strategy in (dsnas, reference):
            strategy._baselines[name] = torch.full((5,), 2.0)
    result = dsnas.step(images, labels, seeded(9))

    supernet, alpha, z = reference.supernet.train(), reference._alpha, one_hot(choices)
    for sample in z.values():
        sample.requires_grad_()
    loss = functional.cross_entropy(supernet(images, z), labels)
    theta = list(supernet.parameters())
    gradients = torch.autograd.grad(loss, [*z.values(), *theta])
    of_z, of_theta = dict(zip(CELL_TYPES, gradients[:2], strict=True)), gradients[2:]
    costs = CostTable(TINY_SIZE, dtype=torch.float64)
    hard = one_hot(choices)
    shares = {name: share.sum(0) for name, share in costs.edge_costs(penalty, hard).items()}
    total = torch.zeros(())
    for name in CELL_TYPES:
        p = alpha[name].detach().softmax(-1)
        credit = (hard[name] * of_z[name]).sum(-1)
        torch.testing.assert_close(dsnas.credits()[name], -credit, rtol=1e-9, atol=1e-12)
        rewards = credit + (0.3 * (shares[name] - 2.0) if estimator == "score_function" else 0.0)
        of_alpha = rewards.unsqueeze(1) * (hard[name] - p)  # grad log p_k = one-hot_k - p
        if estimator == "score_function":
            total = total + shares[name].sum()
            torch.testing.assert_close(dsnas._baselines[name], 0.9 * torch.tensor(2.0) + 0.1 * shares[name])
        else:
            value = torch.stack([_costs_of(costs, penalty, position)[name] for position in range(NUM_OPS)], dim=1)
            total = total + (p * value).sum()
            of_alpha = of_alpha + 0.3 * p * (value - (p * value).sum(-1, keepdim=True))
        torch.testing.assert_close(dsnas._alpha[name].grad, of_alpha, rtol=1e-9, atol=1e-12)
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    assert result.penalty.item() == pytest.approx(0.3 * total.item(), rel=1e-9)

    norm = torch.stack([gradient.square().sum() for gradient in of_theta]).sum().sqrt()
    assert norm > THETA.grad_clip  # or clipping is not under test
    updates = zip(theta, of_theta, dsnas.supernet.named_parameters(), strict=True)
    for weight, gradient, (name, updated) in updates:
        decay = THETA.weight_decay * weight if updated.grad is not None else torch.zeros(())
        if ".operations." in name:  # only edges with a gradient decay
            has_gradient = gradient.flatten(1).any(1).view(-1, *[1] * (weight.dim() - 1))
            decay = decay * has_gradient
        expected = weight - 0.025 * (gradient * THETA.grad_clip / (norm + 1e-6) + decay)
        torch.testing.assert_close(updated, expected, rtol=1e-7, atol=1e-9)


def test_only_the_sampled_path_is_computed() -> None:
    dsnas = build()
    ran: list[str] = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, __: ran.append(type(module).__name__) if "Depthwise" in type(module).__name__ else None
    )
    choices = dsnas._sample(seeded(9))
    dsnas.step(*batch(), seeded(9))
    hook.remove()
    dilated = TINY_NETWORK.primitives.index("dil_conv_3x3")
    expected = sum(int((choices[name] == dilated).sum()) * dsnas.supernet.num_cells(name) for name in CELL_TYPES)
    assert 0 < expected < 15
    assert len(ran) == expected


def test_operations_are_drawn_from_softmax_of_alpha() -> None:
    """Chi-square over 10 edges of 4 operations: 30 degrees of freedom, 59.7 is exceeded in 0.1 % of cases."""
    dsnas, generator, num = build(), seeded(5), 2000
    counts = {name: torch.zeros(5, NUM_OPS) for name in CELL_TYPES}
    for _ in range(num):
        for name, chosen in dsnas._sample(generator).items():
            counts[name] += functional.one_hot(chosen, NUM_OPS)

    def chi_square(probabilities: dict[CellType, Tensor]) -> float:
        terms = [(counts[n] - num * p).square() / (num * p) for n, p in probabilities.items()]
        return torch.cat(terms).sum().item()

    assert chi_square(dsnas.probabilities()) < 59.7
    assert chi_square({name: (1.1 * alpha).softmax(-1) for name, alpha in dsnas.alpha().items()}) > 59.7


@pytest.mark.parametrize("stop", [{"stop_at": 0.8}, {"stop_margin": 0.7}])
def test_edges_that_reach_the_threshold_are_decided_for_good(stop: dict[str, float]) -> None:
    dsnas = build(**stop)
    with torch.no_grad():
        dsnas._alpha["normal"].zero_()
        dsnas._alpha["normal"][3, 2] = 3.0  # p = e^3 / (e^3 + 3) = 0.87, the next 0.04
        dsnas._alpha["normal"][4, 2] = 2.0  # p = 0.71, the next 0.10
    dsnas.end_epoch(seeded())
    assert dsnas._decided["normal"].tolist() == [False, False, False, True, False]
    before = dsnas.alpha()["normal"].clone()
    for seed in range(20):
        assert dsnas._sample(seeded(seed))["normal"][3] == 2
    for seed in range(3):
        dsnas.step(*batch(), seeded(seed))
    after = dsnas.alpha()["normal"]
    assert torch.equal(after[3], before[3])
    assert (after[[0, 1, 2, 4]] != before[[0, 1, 2, 4]]).all()
    others = build()
    with torch.no_grad():
        others._alpha["normal"][3, 2] = 9.0
    others.end_epoch(seeded())
    assert not others._decided["normal"].any()


def test_child_without_any_edge_is_a_step_too() -> None:
    dsnas = build()
    with torch.no_grad():
        for alpha in dsnas._alpha.values():
            alpha[:, 0] = 30.0
    result = dsnas.step(*batch(), seeded())
    assert result.loss.isfinite()
    assert dsnas.genotype().normal == ()
    assert not any(credit.any() for credit in dsnas.credits().values())


@pytest.mark.parametrize("value", [0.5, 1.0, -0.1])
def test_options_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(OptionsError, match=rf"`stop_at` must be in \(0.5, 1\), got {value}"):
        DsnasOptions(stop_at=value)


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_margin_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(OptionsError, match=rf"`stop_margin` must be in \(0, 1\], got {value}"):
        DsnasOptions(stop_margin=value)


def _costs_of(costs: CostTable, penalty: PenaltyOptions, operation: int) -> dict[CellType, Tensor]:
    """Penalty (E,) of every edge if all of them have one operation."""
    z: dict[CellType, Tensor] = {name: torch.eye(NUM_OPS)[operation].expand(5, NUM_OPS) for name in CELL_TYPES}
    return {name: share.sum(0) for name, share in costs.edge_costs(penalty, z).items()}
