"""`snas latency measure`, and what studies do with its table. No test looks at how fast this machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.cluster.connection import Node
from orchestrator.cluster.latency import LatencyRequest, file_stem, measure_on_device
from orchestrator.cluster.node_check import NodeTask
from orchestrator.cluster.preflight import Needs, _judge_table
from orchestrator.driver.start import run_study
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.loading import load_search, parse_study
from orchestrator.tracking.run_spec import logged_metrics
from orchestrator.worker.trainable import SearchTrainable
from search_core.cost.latency_measure import TimingOptions
from search_core.cost.latency_table import LatencyTable, Place, load_table
from search_core.errors import LatencyError
from tests.orchestrator.cli.test_cli import refused, written
from tests.orchestrator.tiny import SEARCH, Outcome, search_job, snas, study_data, tiny_spec
from tests.search_core.cost.test_latency_table import made_up_table
from tests.search_core.test_errors import OUT_OF_GPU_MEMORY
from tests.search_core.tiny import TINY_SIZE

WITH_LATENCY = [{"metric": "child_val_error", "mode": "min"}, {"metric": "child_latency_ms", "mode": "min"}]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return written(tmp_path / "study.yaml", study_data())


@pytest.fixture
def measured(study_file: Path) -> Callable[..., Outcome]:
    def run(*words: object) -> Outcome:
        return snas("latency", "measure", "--config", study_file, "--repeats", 2, "--children", 4, *words)

    return run


def with_table(file: Path, **search: Any) -> dict[str, Any]:
    return {**SEARCH, "latency": {"table": str(file)}, **search}


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    file = tmp_path / "table.json"
    file.write_text(made_up_table().to_json(), encoding="utf-8")
    return file


# --- the command


def test_table_of_this_cpu_fits_the_study_and_says_how_well_it_predicts(
    measured: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = measured("--device", "cpu", "--batch", 3, "--threads", 1, "--output", "tables/t.json", "--json")
    assert outcome.code == 0, outcome.said
    (listed,) = json.loads(outcome.out)["tables"]
    table = load_table(tmp_path / "tables" / "t.json")
    assert (listed["file"], listed["digest"]) == ("tables/t.json", table.digest)
    assert (table.batch_size, table.dtype, table.place.threads) == (3, "float32", 1)
    assert LatencyTable.from_dict(listed) == table
    table.require_network(TINY_SIZE)
    assert table.comparison is not None
    assert len(table.comparison.predicted_ms) == len(table.comparison.measured_ms) == 4
    ratios = sorted(table.comparison.ratios)
    assert listed["summary"]["median_ratio"] == pytest.approx((ratios[1] + ratios[2]) / 2)
    assert listed["summary"]["worst_error"] == pytest.approx(max(1 - ratios[0], ratios[-1] - 1))
    assert -1 <= listed["summary"]["rank_correlation"] <= 1
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["t.json"], "and no draft"


def test_file_with_the_settings_of_a_search_will_do_and_the_table_is_printed(tmp_path: Path) -> None:
    file = written(tmp_path / "search.yaml", SEARCH)
    before = torch.get_num_threads()
    outcome = snas("latency", "measure", "--config", file, "--device", "cpu", "--repeats", 1, "--children", 3)
    assert outcome.code == 0, outcome.said
    assert torch.get_num_threads() == before
    stem = file_stem(Place.of(torch.device("cpu")))
    for words in ("cifar stem 1x8x8 to 12", "dil_conv_3x3 16x2x2 stride 1", "3 random children", "median ratio", stem):
        assert words in outcome.said, outcome.said
    assert (tmp_path / f"{stem}.json").is_file()


def test_table_that_is_there_is_not_replaced(measured: Callable[..., Outcome], table_file: Path) -> None:
    before = table_file.read_text()
    refused(measured("--device", "cpu", "--output", table_file), "exists, and studies may use it", "--output")
    assert table_file.read_text() == before


def test_nothing_half_written_is_left(
    measured: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    refused(measured("--device", "cpu", "--output", "t.json"), "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--children", 1], "--children"),
        (["--threads", 0], "--threads"),
        (["--repeats", 0], "`repeats` must be at least 1, got 0"),
        (["--batch", 0], "`batch_size` must be at least 1, got 0"),
        (["--dtype", "int8"], "--dtype"),
        (["--device", "tpu"], "must be `cluster` or a device of this machine (cpu"),
        (["--device", "cluster"], "cluster and --address go together"),
        (["--device", "cpu", "--address", "auto"], "cluster and --address go together"),
        (["--set", "network.nodez=3"], "unknown key `nodez`"),
    ],
)
def test_bad_input_is_refused(measured: Callable[..., Outcome], words: list[object], said: str) -> None:
    refused(measured(*words), said.split(" (")[0])


@pytest.mark.parametrize("error", OUT_OF_GPU_MEMORY[:3], ids=str)
def test_space_that_a_gpu_cannot_hold_is_refused(
    error: Exception, measured: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("orchestrator.cluster.latency.measure_on_device", full)
    refused(measured("--device", "cpu"), "the search space must run on the device in float32, got: CUDA")


def test_help_has_an_example() -> None:
    assert "Example: snas latency measure --config" in snas("latency", "measure", "--help").said.replace("`", "")


# --- the cluster


def test_one_table_for_each_type_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of one CPU and one of another; Ray itself is stood in for."""
    from orchestrator.cluster import latency

    nodes = [
        Node(
            id=f"{place}",
            ip=f"10.0.0.{place}",
            hostname="h",
            resources={"CPU": 2.0} if place else {},
            is_head=not place,
        )
        for place in range(4)
    ]
    names = {"1": "slow", "2": "fast", "3": "slow"}
    asked: list[tuple[str, float, int | None]] = []

    class Task:
        def __init__(self, function: Any, node: Node, cpu: float, gpu: float) -> None:
            self.function, self.node, self.cpu = function, node, cpu

        def remote(self, argument: Any) -> Any:
            if self.function is latency._name_of:
                return names[self.node.id]
            asked.append((self.node.id, self.cpu, argument["threads"]))
            place = Place(device="cpu", name=names[self.node.id], torch_version="2", threads=argument["threads"])
            return LatencyTable(place=place, dtype="float32", batch_size=1, parts={}).to_dict()

    monkeypatch.setattr(latency, "nodes", lambda: nodes)
    monkeypatch.setattr(latency, "_task", Task)
    monkeypatch.setattr(latency.ray, "get", lambda answer, timeout: answer)
    request = LatencyRequest(size=TINY_SIZE, timing=TimingOptions(), children=2)
    tables = latency.measure_on_cluster(request)
    assert sorted(asked) == [("1", 2.0, 2), ("2", 2.0, 2)]
    assert [table.place.name for table in tables] == ["fast", "slow"]
    with pytest.raises(OrchestratorError, match="--threads must be at most 2, the cores of"):
        latency.measure_on_cluster(LatencyRequest(**{**vars(request), "threads": 3}))


