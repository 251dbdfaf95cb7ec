"""Retraining as several processes: real process groups of gloo on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from search_core.data.augment import Augmentation
from search_core.data.datasets import load_data
from search_core.errors import NonFiniteLossError, OptionsError
from search_core.network.child import Child
from search_core.ranks import ALONE, Ranks
from search_core.space.genotype import PUBLISHED, Edge, Genotype
from search_core.training.evaluation import Evaluation, evaluate
from search_core.training.retrain import Retrain, check_recipe
from search_core.training.retrain_options import RetrainOptions
from tests.search_core.processes import Processes
from tests.search_core.tiny import TINY_DATASET, differences, images_of, seeded, through_file

pytestmark = pytest.mark.slow

TINY = RetrainOptions(epochs=2, batch_size=32, cells=3, init_channels=4, cutout=2)
#: Sums over the images of a batch run in another order in two processes: float32 differs by some 1e-7 of the largest
#: term, and a step of SGD and the next forward pass carry that on.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def on_ranks() -> Iterator[Processes]:
    processes = Processes(3)
    yield processes
    processes.close()


def make(ranks: Ranks = ALONE, options: RetrainOptions = TINY, **more: Any) -> Retrain:
    return Retrain(PUBLISHED["SNAS_mild"], options, images_of(), seed=3, ranks=ranks, **more)


def run_from(ranks: Ranks, options: RetrainOptions, state: dict[str, Any] | None, epochs: int) -> dict[str, Any]:
    """Reports and state after some epochs, of a run that resumes from `state`."""
    retrain = make(ranks, options)
    if state is not None:
        retrain.load_state_dict(state)
    reports = [retrain.run_epoch() for _ in range(epochs)]
    final = retrain.final_metrics() if retrain.epoch == options.epochs else {}
    return {"reports": reports, "final": final, "state": retrain.state_dict()}


@pytest.fixture(scope="module")
def two(on_ranks: Processes) -> list[dict[str, Any]]:
    """Both ranks of a whole run."""
    return on_ranks(partial(run_from, options=TINY, state=None, epochs=TINY.epochs))


@pytest.fixture(scope="module")
def first_epoch(on_ranks: Processes) -> dict[str, Any]:
    """Rank 0 after one epoch."""
    done: dict[str, Any] = on_ranks(partial(run_from, options=TINY, state=None, epochs=1))[0]
    return done


# Shares


@pytest.mark.parametrize(("size", "count"), [(32, 1), (32, 2), (9, 3), (7, 3), (2, 3)])
def test_shares_are_the_batch_in_order(size: int, count: int) -> None:
    batch = torch.arange(size)
    shares = [Ranks(rank, count).share(batch) for rank in range(count)]
    assert torch.equal(torch.cat(shares), batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_of_augmented_batches_are_those_of_one_process() -> None:
    train = images_of().train
    everything = {"augment": Augmentation(crop_padding=1, flip=True, cutout=2), "drop_last": True}
    whole = list(train.batches(12, generator=seeded(), **everything))
    parts = [list(train.batches(12, generator=seeded(), ranks=Ranks(rank, 3), **everything)) for rank in range(3)]
    for number, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[number][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), labels)


def test_shares_of_a_last_batch_smaller_than_the_ranks_leave_nobody_with_an_empty_one() -> None:
    validation = images_of().validation  # 16 images: the last batch of 15 is one image
    parts = [[len(labels) for _, labels in validation.batches(15, ranks=Ranks(rank, 3))] for rank in range(3)]
    assert parts == [[5, 1], [5], [5]]


def test_augmented_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="`batch_size` must divide by 3 ranks and `drop_last` be set, got 32"):
        images_of().train.batches(32, generator=seeded(), augment=Augmentation(), drop_last=True, ranks=Ranks(0, 3))


@pytest.mark.parametrize(("rank", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_ranks_out_of_range_are_refused(rank: int, count: int) -> None:
    with pytest.raises(OptionsError, match=r"`(rank|count)` must be"):
        Ranks(rank, count)


# Who may share what


@pytest.mark.parametrize(("batch_size", "workers"), [(32, 3), (33, 2), (6, 4), (4, 4)])
def test_batches_that_workers_cannot_share_are_refused(batch_size: int, workers: int) -> None:
    message = f"`batch_size` must divide by {workers} workers, at least 2 images for each, got {batch_size}"
    with pytest.raises(OptionsError, match=message):
        check_recipe(replace(TINY, batch_size=batch_size), images_of(), workers)


def test_more_workers_than_images_are_refused() -> None:
    with pytest.raises(OptionsError, match="`workers` must be at most the 16 images of the smallest split, got 32"):
        check_recipe(replace(TINY, batch_size=64), images_of(), 32)


# Equality


class _Plain(nn.Module):
    """Stands in for batch norm: nothing that is taken over a batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def without_norms(retrain: Retrain) -> Retrain:
    for module in list(retrain.child.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, _Plain())
    return retrain


