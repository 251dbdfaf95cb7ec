"""Latency of children: tables, predictions, both kinds of cost. No test looks at how fast this machine is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from search_core.cost.constraints import ChildLimits, Constraints, Limit
from search_core.cost.latency_measure import TimingOptions, compare, measure_child, measure_table, time_rounds
from search_core.cost.latency_options import LatencyOptions
from search_core.cost.latency_parts import child_parts, network_parts, sum_key
from search_core.cost.latency_table import Comparison, LatencyTable, Place, Timing, load_table, table_for
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import CostTarget, PenaltyOptions
from search_core.cost.penalty_target import WholeCost
from search_core.errors import ConstraintsError, LatencyError, OptionsError, StateError
from search_core.network.child import Child
from search_core.search.options import SearchOptions
from search_core.search.reports import FINAL_METRICS, METRICS, OPTIONAL_METRICS
from search_core.search.search import Search, build_context
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, PUBLISHED, Edge, Genotype
from search_core.space.plan import NetworkSize, cell_edges, plan_supernet
from search_core.strategies.weight_sharing.options import SnasOptions
from search_core.strategies.weight_sharing.ranked_draws_options import RandomSamplingOptions
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

QUICK = TimingOptions(warmup=0, repeats=3)
PLACE = Place(device="cpu", name="a processor", torch_version="2.15.0", threads=1)


class FakeClock:
    """Seconds that pass only when somebody works or looks."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self._step = 0.0, step

    def __call__(self) -> float:
        self.now += self._step
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        """A function that takes these times, one a call, the last forever."""
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@cache
def made_up_table(size: NetworkSize = TINY_SIZE) -> LatencyTable:
    """Every part of a network with another time: part number n takes n + 1 ms."""
    parts = network_parts(size)
    times = {part.key: float(number + 1) for number, part in enumerate(parts)}
    timings = {key: Timing(median_ms=ms, lower_ms=ms / 2, upper_ms=ms * 2) for key, ms in times.items()}
    return LatencyTable(place=PLACE, dtype="float32", batch_size=4, parts=timings)


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    file = tmp_path / "table.json"
    file.write_text(made_up_table().to_json(), encoding="utf-8")
    return file


def random_children(number: int) -> list[Genotype]:
    space, generator = genotype_space(TINY_NETWORK), seeded()
    return [space.decode(space.sample(generator)) for _ in range(number)]


def without_edges() -> Genotype:
    return Genotype((), (2, 3), (), (2, 3))


# --- timing


def test_timing_takes_median_and_quartiles_after_the_warm_up() -> None:
    clock = FakeClock()
    runs = {"a": clock.work(100.0, 1.0, 2.0, 3.0, 4.0, 5.0), "b": clock.work(7.0)}
    timings = time_rounds(runs, TimingOptions(warmup=1, repeats=5), CPU, clock=clock)
    assert timings["a"] == Timing(median_ms=3000, lower_ms=2000, upper_ms=4000)
    assert timings["b"] == Timing(median_ms=7000, lower_ms=7000, upper_ms=7000)


def test_functions_take_turns_so_that_a_disturbance_falls_on_all() -> None:
    order: list[str] = []
    time_rounds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, QUICK, CPU, calls=2)
    assert order == ["a", "a", "b", "b"] * 3


def test_mean_of_several_calls_between_two_looks_counts() -> None:
    clock = FakeClock()
    timings = time_rounds(
        {"a": clock.work(1.0, 3.0, 2.0)}, TimingOptions(warmup=0, repeats=1), CPU, calls=2, clock=clock
    )
    assert timings["a"].median_ms == 2000


