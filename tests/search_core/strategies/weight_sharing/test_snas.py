from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import CostMix, PenaltyOptions
from search_core.search.search import build_context
from search_core.space.genotype import CELL_TYPES, CellType, Edge
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.base import EpochSettings
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.relaxations import concrete_log_density, concrete_log_sample, gumbel_noise
from search_core.strategies.weight_sharing.differentiable import derive_genotype, initial_alpha
from search_core.strategies.weight_sharing.options import SnasOptions
from search_core.strategies.weight_sharing.snas import Snas
from tests.search_core.tiny import (
    CPU,
    TINY_NETWORK,
    TINY_SIZE,
    differences,
    images_of,
    seeded,
    through_file,
    tiny_options,
)

SamplePer = Literal["batch", "cell"]
THETA, ALPHA = ThetaOptions(grad_clip=0.5), AlphaOptions(lr=0.01)
per_batch_and_cell = pytest.mark.parametrize("sample_per", ["batch", "cell"])


def build(
    sample_per: SamplePer = "batch",
    penalty: PenaltyOptions | None = None,
    network: NetworkOptions = TINY_NETWORK,
    *,
    temperature: float = 0.7,
    eta: float = 0.01,
    theta_lr: float = 0.025,
    progress: float = 0.0,
    alpha_options: AlphaOptions = ALPHA,
    **strategy: float,
) -> Snas:
    """A strategy of the default float type whose alpha is far from uniform."""
    options = tiny_options(network=network, penalty=penalty or PenaltyOptions(), theta=THETA, alpha=alpha_options)
    options = replace(options, strategy=SnasOptions(sample_per=sample_per, **strategy))
    costs = CostTable(NetworkSize(network, (1, 8, 8), 10), dtype=torch.get_default_dtype())
    context = replace(build_context(options, images_of(), CPU), costs=costs)
    assert isinstance(options.strategy, SnasOptions)
    snas = Snas(options.strategy, context)
    with torch.no_grad():
        for seed, alpha in enumerate(snas._alpha.values()):
            alpha.copy_(torch.randn(alpha.shape, generator=seeded(seed)))
    settings = EpochSettings(temperature=temperature, eta=eta, theta_lr=theta_lr, progress=progress)
    snas.begin_epoch(settings, seeded())
    return snas


def batch(num: int = 6) -> tuple[Tensor, Tensor]:
    generator = seeded(50)
    return torch.randn(num, 1, 8, 8, generator=generator), torch.randint(10, (num,), generator=generator)


def plain_log_samples(
    alpha: dict[CellType, Tensor], sample_per: SamplePer, num_cells: dict[CellType, int], temperature: float, seed: int
) -> dict[CellType, Tensor]:
    """The samples that a step draws: normal cells first, then reduction cells."""
    generator, log_z = seeded(seed), {}
    for cell_type in CELL_TYPES:
        log_p = alpha[cell_type].log_softmax(-1)
        shape = log_p.shape if sample_per == "batch" else torch.Size([num_cells[cell_type], *log_p.shape])
        noise = gumbel_noise(shape, generator, like=log_p)
        log_z[cell_type] = ((log_p + noise) / temperature).log_softmax(-1)
    return log_z


# Alpha and genotype


def test_initial_alpha_is_close_to_uniform_and_follows_the_seed() -> None:
    first, second, other = (initial_alpha(NetworkOptions(), seed, CPU) for seed in (0, 0, 1))
    for cell_type in CELL_TYPES:
        assert first[cell_type].shape == (14, 8)
        assert torch.equal(first[cell_type], second[cell_type])
        assert not torch.equal(first[cell_type], other[cell_type])
        # 112 normal variables of deviation 1e-3: six deviations, and a deviation within four standard errors (7 %).
        assert first[cell_type].abs().max() < 6e-3
        assert first[cell_type].std().item() == pytest.approx(1e-3, rel=0.28)
    assert not torch.equal(first["normal"], first["reduce"])


def test_genotype_takes_the_most_probable_operation_of_every_edge_none_included() -> None:
    options = NetworkOptions(nodes=2, primitives=("skip_connect", "none", "sep_conv_3x3"))
    probabilities: dict[CellType, Tensor] = {
        "normal": torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.2, 0.1, 0.7], [0.2, 0.1, 0.7]]),
        "reduce": torch.tensor([[0.3, 0.4, 0.3]] * 5),
    }
    genotype = derive_genotype(probabilities, options)
    # Node 3 keeps three inputs, node 2 one: there is no top-2 rule.
    assert genotype.normal == (
        Edge("skip_connect", 0, 2),
        Edge("sep_conv_3x3", 0, 3),
        Edge("sep_conv_3x3", 1, 3),
        Edge("sep_conv_3x3", 2, 3),
    )
    assert genotype.reduce == ()
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3)


