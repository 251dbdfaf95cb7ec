from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search_core.errors import OptionsError, StateError
from search_core.recurrent.retrain import RecurrentRetrain
from search_core.recurrent.text import TextData
from search_core.recurrent.training import text_loss
from search_core.space.recurrent import PUBLISHED_RECURRENT, RecurrentGenotype, RecurrentNode
from tests.search_core.recurrent.test_search import through_file, unigram_perplexity
from tests.search_core.recurrent.texts import UNMASKED, carrying, small_text, tiny_retrain

CELL = RecurrentGenotype((RecurrentNode("tanh", 0), RecurrentNode("relu", 1)), (1, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return small_text(tmp_path_factory.mktemp("text"))


@pytest.mark.slow
def test_retraining_resumes_bit_for_bit_while_it_averages(data: TextData) -> None:
    options = tiny_retrain(epochs=6, lr=60.0, grad_clip=5.0)  # too fast, so that the loss soon rises
    whole = RecurrentRetrain(CELL, options, data)
    reports = [replace(report, seconds=0.0) for report in whole]
    assert reports[2].averaged_steps < reports[-1].averaged_steps
    resumed, states = RecurrentRetrain(CELL, options, data), []
    for _ in range(5):
        resumed.run_epoch()
        states.append(through_file(resumed.state_dict()))
    for done, state in enumerate(states, start=1):
        again = RecurrentRetrain(CELL, options, data)
        again.load_state_dict(state)
        assert [replace(report, seconds=0.0) for report in again] == reports[done:]
        assert again.final_metrics() == whole.final_metrics()


def test_weights_are_averaged_from_the_step_after_the_loss_has_risen(
    data: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain = RecurrentRetrain(CELL, tiny_retrain(epochs=9, lr=60.0, grad_clip=5.0), data)
    losses: list[float] = []
    for report in retrain:
        rose = bool(losses[:-1]) and report.val_perplexity > min(losses[:-1])
        losses.append(report.val_perplexity)
        assert report.averaged_steps == 0
        assert report.best_val_perplexity == min(losses)
        if rose:
            break
    step, seen = retrain._optimiser.step, []

    def recorded() -> None:
        step()
        seen.append(copy.deepcopy(retrain.model.state_dict()))

    monkeypatch.setattr(retrain._optimiser, "step", recorded)
    assert retrain.run_epoch().averaged_steps == len(seen) > 5
    for name, average in retrain._average.items():
        torch.testing.assert_close(average, torch.stack([weights[name] for weights in seen]).mean(0))


def test_hidden_state_is_carried_from_window_to_window_of_the_training_text(data: TextData) -> None:
    retrain = RecurrentRetrain(CELL, tiny_retrain(lr=1e-30, dropout=UNMASKED), data)
    carrying(retrain.model)
    loss = text_loss(retrain.model, data.train, retrain.options.batch_size, retrain.options.bptt, lambda: CELL)
    whole = text_loss(retrain.model, data.train, retrain.options.batch_size, len(data.train), lambda: CELL)
    assert loss == pytest.approx(whole, rel=1e-5)
    assert retrain.run_epoch().train_perplexity == pytest.approx(math.exp(loss), rel=1e-5)


def test_test_text_waits_for_the_last_epoch_and_is_read_by_the_best(data: TextData) -> None:
    retrain = RecurrentRetrain(CELL, tiny_retrain(epochs=2), data)
    retrain.run_epoch()
    with pytest.raises(StateError, match="the test text is for the final figure: 1 of 2 epochs done"):
        retrain.final_metrics()
    retrain.run_epoch()
    found = retrain.final_metrics()
    assert found["params"] == sum(weight.numel() for weight in retrain.model.parameters())
    with torch.no_grad():
        for weight in retrain.model.parameters():
            weight.fill_(9.0)
    assert retrain.final_metrics() == found


def test_state_of_another_cell_is_refused(data: TextData) -> None:
    state = RecurrentRetrain(CELL, tiny_retrain(), data).state_dict()
    with pytest.raises(StateError, match="they differ in genotype"):
        RecurrentRetrain(PUBLISHED_RECURRENT["ENAS"], tiny_retrain(), data).load_state_dict(state)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionsError, match="`average_after` must be at least 1, got 0"):
        tiny_retrain(average_after=0)


@pytest.mark.slow
def test_published_cell_learns_more_than_the_frequencies_of_characters(tmp_path: Path) -> None:
    data = small_text(tmp_path, 10_000, 1_000)
    options = tiny_retrain(epochs=4, hidden=32, batch_size=20, bptt=10, dropout=UNMASKED)
    retrain = RecurrentRetrain(PUBLISHED_RECURRENT["DARTS_V2"], options, data)
    report = list(retrain)[-1]
    assert report.val_perplexity < unigram_perplexity(data)
    assert retrain.final_metrics()["test_perplexity"] < unigram_perplexity(data)
