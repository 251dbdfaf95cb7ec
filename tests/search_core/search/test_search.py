from __future__ import annotations

import copy
import math
import random
import re
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from search_core.cost.constraints import Constraints, Limit
from search_core.cost.counts import COST_KINDS, child_cost
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import CostTarget, PenaltyOptions
from search_core.data.dataset_options import DatasetOptions
from search_core.errors import DataError, NonFiniteLossError, OptionsError, StateError
from search_core.network.child import Child
from search_core.search.options import SearchOptions, defining
from search_core.search.reports import FINAL_METRICS, METRICS, OPTIONAL_METRICS, EpochReport
from search_core.search.search import Search
from search_core.search.temperature import TemperatureOptions
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.multi_trial.options import RandomSearchOptions
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.registry import StrategyOptions
from search_core.strategies.weight_sharing.options import DartsOptions, DsnasOptions, SnasOptions, SposOptions
from search_core.strategies.weight_sharing.ranked_draws_options import OneShotOptions, SmashOptions
from search_core.training.evaluation import evaluate
from tests.search_core.tiny import TINY_DATASET, TINY_SIZE, differences, images_of, seeded, through_file, tiny_options

EPOCHS = 3

#: Searches that differ in what their state must hold.
SEARCHES: dict[str, SearchOptions] = {
    "default": tiny_options(epochs=EPOCHS),
    "score-function-per-cell": tiny_options(
        epochs=EPOCHS,
        strategy=SnasOptions(sample_per="cell"),
        penalty=PenaltyOptions(estimator="score_function", schedule="warmup", warmup_epochs=2),
        temperature=TemperatureOptions(kind="exponential", rate=0.8),
    ),
    "augmented": tiny_options(
        epochs=EPOCHS,
        dataset=replace(TINY_DATASET, crop_padding=2, flip=True, cutout=3),
        penalty=PenaltyOptions(schedule="step", on_epoch=1, off_epoch=2),
    ),
}