def test_probabilities_are_the_softmax_of_alpha() -> None:
    snas = build()
    for cell_type, alpha in snas.alpha().items():
        exponentials = alpha.exp()
        expected = exponentials / exponentials.sum(-1, keepdim=True)
        torch.testing.assert_close(snas.probabilities()[cell_type], expected)


# One step


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("estimator", ["reparam", "expected"])
@per_batch_and_cell
def test_step_updates_theta_and_alpha_as_written_in_the_paper(estimator: Any, sample_per: SamplePer) -> None:
    """One back-propagation of `L + eta C` on one batch, then the first step of SGD and of Adam, by hand.

    In float64, hence 1e-9: only the order of sums may differ.
    """
    penalty = PenaltyOptions(estimator=estimator, strength=0.3)
    snas, reference = (build(sample_per, penalty, eta=0.3) for _ in range(2))
    images, labels = batch()
    result = snas.step(images, labels, seeded(9))

    supernet, alpha = reference.supernet, dict(reference._alpha)
    num_cells = {cell_type: supernet.num_cells(cell_type) for cell_type in CELL_TYPES}
    z = {name: log.exp() for name, log in plain_log_samples(alpha, sample_per, num_cells, 0.7, seed=9).items()}
    logits = supernet.train()(images, z)
    loss = functional.cross_entropy(logits, labels)
    costs = CostTable(TINY_SIZE, dtype=torch.float64)
    if estimator == "expected":
        cost = costs.expected_penalty(penalty, {name: values.softmax(-1) for name, values in alpha.items()})
    else:
        cost = sum((share.sum() for share in costs.edge_costs(penalty, z).values()), torch.zeros(()))
    theta = list(supernet.parameters())
    gradients = torch.autograd.grad(loss + 0.3 * cost, [*theta, *alpha.values()])

    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    assert result.penalty.item() == pytest.approx(0.3 * cost.item(), rel=1e-12)
    assert result.correct.item() == (logits.argmax(1) == labels).sum().item()
    norm = torch.stack([gradient.square().sum() for gradient in gradients[: len(theta)]]).sum().sqrt()
    assert norm > THETA.grad_clip  # or clipping is not under test
    for weight, gradient, updated in zip(theta, gradients, snas.supernet.parameters(), strict=False):
        clipped = gradient * THETA.grad_clip / (norm + 1e-6)
        expected = weight - 0.025 * (clipped + THETA.weight_decay * weight)
        torch.testing.assert_close(updated, expected, rtol=1e-9, atol=1e-12)
    for weight, gradient, updated in zip(alpha.values(), gradients[len(theta) :], snas._alpha.values(), strict=True):
        decayed = gradient + ALPHA.weight_decay * weight
        expected = weight - ALPHA.lr * decayed / (decayed.abs() + 1e-8)  # first step of Adam: m / sqrt(v) = sign
        torch.testing.assert_close(updated, expected, rtol=1e-9, atol=1e-9)
        # The sign alone could hide an error of scale.
        assert updated.grad is not None
        torch.testing.assert_close(updated.grad, gradient, rtol=1e-9, atol=1e-12)


def test_temperature_of_the_epoch_sharpens_the_sample() -> None:
    cold, warm = build(temperature=1e-3), build(temperature=5.0)
    for cell_type in CELL_TYPES:
        cold_z, warm_z = (snas._sample(seeded(1))[cell_type].exp() for snas in (cold, warm))
        torch.testing.assert_close(cold_z.max(-1).values, torch.ones(5), rtol=0, atol=1e-4)
        assert warm_z.max() < 0.9
        assert torch.equal(cold_z.argmax(-1), warm_z.argmax(-1))


@per_batch_and_cell
def test_sample_is_drawn_per_batch_or_per_cell(sample_per: SamplePer) -> None:
    log_z = build(sample_per)._sample(seeded(1))
    assert log_z["reduce"].shape == ((5, 4) if sample_per == "batch" else (2, 5, 4))
    if sample_per == "cell":
        assert not torch.equal(log_z["reduce"][0], log_z["reduce"][1])


