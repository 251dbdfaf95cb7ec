"""Trainables driven by hand, as Ray's worker does it, without a cluster."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.jobs import ChildJob, JobReport
from orchestrator.study_file.sections import REPORT_METRICS
from orchestrator.worker.trainable import (
    EpochTrainable,
    RetrainTrainable,
    SearchTrainable,
    _cached_data,
    _freeze_imports,
)
from search_core.cost.constraints import Constraints, Limit
from search_core.cost.penalty_options import PenaltyOptions
from search_core.errors import DataError, GenotypeError, LatencyError, OptionsError, StateError
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.learning_curve import CurveStop
from search_core.strategies.multi_trial.options import RandomSearchOptions
from search_core.strategies.optimiser_options import ThetaOptions
from search_core.strategies.weight_sharing.ranked_draws_options import RandomSamplingOptions
from tests.orchestrator.tiny import retrain_job, search_job
from tests.search_core.test_errors import OUT_OF_GPU_MEMORY
from tests.search_core.tiny import TINY_DATASET, differences

#: Times differ from run to run.
CLOCKS = ("seconds", "images_per_s")


@pytest.fixture(autouse=True)
def worker_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray.get_gpu_ids` answers inside a cluster only; `test_study_integration.py` runs there."""
    monkeypatch.setattr("orchestrator.worker.trainable.ray.get_gpu_ids", list)


@pytest.fixture(autouse=True)
def checkpoints_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs name a folder below the working directory; each test has its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def nothing_stays_frozen() -> Iterator[None]:
    """A worker ends with its objects frozen; this process continues."""
    yield
    gc.unfreeze()
    _freeze_imports.cache_clear()


def search(**changes: Any) -> SearchTrainable:
    """A worker that has its job; it begins with the first step."""
    return SearchTrainable(config=search_job(**changes).to_config())


def begun(**changes: Any) -> SearchTrainable:
    """A worker that has built its search and read its checkpoint."""
    trainable = search(**changes)
    trainable.begin()
    return trainable


def retrain(**changes: Any) -> RetrainTrainable:
    return RetrainTrainable(config=retrain_job(seed=5, **changes).to_config())


def steps(trainable: EpochTrainable) -> Iterator[JobReport]:
    """All reports until the trainable says that it is done."""
    for _ in range(20):
        report = trainable.report()
        yield report
        if report.done:
            return
    raise AssertionError("a search of three epochs must end")


def records(trainable: EpochTrainable) -> list[dict[str, Any]]:
    """Records of all remaining epochs, without clock times."""
    found = [dict(report.record or {}) for report in steps(trainable)]
    for record in found:
        for clock in CLOCKS:
            record["metrics"].pop(clock, None)
    return found


def test_search_steps_epoch_by_epoch_until_done() -> None:
    reports = list(steps(search(epochs=3)))
    assert [report.done for report in reports] == [False, False, True]
    for epoch, report in enumerate(reports):
        result = report.to_result()
        assert report.record is not None
        assert result["epochs"] == report.record["epoch"] + 1 == epoch + 1
        assert result["child_val_error"] == report.record["metrics"]["child_val_error"]
        assert set(report.record) == {"epoch", "metrics", "genotype", "cells", "machine"}