def run_without_norms(ranks: Ranks, options: RetrainOptions) -> tuple[Any, Any]:
    retrain = without_norms(make(ranks, options))
    reports = [retrain.run_epoch() for _ in range(options.epochs)]
    return reports, retrain.state_dict()


@pytest.mark.slow
def test_two_ranks_equal_one_process_where_no_batch_norm_is_in_the_way(on_ranks: Processes) -> None:
    """Augmentation, drop path, label smoothing, auxiliary head, clipping and momentum, over four steps."""
    options = replace(TINY, label_smoothing=0.1, drop_path=0.4, grad_clip=0.1)
    assert options.auxiliary_weight > 0
    alone, (first, second) = run_without_norms(ALONE, options), on_ranks(partial(run_without_norms, options=options))
    assert differences(first[1], second[1]) == []
    for name, weight in alone[1]["child"].items():
        torch.testing.assert_close(first[1]["child"][name], weight, **ROUNDING)
    for shared, single in zip(first[0], alone[0], strict=True):
        assert shared.train_loss == pytest.approx(single.train_loss, rel=1e-4)
        assert shared.val_loss == pytest.approx(single.val_loss, rel=1e-4)
        assert (shared.lr, shared.drop_path) == (single.lr, single.drop_path)
    assert torch.equal(first[1]["generators"]["drop_path"], alone[1]["generators"]["drop_path"])


def one_epoch_by_hand(options: RetrainOptions, count: int) -> tuple[Child, float, float]:
    """One process that computes every share by itself and averages the gradients; the oracle of an epoch."""
    retrain = make(options=options)
    networks = [make(options=options).child.train() for _ in range(count)]
    batches = retrain.data.train.batches(
        options.batch_size, generator=retrain._generators["data"], augment=retrain._augment, drop_last=True
    )
    losses, correct, num_images = [], 0, 0
    for images, labels in batches:
        retrain._optimiser.zero_grad()
        for rank, network in enumerate(networks):
            ranks = Ranks(rank, count)
            network.load_state_dict({**network.state_dict(), **dict(retrain.child.named_parameters())})
            network.zero_grad()
            logits, auxiliary = network.forward_with_auxiliary(ranks.share(images))
            assert auxiliary is not None
            loss = functional.cross_entropy(logits, ranks.share(labels))
            losses.append(loss.item())
            correct += int((logits.argmax(1) == ranks.share(labels)).sum())
            loss = loss + options.auxiliary_weight * functional.cross_entropy(auxiliary, ranks.share(labels))
            (loss / count).backward()
            for own, weight in zip(retrain.child.parameters(), network.parameters(), strict=True):
                if weight.grad is not None:
                    own.grad = weight.grad.clone() if own.grad is None else own.grad + weight.grad
        num_images += len(labels)
        nn.utils.clip_grad_norm_(retrain.child.parameters(), options.grad_clip)
        retrain._optimiser.step()
    for name, buffer in retrain.child.named_buffers():
        values = [dict(network.named_buffers())[name] for network in networks]
        buffer.copy_(torch.stack(values).double().mean(0).to(buffer.dtype))
    return retrain.child.eval(), sum(losses) / len(losses), correct / num_images


def test_epoch_of_two_ranks_is_that_of_both_shares_averaged_by_hand(first_epoch: dict[str, Any]) -> None:
    """Batch norm over each share, running statistics averaged; the first epoch, so without drop path."""
    child, loss, accuracy = one_epoch_by_hand(TINY, 2)
    (report,), state = first_epoch["reports"], first_epoch["state"]
    for name, value in child.state_dict().items():
        torch.testing.assert_close(state["child"][name], value, **ROUNDING)
    assert report.train_loss == pytest.approx(loss, rel=1e-4)
    assert report.train_accuracy == accuracy
    validation = evaluate(child, images_of().validation)
    assert report.val_loss == pytest.approx(validation.loss, rel=1e-3)
    assert report.val_accuracy == validation.accuracy


@pytest.mark.slow
def test_ranks_hold_the_same_reports_weights_and_figures(two: list[dict[str, Any]]) -> None:
    first, second = two
    assert first["reports"] == second["reports"]  # even the seconds
    assert first["final"] == second["final"]
    assert differences(first["state"], second["state"]) == []
    assert (64 * first["reports"][0].train_accuracy).is_integer()
    assert (20 * first["final"]["test_accuracy"]).is_integer()