def test_validation_samples_at_the_current_temperature() -> None:
    snas, images = build(temperature=0.2), batch()[0]
    snas.supernet.eval()
    num_cells = {cell_type: snas.supernet.num_cells(cell_type) for cell_type in CELL_TYPES}
    with torch.no_grad():
        z = {name: log.exp() for name, log in plain_log_samples(snas.alpha(), "batch", num_cells, 0.2, seed=4).items()}
        torch.testing.assert_close(snas.predict(images, seeded(4)), snas.supernet(images, z))


@pytest.mark.parametrize("cells", [1, 2])
@per_batch_and_cell
@pytest.mark.parametrize("estimator", ["reparam", "expected", "score_function"])
def test_step_of_a_stack_without_normal_cells(cells: int, sample_per: SamplePer, estimator: Any) -> None:
    snas = build(sample_per, PenaltyOptions(estimator=estimator), replace(TINY_NETWORK, cells=cells))
    for seed in range(2):
        assert snas.step(*batch(), seeded(seed)).loss.isfinite()
    assert all(alpha.isfinite().all() for alpha in snas.alpha().values())
    assert not snas.credits()["normal"].any()
    assert snas.credits()["reduce"].any()


# Credits


def scale_edge(snas: Snas, cell_type: CellType, edge: int, scale: float) -> None:
    """Multiply the contribution of one edge by `scale` in all cells of a type."""

    def scaled(_: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Any]) -> tuple[Tensor, Tensor, Tensor, Any]:
        before_previous, previous, z_EO, drop_path = inputs
        factors = torch.ones(len(z_EO), 1)
        factors[edge] = scale
        return before_previous, previous, z_EO * factors, drop_path

    for plan, cell in zip(snas.supernet.plan.cells, snas.supernet.cells, strict=True):
        if plan.cell_type == cell_type:
            cell.register_forward_pre_hook(scaled)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell_type", CELL_TYPES)
@per_batch_and_cell
@pytest.mark.slow
def test_credit_is_minus_the_derivative_of_the_loss_by_the_edges_scale(
    sample_per: SamplePer, cell_type: CellType
) -> None:
    """`R_ij = -dL/ds` at s = 1, by central differences of the loss that a step reports.

    Float64 with a step of 1e-5: truncation about 1e-10, rounding about 1e-16 / 1e-5 = 1e-11; ReLU kinks in between
    would show, but the chance of one within 1e-5 is small and the seed is fixed.
    """
    snas = build(sample_per)
    snas.step(*batch(), seeded(9))
    credit_E = snas.credits()[cell_type]
    assert credit_E.abs().min() > 1e-6  # all differ from 0 by far more than the tolerance
    step = 1e-5
    for edge in range(5):
        losses = []
        for scale in (1 - step, 1 + step):
            scaled = build(sample_per)
            scale_edge(scaled, cell_type, edge, scale)
            losses.append(scaled.step(*batch(), seeded(9)).loss.item())
        derivative = (losses[1] - losses[0]) / (2 * step)
        assert credit_E[edge].item() == pytest.approx(-derivative, rel=1e-5, abs=1e-8)


def test_credits_are_of_the_task_loss_alone() -> None:
    free, charged = build(eta=0.0), build(eta=100.0)
    for snas in (free, charged):
        snas.step(*batch(), seeded(9))
    for cell_type in CELL_TYPES:
        assert torch.equal(free.credits()[cell_type], charged.credits()[cell_type])


@per_batch_and_cell
def test_resource_credit_is_minus_eta_times_the_edges_share_of_the_penalty(sample_per: SamplePer) -> None:
    penalty = PenaltyOptions(cost="mix", mix=CostMix(params=1.0, madds=2.0), log=False)
    snas, costs = build(sample_per, penalty, eta=0.3), CostTable(TINY_SIZE)
    num_cells = {cell_type: snas.supernet.num_cells(cell_type) for cell_type in CELL_TYPES}
    samples = plain_log_samples(snas.alpha(), sample_per, num_cells, 0.7, seed=9)
    snas.step(*batch(), seeded(9))
    for cell_type, log_z in samples.items():
        millions = 1e-6 * (costs.table("params", cell_type) + 2 * costs.table("madds", cell_type))
        share_E = (millions * log_z.exp()).sum((0, 2))
        torch.testing.assert_close(snas.resource_credits()[cell_type], -0.3 * share_E)


