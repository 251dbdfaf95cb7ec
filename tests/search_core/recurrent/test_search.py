from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from search_core.errors import NonFiniteLossError, OptionsError, StateError
from search_core.recurrent.options import RecurrentAlphaOptions, RecurrentSearchOptions
from search_core.recurrent.search import RecurrentReport, RecurrentSearch
from search_core.recurrent.strategies import RecurrentDarts
from search_core.recurrent.text import TextData, windows
from search_core.recurrent.training import window_loss
from search_core.strategies.weight_sharing.options import DartsOptions, SnasOptions
from tests.search_core.recurrent.texts import UNMASKED, carrying, small_text, tiny_search

STRATEGIES = {
    "snas": SnasOptions(),
    "darts-1": DartsOptions(order="first"),
    "darts-2": DartsOptions(order="second"),
}
each_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return small_text(tmp_path_factory.mktemp("text"))


def same(report: RecurrentReport) -> RecurrentReport:
    """Without what the clock decides."""
    return replace(report, seconds=0.0, words_per_s=0.0)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return dict(torch.load(buffer, weights_only=True))


@pytest.mark.slow
@each_strategy
def test_search_resumes_bit_for_bit(strategy: SnasOptions | DartsOptions, data: TextData) -> None:
    options = tiny_search(strategy=strategy)
    whole = RecurrentSearch(options, data)
    reports = [same(report) for report in whole]
    first = RecurrentSearch(options, data)
    first.run_epoch()
    state = through_file(first.state_dict())
    resumed = RecurrentSearch(options, data)
    resumed.load_state_dict(state)
    assert [same(report) for report in resumed] == reports[1:]
    assert resumed.genotype() == whole.genotype() == reports[-1].genotype
    for one, other in zip(whole.strategy.model.parameters(), resumed.strategy.model.parameters(), strict=True):
        assert torch.equal(one, other)


@each_strategy
def test_report_is_of_the_distribution(strategy: SnasOptions | DartsOptions, data: TextData) -> None:
    search = RecurrentSearch(tiny_search(strategy=strategy, epochs=1), data)
    before = search.strategy.alpha.detach().clone()
    (report,) = search
    assert not torch.equal(search.strategy.alpha, before)
    assert [len(row) for row in report.probabilities] == [4, 4, 4]
    total = sum(map(sum, report.probabilities))
    assert total == pytest.approx(2.0) if strategy.kind == "snas" else total < 3.0 * 4 / 5 + 0.01
    uniform = math.log(4) + math.log(8) if strategy.kind == "snas" else 3 * math.log(5)
    assert report.entropy == pytest.approx(uniform, abs=0.01)  # alpha has hardly moved
    plain = report.to_dict()
    assert plain["metrics"]["child_val_perplexity"] == report.child_val_perplexity > 1
    assert set(plain) == {"epoch", "metrics", "genotype", "probabilities"}


def test_genotype_has_the_largest_weight_of_every_node_and_no_none(data: TextData) -> None:
    search = RecurrentSearch(tiny_search(strategy=DartsOptions()), data)
    with torch.no_grad():
        search.strategy.alpha.zero_()
        search.strategy.alpha[:, 0] = 9.0  # none
        search.strategy.alpha[1, 1] = 1.0
        search.strategy.alpha[2, 3] = 2.0
    assert [tuple(node) for node in search.genotype().recurrent] == [("tanh", 0), ("sigmoid", 1)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("clip", [1e9, 0.1])
def test_gradient_of_second_order_is_that_of_the_unrolled_loss(clip: float, tmp_path: Path) -> None:
    """Against automatic differentiation through the step, whose clipping counts as a constant."""
    options = tiny_search(strategy=DartsOptions(), dropout=UNMASKED, hidden=4, lr=4.0, grad_clip=clip, bptt=4)
    strategy = RecurrentSearch(options, small_text(tmp_path, 200, 60)).strategy
    assert isinstance(strategy, RecurrentDarts)
    assert strategy._held_out_LB is not None
    strategy.begin_epoch(1.0)
    window, start = next(windows(strategy._held_out_LB[8:], 4)), strategy.model.start(10)
    found = strategy._hypergradient(window, start)
    names, weights = zip(*strategy.model.named_parameters(), strict=True)

    def loss(words: tuple[torch.Tensor, torch.Tensor], theta: tuple[torch.Tensor, ...]) -> torch.Tensor:
        inputs, following = words
        given = (inputs, start, strategy.probabilities())
        logits, _ = torch.func.functional_call(strategy.model, dict(zip(names, theta, strict=True)), given)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())

    gradients = torch.autograd.grad(loss(window, weights), weights, create_graph=True)
    length = torch.cat([gradient.detach().flatten() for gradient in gradients]).norm().item()
    assert (length > clip) == (clip == 0.1)
    step = options.lr * min(1, clip / length)
    ahead = tuple(weight - step * gradient for weight, gradient in zip(weights, gradients, strict=True))
    (exact,) = torch.autograd.grad(loss(next(windows(strategy._held_out_LB, 4)), ahead), strategy.alpha)
    (first,) = torch.autograd.grad(loss(next(windows(strategy._held_out_LB, 4)), weights), strategy.alpha)
    # The finite difference has an error of its own.
    assert (found - exact).norm() < 0.05 * (first - exact).norm()


