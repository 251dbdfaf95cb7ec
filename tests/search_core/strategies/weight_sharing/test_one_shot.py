from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from search_core.errors import OptionsError
from search_core.search.search import Search, build_context
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, CellType
from search_core.space.plan import NetworkOptions, cell_edges, edges_by_source
from search_core.strategies.base import EpochSettings
from search_core.strategies.optimiser_options import ThetaOptions
from search_core.strategies.weight_sharing.one_shot import OneShot, drop_rates, symmetrised_kl
from search_core.strategies.weight_sharing.ranked_draws_options import OneShotOptions
from tests.search_core.tiny import CPU, TINY_NETWORK, images_of, seeded, tiny_options

THETA = ThetaOptions(grad_clip=0.5, weight_decay=0.01)


def build(progress: float = 0.5, network: NetworkOptions = TINY_NETWORK, **options: Any) -> OneShot:
    strategy = OneShotOptions(**{"held_out": 0.5, "samples": 2, "paths": "edges", **options})
    search = tiny_options(network=network, theta=THETA, strategy=strategy)
    one_shot = OneShot(strategy, build_context(search, images_of(), CPU))
    one_shot.begin_epoch(EpochSettings(temperature=1.0, eta=0.0, theta_lr=0.1, progress=progress), seeded())
    return one_shot


def batch(num: int = 8) -> tuple[Tensor, Tensor]:
    generator = seeded(50)
    return torch.randn(num, 1, 8, 8, generator=generator), torch.randint(10, (num,), generator=generator)


# Path dropout


@pytest.mark.parametrize(("paths", "factor"), [("edges", 1), ("operations", 5)])
def test_drop_rates_are_the_root_of_the_number_of_paths(paths: Literal["edges", "operations"], factor: int) -> None:
    # Nodes 2, 3 and 4 have 2, 3 and 4 inputs.
    expected = [0.25 ** (1 / (k * factor)) for k in (2, 2, 3, 3, 3, 4, 4, 4, 4)]
    network = replace(TINY_NETWORK, nodes=3, primitives=PRIMITIVES[:5])
    rates = drop_rates(OneShotOptions(rate=0.25, paths=paths), network)
    torch.testing.assert_close(rates, torch.tensor(expected))


@pytest.mark.slow
def test_node_loses_all_paths_with_the_rate_of_the_paper() -> None:
    """Nodes of 2 x 4 and 3 x 4 paths, two cells, 20,000 draws each: three standard errors of 0.05 are 0.0033."""
    one_shot, generator, num = build(1.0, rate=0.05, paths="operations"), seeded(8), 20_000
    lost = torch.zeros(2, 2)
    for _ in range(num):
        for row, mask in zip(lost, one_shot.drop(generator).values(), strict=True):
            row += torch.stack([part.sum() == 0 for part in mask.split([2, 3])])
    torch.testing.assert_close(lost / num, torch.full((2, 2), 0.05), atol=5e-3, rtol=0)


@pytest.mark.parametrize("progress", [0.25, 1.0])
def test_operations_are_dropped_at_the_rate(progress: float) -> None:
    """Chi-square of 5 edges x 4 operations x 2 cells: 40 degrees of freedom, 73.4 is exceeded in 0.1 % of cases."""
    one_shot, generator, num = build(progress, rate=0.2), seeded(8), 3000
    dropped = {name: torch.zeros(5, 4) for name in CELL_TYPES}
    for _ in range(num):
        for name, mask in one_shot.drop(generator).items():
            dropped[name] += mask == 0

    def chi_square(rates: list[float]) -> float:
        p = torch.tensor(rates).unsqueeze(1)
        return sum((d - num * p).square().div(num * p * (1 - p)).sum().item() for d in dropped.values())

    assert chi_square([progress * 0.2 ** (1 / k) for k in (2, 2, 3, 3, 3)]) < 73.4
    assert chi_square([progress * 0.2 ** (1 / k) for k in (2, 2, 2, 2, 2)]) > 73.4
    assert chi_square([progress * 0.2 * 1.1] * 5) > 73.4