@pytest.mark.integration
@pytest.mark.slow
def test_node_of_a_real_cluster_measures_its_own_table(measured: Callable[..., Outcome]) -> None:
    from orchestrator.cluster.connection import cluster
    from orchestrator.cluster.latency import measure_on_cluster

    request = LatencyRequest(
        size=TINY_SIZE,
        timing=TimingOptions(warmup=0, repeats=1),
        children=2,
        threads=1,
    )
    with cluster(None):
        (table,) = measure_on_cluster(request)
    assert table.place == measure_on_device(request, torch.device("cpu")).place


def test_preflight_asks_every_node_for_the_drivers_table(table_file: Path, tmp_path: Path) -> None:
    spec = tiny_spec(search=with_table(table_file))
    needs = Needs.of(spec, Runs(tmp_path / "runs"), "digest")
    assert needs.latency_table == str(table_file)
    found = NodeTask(node="0", latency_table=str(table_file)).run()
    assert [(finding.name, finding.ok) for finding in found] == [("versions", True), ("latency table", True)]
    assert _judge_table(found[1].detail, needs) == (True, f"digest {made_up_table().digest[:12]}")
    ok, listed = _judge_table("0" * 64, needs)
    assert not ok
    assert "must have the driver's latency table" in listed
    table_file.unlink()
    (_, gone) = NodeTask(node="0", latency_table=str(table_file)).run()
    assert not gone.ok
    assert "table.json must be readable, got: No such file" in gone.detail


# --- studies


def test_path_of_the_table_is_absolute_in_a_study(table_file: Path) -> None:
    spec = tiny_spec(search=with_table(Path(table_file.name)))
    assert spec.search.latency.table == str(table_file)
    assert parse_study(spec.resolved()) == spec


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"search": {**SEARCH, "penalty": {"cost": "latency"}}},
            "latency.table: must be given for `penalty.cost latency`",
        ),
        (
            {"search": {**SEARCH, "constraints": {"latency_ms": {"max": 3.0}}}},
            "latency.table: must be given for `constraints.latency_ms`",
        ),
        (
            {"search": {**SEARCH, "penalty": {"cost": "child_latency"}}},
            "penalty.estimator: must be score_function for cost child_latency",
        ),
        ({"objectives": WITH_LATENCY}, "objectives: must not follow child_latency_ms without `search.latency.table`"),
        (
            {"scheduler": {"kind": "asha", "metric": "child_latency_ms", "mode": "min"}},
            "scheduler.metric: must not follow child_latency_ms without `search.latency.table`",
        ),
    ],
)
def test_study_without_a_table_must_not_need_one(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(study_data(**changes))
    assert said in str(caught.value).replace("`latency.table`:", "latency.table:")


def test_study_with_a_table_may_follow_latency(table_file: Path) -> None:
    spec = tiny_spec(search=with_table(table_file, constraints={"latency_ms": {"max": 3.0}}), objectives=WITH_LATENCY)
    assert spec.search.constraints.maxima == {"latency_ms": 3.0}
    assert "child_latency_ms" in logged_metrics()
    swept = {"penalty.cost": {"choice": ["madds", "latency"]}}
    assert tiny_spec(search=with_table(table_file), sweep=swept).sweep


def test_study_whose_table_lacks_a_part_is_refused_before_it_begins(table_file: Path, tmp_path: Path) -> None:
    wider = {**SEARCH["network"], "init_channels": 8}
    study = Study(tiny_spec(search=with_table(table_file, network=wider)), Runs(tmp_path / "runs"))
    with pytest.raises(LatencyError, match="got none for `cifar stem 1x8x8 to 24`"):
        run_study(study)
    assert not (tmp_path / "runs").exists()


def test_trial_reports_the_latency_of_its_child_and_ends_with_every_metric(
    table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.worker.trainable.ray.get_gpu_ids", list)  # outside a cluster it would start one
    options = load_search(written(tmp_path / "search.yaml", with_table(table_file)))
    job = search_job(latency=options.latency, checkpoints=str(tmp_path / "checkpoints"))
    trial = SearchTrainable(job.to_config())
    assert trial.train()["child_latency_ms"] > 0
    table_file.unlink()
    broken = SearchTrainable(replace(job, checkpoints=tmp_path / "others").to_config())
    last = broken.train()
    assert "must be readable" in last["report"].reason
    assert "child_latency_ms" in last
