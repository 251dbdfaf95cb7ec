"""Trainables driven by hand, as Ray's worker does it, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config import REPORT_METRICS
from orchestrator.runs import CHECKPOINT_FILE
from orchestrator.trainable import EpochTrainable, RetrainTrainable, SearchTrainable, from_plain, load_state
from search_core.retrain import RetrainOptions
from search_core.search import SearchOptions
from search_core.strategies.optimisers import ThetaOptions
from tests.orchestrator.tiny import cell_of, search_job
from tests.search_core.tiny import TINY_DATASET, differences, tiny_options

#: Times differ from run to run.
CLOCKS = ("seconds", "images_per_s")


@pytest.fixture(autouse=True)
def worker_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray.get_gpu_ids` answers inside a cluster only; `test_study_integration.py` runs there."""
    monkeypatch.setattr("orchestrator.trainable.ray.get_gpu_ids", list)


def search(**changes: Any) -> SearchTrainable:
    return SearchTrainable(config={"job": search_job(**changes)})


def retrain_job(**changes: Any) -> dict[str, Any]:
    options = RetrainOptions(epochs=2, batch_size=32, cells=3, init_channels=4, drop_path=0.1)
    job = {"label": "0000-seed5", "trial": 0, "genotype": cell_of("sep_conv_3x3").to_dict(), "options": asdict(options)}
    return {**job, "dataset": asdict(TINY_DATASET), "seed": 5, "recorded": 0, "checkpoints": [], **changes}


def saved(trainable: EpochTrainable, folder: Path) -> str:
    """Checkpoint file of a trainable."""
    folder.mkdir()
    trainable.save_checkpoint(str(folder))
    return str(folder / CHECKPOINT_FILE)


def steps(trainable: EpochTrainable) -> Iterator[dict[str, Any]]:
    """All results until the trainable says that it is done."""
    for _ in range(20):
        result = trainable.step()
        yield result
        if result["done"]:
            return
    raise AssertionError("a search of three epochs must end")


def records(trainable: EpochTrainable) -> list[dict[str, Any]]:
    """Records of all remaining epochs, without clock times."""
    found = [result["record"] for result in steps(trainable)]
    for record in found:
        for clock in CLOCKS:
            record["metrics"].pop(clock, None)
    return found


def test_search_steps_epoch_by_epoch_until_done() -> None:
    results = list(steps(search(epochs=3)))
    assert [result["done"] for result in results] == [False, False, True]
    assert [result["epochs"] for result in results] == [1, 2, 3]
    assert [result["record"]["epoch"] for result in results] == [0, 1, 2]
    for result in results:
        assert result["child_val_error"] == result["record"]["metrics"]["child_val_error"]
        assert set(result["record"]) == {"epoch", "metrics", "genotype", "cells"}


def test_search_that_is_complete_has_nothing_to_record(tmp_path: Path) -> None:
    first = search(epochs=2)
    assert len(records(first)) == 2
    last = saved(first, tmp_path / "last")
    again = search(epochs=2, recorded=2, checkpoints=[last])
    result = again.step()
    assert (result["done"], result["epochs"]) == (True, 2)
    assert not {"record", "failure"} & set(result)


def test_loss_that_is_not_finite_ends_the_trial_with_the_reason() -> None:
    diverging = search(theta=ThetaOptions(lr=1e30))
    *_, last = steps(diverging)
    assert last["done"] is True
    assert "record" not in last
    assert set(REPORT_METRICS) | {"epochs"} <= set(last), "Ray gives up on a result without the metric it follows"
    assert "the training loss must stay finite, got loss nan" in last["failure"]
    assert "a lower theta.lr" in last["failure"]


def test_retrain_looks_at_the_test_split_after_the_last_epoch_only() -> None:
    first, last = steps(RetrainTrainable(config={"job": retrain_job()}))
    assert "test_accuracy" not in first["record"]["metrics"]
    assert "test_accuracy" not in first
    assert 0 <= last["record"]["metrics"]["test_accuracy"] <= 1
    assert (first["done"], last["done"]) == (False, True)
    assert last["record"]["metrics"]["params"] > 0


def test_retrain_continues_its_checkpoint_with_the_same_result(tmp_path: Path) -> None:
    whole = records(RetrainTrainable(config={"job": retrain_job()}))
    first = RetrainTrainable(config={"job": retrain_job()})
    first.step()
    file = saved(first, tmp_path / "0")
    again = RetrainTrainable(config={"job": retrain_job(recorded=1, checkpoints=[file])})
    assert records(again) == whole[1:]


def test_checkpoint_round_trip_is_bit_identical(tmp_path: Path) -> None:
    whole = records(search(epochs=3))
    first = search(epochs=3)
    first.step()
    saved(first, tmp_path / "0")
    other = search(epochs=3)
    other.load_checkpoint(str(tmp_path / "0"))  # Ray gives the folder
    assert differences(other.work.state_dict(), first.work.state_dict()) == []
    assert records(other) == whole[1:]
    assert records(first) == whole[1:]


