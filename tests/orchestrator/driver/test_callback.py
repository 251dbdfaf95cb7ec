"""What the driver does with results: records, and what it keeps of trials that are over."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial

from orchestrator.driver.callback import PhaseCallback
from orchestrator.driver.launch import OwnFault
from orchestrator.driver.progress import StudyView
from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.jobs import JobReport
from orchestrator.worker.permanent import is_for_all, refusal
from search_core.errors import DataError, StateError
from tests.orchestrator.tiny import real_records, search_job

EPOCHS = 3


def callback_of(
    journal: Journal,
    fault: OwnFault | None = None,
    track: Callable[..., None] | None = None,
    swept: Sequence[str] = (),
) -> PhaseCallback:
    return PhaseCallback(
        values=lambda job: "",
        open_journal=lambda label: journal,
        track=track or (lambda job, journal: None),
        view=StudyView(),
        has_room=lambda journal: journal.count("out_of_memory") < 2,
        is_for_all=lambda kind: is_for_all(kind, swept),
        collapse=lambda job, report: None,
        failed=lambda label: None,
        look=lambda: None,
        fault=fault or OwnFault(),
        timeout_s=None,
    )


def results() -> list[dict[str, Any]]:
    return [JobReport(record=record, done=False).to_result() for record in real_records(EPOCHS)]


def refused(error: Exception) -> dict[str, Any]:
    return refusal(error).to_result()


@pytest.fixture
def trial() -> Trial:
    return Trial("search", stub=True, config=search_job(epochs=EPOCHS).to_config())


def test_report_that_is_sent_again_is_no_step(tmp_path: Path, trial: Trial) -> None:
    """Else a study whose journal cannot be written would be launched again forever."""
    callback = callback_of(Journal(tmp_path / "0000.jsonl"))
    callback.on_trial_result(0, [trial], trial, results()[0])
    assert callback.num_steps == 1
    callback.on_trial_result(0, [trial], trial, results()[0])
    assert callback.num_steps == 1
    callback.on_trial_result(0, [trial], trial, results()[1])
    assert callback.num_steps == 2


def test_fault_of_our_own_is_kept(tmp_path: Path, trial: Trial) -> None:
    """Ray takes it for a trial's and continues."""

    def full(job: object, journal: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fault = OwnFault()
    with pytest.raises(OSError, match="No space left"):
        callback_of(Journal(tmp_path / "0000.jsonl"), fault, full).on_trial_result(0, [trial], trial, results()[0])
    assert isinstance(fault.error, OSError)


def test_checkpoint_of_something_else_stops_the_study_and_leaves_the_trial_open(tmp_path: Path, trial: Trial) -> None:
    journal, fault = Journal(tmp_path / "0000.jsonl"), OwnFault()
    with pytest.raises(OrchestratorError, match="0000 cannot continue: the state must come from equal options"):
        callback_of(journal, fault).on_trial_result(
            0, [trial], trial, refused(StateError("the state must come from equal options and data"))
        )
    assert fault.error is not None
    assert journal.end is None


def test_permanent_error_of_swept_values_fails_its_trial_alone(tmp_path: Path, trial: Trial) -> None:
    journal, fault = Journal(tmp_path / "0000.jsonl"), OwnFault()
    result = refused(DataError("a.png holds no image"))
    callback_of(journal, fault, swept=["dataset.root"]).on_trial_result(0, [trial], trial, result)
    assert (journal.end, journal.reason, fault.error) == ("failed", "a.png holds no image", None)


def test_trial_that_runs_out_of_memory_fails_only_when_there_is_no_more(tmp_path: Path, trial: Trial) -> None:
    journal = Journal(tmp_path / "0000.jsonl")
    lack = JobReport(fault="out_of_memory", reason="CUDA out of memory.\nTried to allocate", kind="gpu")
    callback_of(journal).on_trial_result(0, [trial], trial, lack.to_result())
    assert (journal.end, journal.count("out_of_memory")) == (None, 1)
    callback_of(journal).on_trial_result(0, [trial], trial, lack.to_result())
    assert journal.end == "failed"
    assert journal.reason == "out of memory with all that a node has: CUDA out of memory."


def test_ray_keeps_little_of_a_trial_that_is_over(tmp_path: Path, trial: Trial) -> None:
    journal = Journal(tmp_path / "0000.jsonl")
    callback = callback_of(journal)
    for result in results():
        callback.on_trial_result(0, [trial], trial, result)
        trial.update_last_result(result)  # as Ray does next
    callback.on_trial_complete(0, [trial], trial)
    assert [record["epoch"] for record in journal.epochs] == [0, 1, 2]
    assert journal.epochs[0]["cells"], "the journal has all of it"
    assert len(pickle.dumps(trial.run_metadata)) < 2000, "bytes, of which a large study has thousands"
