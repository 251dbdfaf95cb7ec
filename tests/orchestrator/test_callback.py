"""What the driver keeps of trials that are over."""

from __future__ import annotations

import pickle
from pathlib import Path

from ray.tune.experiment import Trial

from orchestrator.callback import PhaseCallback
from orchestrator.journal import Journal
from orchestrator.progress import SilentView
from tests.orchestrator.tiny import real_records, search_job

EPOCHS = 3


def test_ray_keeps_little_of_a_trial_that_is_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "0000.jsonl")
    callback = PhaseCallback(
        epochs=lambda job: EPOCHS,
        open_journal=lambda label: journal,
        track=lambda job: None,
        view=SilentView(),
        has_room=lambda journal: True,
        timeout_s=None,
    )
    trial = Trial("search", stub=True, config={"job": search_job()})
    for record in real_records(EPOCHS):
        result = {"record": record, "epochs": record["epoch"] + 1, **record["metrics"]}
        callback.on_trial_result(0, [trial], trial, result)
        trial.update_last_result(result)  # as Ray does next
    callback.on_trial_complete(0, [trial], trial)
    assert [record["epoch"] for record in journal.epochs] == [0, 1, 2]
    assert journal.epochs[0]["cells"], "the journal has all of it"
    assert len(pickle.dumps(trial.run_metadata)) < 2000, "bytes, of which a large study has thousands"