def test_drops_are_independent_of_each_other() -> None:
    """Correlations of 40 flags: 780 of them of deviation 1 / sqrt(n); five deviations."""
    one_shot, generator, num = build(1.0, rate=0.2), seeded(8), 3000
    masks = torch.stack([torch.cat([m.flatten() for m in one_shot.drop(generator).values()]) for _ in range(num)])
    correlations = torch.corrcoef(masks.T) - torch.eye(40)
    assert correlations.abs().max() < 5 / math.sqrt(num)


def test_nothing_is_dropped_at_the_beginning_of_a_search() -> None:
    assert all((mask == 1).all() for mask in build(0.0, rate=0.99).drop(seeded()).values())


@pytest.mark.parametrize(("epochs", "shares"), [(1, [1.0]), (3, [0.0, 0.5, 1.0])])
def test_search_drops_at_the_final_rate_in_its_last_epoch(epochs: int, shares: list[float]) -> None:
    """`rate^(1/k)` of that many draws, of 40 operations each, that a standard error is at most 0.008."""
    search = Search(
        tiny_options(strategy=OneShotOptions(held_out=0.5, samples=1, rate=0.25, paths="edges"), epochs=epochs),
        images_of(),
    )
    strategy, found = search.strategy, []
    assert isinstance(strategy, OneShot)
    for _ in range(epochs):
        search.run_epoch()
        masks = [torch.cat(list(strategy.drop(generator).values())) for generator in [seeded()] for _ in range(100)]
        found.append(1 - torch.stack(masks).mean().item())
    final = (2 * 0.25 ** (1 / 2) + 3 * 0.25 ** (1 / 3)) / 5
    assert found == pytest.approx([share * final for share in shares], abs=0.03)


def test_ghost_batches_drop_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    one_shot = build(1.0, rate=0.5, ghost_batches=3)
    seen: list[tuple[int, dict[CellType, Tensor]]] = []
    forward = one_shot.supernet.forward
    monkeypatch.setattr(
        one_shot.supernet, "forward", lambda images, z: (seen.append((len(images), z)), forward(images, z))[1]
    )
    one_shot.step(*batch(8), seeded(1))
    assert [number for number, _ in seen] == [3, 3, 2]
    for name in CELL_TYPES:
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(seen[first][1][name], seen[second][1][name])


# One step


def test_step_is_one_of_sgd_on_the_mean_loss_over_the_batch_with_decay_of_what_was_used() -> None:
    """By hand for every row of every weight; two steps, so that momentum counts."""
    one_shot, reference = build(1.0, rate=0.7, ghost_batches=2), build(1.0, rate=0.7, ghost_batches=2)
    images, labels = batch(7)
    supernet, momentum = reference.supernet.train(), {}
    rested = 0
    for seed in (3, 4):
        result = one_shot.step(images, labels, seeded(seed))
        generator = seeded(seed)
        masks = [reference.drop(generator) for _ in range(2)]
        # Ghost batches of 4 and 3 images.
        losses = [
            functional.cross_entropy(supernet(images[part], z), labels[part], reduction="sum") / 7
            for part, z in zip((slice(0, 4), slice(4, 7)), masks, strict=True)
        ]
        names, theta = zip(*supernet.named_parameters(), strict=True)
        gradients = torch.autograd.grad(losses[0] + losses[1], theta)
        assert result.loss.item() == pytest.approx((losses[0] + losses[1]).item(), rel=1e-5)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        factor = min(1.0, 0.5 / (norm.item() + 1e-6))
        for name, weight, gradient in zip(names, theta, gradients, strict=True):
            for row in rows_of(name, weight):
                if not is_used(name, row, masks):
                    assert not gradient[row].any()
                    rested += 1
                    continue
                moved = gradient[row] * factor + THETA.weight_decay * weight[row].detach()
                before = momentum.get((name, row))
                momentum[name, row] = moved if before is None else 0.9 * before + moved
                with torch.no_grad():
                    weight[row] -= 0.1 * momentum[name, row]
        for weight, updated in zip(theta, one_shot.supernet.parameters(), strict=True):
            torch.testing.assert_close(updated, weight, rtol=1e-4, atol=1e-6)
    assert rested > 5