def test_search_that_is_complete_sends_its_last_report_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot know whether the report arrived before its worker was killed, and says which machine computed it."""
    *_, last = steps(search(epochs=2))
    monkeypatch.setattr("orchestrator.worker.trainable.machine_facts", lambda device: {"cpu": "another"})
    again = search(epochs=2).report()
    assert again == last
    assert again.done


def test_loss_that_is_not_finite_ends_the_trial_with_the_reason() -> None:
    diverging = search(theta=ThetaOptions(lr=1e30))
    *_, last = steps(diverging)
    assert (last.done, last.record, last.fault) == (True, None, "failed")
    known = set(last.to_result())
    assert set(REPORT_METRICS) | {"epochs"} <= known, "Ray gives up on a result without the metric it follows"
    assert "the training loss must stay finite, got loss nan" in last.reason
    assert "a lower theta.lr" in last.reason


@pytest.mark.slow
def test_limits_that_no_genotype_keeps_end_the_trial_with_the_reason() -> None:
    limits = Constraints(params=Limit(max=1))
    (only,) = steps(search(strategy=RandomSamplingOptions(), constraints=limits, batch_size=8))
    assert only == JobReport(
        fault="failed", reason="no genotype in 10,000 draws keeps the constraints: at most params 1"
    )


def test_retrain_looks_at_the_test_split_after_the_last_epoch_only() -> None:
    first, last = (report.to_result() for report in steps(retrain()))
    assert "test_accuracy" not in first
    assert 0 <= last["test_accuracy"] <= 1
    assert (first["done"], last["done"]) == (False, True)
    assert last["params"] > 0


def test_retrain_continues_its_checkpoint_with_the_same_result() -> None:
    whole = records(retrain(checkpoints=Path("undisturbed")))
    retrain().step()
    assert records(retrain()) == whole


def test_search_continues_its_checkpoint_bit_by_bit() -> None:
    whole = records(search(epochs=3, checkpoints="undisturbed"))
    first = search(epochs=3)
    first.step()
    other = begun(epochs=3)
    assert differences(other.work.state_dict(), first.work.state_dict()) == []
    assert records(other) == whole, "the first report is sent again"


@pytest.mark.slow
def test_search_continues_the_newest_checkpoint() -> None:
    whole = records(search(epochs=3, checkpoints="undisturbed"))
    first = search(epochs=3)
    first.step()
    first.step()
    again = begun(epochs=3)
    assert again.work.epoch == 2
    assert records(again) == whole[1:]


@pytest.mark.slow
def test_damaged_checkpoint_falls_back_to_the_one_before() -> None:
    whole = records(search(epochs=3, checkpoints="undisturbed"))
    first = search(epochs=3)
    first.step()
    first.step()
    newest = CheckpointFolder(Path("0000")).files()[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = begun(epochs=3)
    assert again.work.epoch == 1
    assert records(again) == whole


@pytest.mark.slow
def test_search_begins_anew_if_all_checkpoints_are_damaged() -> None:
    whole = records(search(epochs=3, checkpoints="undisturbed"))
    search(epochs=3).step()
    for file in CheckpointFolder(Path("0000")).files():
        file.write_bytes(file.read_bytes()[:100])
    assert records(search(epochs=3)) == whole


# --- forks: the trunk ends early, trials resume from it

ETA = PenaltyOptions(strength=10.0)


def trunk() -> SearchTrainable:
    return SearchTrainable(config=replace(search_job("trunk", epochs=3), epochs=2).to_config())


def grown_trunk() -> list[dict[str, Any]]:
    """Records of the two shared epochs of three."""
    return records(trunk())


def fork(**changes: Any) -> SearchTrainable:
    job = replace(search_job(epochs=3, **changes), trunk=Path("trunk"), trunk_epochs=2)
    return SearchTrainable(config=job.to_config())


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.slow
def test_job_with_an_end_runs_no_epoch_beyond_it() -> None:
    whole = records(search(epochs=3, checkpoints="undisturbed"))
    assert grown_trunk() == whole[:2]
    assert CheckpointFolder(Path("trunk")).files()[0].name == "epoch-0002.pt"


def test_trunk_continues_its_checkpoint() -> None:
    trunk().step()
    assert len(grown_trunk()) == 2, "the first report is sent again"
    assert trunk().report().done


@pytest.mark.slow
def test_fork_resumes_from_the_trunk_as_one_search() -> None:
    whole = records(search(epochs=3, checkpoints="undisturbed"))
    grown_trunk()
    assert records(fork()) == whole[2:]
    other = records(fork(checkpoints="0001", penalty=ETA))
    assert [record["epoch"] for record in other] == [2]
    assert other[0]["metrics"]["eta"] == 10.0
    assert CheckpointFolder(Path("0001")).files()[0].name == "epoch-0003.pt"


def test_fork_resumes_from_its_own_checkpoint_once_it_has_one() -> None:
    grown_trunk()
    last = records(fork(penalty=ETA))
    for file in CheckpointFolder(Path("trunk")).files():
        damage(file)
    assert records(fork(penalty=ETA)) == last, "its last report is sent again, and the trunk not asked for"


def test_fork_whose_own_checkpoints_are_damaged_grows_again_from_the_trunk() -> None:
    grown_trunk()
    last = records(fork(penalty=ETA))
    damage(Path("0000/epoch-0003.pt"))
    assert records(fork(penalty=ETA)) == last


@pytest.mark.parametrize(
    ("damaged", "got"), [(["epoch-0002.pt"], "only that of 1"), (["epoch-0002.pt", "epoch-0001.pt"], "none")]
)
def test_fork_without_the_whole_trunk_is_an_error(damaged: list[str], got: str) -> None:
    """From an older checkpoint its own values would hold too early, in epochs that the journal has already."""
    grown_trunk()
    for name in damaged:
        damage(Path("trunk", name))
    with pytest.raises(StateError, match=f"trunk must have a whole checkpoint of 2 shared epochs, got {got}"):
        fork().begin()


def test_fork_that_differs_in_more_than_penalty_and_temperature_is_an_error() -> None:
    grown_trunk()
    with pytest.raises(StateError, match="seed"):
        fork(seed=9).begin()


def test_checkpoint_of_another_search_ends_the_trial_with_the_reason() -> None:
    """Beginning again in silence would mix two searches in one journal."""
    search(epochs=3, seed=9).step()
    report = search(epochs=3, seed=1).report()
    assert (report.done, report.fault) == (True, "refused")
    assert "they differ in seed" in report.reason


@pytest.mark.parametrize(
    "error",
    [
        DataError("a.png holds no image"),
        GenotypeError("no edge"),
        LatencyError("no table"),
        OptionsError((("batch_size", "must be at least 1, got 0"),)),
        ImportError("No module named 'torchvision'"),
        PermissionError(errno.EACCES, "Permission denied", "/data/a.png"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_permanent_error_ends_the_trial_with_the_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised, Ray would have the trial meet it again and again."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("orchestrator.worker.trainable.load_data", fail)
    _cached_data.cache_clear()
    report = search().report()
    assert (report.done, report.fault, report.kind) == (True, "refused", type(error).__name__)
    assert str(getattr(error, "filename", None) or error) in report.reason


def test_error_that_may_pass_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/data/a.png")

    monkeypatch.setattr("orchestrator.worker.trainable.load_data", fail)
    _cached_data.cache_clear()
    with pytest.raises(OSError, match="Input/output"):
        search().step()


def test_checkpoint_that_cannot_be_written_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = records(search(epochs=3, checkpoints="undisturbed"))
    monkeypatch.setattr("orchestrator.files.whole_file.os.fsync", full)
    reports = list(steps(search(epochs=3)))
    assert reports[0].checkpoint_fault == "the checkpoint of epoch 1 could not be written: No space left on device"
    assert [report.record["genotype"] for report in reports if report.record] == [kept["genotype"] for kept in whole]
    assert [path for path in Path("0000").iterdir() if path.suffix != ".sha256"] == [], "no torn file is left"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["setup", "step"])
def test_gpu_that_is_too_small_ends_the_launch_with_the_reason(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_big(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    target = "search_core.search.search.Supernet" if place == "setup" else "search_core.search.search.Search.run_epoch"
    with monkeypatch.context() as patch:
        patch.setattr(target, too_big)
        trainable = search(epochs=3)
        report = trainable.report()
    assert (report.done, report.record, report.fault, report.kind) == (True, None, "out_of_memory", "gpu")
    assert report.reason.startswith("CUDA out of memory")
    assert trainable.reset_config(search_job("0001", epochs=2).to_config()), "the process serves the next trial"
    assert len(records(trainable)) == 2


@pytest.mark.parametrize("error", OUT_OF_GPU_MEMORY, ids=str)
@pytest.mark.parametrize("place", ["run_epoch", "state_dict"])
def test_every_face_of_a_full_gpu_is_reported(place: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a state is copied for its checkpoint."""

    def full(*_: object) -> None:
        raise error

    trainable = search(epochs=1)
    trainable.begin()
    monkeypatch.setattr(trainable.work, "run_epoch", lambda: SimpleNamespace(to_dict=dict))
    monkeypatch.setattr(trainable.work, place, full)
    assert trainable.report() == JobReport(fault="out_of_memory", reason=str(error), kind="gpu")


