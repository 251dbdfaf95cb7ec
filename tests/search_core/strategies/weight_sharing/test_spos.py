"""SPOS: uniform paths, what the evolution chooses, and what the reports say of channels and bits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from search_core.cost.constraints import Constraints, Limit
from search_core.cost.counts import child_cost
from search_core.errors import ConstraintsError, OptionsError
from search_core.search.search import Search, build_context
from search_core.space.choices import Bits
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.frequencies import frequencies
from search_core.strategies.base import EpochSettings
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.options import SposOptions
from search_core.strategies.weight_sharing.ranked_draws_options import RandomSamplingOptions
from search_core.strategies.weight_sharing.single_path import SinglePathStrategy
from search_core.strategies.weight_sharing.spos import Spos
from search_core.training.evaluation import evaluate
from tests.search_core.tiny import CPU, TINY_NETWORK, TINY_SIZE, differences, images_of, seeded, tiny_options

SMALL = SposOptions(held_out=0.5, preview=2, population=6, generations=3, top_k=3)
CHOOSING = replace(SMALL, channels=(0.5, 1.0), bits=(2, 4, 32))
SETTINGS = EpochSettings(temperature=1.0, eta=0.0, theta_lr=0.05)
LAST = replace(SETTINGS, is_last=True)
NUM_GENES, NUM_CELLS = 10, 3  # of the tiny network
SHARES, BITS = slice(NUM_GENES, NUM_GENES + NUM_CELLS), slice(NUM_GENES + NUM_CELLS, NUM_GENES + 2 * NUM_CELLS)
#: Sampling tests reject a uniform sampler with this chance; seeds are fixed.
SIGNIFICANCE = 1e-3


def build(options: SposOptions | RandomSamplingOptions = SMALL, **changes: Any) -> Any:
    search = tiny_options(strategy=options, batch_size=16, **changes)
    strategy = build_strategy(options, build_context(search, images_of(), CPU))
    strategy.begin_epoch(SETTINGS, seeded())
    return strategy


def train(strategy: SinglePathStrategy, steps: int, generator: torch.Generator) -> None:
    batches = list(images_of().train.batches(16))
    for step in range(steps):
        strategy.step(*batches[step % len(batches)], generator)


def finish(strategy: Spos) -> None:
    """An epoch of one step, then the evolution."""
    strategy.begin_epoch(LAST, seeded())
    train(strategy, 1, seeded(1))
    strategy.end_epoch(seeded(2))


def spied(strategy: Spos, by: Callable[[Code], float] | None = None) -> list[Code]:
    """The codes that are judged from now on; perhaps judged by something known."""
    judged: list[Code] = []
    judge = strategy.score

    def score(code: Code, generator: torch.Generator, *, num_batches: int | None = None) -> float:
        judged.append(code)
        return judge(code, generator, num_batches=num_batches) if by is None else by(code)

    strategy.score = score  # type: ignore[method-assign]
    return judged


# Training


def uniformity(choices: Iterable[int], options: int) -> float:
    """p value of Pearson's chi-square test against equal chances."""
    counts = Counter(choices)
    assert set(counts) <= set(range(options))
    expected = sum(counts.values()) / options
    statistic = sum((counts[option] - expected) ** 2 / expected for option in range(options))
    half_of_freedom, half = torch.tensor([(options - 1) / 2, statistic / 2], dtype=torch.double)
    return torch.special.gammaincc(half_of_freedom, half).item()


def test_sampled_paths_are_uniform_over_operations_channels_and_bits() -> None:
    strategy, generator = build(CHOOSING), seeded(11)
    paths = [strategy.sample(generator) for _ in range(4000)]
    options = [len(TINY_NETWORK.primitives)] * NUM_GENES + [2] * NUM_CELLS + [3] * NUM_CELLS
    choices = list(zip(*paths, strict=True))
    assert len(choices) == len(options)
    p_values = [uniformity(column, number) for column, number in zip(choices, options, strict=True)]
    assert min(p_values) > SIGNIFICANCE / len(p_values)
    # Choices are independent too: pairs are as uniform as single ones.
    for first, second in [(0, 1), (0, NUM_GENES), (4, 9), (10, 13), (12, 15), (13, 14)]:
        pairs = [a * options[second] + b for a, b in zip(choices[first], choices[second], strict=True)]
        assert uniformity(pairs, options[first] * options[second]) > SIGNIFICANCE / 6


def test_chi_square_test_detects_a_biased_sampler() -> None:
    # The sum of (16, -4, -6, -6) squared over 25 is 13.76; `scipy.stats.chisquare` gives this chance of more.
    assert uniformity([0] * 41 + [1] * 21 + [2] * 19 + [3] * 19, 4) == pytest.approx(0.00325072, abs=1e-8)
    generator = seeded(12)
    biased = torch.multinomial(torch.tensor([0.31, 0.23, 0.23, 0.23]), 4000, True, generator=generator).tolist()
    assert uniformity(biased, 4) < SIGNIFICANCE / 16