class Untouchable:
    """A split that must not be looked at, not even for its length."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test split was touched: {name}")

    def __len__(self) -> int:
        raise AssertionError("the test split was touched: len")


def make(options: SearchOptions) -> Search:
    return Search(options, replace(images_of(options.dataset), test=Untouchable()))  # type: ignore[arg-type]


def timeless(report: EpochReport) -> EpochReport:
    return replace(report, seconds=0.0, images_per_s=0.0)


@cache
def whole(name: str) -> tuple[list[EpochReport], dict[str, Any]]:
    """Reports and final state of a search that was never stopped."""
    search = make(SEARCHES[name])
    reports = list(search)
    return [timeless(report) for report in reports], through_file(search.state_dict())


# Determinism and resumption


def test_same_seed_gives_equal_reports_and_states() -> None:
    search = make(SEARCHES["default"])
    assert [timeless(report) for report in search] == whole("default")[0]
    assert differences(search.state_dict(), whole("default")[1]) == []


def test_another_seed_gives_other_reports() -> None:
    report = make(replace(SEARCHES["default"], seed=1)).run_epoch()
    first = whole("default")[0][0]
    assert report.train_loss != first.train_loss
    assert report.cells["normal"].alpha != first.cells["normal"].alpha


@pytest.mark.parametrize("stop", [1, *(pytest.param(stop, marks=pytest.mark.slow) for stop in range(2, EPOCHS + 1))])
@pytest.mark.parametrize("name", list(SEARCHES))
def test_search_resumed_from_a_file_equals_one_never_stopped(name: str, stop: int) -> None:
    reports, state = whole(name)
    search = make(SEARCHES[name])
    before = [search.run_epoch() for _ in range(stop)]
    resumed = make(SEARCHES[name])
    resumed.load_state_dict(through_file(search.state_dict()))
    assert resumed.epoch == stop
    after = list(resumed)
    assert [report.epoch for report in after] == list(range(stop, EPOCHS))
    assert [timeless(report) for report in before + after] == reports
    assert differences(resumed.state_dict(), state) == []


def test_state_holds_the_baselines_of_the_score_function() -> None:
    # Without them the comparison above would not cover them.
    assert whole("score-function-per-cell")[1]["strategy"]["baselines"]["reduce"].shape == (2, 5)


@pytest.mark.parametrize(
    ("strategy", "setting", "value"),
    [
        (SnasOptions(), "drop_path", 0.3),
        (SnasOptions(), "auxiliary_weight", 0.4),
        (DsnasOptions(stop_margin=None), "stop_margin", 0.3),
        (OneShotOptions(paths="edges"), "paths", "operations"),
        (SmashOptions(), "encoding", "memory_banks"),
        (SmashOptions(), "layers", 2),
        (SmashOptions(), "weight_norm", True),
    ],
)
def test_setting_that_changes_nothing_is_not_in_states_as_in_those_of_before(
    strategy: Any, setting: str, value: object
) -> None:
    before, after = (tiny_options(strategy=s) for s in (strategy, replace(strategy, **{setting: value})))
    assert setting not in defining(before)["strategy"]
    assert defining(after)["strategy"][setting] == value


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (SnasOptions(), "child_val_accuracy"),
        (SposOptions(population=4, generations=1, top_k=2), "child_val_accuracy_recalibrated"),
        (OneShotOptions(samples=2), "child_val_accuracy_recalibrated"),
    ],
)
def test_child_is_judged_by_the_statistics_of_its_paper(strategy: Any, name: str) -> None:
    report = make(tiny_options(strategy=strategy, batch_size=8)).run_epoch()
    assert report.child_val_accuracy != report.child_val_accuracy_recalibrated, "else this shows nothing"
    assert report.child_val_error == 1 - getattr(report, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"epochs": 4},
        {"network": NetworkOptions(nodes=1, cells=3, init_channels=4)},
        {"penalty": PenaltyOptions(strength=0.5)},
        {"dataset": replace(TINY_DATASET, split_seed=1)},
        {"strategy": SnasOptions(sample_per="cell")},
    ],
)
def test_state_of_a_search_with_other_options_is_refused(changes: dict[str, Any]) -> None:
    other = make(replace(SEARCHES["default"], **changes))
    with pytest.raises(StateError, match="the state must come from equal options and data; they differ in "):
        other.load_state_dict(whole("default")[1])
    assert other.epoch == 0


def test_state_is_taken_over_when_only_the_place_of_the_data_changed() -> None:
    moved = make(replace(SEARCHES["default"], dataset=replace(TINY_DATASET, root="/elsewhere", workers=0)))
    moved.load_state_dict(whole("default")[1])
    assert moved.epoch == EPOCHS


# Forks


@cache
def trunk_state() -> dict[str, Any]:
    """State of the default search after its first epoch."""
    search = make(SEARCHES["default"])
    search.run_epoch()
    return through_file(search.state_dict())


def forked(**changes: Any) -> Search:
    search = make(replace(SEARCHES["default"], **changes))
    search.fork_from(trunk_state())
    return search


def test_fork_with_unchanged_settings_equals_the_search_without_it() -> None:
    search = forked()
    assert [timeless(report) for report in search] == whole("default")[0][1:]
    assert differences(search.state_dict(), whole("default")[1]) == []


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"penalty": PenaltyOptions(strength=10.0)}, "eta"),
        ({"penalty": PenaltyOptions(strength=10.0, estimator="score_function", cost="params")}, "eta"),
        ({"temperature": TemperatureOptions(start=0.5, end=0.1)}, "temperature"),
    ],
)
def test_fork_continues_with_its_own_settings(changes: dict[str, Any], metric: str) -> None:
    search = forked(**changes)
    assert differences(search.strategy.state_dict(), trunk_state()["strategy"]) == [], "it begins where the trunk ended"
    report, other = search.run_epoch(), whole("default")[0][1]
    assert report.epoch == 1
    assert getattr(report, metric) != getattr(other, metric)
    assert report.cells["normal"].alpha != other.cells["normal"].alpha


def test_what_steers_eta_is_resumed_and_forked() -> None:
    steered = tiny_options(epochs=EPOCHS, penalty=PenaltyOptions(target=CostTarget(madds=40_000)))
    trunk = make(steered)
    first = trunk.run_epoch()
    state = through_file(trunk.state_dict())
    rest = list(map(timeless, trunk))
    assert len({report.eta for report in (first, *rest)}) == EPOCHS, "it moves in every epoch"
    resumed = make(steered)
    resumed.load_state_dict(state)
    assert list(map(timeless, resumed)) == rest
    target = CostTarget(madds=45_000)
    fork = make(replace(steered, penalty=PenaltyOptions(target=target)))
    fork.fork_from(state)
    assert fork.run_epoch().eta == rest[0].eta, "decided before the fork"
    assert fork.run_epoch().eta < rest[1].eta, "from there by its own target, which is higher"
    assert forked(penalty=PenaltyOptions(strength=0.5, target=target)).run_epoch().eta == 0.5, "nothing steered before"


@pytest.mark.slow
def test_spos_chooses_under_other_limits_from_one_supernet() -> None:
    """The limit is below the child that was chosen without one; theta is trained alike, bit for bit."""
    strategy = SposOptions(population=6, generations=2, top_k=2, held_out=0.5)
    options = tiny_options(strategy=strategy, epochs=2, batch_size=8)
    trunk = make(options)
    trunk.run_epoch()
    state = through_file(trunk.state_dict())
    free = trunk.run_epoch()
    costs = sorted(child_cost(genotype, TINY_SIZE).madds for genotype in random_genotypes(50))
    limit = costs[5]
    assert free.child_madds > limit, "else this shows nothing"
    forked = make(replace(options, constraints=Constraints(madds=Limit(max=limit))))
    forked.fork_from(state)
    report = forked.run_epoch()
    assert report.child_madds <= limit
    assert differences(forked.strategy.supernet.state_dict(), trunk.strategy.supernet.state_dict()) == []
    assert (report.train_loss, report.train_accuracy) == (free.train_loss, free.train_accuracy)


def random_genotypes(num: int) -> list[Genotype]:
    space, generator = genotype_space(TINY_SIZE.network), seeded()
    return [space.decode(space.sample(generator)) for _ in range(num)]


def test_fork_resumes_from_its_own_state_only() -> None:
    changes = {"penalty": PenaltyOptions(strength=10.0)}
    search = forked(**changes)
    search.run_epoch()
    state = through_file(search.state_dict())
    resumed = make(replace(SEARCHES["default"], **changes))
    resumed.load_state_dict(state)
    assert timeless(resumed.run_epoch()) == timeless(search.run_epoch())
    with pytest.raises(StateError, match=r"they differ in penalty$"):
        make(SEARCHES["default"]).load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"epochs": 4}, "epochs"),
        ({"alpha": AlphaOptions(lr=0.5), "penalty": PenaltyOptions(strength=10.0)}, "alpha"),
        ({"dataset": replace(TINY_DATASET, split_seed=1)}, "data, dataset"),
    ],
)
def test_fork_of_a_search_that_differs_otherwise_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(StateError, match=f"they differ in {named}$"):
        forked(**changes)


@pytest.mark.parametrize("state", [{}, {"format": 1}, {"format": 99}])
def test_state_of_another_format_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(StateError, match=r"the state's format must be 3, got (None|1|99)"):
        make(SEARCHES["default"]).load_state_dict(state)


def test_global_random_states_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    make(SEARCHES["augmented"]).run_epoch()
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


def test_a_global_seed_does_not_matter() -> None:
    torch.manual_seed(12345)
    assert timeless(make(SEARCHES["default"]).run_epoch()) == whole("default")[0][0]


# Reports


@pytest.mark.parametrize("name", list(SEARCHES))
def test_report_fields_are_within_their_ranges(name: str) -> None:
    options = SEARCHES[name]
    for epoch, report in enumerate(whole(name)[0]):
        assert report.epoch == epoch
        for accuracy in (
            report.supernet_val_accuracy,
            report.child_val_accuracy,
            report.child_val_accuracy_recalibrated,
            report.train_accuracy,
        ):
            assert 0 <= accuracy <= 1
        # 16 validation and 64 training images: accuracies are such fractions.
        assert (16 * report.child_val_accuracy).is_integer()
        assert (64 * report.train_accuracy).is_integer()
        for loss in (report.train_loss, report.supernet_val_loss, report.child_val_loss):
            assert 0 < loss < 20
        assert report.child_val_error == 1 - report.child_val_accuracy
        assert report.discretization_gap == report.supernet_val_accuracy - report.child_val_accuracy
        assert report.train_penalty >= 0
        assert (report.train_penalty > 0) == (report.eta > 0)
        largest = 5 * math.log(len(options.network.primitives))
        assert 0 < report.entropy_normal <= largest + 1e-5  # float32 sum of five logarithms
        assert 0 < report.entropy_reduce <= largest + 1e-5
        assert report.entropy_total == pytest.approx(report.entropy_normal + report.entropy_reduce)
        assert (report.edges_normal, report.edges_reduce) == (len(report.genotype.normal), len(report.genotype.reduce))
        for cell_type, nodes in (("normal", report.nodes_normal), ("reduce", report.nodes_reduce)):
            assert nodes == report.genotype.num_active_nodes(cell_type)
            assert 0 <= nodes <= 2


@pytest.mark.parametrize("name", list(SEARCHES))
def test_reported_costs_are_those_of_the_genotype(name: str) -> None:
    for report in whole(name)[0]:
        cost = child_cost(report.genotype, TINY_SIZE)
        assert (report.child_params, report.child_madds) == (cost.params, cost.madds)
        assert report.child_memory_access == cost.memory_access
        probabilities = {cell_type: torch.tensor(cell.probabilities) for cell_type, cell in report.cells.items()}
        costs = CostTable(NetworkSize(SEARCHES[name].network, (1, 8, 8), 10))
        for kind in COST_KINDS:
            expected = costs.expected(kind, probabilities).item()
            assert getattr(report, f"expected_cost_{kind}") == pytest.approx(expected, rel=1e-5)  # float32 sums


@pytest.mark.parametrize("name", list(SEARCHES))
def test_reported_distribution_is_consistent(name: str) -> None:
    for report in whole(name)[0]:
        for cell_type in CELL_TYPES:
            cell = report.cells[cell_type]
            alpha_EO, p_EO = torch.tensor(cell.alpha), torch.tensor(cell.probabilities)
            assert alpha_EO.shape == p_EO.shape == (5, 4)
            torch.testing.assert_close(alpha_EO.softmax(-1), p_EO)
            torch.testing.assert_close(torch.tensor(cell.entropy), -(p_EO * p_EO.log()).sum(-1))
            assert len(cell.credit) == 5
            assert any(cell.credit)
            assert len(cell.resource_credit) == 5
            kept = [row.index(max(row)) != 0 for row in cell.probabilities]
            assert sum(kept) == len(report.genotype.edges(cell_type))


def test_schedules_are_followed() -> None:
    default, scored, augmented = (whole(name)[0] for name in SEARCHES)
    assert [report.temperature for report in default] == pytest.approx([1.0, 0.515, 0.03])
    assert [report.temperature for report in scored] == pytest.approx([1.0, 0.8, 0.64])
    assert [report.eta for report in default] == [1e-3] * 3
    assert [report.eta for report in scored] == pytest.approx([0.0, 5e-4, 1e-3])
    assert [report.eta for report in augmented] == [0.0, 1e-3, 0.0]


def test_theta_follows_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    search = make(tiny_options(epochs=4, theta=ThetaOptions(lr=0.2, lr_min=0.1)))
    rates = []
    begin = search.strategy.begin_epoch
    monkeypatch.setattr(
        search.strategy,
        "begin_epoch",
        lambda settings, generator: (rates.append(settings.theta_lr), begin(settings, generator)),
    )
    list(search)
    # lr_min + (lr - lr_min) (1 + cos(pi e / 4)) / 2 for e = 0 .. 3
    assert rates == pytest.approx([0.2, 0.1853553391, 0.15, 0.1146446609])


def test_metrics_are_all_numbers_of_the_report() -> None:
    report = whole("default")[0][0]
    metrics = report.metrics()
    assert tuple(metrics) == METRICS
    others = {"epoch", "genotype", "cells", "choices", "children", *OPTIONAL_METRICS, *FINAL_METRICS}
    assert others | set(metrics) == {entry.name for entry in fields(EpochReport)}
    assert all(type(value) is float for value in metrics.values())
    assert metrics["child_madds"] == report.child_madds


def test_report_as_plain_data_holds_the_genotype() -> None:
    report = whole("default")[0][-1]
    plain = report.to_dict()
    assert Genotype.from_dict(plain["genotype"]) == report.genotype
    assert plain["metrics"] == report.metrics()
    assert plain["cells"]["normal"]["alpha"] == report.cells["normal"].alpha


def test_report_times_the_epoch() -> None:
    report = make(SEARCHES["default"]).run_epoch()
    assert 0 < report.seconds < 600
    # 64 training images took less than the whole epoch did.
    assert report.images_per_s > 64 / report.seconds


def test_training_images_are_augmented() -> None:
    plain = SEARCHES["default"]
    augmented = replace(plain, dataset=replace(TINY_DATASET, crop_padding=2))
    assert make(augmented).run_epoch().train_loss != whole("default")[0][0].train_loss


def test_last_report_has_the_supernet_with_recalibrated_statistics() -> None:
    search = make(tiny_options(strategy=DartsOptions(order="first"), batch_size=16))
    *others, last = search
    assert all(report.supernet_val_accuracy_recalibrated is None for report in others)
    # DARTS draws nothing, so the figure follows from the weights and from which images the generator draws.
    supernet, generator = copy.deepcopy(search.strategy.supernet), search._generators["validation"].clone_state()
    mixture = search.strategy.probabilities()
    search._context.images.recalibrate(supernet, generator, lambda images: supernet(images, mixture))
    accuracy = evaluate(lambda images: supernet(images, mixture), search.data.validation).accuracy
    assert last.supernet_val_accuracy_recalibrated == accuracy
    assert last.metrics()["discretization_gap_recalibrated"] == accuracy - last.child_val_accuracy_recalibrated


def test_recalibrating_the_supernet_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "_recalibrated_supernet", lambda *_: 0.5)
    search = make(SEARCHES["default"])
    reports = [timeless(report) for report in search]
    assert differences(search.state_dict(), whole("default")[1]) == []
    assert reports[-1].supernet_val_accuracy_recalibrated == 0.5
    last, figures = whole("default")[0][-1], dict.fromkeys(FINAL_METRICS)
    assert replace(reports[-1], **figures) == replace(last, **figures)


def test_a_supernet_that_is_judged_by_batches_has_one_figure() -> None:
    for report in make(tiny_options(strategy=OneShotOptions(samples=2), epochs=1, batch_size=8)):
        assert report.supernet_val_accuracy_recalibrated == report.supernet_val_accuracy


def test_recalibrated_accuracy_is_that_of_the_child_after_recalibration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def always_class_3(network: Child, split: Any, **settings: Any) -> None:
        calls.append((split, settings["batch_size"], settings["num_batches"], network.training))
        with torch.no_grad():
            network.classifier.linear.bias[3] += 1e6

    monkeypatch.setattr("search_core.training.held_out.recalibrate", always_class_3)
    search = make(tiny_options(recalibration_batches=7))
    report = search.run_epoch()
    assert calls == [(search.data.train, 32, 7, False)]
    ((_, labels),) = search.data.validation.batches(100)
    assert report.child_val_accuracy_recalibrated == (labels == 3).double().mean().item()
    # Only a copy was recalibrated, and after the child's own validation.
    assert timeless(report).child_val_loss == whole("default")[0][0].child_val_loss
    assert search.strategy.supernet.classifier.linear.bias.abs().max() < 10


# The split that is not to be touched


def test_guard_of_the_test_split_would_notice() -> None:
    data = replace(images_of(), test=Untouchable())  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="the test split was touched"):
        data.test.num_batches(8)
    with pytest.raises(AssertionError, match="the test split was touched"):
        len(data.test)


def test_validation_images_change_no_weights() -> None:
    data = images_of()
    blind = replace(data, validation=data.train)
    searches = [Search(SEARCHES["default"], images) for images in (data, blind)]
    reports = [search.run_epoch() for search in searches]
    assert reports[0].child_val_loss != reports[1].child_val_loss
    assert reports[0].train_loss == reports[1].train_loss
    states = [search.state_dict()["strategy"] for search in searches]
    assert differences(*states) == []


# Failure


def test_non_finite_loss_ends_the_search() -> None:
    search = make(tiny_options(theta=ThetaOptions(lr=1e30)))
    with pytest.raises(NonFiniteLossError, match=r"the training loss must stay finite, got loss nan .*theta\.lr"):
        list(search)


def test_non_finite_loss_is_noticed_in_its_own_epoch() -> None:
    with pytest.raises(NonFiniteLossError, match="in epoch 1;"):
        make(tiny_options(theta=ThetaOptions(lr=1e38))).run_epoch()


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    with pytest.raises(DataError, match="`batch_size` must be at most the number of training images 64, got 65"):
        make(tiny_options(batch_size=65))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, got 1"),
        ({"recalibration_batches": 0}, "`recalibration_batches` must be at least 1, got 0"),
        ({"seed": -1}, r"`seed` must be in \[0, 2\^31\), got -1"),
        ({"seed": 2**31}, r"`seed` must be in \[0, 2\^31\)"),
    ],
)
def test_search_options_reject_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        SearchOptions(**options)


def test_search_options_report_all_faults_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        SearchOptions(epochs=0, batch_size=0, recalibration_batches=0, seed=-1)
    assert [name for name, _ in caught.value.faults] == ["epochs", "batch_size", "recalibration_batches", "seed"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lr": 0.0, "lr_min": -1.0, "momentum": 1.0, "weight_decay": -1.0, "grad_clip": 0.0}, None),
        ({"lr": 0.01, "lr_min": 0.02}, ["lr_min"]),
        ({"lr": math.inf}, ["lr"]),
    ],
)
def test_theta_options_reject_values_out_of_range(options: dict[str, float], names: list[str] | None) -> None:
    with pytest.raises(OptionsError) as caught:
        ThetaOptions(**options)
    assert [name for name, _ in caught.value.faults] == (names or list(options))


def test_alpha_options_reject_values_out_of_range() -> None:
    with pytest.raises(OptionsError) as caught:
        AlphaOptions(lr=math.nan, betas=(0.5, 1.0), weight_decay=-1.0)
    assert [name for name, _ in caught.value.faults] == ["lr", "betas", "weight_decay"]


def test_defaults_are_those_of_the_paper() -> None:
    theta, alpha, search = ThetaOptions(), AlphaOptions(), SearchOptions()
    assert (theta.lr, theta.lr_min, theta.momentum, theta.weight_decay, theta.grad_clip) == (
        0.025,
        0.001,
        0.9,
        3e-4,
        5.0,
    )
    assert (alpha.lr, alpha.betas, alpha.weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert (search.epochs, search.batch_size, search.strategy) == (150, 64, SnasOptions())


# Behaviour


def last_reports(strength: float) -> list[EpochReport]:
    """Last report of two short searches on digits with a fast alpha."""
    # Memory access, because a skip costs no multiply-adds: charged for those alone, no edge would have to go.
    options = tiny_options(
        dataset=DatasetOptions(name="digits", train_images=128, validation_images=64),
        network=NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=("none", "skip_connect", "sep_conv_3x3")),
        alpha=AlphaOptions(lr=0.1),
        penalty=PenaltyOptions(strength=strength, cost="memory_access"),
        temperature=TemperatureOptions(end=0.3),
    )
    return [list(make(replace(options, seed=seed)))[-1] for seed in (0, 1)]


@pytest.mark.slow
def test_growing_eta_gives_cheaper_children_until_nothing_is_left() -> None:
    # Two searches each, because one child is a noisy figure at this size; the strengths are far apart.
    free, charged, overwhelmed = (last_reports(strength) for strength in (0.0, 0.004, 1.0))
    for metric in ("child_madds", "child_params", "child_memory_access", "expected_cost_madds", "entropy_total"):
        values = [sum(report.metrics()[metric] for report in reports) for reports in (free, charged, overwhelmed)]
        assert values[0] > values[1] > values[2], metric
    for report in overwhelmed:
        assert report.genotype.normal == report.genotype.reduce == ()
        assert (report.nodes_normal, report.nodes_reduce) == (0, 0)


@pytest.mark.gpu
def test_search_runs_on_a_gpu() -> None:
    from search_core.data.datasets import load_data

    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    search = Search(SEARCHES["score-function-per-cell"], load_data(TINY_DATASET, device), device)
    first = search.run_epoch()
    state = through_file(search.state_dict())
    resumed = Search(SEARCHES["score-function-per-cell"], load_data(TINY_DATASET, device), device)
    resumed.load_state_dict(state)
    assert [report.epoch for report in resumed] == [1, 2]
    assert math.isfinite(first.train_loss)
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_cuda_graph_is_refused_without_a_gpu() -> None:
    with pytest.raises(OptionsError, match="`cuda_graph` needs a CUDA device, got true on cpu"):
        make(tiny_options(cuda_graph=True))


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"strategy": DsnasOptions()}, "strategy dsnas launches another child in every step"),
        ({"strategy": RandomSearchOptions()}, "strategy random trains each child by itself"),
        ({"strategy": SnasOptions(drop_path=0.1)}, "`strategy.drop_path` draws between kernels"),
        (
            {"penalty": PenaltyOptions(cost="child_latency", estimator="score_function")},
            "`penalty.cost` child_latency asks for the child between kernels",
        ),
    ],
)
def test_auto_says_why_steps_have_no_cuda_graph_and_true_is_refused(changes: dict[str, Any], obstacle: str) -> None:
    options = tiny_options(**changes)
    assert (options.has_graph, options.graph_note) == (False, f"no CUDA graph of a step: {obstacle}")
    assert replace(options, cuda_graph=False).graph_note is None, "nobody has asked for one"
    with pytest.raises(OptionsError, match=re.escape(f"`cuda_graph` must be auto or false, got true: {obstacle}")):
        replace(options, cuda_graph=True)


@pytest.mark.parametrize("strategy", [SnasOptions(), DartsOptions(order="first"), DartsOptions()])
def test_auto_has_a_cuda_graph_where_it_is_possible(strategy: StrategyOptions) -> None:
    assert (tiny_options(strategy=strategy).has_graph, tiny_options(strategy=strategy).graph_note) == (True, None)
    assert not tiny_options(strategy=strategy, cuda_graph=False).has_graph


def test_a_search_resumes_with_other_ways_of_computing_the_same() -> None:
    search = make(SEARCHES["default"])
    search.run_epoch()
    options = SEARCHES["default"]
    resumed = make(replace(options, network=replace(options.network, recompute=True)))
    resumed.load_state_dict(through_file(search.state_dict()))
    assert [timeless(report) for report in resumed] == whole("default")[0][1:]


def test_bfloat16_is_refused_without_a_gpu() -> None:
    with pytest.raises(OptionsError, match="`precision` must be float32 on cpu"):
        make(tiny_options(precision="bfloat16"))
