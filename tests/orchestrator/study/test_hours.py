"""Reserved hours, from the seconds of the epochs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.driver.single import _whole
from orchestrator.files.journal import Journal
from orchestrator.jobs import Reservation
from orchestrator.study.hours import hours_of, reserved, with_hours
from tests.orchestrator.tiny import made_up_record, retrain_job


def test_hours_add_up_over_epochs_and_change_with_the_share(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "0000.jsonl")
    for epoch, cores in enumerate((1.0, 2.0)):
        journal.append_epoch(with_hours(made_up_record(epoch, seconds=1800.0), journal, gpus=0.0, cores=cores))
    assert [record["metrics"]["cpu_core_hours"] for record in journal.epochs] == [0.5, 1.5]
    assert "gpu_hours" not in journal.epochs[-1]["metrics"]


def test_share_with_a_gpu_counts_gpu_hours(tmp_path: Path) -> None:
    record = with_hours(made_up_record(0, seconds=3600.0), Journal(tmp_path / "0000.jsonl"), gpus=0.25, cores=4.0)
    assert hours_of(record["metrics"]) == ("gpu_hours", 0.25)
    assert "cpu_core_hours" not in record["metrics"]


def test_hours_are_left_out_where_those_before_are_not_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "0000.jsonl")
    journal.append_epoch(made_up_record(0, seconds=1.0))  # of an earlier release
    record = with_hours(made_up_record(1, seconds=1.0), journal, gpus=0.0, cores=1.0)
    assert hours_of(record["metrics"]) is None


@pytest.mark.parametrize(
    ("workers", "gpu", "expected"),
    [(1, 0.25, {"gpus": 0.25, "cores": 2.0}), (4, 0.25, {"gpus": 4.0, "cores": 8.0}), (2, 0, {"gpus": 0, "cores": 4})],
)
def test_group_of_workers_reserves_whole_gpus(workers: int, gpu: float, expected: dict[str, float]) -> None:
    assert reserved(retrain_job(workers=workers, reservation=Reservation(2.0, gpu, None))) == expected


def test_report_itself_is_not_changed(tmp_path: Path) -> None:
    record = made_up_record(0, seconds=1.0)
    with_hours(record, Journal(tmp_path / "0000.jsonl"), gpus=0.0, cores=1.0)
    assert record["metrics"] == {"seconds": 1.0}


def test_single_search_on_the_cpu_reserves_the_cores_of_torch() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert _whole(torch.device("cpu")) == {"gpus": 0.0, "cores": 3.0}
        assert _whole(torch.device("cuda"))["gpus"] == 1.0
    finally:
        torch.set_num_threads(before)