def test_resource_credit_of_a_whole_childs_latency_is_all_of_it_on_every_edge() -> None:
    snas = build(penalty=PenaltyOptions(cost="child_latency", estimator="score_function", log=False), eta=0.5)
    snas._context = replace(snas._context, child_latency=lambda _: 3.0)
    snas.step(*batch(), seeded(9))
    assert all((credit_E == -1.5).all() for credit_E in snas.resource_credits().values())


def test_credits_are_means_over_the_steps_of_the_epoch() -> None:
    # With a learning rate of 0, and alpha as good as fixed, the steps are independent.
    single = []
    for seed in (1, 2):
        snas = build(theta_lr=0.0)
        snas._alpha_optimiser.param_groups[0]["lr"] = 0.0
        snas.step(*batch(), seeded(seed))
        single.append(snas.credits()["normal"].clone())
    both = build(theta_lr=0.0)
    both._alpha_optimiser.param_groups[0]["lr"] = 0.0
    for seed in (1, 2):
        both.step(*batch(), seeded(seed))
    torch.testing.assert_close(both.credits()["normal"], (single[0] + single[1]) / 2)


# Cost estimators

SMALL_SPACE = NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=("none", "skip_connect", "sep_conv_3x3"))


@pytest.mark.usefixtures("float64")
@per_batch_and_cell
def test_score_function_weighs_the_score_of_each_edge_by_its_own_cost_over_a_baseline(sample_per: SamplePer) -> None:
    penalty = PenaltyOptions(estimator="score_function", cost="mix", mix=CostMix(params=1.0, madds=2.0))
    snas, costs = build(sample_per, penalty), CostTable(TINY_SIZE, dtype=torch.float64)
    num_cells = {cell_type: snas.supernet.num_cells(cell_type) for cell_type in CELL_TYPES}
    baselines: dict[CellType, Tensor] = {}
    for seed in range(3):
        log_z = snas._sample(seeded(seed))
        value, surrogate = snas._penalise({name: log.exp() for name, log in log_z.items()}, log_z)
        gradients = torch.autograd.grad(surrogate, list(snas._alpha.values()))

        samples = plain_log_samples(snas.alpha(), sample_per, num_cells, 0.7, seed)
        shares = costs.edge_costs(penalty, {name: log.exp() for name, log in samples.items()})
        assert value.item() == pytest.approx(sum(share.sum().item() for share in shares.values()))
        for cell_type, gradient in zip(CELL_TYPES, gradients, strict=True):
            # One reward per sampled edge: shared samples pay for all cells.
            reward = shares[cell_type].sum(0) if sample_per == "batch" else shares[cell_type]
            baseline = baselines.get(cell_type, reward)  # the first sample has no baseline but itself
            leaf = snas.alpha()[cell_type].clone().requires_grad_()
            log_q = concrete_log_density(samples[cell_type], leaf.log_softmax(-1), 0.7)
            (expected,) = torch.autograd.grad(((reward - baseline) * log_q).sum(), leaf)
            torch.testing.assert_close(gradient, expected)
            assert gradient.any() == (seed > 0)
            baselines[cell_type] = 0.9 * baseline + 0.1 * reward


@pytest.mark.usefixtures("float64")
@per_batch_and_cell
def test_reparam_differentiates_the_cost_of_the_sample(sample_per: SamplePer) -> None:
    snas, costs = build(sample_per, PenaltyOptions(cost="madds")), CostTable(TINY_SIZE, dtype=torch.float64)
    num_cells = {cell_type: snas.supernet.num_cells(cell_type) for cell_type in CELL_TYPES}
    log_z = snas._sample(seeded(1))
    _, surrogate = snas._penalise({name: log.exp() for name, log in log_z.items()}, log_z)
    gradients = torch.autograd.grad(surrogate, list(snas._alpha.values()))

    leaves = {name: alpha.clone().requires_grad_() for name, alpha in snas.alpha().items()}
    samples = plain_log_samples(leaves, sample_per, num_cells, 0.7, seed=1)
    cost = torch.zeros(())
    for cell_type in CELL_TYPES:
        counts = (costs.table("madds", cell_type) * samples[cell_type].exp()).sum(-1)
        cost = cost + torch.log(1 + counts).sum()
    for gradient, expected in zip(gradients, torch.autograd.grad(cost, list(leaves.values())), strict=True):
        torch.testing.assert_close(gradient, expected)


# Drop path, auxiliary head, clipping