def test_table_is_measured_in_inference_mode_without_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    table = measure_table(TINY_SIZE, QUICK, clock=FakeClock(0.5))
    compared = compare(table, TINY_SIZE, QUICK, children=2, clock=FakeClock(0.5))
    assert torch.equal(before, torch.random.get_rng_state())
    assert set(table.parts.values()) == {Timing(median_ms=500, lower_ms=500, upper_ms=500)}
    assert compared.comparison is not None
    assert compared.comparison.measured_ms == (500, 500)
    modes: list[bool] = []
    time_rounds({"a": lambda: modes.append(torch.is_inference_mode_enabled())}, QUICK, CPU)
    assert modes == [True] * 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_part_runs_by_itself_in_the_type_and_batch_asked_for(dtype: Any) -> None:
    options = TimingOptions(warmup=0, repeats=1, batch_size=3, dtype=dtype)
    network = replace(TINY_NETWORK, primitives=("none", "avg_pool_3x3", "skip_connect", "sep_conv_5x5"))
    table = measure_table(replace(TINY_SIZE, network=network), options)
    assert (table.dtype, table.batch_size, table.place) == (dtype, 3, Place.of(CPU))
    assert all(0 <= timing.lower_ms <= timing.median_ms <= timing.upper_ms for timing in table.parts.values())


def test_imagenet_stem_has_parts_too() -> None:
    size = NetworkSize(replace(TINY_NETWORK, stem="imagenet"), (3, 32, 32), 10)
    table = measure_table(size, TimingOptions(warmup=0, repeats=1))
    (child,) = random_children(1)
    assert table.child_ms(child, size) > 0
    assert measure_child(child, size, QUICK).median_ms > 0


def test_whole_child_runs_as_it_would_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool, tuple[int, ...]]] = []
    forward = Child.forward

    def watched(self: Child, images: torch.Tensor) -> torch.Tensor:
        seen.append((self.training, torch.is_inference_mode_enabled(), tuple(images.shape)))
        logits = forward(self, images)
        assert logits.isfinite().all()
        return logits

    monkeypatch.setattr(Child, "forward", watched)
    (child,) = random_children(1)
    measure_child(child, TINY_SIZE, TimingOptions(warmup=1, repeats=2, batch_size=5))
    assert seen[-3:] == [(False, True, (5, 1, 8, 8))] * 3


def test_time_of_the_process_is_for_one_thread_of_a_cpu() -> None:
    options = replace(QUICK, cpu_time=True)
    assert measure_table(TINY_SIZE, options).cpu_time
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(
            OptionsError, match=r"`cpu_time` must be false unless on a CPU with one thread: .*2 threads"
        ):
            measure_table(TINY_SIZE, options)
    finally:
        torch.set_num_threads(threads)


def test_each_option_has_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, step in (("process_time", 1.0), ("perf_counter", 2.0)):
        monkeypatch.setattr(f"search_core.cost.latency_measure.time.{name}", FakeClock(step))
    medians = [
        time_rounds({"a": lambda: None}, replace(QUICK, cpu_time=cpu_time), CPU)["a"].median_ms
        for cpu_time in (True, False)
    ]
    monkeypatch.undo()
    assert medians == [1000, 2000]


def test_node_without_inputs_does_not_cost_the_child_its_memory_layout() -> None:
    """It did: found by the latency of children with such a node, a quarter above that of the others."""
    genotype = Genotype((Edge("dil_conv_3x3", 0, 2),), (2, 3), (Edge("dil_conv_3x3", 1, 3),), (2, 3))
    child = Child(genotype, replace(TINY_SIZE, input_shape=(3, 8, 8))).eval()
    outputs: list[torch.Tensor] = []
    for cell in child.cells:
        cell.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    child(torch.randn(2, 3, 8, 8, generator=seeded()))
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in outputs)
    assert (outputs[0][:, 4:] == 0).all()
    assert (outputs[1][:, :8] == 0).all()


# --- prediction


def test_prediction_is_the_sum_of_parts_written_out() -> None:
    """Two edges into node 2, none into node 3, in a stack of normal, reduction, reduction cell."""
    genotype = Genotype((Edge("max_pool_3x3", 0, 2), Edge("skip_connect", 1, 2)), (2, 3), (), (2, 3))
    plan = plan_supernet(TINY_SIZE)
    assert [cell.cell_type for cell in plan.cells] == ["normal", "reduce", "reduce"]
    keys = [
        "cifar stem 1x8x8 to 12",
        "cell inputs 12x8x8 and 12x8x8 to 4",
        "concatenation of 2 x 4x8x8",
        "cell inputs 12x8x8 and 8x8x8 to 8",
        "concatenation of 2 x 8x4x4",
        "cell inputs 8x8x8 and 16x4x4 to 16",
        "concatenation of 2 x 16x2x2",
        "classifier 32x2x2 to 10",
        "max_pool_3x3 4x8x8 stride 1",
        "skip_connect 4x8x8 stride 1",
        "sum 4x8x8",
    ]
    table = made_up_table()
    expected = sum(table.parts[key].median_ms for key in keys)
    assert table.child_ms(genotype, TINY_SIZE) == expected