def test_unused_weights_do_not_move_at_all() -> None:
    one_shot = build(1.0, rate=0.7, ghost_batches=2)
    images, labels = batch()
    one_shot.step(images, labels, seeded(3))  # so that there is momentum
    moved_rows = rested_rows = 0
    for seed in range(4, 8):
        generator = seeded(seed)
        masks = [one_shot.drop(generator) for _ in range(2)]
        before = {name: weight.detach().clone() for name, weight in one_shot.supernet.named_parameters()}
        one_shot.step(images, labels, seeded(seed))
        for name, weight in one_shot.supernet.named_parameters():
            for row in rows_of(name, weight):
                unmoved = torch.equal(weight[row], before[name][row])
                assert unmoved != is_used(name, row, masks), (name, row)
                moved_rows += not unmoved
                rested_rows += unmoved
    assert moved_rows > 20
    assert rested_rows > 20


def rows_of(name: str, weight: Tensor) -> list[Any]:
    return list(range(len(weight))) if ".operations." in name else [...]


def is_used(name: str, row: Any, masks: list[dict[CellType, Tensor]]) -> bool:
    """Whether a weight's operation was kept in any ghost batch."""
    if ".operations." not in name:
        return True
    _, cell, _, primitive, *_ = name.split(".")
    cell_type: CellType = "normal" if cell == "0" else "reduce"  # of three cells the last two reduce
    edge = cell_edges(TINY_NETWORK.nodes).index(edges_by_source(TINY_NETWORK.nodes)[row])
    column = TINY_NETWORK.primitives.index(primitive)
    return any(bool(mask[cell_type][edge, column]) for mask in masks)


# Evaluation and ranking


def test_predict_normalises_by_the_batch_and_drops_nothing() -> None:
    one_shot = build(1.0, rate=0.9)
    one_shot.step(*batch(), seeded())
    images = batch()[0]
    one_shot.supernet.eval()
    before = {name: value.clone() for name, value in one_shot.supernet.state_dict().items()}
    logits, shifted = one_shot.predict(images, seeded()), one_shot.predict(images[:4], seeded())
    assert not torch.allclose(logits[:4], shifted, atol=1e-3)
    assert not one_shot.supernet.training
    assert all(torch.equal(value, before[name]) for name, value in one_shot.supernet.state_dict().items())
    ones: dict[CellType, Tensor] = {name: torch.ones(5, 4) for name in CELL_TYPES}
    torch.testing.assert_close(one_shot.predict(images[:1], seeded()), one_shot.supernet(images[:1], ones))
    torch.testing.assert_close(logits, one_shot.supernet.train()(images, ones))


def test_symmetrised_kl_of_two_known_distributions() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    # D(p||q) = .5 ln 2 + .5 ln(2/3) = 0.143841, D(q||p) = .25 ln .5 + .75 ln 1.5 = 0.130812; the second image has 0.
    assert symmetrised_kl(p.log(), q.log()).item() == pytest.approx(0.274653 / 2, abs=1e-6)
    assert symmetrised_kl(q.log() + 3, p.log()).item() == pytest.approx(0.274653 / 2, abs=1e-6)
    assert symmetrised_kl(p, p).item() == 0