def test_other_runtime_errors_are_not_taken_for_a_full_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    trainable = search(epochs=1)
    trainable.begin()
    monkeypatch.setattr(trainable.work, "run_epoch", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        trainable.report()


def test_collection_before_the_next_trial_is_quick() -> None:
    """What a process has imported is half a million objects: looking at them each time would take a quarter second."""
    search(epochs=1).reset_config(search_job("0001", epochs=1).to_config())
    assert gc.get_freeze_count() > 100_000


@pytest.mark.slow
def test_reset_serves_another_trial_as_a_fresh_process_would() -> None:
    fresh = records(search(epochs=2, seed=4, checkpoints="fresh"))
    used = search(epochs=3, seed=1)
    used.step()
    assert used.reset_config(search_job("0001", epochs=2, seed=4).to_config())
    assert records(used) == fresh
    wide = replace(TINY_DATASET, shape=(3, 8, 8))
    expected = records(search(dataset=wide, epochs=2, checkpoints="wide"))
    used.reset_config(search_job("0002", dataset=wide, epochs=2).to_config())
    assert records(used) == expected, "another data set is loaded"


def test_reset_continues_the_other_trials_checkpoint() -> None:
    whole = records(search(epochs=3, seed=4, checkpoints="undisturbed"))
    search(epochs=3, seed=4).step()
    used = search(epochs=3, seed=1, checkpoints="0001")
    used.step()
    used.reset_config(search_job("0000", epochs=3, seed=4).to_config())
    assert records(used) == whole


def test_device_is_the_gpu_that_ray_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = search()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert trainable.device == torch.device("cpu"), "a visible GPU may belong to another trial"
    monkeypatch.setattr("orchestrator.worker.trainable.ray.get_gpu_ids", lambda: ["0"])
    assert trainable.device == torch.device("cuda")


def child(order: ChildOrder, label: str, parent: str | None = None, **estimate: Any) -> SearchTrainable:
    """A worker that has the job of a child."""
    given = EstimateOptions(**{"epochs": 2, "held_out": 0.5, "batch_size": 16, "inherit": True, **estimate})
    alike = search_job(label, strategy=RandomSearchOptions(estimate=given))
    job = ChildJob(
        label=label,
        checkpoints=alike.checkpoints,
        epochs=given.epochs,
        options=alike.options,
        order=order,
        parent=None if parent is None else Path(parent),
    )
    return SearchTrainable(config=job.to_config())


ORDER = ChildOrder(number=0, code=(3,) * 10)
GROWN = ChildOrder(number=1, code=(3,) * 9 + (2,), parent=0, parent_code=(3,) * 10)


def test_child_ends_after_its_own_epochs_with_every_metric_that_tune_wants() -> None:
    first, last = (report.to_result() for report in steps(child(ORDER, "0000-0000")))
    assert (first["done"], last["done"]) == (False, True)
    assert set(REPORT_METRICS) < set(first)
    assert last["val_accuracy"] >= 0


def test_stopped_child_sends_its_end_again_after_a_fault() -> None:
    order, stop = replace(ORDER, best=2.0), CurveStop(kind="curve", margin=0.0)
    last = list(steps(child(order, "0000-0000", epochs=9, stop=stop)))[-1]
    assert last.record is not None
    assert last.record["epoch"] == 2
    assert last.record["stopped"].startswith("its curve would stay below")
    assert child(order, "0000-0000", epochs=9, stop=stop).report() == last
    assert last.done


def test_child_begins_with_the_weights_of_its_parent() -> None:
    parent = child(ORDER, "0000-0000")
    list(steps(parent))
    grown = child(GROWN, "0000-0001", parent="0000-0000")
    grown.begin()
    assert isinstance(grown.work, ChildTraining)
    assert isinstance(parent.work, ChildTraining)
    name = "classifier.linear.weight"
    assert torch.equal(grown.work.child.state_dict()[name], parent.work.child.state_dict()[name])


def test_child_whose_parent_has_no_checkpoint_fails_with_the_reason() -> None:
    """A study continues without it: its owner could not bring the checkpoint back."""
    report = child(GROWN, "0000-0001", parent="0000-0000").report()
    reason = "0000-0000 must have a whole checkpoint of the child's parent, got none"
    assert report == JobReport(fault="failed", reason=reason)
