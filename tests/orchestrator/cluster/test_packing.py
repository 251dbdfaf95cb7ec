"""How many searches share a node: the maths on made-up figures, the measurement on a real Ray cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cluster import packing
from orchestrator.cluster.connection import Node, cluster, nodes
from orchestrator.cluster.memory_trial import Measured, measure_on
from orchestrator.cluster.pace_trial import Subject, measure_paces
from orchestrator.cluster.packing import (
    cap_by_cpus,
    find_reservation,
    gpu_fraction,
    grown,
    hardest_settings,
    memory_to_reserve_gb,
    pack,
    retrain_reservation,
)
from orchestrator.cluster.plan import plan_searches
from orchestrator.errors import OrchestratorError
from orchestrator.jobs import Reservation
from orchestrator.study_file.spec import StudySpec
from tests.orchestrator.tiny import RETRAIN, SEARCH, tiny_spec


def node(id: str, resources: dict[str, float]) -> Node:
    return Node(id=id, ip="10.0.0.1", hostname="one", resources=resources, is_head=False)


H200 = node("a", {"CPU": 16, "GPU": 1, "memory": 100e9, "accelerator_type:H200": 1})
L4 = node("b", {"CPU": 32, "GPU": 4, "memory": 60e9, "accelerator_type:L4": 1})
PLAIN = node("c", {"CPU": 64, "memory": 200e9})


def measured(gpu_type: str, gpu_bytes: float, total_bytes: float, host_bytes: float = 2e9) -> Measured:
    return Measured(
        gpu_type=gpu_type,
        host_bytes=int(host_bytes),
        gpu_bytes=int(gpu_bytes),
        gpu_total_bytes=int(total_bytes),
    )


def auto_spec(**resources: Any) -> StudySpec:
    return tiny_spec(resources=resources)


def test_as_many_searches_share_a_gpu_as_nine_tenths_of_its_memory_hold() -> None:
    nodes = [replace(H200, resources={**H200.resources, "CPU": 100.0})]
    assert pack([measured("H200", 3.1e9, 139e9)], nodes, 1.0) == (
        40,
        "one search peaks at 3.1 GB on H200 (139 GB): 40 share a GPU",
    )
    assert pack([measured("H200", 45e9, 100e9)], nodes, 1.0)[0] == 2, "two fill just nine tenths"
    assert pack([measured("H200", 45.1e9, 100e9)], nodes, 1.0)[0] == 1


def test_no_more_share_a_gpu_than_it_has_cpus_for() -> None:
    assert pack([measured("H200", 3.1e9, 139e9)], [H200], 1.0) == (
        16,
        "one search peaks at 3.1 GB on H200 (139 GB): 40 share a GPU, limited to 16 by its CPUs",
    )
    assert pack([measured("H200", 3.1e9, 139e9)], [H200], 0.5)[0] == 32
    assert pack([measured("H200", 3.1e9, 139e9)], [H200], 32.0)[0] == 1, "never none"
    assert cap_by_cpus([replace(L4, resources={**L4.resources, "CPU": 8.0}), L4, H200, PLAIN], "L4", 1.0) == 2, (
        "the poorest node counts"
    )


def test_search_that_fills_a_gpu_has_it_alone() -> None:
    count, text = pack([measured("H200", 130e9, 139e9)], [H200], 1.0)
    assert (count, text) == (1, "one search peaks at 130.0 GB on H200 (139 GB): it takes a whole GPU")


def test_gpu_types_share_the_smallest_number() -> None:
    figures = [measured("H200", 3.1e9, 139e9), measured("L4", 2.9e9, 24e9)]
    assert pack(figures, [H200, L4], 1.0) == (
        7,
        "one search peaks at 3.1 GB on H200 (139 GB): 40 share a GPU, limited to 16 by its CPUs; "
        "one search peaks at 2.9 GB on L4 (24 GB): 7 share a GPU; so 7 share a GPU of any type",
    )


@pytest.mark.parametrize("per_gpu", range(1, 101))
def test_fractions_fit_in_rays_steps_and_leave_no_room_for_one_more(per_gpu: int) -> None:
    steps = round(gpu_fraction(per_gpu) * 10_000)
    assert per_gpu * steps <= 10_000 < (per_gpu + 1) * steps


def test_reserved_memory_has_a_margin_and_is_rounded_up() -> None:
    assert memory_to_reserve_gb(1_000_000_000) == 1.3
    assert memory_to_reserve_gb(1_000_000_001) == 1.4


def test_numbers_of_the_study_file_need_no_cluster() -> None:
    reservation = find_reservation(auto_spec(cpu=2, gpu=0.5, memory_gb=3))
    assert (reservation, reservation.explanation) == (Reservation(2.0, 0.5, 3.0), "as the study file says")


def test_retraining_has_a_gpu_of_its_own_where_searches_are_measured() -> None:
    assert retrain_reservation(auto_spec(cpu=2, gpu="auto", memory_gb="auto")) == Reservation(2.0, 1.0, None)
    assert retrain_reservation(auto_spec(gpu=0.5, memory_gb="auto")) == Reservation(1.0, 0.5, None)
    assert retrain_reservation(auto_spec(gpu=0.5, memory_gb=3)).explanation == "as the study file says"


@pytest.mark.parametrize(("wanted", "taken"), [(0.25, 1.0), (2, 1.0), (0, 0.0), ("auto", 1.0)])
def test_worker_of_a_group_has_a_gpu_of_its_own(wanted: float | str, taken: float) -> None:
    spec = tiny_spec(resources={"gpu": wanted}, retrain={**RETRAIN, "workers": 2})
    assert retrain_reservation(spec) == Reservation(1.0, taken, None)
    assert not taken or grown(retrain_reservation(spec), "gpu", [H200]) is None, "there is no more to take"


@pytest.mark.parametrize(
    ("before", "after"), [(1 / 16, 8), (gpu_fraction(7), 3), (gpu_fraction(3), 1), (0.5, 1), (0.6, 1)]
)
def test_trial_out_of_gpu_memory_gets_half_as_many_neighbours(before: float, after: int) -> None:
    reservation = grown(Reservation(1.0, before, 2.0), "gpu", [H200])
    assert reservation == Reservation(1.0, gpu_fraction(after), 2.0)


@pytest.mark.parametrize("gpu", [0.0, 1.0, 2.0])
def test_trial_out_of_gpu_memory_on_a_whole_gpu_cannot_grow(gpu: float) -> None:
    assert grown(Reservation(1.0, gpu, None), "gpu", [H200, PLAIN]) is None


def test_growth_ends_within_a_few_tries() -> None:
    reservations = [Reservation(1.0, 1 / 40, None)]
    while (following := grown(reservations[-1], "gpu", [H200])) is not None:
        reservations.append(following)
    assert [reservation.gpu for reservation in reservations] == [0.025, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert reservations[1].explanation == "as one of 20 on its GPU, as it ran out of GPU memory"
    assert reservations[-1].explanation == "alone on its GPU, as it ran out of GPU memory"


def test_trial_out_of_memory_gets_twice_as_much_up_to_the_largest_node_that_can_hold_it() -> None:
    nodes = [H200, L4, PLAIN]
    first = grown(Reservation(1.0, 0.0, 60.0), "host", nodes)
    assert first == Reservation(1.0, 0.0, 120.0)
    assert first.explanation == "with 120 GB of memory in place of 60, as it ran out of memory"
    assert grown(first, "host", nodes) == Reservation(1.0, 0.0, 200.0)
    assert grown(Reservation(1.0, 0.0, 200.0), "host", nodes) is None
    assert grown(Reservation(1.0, 0.5, 60.0), "host", nodes) == Reservation(1.0, 0.5, 100.0), "the node must have a GPU"
    assert grown(Reservation(20.0, 0.5, 60.0), "host", nodes) is None
    assert grown(Reservation(99.0, 0.0, 1.0), "host", nodes) is None, "no node has 99 CPUs"


@pytest.mark.parametrize(("workers", "most"), [(1, 200.0), (2, 100.0), (3, 100.0), (4, 66.6), (5, 60.0), (6, 50.0)])
def test_workers_of_a_group_get_what_all_of_them_can_have(workers: int, most: float) -> None:
    nodes = [H200, L4, PLAIN]  # of 100, 60 and 200 GB
    assert grown(Reservation(1.0, 0.0, 190.0), "host", nodes, workers) == (
        Reservation(1.0, 0.0, 200.0) if workers == 1 else None
    )
    assert grown(Reservation(1.0, 0.0, most - 0.5), "host", nodes, workers) == Reservation(1.0, 0.0, most)
    assert grown(Reservation(1.0, 0.0, most), "host", nodes, workers) is None
    assert grown(Reservation(1.0, 1.0, 10.0), "host", nodes, 2) == Reservation(1.0, 1.0, 20.0)
    assert grown(Reservation(1.0, 1.0, 10.0), "host", [H200], 2) is None, "one GPU, two workers"


def test_trial_out_of_memory_without_a_reservation_gets_half_of_a_node() -> None:
    reservation = grown(Reservation(1.0, 0.0, None), "host", [PLAIN])
    assert reservation == Reservation(1.0, 0.0, 100.0)
    assert reservation.explanation == "with 100 GB of memory in place of none reserved, as it ran out of memory"


def sizes(**sweep: Any) -> list[tuple[int, int, int]]:
    spec = tiny_spec(sweep=sweep, search={**SEARCH, "precision": "bfloat16"}, resources={"gpu": "auto"})
    return sorted(
        (found.network.cells, found.network.init_channels, found.batch_size)
        for found in hardest_settings(spec.search, spec.sweep)
    )


def test_largest_corner_of_the_sweep_is_measured() -> None:
    strength = {"log_uniform": [1e-4, 1e-2]}
    cells, channels = {"int": [2, 5]}, {"choice": [8, 2]}
    assert sizes(**{"penalty.strength": strength}) == [(3, 4, 32)], "nothing that matters is swept"
    assert sizes(**{"penalty.strength": strength, "network.init_channels": channels}) == [(3, 8, 32)]
    both = {"network.cells": cells, "network.init_channels": channels, "batch_size": {"choice": [16, 64]}}
    assert sizes(**both) == [(5, 8, 64)]


def test_corner_that_a_condition_leaves_out_is_not_measured() -> None:
    when = {"temperature.kind": "linear", "network.init_channels": 2}
    sweep = {
        "temperature.kind": {"choice": ["linear", "cosine"]},
        "network.init_channels": {"choice": [2, 8]},
        "batch_size": {"choice": [64], "when": when},
    }
    assert sizes(**sweep) == [(3, 8, 32)]


def test_corners_that_keep_a_step_in_other_ways_are_measured_each() -> None:
    sweep = {"precision": {"choice": ["float32", "bfloat16"]}, "network.init_channels": {"choice": [2, 8]}}
    assert sizes(**sweep) == [(3, 8, 32), (3, 8, 32)]


def test_auto_share_takes_the_largest_figures_of_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(nodes: list[Node], settings: object, cpu: float) -> list[Measured]:
        asked.extend(node.id for node in nodes)
        return [measured("H200", 3.1e9, 139e9, host_bytes=2e9), measured("L4", 2.9e9, 24e9, host_bytes=2.5e9)]

    asked: list[str] = []
    monkeypatch.setattr(packing, "nodes", lambda: [PLAIN, H200, replace(H200, id="z"), L4])
    monkeypatch.setattr(packing, "measure_on", measure)
    reservation = find_reservation(auto_spec(gpu="auto", memory_gb="auto"))
    assert reservation == Reservation(1.0, gpu_fraction(7), 3.3)
    assert reservation.explanation.endswith("its process takes 2.5 GB of memory: 3.3 GB are reserved")
    assert sorted(asked) == ["a", "b"], "one node of each GPU type"


@pytest.fixture(scope="module")
def this_machine() -> Any:
    with cluster(None):
        yield


@pytest.mark.integration
@pytest.mark.slow
def test_memory_of_a_search_is_measured_on_the_cluster(this_machine: None) -> None:
    reservation = find_reservation(auto_spec(cpu=0.5, memory_gb="auto"))
    assert (reservation.cpu, reservation.gpu) == (0.5, 0.0)
    assert reservation.memory_gb is not None
    assert 0.3 < reservation.memory_gb < 3.0, "torch and Ray take hundreds of MB, the search next to nothing"
    assert reservation.explanation.startswith("its process takes ")
    (node,) = nodes()
    assert reservation.memory_gb < node.memory_gb


@pytest.mark.integration
@pytest.mark.slow
def test_auto_gpu_on_a_cluster_without_one_is_a_clear_error(this_machine: None) -> None:
    if any(node.gpu for node in nodes()):
        pytest.skip("this machine has a GPU")
    with pytest.raises(OrchestratorError, match=r"needs 1 cpu and a GPU; the nodes have: [\d.]+ cpu and 0 gpu"):
        find_reservation(auto_spec(gpu="auto"))


@pytest.mark.integration
@pytest.mark.slow
def test_search_that_cannot_run_ends_the_measurement_with_its_reason(this_machine: None) -> None:
    too_large = replace(tiny_spec().search, batch_size=100_000)
    with pytest.raises(OrchestratorError, match="must fit on the CPU alone, got: `batch_size` must be at most"):
        measure_on(nodes(), [too_large], cpu=0.5)


@pytest.mark.integration
@pytest.mark.slow
def test_search_that_cannot_run_has_no_plan(this_machine: None) -> None:
    spec = tiny_spec()
    too_large = Subject(options=replace(spec.search, batch_size=100_000))
    with pytest.raises(OrchestratorError, match=r"must run on the CPU, got: .*`batch_size` must be at most"):
        measure_paces([too_large], nodes(), Reservation(0.5, 0.0, None), 1)
    with pytest.raises(OrchestratorError, match="`resources` must fit on one node"):
        plan_searches(spec, Reservation(999.0, 0.0, None), print)


@pytest.mark.gpu
@pytest.mark.integration
@pytest.mark.slow
def test_searches_are_packed_on_a_real_gpu(this_machine: None) -> None:
    reservation = find_reservation(auto_spec(cpu=0.01, gpu="auto"))
    assert 0 < reservation.gpu < 0.2, "a tiny search leaves room for others"
    assert "share a GPU" in reservation.explanation