def test_parts_of_every_child_are_among_those_that_are_measured() -> None:
    known = {part.key for part in network_parts(TINY_SIZE)}
    found = {part.key for child in random_children(50) for part in child_parts(child, TINY_SIZE)}
    assert found <= known
    assert len(known - found) == 0, "fifty children use every part of so small a space"


def test_number_of_additions_is_that_of_a_child_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow oracle: count what the cells of a real child add up."""
    for child in random_children(5):
        num_sums = 0
        for cell in Child(child, TINY_SIZE).plan.cells:
            for target in (2, 3):
                incoming = [edge for edge in child.edges(cell.cell_type) if edge.target == target]
                num_sums += max(len(incoming) - 1, 0)
        keys = [part.key for part in child_parts(child, TINY_SIZE)]
        assert sum(key.startswith("sum ") for key in keys) == num_sums


def test_more_edges_never_make_a_child_faster() -> None:
    table = made_up_table()
    for child in random_children(10):
        less = replace(child, normal=child.normal[1:])
        fewer, all_edges = (table.child_ms(cell, TINY_SIZE) for cell in (less, child))
        assert fewer < all_edges if child.normal else fewer == all_edges


def test_missing_part_is_named_with_its_shape_and_the_remedy() -> None:
    wider = replace(TINY_SIZE, network=replace(TINY_NETWORK, init_channels=8))
    rule = (
        r"must have every part of the search space, got none for `cifar stem 1x8x8 to 24` \(measured on a processor, "
        r"batch 4\): .*`snas latency measure --config FILE`"
    )
    with pytest.raises(LatencyError, match=rule):
        made_up_table().child_ms(without_edges(), wider)
    other = Genotype((Edge("sep_conv_5x5", 0, 2),), (2, 3), (), (2, 3))
    with pytest.raises(LatencyError, match="got none for `sep_conv_5x5 4x8x8 stride 1`"):
        made_up_table().child_ms(other, TINY_SIZE)


# --- files


def test_table_comes_back_from_its_file_with_the_same_digest(table_file: Path) -> None:
    table = load_table(table_file)
    assert table == made_up_table()
    assert table.digest == made_up_table().digest
    comparison = Comparison(predicted_ms=(1.0, 2.0), measured_ms=(2.0, 2.0))
    compared = replace(table, comparison=comparison)
    table_file.write_text(compared.to_json(), encoding="utf-8")
    assert load_table(table_file).comparison == comparison
    assert load_table(table_file).digest == table.digest, "how well it predicts changes no prediction"
    assert comparison.ratios == (0.5, 1.0)


@pytest.mark.parametrize(
    "change", [{"batch_size": 8}, {"cpu_time": True}, {"dtype": "bfloat16"}, {"place": replace(PLACE, threads=2)}]
)
def test_digest_is_of_all_that_was_measured(change: dict[str, Any]) -> None:
    assert replace(made_up_table(), **change).digest != made_up_table().digest


def _with_part(timing: dict[str, Any]) -> str:
    """A table as text, whose only part has this timing."""
    return json.dumps({**made_up_table().to_dict(), "parts": {"x": timing}})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", "Expecting property name"),
        ("[]", "must be what `snas latency measure` writes"),
        ("{}", "must be what `snas latency measure` writes, got: KeyError"),
        (json.dumps({**made_up_table().to_dict(), "format": 0}), "format must be 1, got 0"),
        (_with_part({"median_ms": 1}), r":\d+:\d+: parts.x: must have median_ms, lower_ms, upper_ms, each a finite"),
        (
            _with_part(dict.fromkeys(Timing.__annotations__, "1")),
            "a finite number of at least 0, got {'median_ms'",
        ),
        (_with_part(dict.fromkeys(Timing.__annotations__, -1)), "a finite number of at least 0, got {'median_ms'"),
        (_with_part(dict.fromkeys(Timing.__annotations__, math.nan)), r":1:\d+: numbers must be finite, got NaN"),
        ('{"format": 1,\n "format": 1}', ":2:2: `format` is given twice: line 1 has it already"),
    ],
)
def test_file_that_is_no_table_is_refused_by_name(tmp_path: Path, text: str, rule: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LatencyError, match=rule) as caught:
        load_table(file)
    assert str(file) in str(caught.value)


def test_missing_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"no\.json must be readable, got: No such file.*snas latency measure"):
        load_table(tmp_path / "no.json")


def test_table_of_another_device_or_version_is_refused_if_asked(table_file: Path) -> None:
    with pytest.raises(LatencyError, match="name must be a GPU, got a processor") as caught:
        made_up_table().require_place(Place(device="cuda", name="a GPU", torch_version="2.15.0", cuda_version="13"))
    for part in ("device must be cuda, got cpu", "cuda_version must be 13, got None", "threads must be None, got 1"):
        assert part in str(caught.value)
    assert "torch_version must" not in str(caught.value)
    made_up_table().require_place(PLACE)
    options = LatencyOptions(table=str(table_file))
    assert table_for(options, TINY_SIZE, CPU) == made_up_table(), "another device may run the child"
    with pytest.raises(LatencyError, match=r"table\.json: .*must have been measured here"):
        table_for(replace(options, same_device=True), TINY_SIZE, CPU)
    with pytest.raises(LatencyError, match=r"table\.json: .*must have every part"):
        table_for(options, NetworkSize(replace(TINY_NETWORK, cells=6), (1, 8, 8), 7), CPU)


# --- options


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"table": " "}, "table"),
        ({"same_device": True}, "same_device"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": -1}, "warmup"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_latency_options_are_checked(options: dict[str, Any], name: str) -> None:
    with pytest.raises(OptionsError, match="must be") as caught:
        LatencyOptions(**options)
    assert [fault for fault, _ in caught.value.faults] == [name]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"dtype": "int8"}, {"warmup": -1}, {"repeats": 0}])
def test_timing_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        TimingOptions(**options)


WHOLE = PenaltyOptions(cost="child_latency", estimator="score_function")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"penalty": PenaltyOptions(cost="latency")}, "latency.table"),
        ({"constraints": Constraints(latency_ms=Limit(max=3.0))}, "latency.table"),
        ({"penalty": PenaltyOptions(target=CostTarget(latency_ms=3.0))}, "latency.table"),
        ({"penalty": WHOLE, "strategy": SnasOptions(sample_per="cell")}, "strategy.kind"),
        ({"penalty": WHOLE, "strategy": RandomSamplingOptions()}, "strategy.kind"),
        ({"penalty": WHOLE, "cuda_graph": True}, "cuda_graph"),
    ],
)
def test_search_options_are_checked_across_sections(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(OptionsError) as caught:
        SearchOptions(**changes)
    assert [fault for fault, _ in caught.value.faults] == [place]


@pytest.mark.parametrize("changes", [{"estimator": "reparam"}, {"estimator": "expected"}, {"reduction_ratio": 1.0}])
def test_black_box_cost_excludes_what_needs_a_sum(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match=f"{next(iter(changes))}.*child_latency"):
        replace(WHOLE, **changes)


def test_target_in_latency_counts_an_addition_of_each_node_more_than_the_child_has() -> None:
    table, space, generator = made_up_table(), genotype_space(TINY_NETWORK), seeded()
    limits = ChildLimits(Constraints(), TINY_SIZE, lambda genotype: table.child_ms(genotype, TINY_SIZE))
    cost = WholeCost.of(CostTarget(latency_ms=100.0), CostTable(TINY_SIZE, latency=table), limits, space)
    for code in (space.sample(generator) for _ in range(5)):
        genotype = space.decode(code)
        rows = torch.nn.functional.one_hot(torch.tensor(code), len(TINY_NETWORK.primitives)).chunk(2)
        more = sum(
            table.part_ms(sum_key(cell)) * len({edge.target for edge in genotype.edges(cell.cell_type)})
            for cell in plan_supernet(TINY_SIZE).cells
        )
        expected = cost.expected(dict(zip(CELL_TYPES, rows, strict=True)))
        assert expected == pytest.approx(cost.of_child(genotype) + more, rel=1e-6)  # float32 sums


# --- the differentiable cost


def plain_costs(log: bool) -> dict[str, torch.Tensor]:
    """Milliseconds of each edge, operation by operation, spelled out as loops."""
    table, plan = made_up_table(), plan_supernet(TINY_SIZE)
    costs: dict[str, list[list[list[float]]]] = {"normal": [], "reduce": []}
    for cell in plan.cells:
        rows = []
        for source, _ in cell_edges(TINY_NETWORK.nodes):
            (height, width), stride = cell.edge_geometry(source)
            out = -(-height // stride)
            row = []
            for name in TINY_NETWORK.primitives:
                key = f"{name} {cell.channels}x{height}x{width} stride {stride}"
                both = [key, f"sum {cell.channels}x{out}x{out}"]
                milliseconds = 0.0 if name == "none" else sum(table.parts[part].median_ms for part in both)
                row.append(math.log1p(milliseconds) if log else milliseconds)
            rows.append(row)
        costs[cell.cell_type].append(rows)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in costs.items()}


@pytest.mark.parametrize("log", [False, True])
def test_cost_table_charges_each_edge_its_milliseconds(log: bool) -> None:
    costs = CostTable(TINY_SIZE, dtype=torch.float64, latency=made_up_table())
    options = PenaltyOptions(cost="latency", log=log)
    one_hot = {name: torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 2, 3, 1])] for name in CELL_TYPES}
    shares = costs.edge_costs(options, one_hot)
    plain = plain_costs(log)
    for name in CELL_TYPES:
        expected = (plain[name] * one_hot[name]).sum(-1)
        torch.testing.assert_close(shares[name], expected, rtol=1e-12, atol=0)
    uniform = {name: torch.full((5, 4), 0.25, dtype=torch.float64) for name in CELL_TYPES}
    expected_total = sum(plain[name].sum() / 4 for name in CELL_TYPES)
    torch.testing.assert_close(costs.expected_penalty(options, uniform), expected_total, rtol=1e-12, atol=0)


def test_cost_table_without_times_has_three_kinds_as_before() -> None:
    costs = CostTable(TINY_SIZE)
    with pytest.raises(KeyError):
        costs.table("latency", "normal")
    assert costs.table("madds", "normal").shape == (1, 5, 4)


@pytest.mark.parametrize("estimator", ["reparam", "expected", "score_function"])
def test_latency_penalty_moves_alpha_by_every_estimator(table_file: Path, estimator: Any) -> None:
    options = tiny_options(
        epochs=1,
        latency=LatencyOptions(table=str(table_file)),
        penalty=PenaltyOptions(cost="latency", estimator=estimator, strength=1.0),
    )
    with_penalty, without = (
        Search(replace(options, penalty=replace(options.penalty, strength=eta)), images_of(), CPU) for eta in (1.0, 0.0)
    )
    report = next(iter(with_penalty))
    next(iter(without))
    assert report.train_penalty > 0
    moved, still = with_penalty.strategy.alpha(), without.strategy.alpha()
    assert any(not torch.equal(moved[name], still[name]) for name in CELL_TYPES)


# --- the black-box cost


def snas_with(penalty: PenaltyOptions, latency: Callable[[Genotype], float]) -> Snas:
    options = tiny_options(penalty=penalty)
    context = build_context(options, images_of(), CPU)
    return Snas(SnasOptions(), replace(context, child_latency=latency))


def one_step(snas: Snas) -> None:
    data = images_of()
    images, labels = next(iter(data.train.batches(32)))
    snas.step(images, labels, seeded())


@pytest.mark.parametrize("log", [False, True])
def test_black_box_cost_is_that_of_the_argmax_of_the_sample(log: bool) -> None:
    asked: list[Genotype] = []

    def latency(genotype: Genotype) -> float:
        asked.append(genotype)
        return 7.0

    snas = snas_with(replace(WHOLE, log=log), latency)
    z = {name: torch.eye(4)[torch.tensor([1, 0, 2, 3, 0])] * 0.6 + 0.1 for name in CELL_TYPES}
    log_z = {name: sample.log() for name, sample in z.items()}
    penalty, _ = snas._penalise(z, log_z)
    assert penalty.item() == pytest.approx(math.log(8) if log else 7.0, rel=1e-6)
    edges = (Edge("max_pool_3x3", 0, 2), Edge("skip_connect", 0, 3), Edge("dil_conv_3x3", 1, 3))
    assert asked == [Genotype(edges, (2, 3), edges, (2, 3))]


def test_black_box_gradient_is_the_score_of_all_edges_times_cost_above_baseline() -> None:
    """Written out: the second sample costs 5 more than the baseline of the first, on every edge alike."""
    costs = iter((10.0, 15.0))
    snas = snas_with(replace(WHOLE, log=False), lambda genotype: next(costs))
    torch.manual_seed(0)
    z = {name: torch.rand(5, 4, generator=seeded()).softmax(-1) for name in CELL_TYPES}
    log_z = {name: sample.log() for name, sample in z.items()}
    _, first = snas._penalise(z, log_z)
    assert first.item() == 0.0, "the first cost is its own baseline"
    _, surrogate = snas._penalise(z, log_z)
    gradients = torch.autograd.grad(surrogate, list(snas._alpha.values()))
    for (name, alpha), gradient in zip(snas._alpha.items(), gradients, strict=True):
        p, zs, lam = alpha.detach().softmax(-1), z[name], snas._settings.temperature
        # d log q / d log p_k = 1 - K p_k z_k^-lambda / sum_j p_j z_j^-lambda; and log p = log_softmax(alpha)
        by_log_p = 1 - 4 * (p * zs**-lam) / (p * zs**-lam).sum(-1, keepdim=True)
        expected = 5.0 * (by_log_p - p * by_log_p.sum(-1, keepdim=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_baseline_follows_the_cost_and_is_part_of_the_state() -> None:
    costs = iter((10.0, 20.0))
    snas = snas_with(replace(WHOLE, log=False), lambda genotype: next(costs))
    one_step(snas)
    one_step(snas)
    state = through_file(snas.state_dict())
    for name in CELL_TYPES:
        assert state["baselines"][name].tolist() == pytest.approx([11.0] * 5)


@pytest.mark.slow
def test_black_box_search_pushes_towards_faster_children(table_file: Path) -> None:
    options = tiny_options(
        epochs=6,
        latency=LatencyOptions(table=str(table_file)),
        penalty=replace(WHOLE, strength=1.0, log=False),
        alpha=replace(tiny_options().alpha, lr=0.3),
    )
    reports = list(Search(options, images_of(), CPU))
    free = list(Search(replace(options, penalty=replace(options.penalty, strength=0.0)), images_of(), CPU))
    assert reports[-1].child_latency_ms is not None
    assert free[-1].child_latency_ms is not None
    assert reports[-1].child_latency_ms < free[-1].child_latency_ms


def test_search_without_a_table_measures_each_child_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Genotype] = []

    def fake(genotype: Genotype, size: NetworkSize, timing: TimingOptions, device: Any) -> Timing:
        assert (size, str(device)) == (TINY_SIZE, "cpu")
        assert (timing.batch_size, timing.warmup, timing.repeats) == (3, 0, 1)
        asked.append(genotype)
        return Timing(median_ms=2.0, lower_ms=1.0, upper_ms=3.0)

    monkeypatch.setattr("search_core.cost.latency_measure.measure_child", fake)
    latency = LatencyOptions(batch_size=3, warmup=0, repeats=1)
    reports = list(Search(tiny_options(epochs=2, penalty=WHOLE, latency=latency), images_of(), CPU))
    assert 1 <= len(asked) <= 4, "one child a step, and two steps an epoch"
    assert len(set(asked)) == len(asked)
    assert reports[-1].child_latency_ms is None, "reported by a table only: measuring would make reports differ"
    assert reports[0].train_penalty == pytest.approx(WHOLE.strength * math.log(3), rel=1e-5)


def test_search_really_measures_a_child() -> None:
    latency = LatencyOptions(warmup=0, repeats=1)
    (report,) = Search(tiny_options(epochs=1, penalty=WHOLE, latency=latency), images_of(), CPU)
    assert report.train_penalty > 0


# --- limits, reports, resume


def test_report_has_the_predicted_latency_of_the_derived_child(table_file: Path) -> None:
    (report,) = Search(tiny_options(epochs=1, latency=LatencyOptions(table=str(table_file))), images_of(), CPU)
    expected = made_up_table().child_ms(report.genotype, TINY_SIZE)
    assert report.child_latency_ms == expected
    assert report.metrics()["child_latency_ms"] == expected
    assert set(report.to_dict()["metrics"]) == {*METRICS, "child_latency_ms", *FINAL_METRICS}


def test_report_without_a_table_is_as_before() -> None:
    (report,) = Search(tiny_options(epochs=1), images_of(), CPU)
    assert set(report.metrics()) == {*METRICS, *FINAL_METRICS}
    assert OPTIONAL_METRICS == ("child_latency_ms", "pruned_kl")


@pytest.mark.slow
def test_limit_on_latency_holds_for_strategies_that_choose(table_file: Path) -> None:
    table = made_up_table()
    fixed = table.child_ms(without_edges(), TINY_SIZE)
    times = sorted(table.child_ms(child, TINY_SIZE) for child in random_children(50))
    limit = times[10]
    options = tiny_options(
        epochs=1,
        strategy=RandomSamplingOptions(samples=4, held_out=0.5),
        batch_size=16,
        latency=LatencyOptions(table=str(table_file)),
        constraints=Constraints(latency_ms=Limit(max=limit)),
    )
    (report,) = Search(options, images_of(), CPU)
    assert report.child_latency_ms is not None
    assert report.child_latency_ms <= limit
    with pytest.raises(ConstraintsError, match="at most latency_ms"):
        Search(replace(options, constraints=Constraints(latency_ms=Limit(max=fixed / 2))), images_of(), CPU)


def test_state_belongs_to_the_content_of_the_table_wherever_it_lies(table_file: Path, tmp_path: Path) -> None:
    options = tiny_options(latency=LatencyOptions(table=str(table_file)))
    search = Search(options, images_of(), CPU)
    search.run_epoch()
    state = through_file(search.state_dict())
    moved = table_file.rename(tmp_path / "moved.json")
    again = Search(replace(options, latency=LatencyOptions(table=str(moved))), images_of(), CPU)
    again.load_state_dict(state)
    search.run_epoch()
    again.run_epoch()
    assert differences(search.state_dict(), again.state_dict()) == []
    slower = {key: replace(row, median_ms=row.median_ms + 1) for key, row in made_up_table().parts.items()}
    moved.write_text(replace(made_up_table(), parts=slower).to_json(), encoding="utf-8")
    other = Search(replace(options, latency=LatencyOptions(table=str(moved))), images_of(), CPU)
    with pytest.raises(StateError, match="they differ in latency"):
        other.load_state_dict(state)


def test_search_with_a_black_box_cost_by_table_resumes_bit_for_bit(table_file: Path) -> None:
    options = tiny_options(latency=LatencyOptions(table=str(table_file)), penalty=replace(WHOLE, strength=0.1))
    whole, first, second = (Search(options, images_of(), CPU) for _ in range(3))
    reports = list(whole)
    first.run_epoch()
    second.load_state_dict(through_file(first.state_dict()))
    rest = list(second)
    assert differences(whole.state_dict(), second.state_dict()) == []
    assert rest[-1].child_latency_ms == reports[-1].child_latency_ms


def test_published_cells_of_other_nodes_are_refused_by_name() -> None:
    with pytest.raises(LatencyError, match="got none for"):
        made_up_table().child_ms(PUBLISHED["SNAS_mild"], TINY_SIZE)


@pytest.mark.gpu
def test_table_and_child_are_measured_on_a_gpu() -> None:
    table = measure_table(TINY_SIZE, QUICK, "cuda")
    assert table.place.device == "cuda"
    compared = compare(table, TINY_SIZE, QUICK, "cuda", children=2)
    assert compared.comparison is not None
    assert min(compared.comparison.measured_ms) > 0