@pytest.mark.parametrize("rank_by", ["accuracy", "kl"])
def test_scores_are_those_of_one_hot_samples_through_the_supernet(rank_by: Any) -> None:
    one_shot = build(rank_by=rank_by)
    one_shot.step(*batch(), seeded())
    batches = list(one_shot._judging_batches())
    assert [len(labels) for _, labels in batches] == [32]
    whole = [one_shot.predict(images, seeded()) for images, _ in batches]
    images, labels = batches[0]
    for seed in range(3):
        code = one_shot.space.sample(seeded(seed))
        z = dict(zip(CELL_TYPES, functional.one_hot(torch.tensor(code), 4).float().split(5), strict=True))
        with torch.no_grad(), one_shot.supernet.frozen_statistics():
            logits = one_shot.supernet.train()(images, z)
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        divergence = symmetrised_kl(logits, whole[0]).item()
        judged = one_shot._judge(code, batches, whole)
        assert judged == (pytest.approx(accuracy), pytest.approx(divergence, rel=1e-3, abs=1e-6))
        assert one_shot.scores([code], seeded()) == [-judged[1] if rank_by == "kl" else judged[0]]


def test_ranking_by_divergence_looks_at_no_labels() -> None:
    chosen = []
    for labels in (0, 1):
        one_shot = build(rank_by="kl", samples=6)
        batches = [(images, torch.full_like(old, labels)) for images, old in one_shot._judging_batches()]
        one_shot._judging_batches = lambda batches=batches: iter(batches)  # type: ignore[method-assign]
        one_shot.end_epoch(seeded(2))
        chosen.append(one_shot._best)
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("rank_by", ["accuracy", "kl"])
def test_best_of_the_draws_is_chosen(rank_by: Any) -> None:
    one_shot = build(rank_by=rank_by, samples=8)
    one_shot.step(*batch(), seeded())
    generator = seeded(2)
    codes = [one_shot._best, *(one_shot.space.sample(generator) for _ in range(8))]
    batches = list(one_shot._judging_batches())
    whole = [one_shot.predict(images, seeded()) for images, _ in batches]
    judged = [one_shot._judge(code, batches, whole) for code in codes]
    scores = [-divergence if rank_by == "kl" else accuracy for accuracy, divergence in judged]
    assert one_shot.scores(codes, seeded()) == scores
    assert max(scores) > min(scores)
    one_shot.end_epoch(seeded(2))
    assert one_shot._best == codes[scores.index(max(scores))]
    assert one_shot.pruned_kl() == pytest.approx(sum(divergence for _, divergence in judged[1:]) / 8)


@pytest.mark.parametrize("rank_by", ["accuracy", "kl"])
def test_search_reports_the_divergence_of_pruned_networks_after_each_epoch(rank_by: Any) -> None:
    strategy = OneShotOptions(held_out=0.5, samples=2, rank_by=rank_by)
    search = Search(tiny_options(strategy=strategy, epochs=2), images_of(), CPU)
    assert search.strategy.pruned_kl() is None
    for report in search:
        assert report.pruned_kl == search.strategy.pruned_kl()
        assert report.metrics()["pruned_kl"] > 0


# Options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1.0}, r"`rate` must be in \(0, 1\), got 1.0"),
        ({"rate": 0.0}, r"`rate` must be in \(0, 1\), got 0.0"),
        ({"ghost_batches": 0}, "`ghost_batches` must be at least 1, got 0"),
        ({"rank_by": "loss"}, "`rank_by` must be one of accuracy, kl, got 'loss'"),
        ({"held_out": 0.0}, r"`held_out` must be in \(0, 1\), got 0.0"),
        ({"samples": 0}, "`samples` must be at least 1, got 0"),
        ({"batches": 0}, "`batches` must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        OneShotOptions(**changes)


def test_ghost_batches_of_one_image_are_refused() -> None:
    assert build(ghost_batches=16)
    with pytest.raises(OptionsError, match="`ghost_batches` must be at most 16, half of `batch_size`, got 17"):
        build(ghost_batches=17)