@pytest.mark.usefixtures("float64")
def test_drop_path_grows_over_the_search_and_follows_the_generator() -> None:
    """The loss of a step is that of the supernet with the same draws: noise first, then a draw a cell."""
    images, labels = batch()
    for progress in (0.0, 0.5, 1.0):
        snas, reference = (build(progress=progress, drop_path=0.4) for _ in range(2))
        result = snas.step(images, labels, seeded(1))
        generator = seeded(1)
        with torch.no_grad():
            z = {name: log.exp() for name, log in reference._sample(generator).items()}
            logits = reference.supernet.train()(images, z, 0.4 * progress, generator)
        torch.testing.assert_close(result.loss, functional.cross_entropy(logits, labels))
    whole = build().step(images, labels, seeded(1)).loss
    assert not torch.equal(whole, result.loss)


@pytest.mark.usefixtures("float64")
def test_auxiliary_head_adds_its_weighted_loss_to_what_is_minimised() -> None:
    """The stem's first step of SGD, by hand; the reported loss is that of the network alone."""
    images, labels = batch()
    snas, reference = (build(auxiliary_weight=0.4) for _ in range(2))
    result = snas.step(images, labels, seeded(1))
    z = {name: log.exp() for name, log in reference._sample(seeded(1)).items()}
    logits, auxiliary = reference.supernet.train().forward_with_auxiliary(images, z)
    assert auxiliary is not None
    task, extra = functional.cross_entropy(logits, labels), functional.cross_entropy(auxiliary, labels)
    theta = dict(reference.supernet.named_parameters())
    gradients = torch.autograd.grad(task + 0.4 * extra, list(theta.values()))
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    factor = min(1.0, THETA.grad_clip / (norm.item() + 1e-6))
    for (name, before), gradient in zip(theta.items(), gradients, strict=True):
        step = 0.025 * (factor * gradient + THETA.weight_decay * before)
        after = dict(snas.supernet.named_parameters())[name]
        torch.testing.assert_close(after, (before - step).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result.loss, task.detach())
    assert reference.supernet.eval().forward_with_auxiliary(images, z)[1] is None


def test_network_without_auxiliary_head_has_the_same_weights() -> None:
    plain, with_head = build().supernet.state_dict(), build(auxiliary_weight=0.4).supernet.state_dict()
    assert plain.keys() < with_head.keys()
    assert all(torch.equal(value, with_head[name]) for name, value in plain.items())


def test_gradient_of_alpha_is_clipped_by_the_norm_of_both_cells() -> None:
    """Adam's first moment after one step is (1 - beta) times the gradient."""
    images, labels = batch()
    whole = build()
    whole.step(images, labels, seeded(1))

    def gradient(snas: Snas) -> Tensor:
        alphas = snas._alpha.values()
        return torch.cat([snas._alpha_optimiser.state[alpha]["exp_avg"].flatten() for alpha in alphas])

    limit = 0.1 * gradient(whole).norm().item()
    clipped = build(alpha_options=replace(ALPHA, grad_clip=limit, weight_decay=0.0))
    free = build(alpha_options=replace(ALPHA, weight_decay=0.0))
    for snas in (clipped, free):
        snas.step(images, labels, seeded(1))
    share = 1 - ALPHA.betas[0]
    assert gradient(clipped).norm().item() == pytest.approx(share * limit, rel=1e-4)
    torch.testing.assert_close(gradient(clipped) / gradient(clipped).norm(), gradient(free) / gradient(free).norm())


Surrogate = Callable[[Tensor, Tensor], Tensor]


def reparam(cost: Tensor, log_q: Tensor) -> Tensor:
    return cost


def score_function(cost: Tensor, log_q: Tensor) -> Tensor:
    return log_q * (cost - cost.mean(0)).detach()  # the baseline: a constant, as good as independent of one sample