def test_trained_paths_are_the_sampled_ones() -> None:
    strategy, twin, taken = build(CHOOSING), seeded(5), []
    forward = strategy._logits
    strategy._logits = lambda code, images: (taken.append(code), forward(code, images))[1]
    train(strategy, 6, seeded(5))
    assert taken == [strategy.paths.sample(twin) for _ in range(6)]


def test_one_step_moves_the_weights_of_one_path_only() -> None:
    """A later one, with momentum and weight decay from earlier paths: an operation moves as a whole or not at all."""
    strategy = build(CHOOSING)
    train(strategy, 3, seeded(8))
    before = {name: weight.detach().clone() for name, weight in strategy.supernet.named_parameters()}
    whole = strategy._child_of(strategy.paths.widest(strategy.paths.sample(seeded(3))[:NUM_GENES]))
    train(strategy, 1, seeded(3))
    moved = sum(int((weight != before[name]).sum()) for name, weight in strategy.supernet.named_parameters())
    of_path = sum(weight.numel() for weight in whole.parameters())
    assert 0.9 * of_path < moved <= of_path < sum(weight.numel() for weight in before.values())


def test_default_options_train_as_plain_single_path_bit_for_bit() -> None:
    spos, plain = build(SMALL), build(RandomSamplingOptions(held_out=0.5))
    for strategy in (spos, plain):
        train(strategy, 6, seeded(1))
    first, second = spos.state_dict(), plain.state_dict()
    assert first.pop("population") == []
    assert differences(first, second) == []
    images = torch.randn(4, 1, 8, 8, generator=seeded())
    assert torch.equal(spos.predict(images, seeded(2)), plain.predict(images, seeded(2)))
    code = spos.space.sample(seeded(4))
    assert spos.score(code, seeded(5)) == plain.score(code, seeded(5))


# Choosing


def test_preview_keeps_the_best_of_the_draws_and_the_best_so_far() -> None:
    strategy = build(replace(SMALL, preview=3))
    for epoch in range(3):
        incumbent = strategy._best
        judged = spied(strategy, by=lambda code: sum(code))
        strategy.end_epoch(seeded(10 + epoch))
        assert judged[0] == incumbent
        assert len(judged) == 4
        assert strategy._best == max(judged, key=sum)
        assert strategy.genotype() == strategy.space.decode(strategy._best)


def test_no_preview_leaves_the_first_draw_until_the_evolution() -> None:
    strategy = build(replace(SMALL, preview=0))
    genotype, judged = strategy.genotype(), spied(strategy)
    strategy.end_epoch(seeded())
    assert judged == []
    assert strategy.genotype() == genotype
    finish(strategy)
    assert len(judged) == 18


def test_evolution_after_the_last_epoch_judges_each_child_once_and_keeps_the_best() -> None:
    strategy = build(CHOOSING)
    incumbent, judged = strategy._best, spied(strategy, by=lambda code: -sum(code))
    finish(strategy)
    assert len(judged) == len(set(judged)) == 18
    assert judged[0] == incumbent
    assert strategy._best == min(judged, key=sum)
    assert strategy._population == tuple(judged[-6:])


def test_probabilities_become_the_frequencies_of_the_last_generation() -> None:
    strategy = build(CHOOSING)
    assert (strategy.probabilities()["normal"] == 0.25).all()
    finish(strategy)
    genotypes = [code[:NUM_GENES] for code in strategy._population]
    expected = frequencies(genotypes, strategy.space, CPU)
    for cell_type, probabilities in strategy.probabilities().items():
        assert torch.equal(probabilities, expected[cell_type])
        assert strategy.alpha()[cell_type].isfinite().all()
    assert strategy.probabilities()["normal"][0, 1] == sum(code[0] == 1 for code in genotypes) / 6


def test_evolution_comes_back_with_the_state() -> None:
    strategy, other = build(CHOOSING), build(CHOOSING)
    finish(strategy)
    other.load_state_dict(strategy.state_dict())
    assert differences(other.probabilities(), strategy.probabilities()) == []
    assert other.choices() == strategy.choices()


def test_children_are_judged_by_accuracy_on_held_out_images_after_recalibration() -> None:
    strategy = build(CHOOSING)
    train(strategy, 4, seeded(1))
    code = strategy.sample(seeded(2))
    child = strategy._child_of(code)
    strategy._context.images.recalibrate(child, seeded(3))
    expected = evaluate(child, strategy._context.images.held_out_split).accuracy
    assert strategy.score(code, seeded(3)) == expected