@pytest.mark.usefixtures("float64")
def test_hidden_states_of_both_texts_are_carried_from_window_to_window(tmp_path: Path) -> None:
    options = tiny_search(strategy=DartsOptions(order="first"), dropout=UNMASKED, lr=1e-30, batch_norm=False, epochs=1)
    search = RecurrentSearch(replace(options, alpha=RecurrentAlphaOptions(lr=1e-30)), small_text(tmp_path))
    strategy = search.strategy
    assert isinstance(strategy, RecurrentDarts)
    assert strategy._held_out_LB is not None
    carrying(strategy.model)
    (report,) = search
    text, z = search._train_LB, strategy.probabilities()
    loss, _ = window_loss(strategy.model, (text[:-1], text[1:]), strategy.model.start(10), z)
    assert report.train_perplexity == pytest.approx(math.exp(loss.item()))
    strategy.begin_epoch(1.0)
    gradients = [strategy._hypergradient((text[:8], text[1:9]), strategy.model.start(10)) for _ in range(2)]
    first, second = islice(windows(strategy._held_out_LB, 8), 2)
    _, outputs = window_loss(strategy.model, first, strategy.model.start(10), z)
    loss, _ = window_loss(strategy.model, second, outputs[-1].detach(), z)
    torch.testing.assert_close(gradients[1], torch.autograd.grad(loss, strategy.alpha)[0])


def test_state_of_another_search_is_refused(data: TextData, tmp_path: Path) -> None:
    state = RecurrentSearch(tiny_search(), data).state_dict()
    with pytest.raises(StateError, match="they differ in options"):
        RecurrentSearch(tiny_search(lr=1.0), data).load_state_dict(state)
    with pytest.raises(StateError, match="they differ in seed"):
        RecurrentSearch(tiny_search(), data, seed=1).load_state_dict(state)
    with pytest.raises(StateError, match="they differ in data"):
        RecurrentSearch(tiny_search(), small_text(tmp_path, 601)).load_state_dict(state)


def test_search_ends_where_the_loss_is_no_number(data: TextData) -> None:
    search = RecurrentSearch(tiny_search(), data)
    with torch.no_grad():
        search.strategy.model.bias.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="the training loss of epoch 1 must stay finite, got nan"):
        search.run_epoch()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": 0}, "`nodes` must be at least 1, got 0"),
        ({"bptt": 0}, "`bptt` must be at least 1, got 0"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, got 1"),
        ({"lr": 0.0}, "`lr` must be a finite number above 0, got 0.0"),
        ({"grad_clip": 0.0}, "`grad_clip` must be above 0, got 0.0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0, got -1.0"),
        ({"strategy": SnasOptions(drop_path=0.3)}, "`strategy.drop_path` must be 0.0 with a recurrent cell, got 0.3"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        RecurrentSearchOptions(**changes)


def unigram_perplexity(data: TextData) -> float:
    """Of the validation text by the frequencies of the training text, one added to each."""
    counts, text = Counter(data.train.tolist()), data.valid.tolist()
    total = len(data.train) + len(data.vocabulary)
    return math.exp(-sum(math.log((counts[word] + 1) / total) for word in text) / len(text))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["snas", "darts-1"])
def test_search_learns_more_than_the_frequencies_of_characters(strategy: str, tmp_path: Path) -> None:
    data = small_text(tmp_path, 10_000, 1_000)
    size: dict[str, Any] = {"hidden": 32, "batch_size": 20, "bptt": 5, "dropout": UNMASKED, "lr": 10.0}
    report = list(RecurrentSearch(tiny_search(strategy=STRATEGIES[strategy], epochs=6, **size), data))[-1]
    assert report.supernet_val_perplexity < 0.8 * unigram_perplexity(data)
    assert report.child_val_perplexity < 0.8 * unigram_perplexity(data)