def test_job_continues_the_newest_checkpoint(tmp_path: Path) -> None:
    whole = records(search(epochs=3))
    first, files = search(epochs=3), []
    for epoch in range(2):
        first.step()
        files.insert(0, saved(first, tmp_path / str(epoch)))
    again = search(epochs=3, recorded=2, checkpoints=files)
    assert again.work.epoch == 2
    assert records(again) == whole[2:]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99], ids=["empty", "10 %", "50 %", "99 %"])
def test_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path, share: float) -> None:
    whole = records(search(epochs=3))
    first = search(epochs=3)
    first.step()
    older = saved(first, tmp_path / "older")
    first.step()
    torn = Path(saved(first, tmp_path / "torn"))
    content = torn.read_bytes()
    torn.write_bytes(content[: int(len(content) * share)])
    again = search(epochs=3, recorded=2, checkpoints=[str(torn), older])
    assert again.work.epoch == 1
    assert records(again) == whole[1:]


def test_search_begins_anew_if_no_checkpoint_is_of_use(tmp_path: Path) -> None:
    whole = records(search(epochs=3))
    other = search(epochs=3, seed=9)
    other.step()
    foreign = saved(other, tmp_path / "foreign")
    not_a_checkpoint = tmp_path / "text.pt"
    not_a_checkpoint.write_text("not a checkpoint")
    plain = tmp_path / "plain.pt"
    torch.save({"epoch": 1}, plain)
    files = [foreign, str(tmp_path / "missing.pt"), str(not_a_checkpoint), str(plain)]
    again = search(epochs=3, recorded=1, checkpoints=files)
    assert again.work.epoch == 0
    assert records(again) == whole


def test_search_begins_anew_after_a_checkpoint_that_was_taken_over_in_part(tmp_path: Path) -> None:
    whole = records(search(epochs=3))
    first = search(epochs=3)
    first.step()
    file = saved(first, tmp_path / "0")
    state = load_state(Path(file))
    del state["generators"]  # the weights load before this is missed
    torch.save(state, file)
    again = search(epochs=3, recorded=1, checkpoints=[file])
    assert again.work.epoch == 0
    assert records(again) == whole


def test_older_checkpoint_wins_over_one_that_was_taken_over_in_part(tmp_path: Path) -> None:
    whole = records(search(epochs=3))
    first = search(epochs=3)
    first.step()
    older = saved(first, tmp_path / "older")
    first.step()
    newer = saved(first, tmp_path / "newer")
    state = load_state(Path(newer))
    state["generators"].popitem()
    torch.save(state, newer)
    again = search(epochs=3, recorded=2, checkpoints=[newer, older])
    assert records(again) == whole[1:]


def test_checkpoint_ahead_of_the_journal_is_passed_over(tmp_path: Path) -> None:
    """Continuing it would leave a hole in the record."""
    first, files = search(epochs=3), []
    for epoch in range(3):
        first.step()
        files.insert(0, saved(first, tmp_path / str(epoch)))
    again = search(epochs=3, recorded=1, checkpoints=files)
    assert again.work.epoch == 1
    assert search(epochs=3, recorded=0, checkpoints=files).work.epoch == 0


def test_reset_serves_another_trial_as_a_fresh_process_would(tmp_path: Path) -> None:
    fresh = records(search(epochs=2, seed=4))
    used = search(epochs=3, seed=1)
    used.step()
    assert used.reset_config({"job": search_job("0001", epochs=2, seed=4)})
    assert records(used) == fresh
    wide = replace(TINY_DATASET, shape=(3, 8, 8))
    expected = records(search(dataset=wide, epochs=2))
    used.reset_config({"job": search_job("0002", dataset=wide, epochs=2)})
    assert records(used) == expected, "another data set is loaded"


def test_reset_continues_the_other_trials_checkpoint(tmp_path: Path) -> None:
    whole = records(search(epochs=3, seed=4))
    other = search(epochs=3, seed=4)
    other.step()
    file = saved(other, tmp_path / "0")
    used = search(epochs=3, seed=1)
    used.step()
    used.reset_config({"job": search_job("0001", epochs=3, seed=4, recorded=1, checkpoints=[file])})
    assert records(used) == whole[1:]


def test_device_is_the_gpu_that_ray_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = search()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert trainable.device == torch.device("cpu"), "a visible GPU may belong to another trial"
    monkeypatch.setattr("orchestrator.trainable.ray.get_gpu_ids", lambda: ["0"])
    assert trainable.device == torch.device("cuda")


def test_options_survive_the_way_through_plain_data() -> None:
    options = tiny_options(seed=3)
    assert from_plain(SearchOptions, asdict(options)) == options
    assert from_plain(RetrainOptions, asdict(RetrainOptions(epochs=7))) == RetrainOptions(epochs=7)