def test_scores_are_of_as_many_batches_as_the_evolution_looks_at() -> None:
    strategy, generator = build(replace(CHOOSING, batches=1)), seeded()
    codes = [strategy.space.sample(generator) for _ in range(6)]
    generator = seeded(1)
    fitnesses = [strategy.score(strategy.paths.widest(code), generator, num_batches=1) for code in codes]
    assert strategy.scores(codes, seeded(1)) == fitnesses
    generator = seeded(1)
    assert fitnesses != [strategy.score(strategy.paths.widest(code), generator) for code in codes]


def test_scores_of_genotypes_are_those_of_their_widest_children() -> None:
    strategy = build(CHOOSING)
    judged = spied(strategy)
    codes = [strategy.space.sample(seeded(seed)) for seed in range(2)]
    assert len(strategy.scores(codes, seeded())) == 2
    assert judged == [(*code, 1, 1, 1, 2, 2, 2) for code in codes]


# Paths


def test_codes_say_channels_and_bits_of_each_cell() -> None:
    paths = build(CHOOSING).paths
    assert paths.size == 4**10 * 2**3 * 3**3
    code = (*range(4), *range(4), 0, 1, *(0, 1, 0), *(2, 0, 1))
    assert paths.genotype(code) == genotype_space(TINY_NETWORK).decode(code[:10])
    choices = paths.choices(code)
    assert choices.shares == (0.5, 1.0, 0.5)
    assert choices.bits == (Bits(32, 32), Bits(2, 2), Bits(4, 4))
    assert paths.channels(code) == (2, 8, 8)  # of 4, 8 and 16


def test_weights_and_features_are_chosen_in_pairs() -> None:
    strategy = build(replace(SMALL, bits=((1, 2), (4, 2), 4)))
    genotype = (1,) * NUM_GENES
    choices = strategy.paths.choices((*genotype, 0, 1, 2))
    assert choices.bits == (Bits(1, 2), Bits(4, 2), Bits(4, 4))
    assert strategy.paths.widest(genotype) == (*genotype, 2, 2, 2)
    less, more = (strategy._limits.bit_operations((*genotype, *bits)) for bits in ((0, 0, 0), (1, 1, 1)))
    full = build(SMALL)._limits.bit_operations(genotype)
    # Cells alone have bits: (1024 m_ends + w x m_cells) for w x = 2, 8 and 1024.
    assert (more - less) / 6 == (full - less) / 1022


def test_choice_of_bits_alone_takes_no_place_for_channels() -> None:
    paths = build(replace(SMALL, channels=(0.5,), bits=(8, 32))).paths
    assert len(paths.sample(seeded())) == NUM_GENES + NUM_CELLS
    choices = paths.choices((*[0] * NUM_GENES, 1, 0, 0))
    assert choices.shares == (0.5, 0.5, 0.5)
    assert choices.bits == (Bits(32, 32), Bits(8, 8), Bits(8, 8))