def test_state_has_the_layout_of_one_process(two: list[dict[str, Any]]) -> None:
    alone, shared = make().state_dict(), two[0]["state"]
    assert {name: value.shape for name, value in shared["child"].items()} == {
        name: value.shape for name, value in alone["child"].items()
    }
    assert shared["options"] == alone["options"]


# Resuming from a state


@pytest.mark.slow
def test_two_ranks_continue_bit_for_bit_from_their_own_state(
    on_ranks: Processes, two: list[dict[str, Any]], first_epoch: dict[str, Any]
) -> None:
    state = through_file(first_epoch["state"])
    resumed = on_ranks(partial(run_from, options=TINY, state=state, epochs=1))
    for whole, part in zip(two, resumed, strict=True):
        assert differences(part["state"], whole["state"]) == []
        assert replace(part["reports"][0], seconds=0.0) == replace(whole["reports"][1], seconds=0.0)


@pytest.mark.slow
def test_state_goes_from_two_ranks_to_one_and_back(on_ranks: Processes) -> None:
    options = replace(TINY, epochs=3)
    first = through_file(on_ranks(partial(run_from, options=options, state=None, epochs=1))[0]["state"])
    second = through_file(run_from(ALONE, options, first, 1)["state"])
    last = on_ranks(partial(run_from, options=options, state=second, epochs=1))[0]
    assert [report.epoch for report in last["reports"]] == [2]
    assert 0 <= last["final"]["test_accuracy"] <= 1
    # The random numbers of a run do not depend on who drew them.
    alone = run_from(ALONE, options, None, 3)
    for name, state in alone["state"]["generators"].items():
        assert torch.equal(last["state"]["generators"][name], state)


def run_narrow(ranks: Ranks) -> tuple[Any, list[str]]:
    """A cell that reads one of its inputs only: the other's weights get no gradient."""
    cell = Genotype((Edge("sep_conv_3x3", 0, 2),), (2,), (Edge("max_pool_3x3", 0, 2),), (2,))
    retrain = Retrain(cell, replace(TINY, epochs=1), images_of(), ranks=ranks)
    retrain.run_epoch()
    idle = [name for name, weight in retrain.child.named_parameters() if weight.grad is None]
    return retrain.state_dict(), idle


def test_weights_without_gradient_stay_so(on_ranks: Processes) -> None:
    (first, idle), (second, _) = on_ranks(run_narrow)
    assert differences(first, second) == []
    assert idle == run_narrow(ALONE)[1]
    assert len(idle) > 0


# Failure


def failure(ranks: Ranks) -> str:
    try:
        for _ in make(ranks, replace(TINY, lr=1e30)):
            pass
    except NonFiniteLossError as error:
        return str(error)
    return ""


def test_loss_that_is_not_finite_ends_all_ranks_together(on_ranks: Processes) -> None:
    first, second = on_ranks(failure)
    assert "the training loss must stay finite, got nan in epoch" in first
    assert first == second


# Evaluation


def shared_evaluation(ranks: Ranks, batch_size: int) -> Evaluation:
    child = make().child.eval()
    return evaluate(child, images_of().validation, batch_size, ranks=ranks)


@pytest.mark.parametrize("batch_size", [5, 15, 100])
def test_shared_evaluation_is_that_of_one_process(on_ranks: Processes, batch_size: int) -> None:
    expected = shared_evaluation(ALONE, batch_size)
    first, second, third = on_ranks(partial(shared_evaluation, batch_size=batch_size), 3)
    assert first == second == third
    assert first.accuracy == expected.accuracy
    assert first.loss == pytest.approx(expected.loss, rel=1e-5)


# GPU: two processes share it, since gloo, unlike NCCL, allows that


def run_on_gpu(ranks: Ranks, options: RetrainOptions) -> tuple[Any, Any]:
    data = load_data(replace(TINY_DATASET, images=400), torch.device("cuda"))
    retrain = Retrain(PUBLISHED["SNAS_mild"], options, data, "cuda", seed=3, ranks=ranks)
    return list(retrain), through_file(retrain.state_dict())


@pytest.mark.gpu
def test_two_ranks_on_a_gpu_equal_one_process(on_ranks: Processes) -> None:
    """SyncBatchNorm takes its statistics over the whole batch."""
    options = replace(TINY, batch_size=64, drop_path=0.2)
    alone, (first, second) = run_on_gpu(ALONE, options), on_ranks(partial(run_on_gpu, options=options))
    assert differences(first[1], second[1]) == []
    for shared, single in zip(first[0], alone[0], strict=True):
        assert math.isclose(shared.train_loss, single.train_loss, rel_tol=1e-3)
        assert math.isclose(shared.val_loss, single.val_loss, rel_tol=1e-2)