def mean_gradient(
    surrogate: Surrogate, penalty: PenaltyOptions, temperature: float, num: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Monte Carlo mean over `num` samples of the gradient by alpha of the normal cell, and its standard error, (E, O).

    The estimators themselves are checked sample by sample above; this is their expectation.
    """
    alpha = small_alpha()["normal"].expand(num, 2, 3).clone().requires_grad_()
    log_p = alpha.log_softmax(-1)
    log_z = concrete_log_sample(log_p, temperature, gumbel_noise(log_p.shape, seeded(seed), like=log_p))
    costs = CostTable(NetworkSize(SMALL_SPACE, (1, 8, 8), 10), dtype=torch.float64)
    z: dict[CellType, Tensor] = {"normal": log_z.exp(), "reduce": torch.zeros(2, 3)}
    # One normal cell, so samples may stand where cells do: shape (S, E).
    cost = costs.edge_costs(penalty, z)["normal"]
    log_q = concrete_log_density(log_z.detach(), log_p, temperature)
    (gradients,) = torch.autograd.grad(surrogate(cost, log_q).sum(), alpha)
    return gradients.mean(0), gradients.std(0) / num**0.5


def small_alpha() -> dict[CellType, Tensor]:
    return {"normal": torch.tensor([[0.3, -0.4, 0.1], [-0.2, 0.5, 0.6]]), "reduce": torch.zeros(2, 3)}


def expected_gradient(penalty: PenaltyOptions) -> Tensor:
    alpha = {name: values.clone().requires_grad_() for name, values in small_alpha().items()}
    costs = CostTable(NetworkSize(SMALL_SPACE, (1, 8, 8), 10), dtype=torch.float64)
    value = costs.expected_penalty(penalty, {name: values.softmax(-1) for name, values in alpha.items()})
    return torch.autograd.grad(value, alpha["normal"])[0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.slow
def test_reparam_and_score_function_have_the_same_expectation(log: bool, temperature: float) -> None:
    penalty = PenaltyOptions(cost="madds", log=log)
    (first, first_error), (second, second_error) = (
        mean_gradient(surrogate, penalty, temperature, 200_000, seed)
        for seed, surrogate in enumerate((reparam, score_function))
    )
    error = (first_error**2 + second_error**2).sqrt()
    # Four standard errors of the difference of two independent means; the errors are small enough to decide.
    assert ((first - second).abs() < 4 * error).all()
    assert (error.max() / first.abs().max()).item() < 0.01


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("surrogate", [reparam, score_function])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.slow
def test_estimators_approach_the_expected_one_at_low_temperature(log: bool, surrogate: Surrogate) -> None:
    """The relaxed sample differs from a one-hot one only where the two best perturbed log probabilities are closer than
    about lambda (with `log`: lambda times log of the cost, 8.8 here, but a gap that small is rarer than that by more),
    so the bias is at most of the order of lambda times the gradient. Added to it are four standard errors.
    """
    penalty = PenaltyOptions(cost="madds", log=log)
    exact = expected_gradient(penalty)
    scale, biases = exact.abs().max().item(), []
    for temperature in (1.0, 0.1, 0.01):
        mean, error = mean_gradient(surrogate, penalty, temperature, 300_000, seed=5)
        biases.append((mean - exact).abs().max().item() / scale)
        tolerance = temperature * scale + 4 * error
        assert ((mean - exact).abs() < tolerance).all()
    assert tolerance.max() < 0.1 * scale  # of the lowest temperature, or the above says little
    assert biases[0] > 0.3  # at 1.0 the relaxed expectation really is another one
    assert biases[2] < biases[1] < biases[0]


# CUDA graph


@pytest.mark.gpu
@pytest.mark.parametrize("estimator", ["reparam", "expected", "score_function"])
@per_batch_and_cell
def test_steps_replayed_from_a_cuda_graph_equal_steps_run_one_by_one(sample_per: SamplePer, estimator: Any) -> None:
    """Over two epochs with other settings each; float32 sums in another order drift apart, hence 1e-3."""
    losses = []
    for cuda_graph in (False, True):
        penalty = PenaltyOptions(estimator=estimator)
        options = tiny_options(penalty=penalty, theta=THETA, alpha=ALPHA, cuda_graph=cuda_graph)
        context = build_context(options, images_of(), torch.device("cuda"))
        snas = Snas(SnasOptions(sample_per=sample_per), context)
        generator = torch.Generator("cuda").manual_seed(1)
        images, labels = (tensor.cuda() for tensor in batch())
        seen = []
        for temperature, eta in ((1.0, 0.01), (0.5, 0.1)):
            snas.begin_epoch(EpochSettings(temperature=temperature, eta=eta, theta_lr=0.01), generator)
            seen += [snas.step(images, labels, generator).loss for _ in range(6)]
        losses.append(torch.stack(seen).cpu())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)


def test_a_state_of_a_search_with_a_cuda_graph_continues_without_one() -> None:
    plain, resumed = build(), build()
    plain.step(*batch(), seeded(1))
    state = through_file(plain.state_dict())
    for group in state["alpha_optimiser"]["param_groups"]:
        group["capturable"] = True  # what a search with a graph would have written
    resumed.load_state_dict(state)
    assert torch.equal(plain.step(*batch(), seeded(2)).loss, resumed.step(*batch(), seeded(2)).loss)
    assert differences(plain.state_dict(), resumed.state_dict()) == []