def test_mutation_draws_every_kind_of_choice_anew_with_its_probability() -> None:
    paths, generator = build(CHOOSING).paths, seeded(6)
    code = paths.sample(generator)
    children = [paths.mutate(code, 0.1, generator) for _ in range(4000)]
    changed = torch.tensor([[a != b for a, b in zip(code, child, strict=True)] for child in children]).double().mean(0)
    # A choice drawn again is another one in 3/4, 1/2 and 2/3 of the cases; 5 standard deviations.
    expected = torch.tensor([0.1 * 3 / 4] * 10 + [0.1 / 2] * 3 + [0.1 * 2 / 3] * 3, dtype=torch.double)
    assert ((changed - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()
    assert paths.mutate(code, 0.0, generator) == code


def test_crossing_takes_channels_and_bits_from_either_parent() -> None:
    paths, generator = build(CHOOSING).paths, seeded(7)
    first, second = (0,) * 16, (1,) * 16
    children = torch.tensor([paths.cross(first, second, generator) for _ in range(1000)]).double().mean(0)
    assert ((children - 0.5).abs() < 5 * 0.5 / 1000**0.5).all()


# Limits


@pytest.mark.slow
def test_limits_count_the_narrow_child() -> None:
    def madds_of(strategy: Spos, code: Code) -> int:
        channels = strategy.paths.channels(code)
        return child_cost(strategy.paths.genotype(code), TINY_SIZE, cell_channels=channels).madds

    free = build(CHOOSING)
    empty = free.paths.widest((0,) * NUM_GENES)  # no operation at all: the cheapest child with all channels
    most = madds_of(free, empty) - 1
    strategy = build(CHOOSING, constraints=Constraints(madds=Limit(max=most)))
    judged = spied(strategy)
    finish(strategy)
    assert judged
    assert max(madds_of(strategy, code) for code in judged) <= most
    assert strategy.child_cost(strategy._context.limits).madds == madds_of(strategy, strategy._best)
    with pytest.raises(ConstraintsError, match=f"at most madds {most:g}"):
        build(SMALL, constraints=Constraints(madds=Limit(max=most)))


def test_limit_on_bit_operations_holds_for_all_that_is_judged() -> None:
    free, generator = build(CHOOSING), seeded(8)
    amounts = sorted(free._limits.bit_operations(free.sample(generator)) for _ in range(300))
    strategy = build(replace(CHOOSING, max_bit_operations=float(amounts[30])))
    judged = spied(strategy)
    strategy.end_epoch(seeded(9))
    finish(strategy)
    assert max(strategy._limits.bit_operations(code) for code in judged) <= amounts[30]
    assert strategy.choices()["bit_operations"] <= amounts[30]
    assert any(free._limits.bit_operations(free.sample(generator)) > amounts[30] for _ in range(20))


@pytest.mark.slow
def test_limit_on_bit_operations_that_no_path_keeps_is_named() -> None:
    with pytest.raises(ConstraintsError, match="at most bit operations 5"):
        build(replace(CHOOSING, max_bit_operations=5.0))


# Reports


def test_report_evaluates_and_counts_the_child_with_its_choices() -> None:
    search = Search(tiny_options(strategy=CHOOSING, epochs=1), images_of())
    report = search.run_epoch()
    strategy = search.strategy
    assert isinstance(strategy, Spos)
    choices = strategy.paths.choices(strategy._best)
    assert choices is not None
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["choices"] == {
        "channels": list(choices.channels(strategy.supernet.plan.cells)),
        "shares": list(choices.shares),
        "bits": [list(pair) for pair in choices.bits],
        "bit_operations": strategy._limits.bit_operations(strategy._best),
    }
    assert report.child_madds == strategy._limits.cost(strategy._best).madds
    assert report.child_params == strategy._limits.cost(strategy._best).params
    expected = evaluate(strategy.child(), images_of().validation)
    assert report.child_val_accuracy == expected.accuracy
    assert report.child_val_loss == expected.loss


def test_report_of_a_strategy_without_choices_has_none() -> None:
    report = Search(tiny_options(strategy=SMALL, epochs=1), images_of()).run_epoch()
    assert set(report.to_dict()) == {"epoch", "metrics", "genotype", "cells"}
    assert "choices" not in report.metrics()


# Options


def test_defaults_are_those_of_the_paper() -> None:
    options = SposOptions()
    assert (options.population, options.generations, options.top_k, options.mutation) == (50, 20, 10, 0.1)
    assert options.held_out_fraction == options.held_out == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 1.0}, r"`held_out` must be in \(0, 1\), got 1.0"),
        ({"batches": 0}, "`batches` must be at least 1, got 0"),
        ({"preview": -1}, "`preview` must be at least 0, got -1"),
        ({"population": 1, "top_k": 1}, "`population` must be at least 2, got 1"),
        ({"generations": 0}, "`generations` must be at least 1, got 0"),
        ({"top_k": 51}, r"`top_k` must be in \[1, `population`\] with `population` 50, got 51"),
        ({"mutation": 0.0}, r"`mutation` must be in \(0, 1\], got 0.0"),
        ({"channels": ()}, r"`channels` must be distinct shares in \(0, 1\], at least one, got \[\]"),
        ({"channels": (0.5, 0.5)}, r"`channels` .* got \[0.5, 0.5\]"),
        ({"channels": (0.5, 1.5)}, r"`channels` .* got \[0.5, 1.5\]"),
        (
            {"bits": (0, 4)},
            r"`bits` must be distinct numbers in \[1, 16\] or 32, or pairs of them, at least one, got \[0, 4\]",
        ),
        ({"bits": ((1, 2), (2, 17))}, r"`bits` .* got \[\[1, 2\], \[2, 17\]\]"),
        ({"bits": (4, (4, 4))}, r"`bits` .* got \[4, \[4, 4\]\]"),
        ({"bits": (24,)}, r"`bits` .* got \[24\]"),
        ({"bits": ()}, r"`bits` .* got \[\]"),
        ({"max_bit_operations": 0.0}, "`max_bit_operations` must be a finite number above 0, got 0.0"),
        ({"max_bit_operations": float("inf")}, "`max_bit_operations` must be a finite number above 0, got inf"),
    ],
)
def test_options_out_of_range_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        SposOptions(**changes)


def test_all_faults_come_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        SposOptions(
            held_out=0.0,
            batches=0,
            preview=-1,
            population=0,
            generations=0,
            top_k=0,
            mutation=2.0,
            channels=(0.0,),
            bits=(40,),
            max_bit_operations=-1.0,
        )
    names = [name for name, _ in caught.value.faults]
    assert names == [
        "held_out",
        "batches",
        "preview",
        "population",
        "generations",
        "top_k",
        "mutation",
        "channels",
        "bits",
        "max_bit_operations",
    ]
