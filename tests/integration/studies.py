"""Studies as processes, so that faults can be done to them, and what must hold of them after any fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from orchestrator.files.journal import Journal
from orchestrator.study_file.yaml_file import dump_yaml
from tests.integration.namespaces import Machine
from tests.orchestrator.tiny import Outcome, snas, with_empty_store
from tests.preloaded.processes import ReadyProcess
from tests.search_core.tiny import FEW_PRIMITIVES

#: Times differ from run to run.
CLOCKS = ("seconds", "images_per_s", "cpu_core_hours")
EPOCHS = 10
#: Two searches of real images at a time. With a grid, the same values come in the same order whatever happens.
STUDY: dict[str, Any] = {
    "name": "faulty",
    "seed": 3,
    "search": {
        "dataset": {"name": "digits", "train_images": 64, "validation_images": 32},
        "network": {"nodes": 2, "cells": 3, "init_channels": 4, "primitives": list(FEW_PRIMITIVES)},
        "temperature": {"kind": "linear", "start": 1.0, "end": 0.1},
        "alpha": {"lr": 0.05},
        "epochs": EPOCHS,
        "batch_size": 32,
        "recalibration_batches": 2,
    },
    "sweep": {"penalty.strength": {"choice": [1.0e-5, 1.0e-2]}},
    "sampler": "grid",
    "trials": 2,
    "max_concurrent": 2,
    "resources": {"cpu": 0.5},
    "tracking": {"picture_every": EPOCHS // 2},
}
_PATIENCE_S = 300.0
#: Signals end it even where the tests run in the background of a shell or under `nohup`, whose children ignore some.
_SNAS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from orchestrator.cli import main
main()
"""


class StudyProcess:
    """`snas study run` or `resume` of one study in a folder of runs.

    Args:
        folder: of the study file, the runs and the logs.
        spec: the study file.
        address: Ray cluster; None has the process start one.
        environment: further variables of the process.
        machine: where it runs, one without folders of its own; None has it run on this one.
        runs: folder of runs; default: in `folder`.
        is_preloaded: whether it need not import anything first, which takes 9 CPU seconds.
    """

    def __init__(
        self,
        folder: Path,
        spec: Mapping[str, Any] = STUDY,
        *,
        address: str | None = None,
        environment: Mapping[str, str] | None = None,
        machine: Machine | None = None,
        runs: Path | None = None,
        is_preloaded: bool = True,
    ) -> None:
        self.runs, self.name, self._epochs = runs or folder / "runs", spec["name"], spec["search"].get("epochs", EPOCHS)
        self._file, self._log = folder / "study.yaml", folder / "study.log"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(dump_yaml(dict(spec)), encoding="utf-8")
        self._address = [] if address is None else ["--address", address]
        self._environment, self._is_preloaded = {**os.environ, **(environment or {})}, is_preloaded
        assert is_preloaded or machine is None, "only ready processes go to another machine"
        self._namespaces = [] if machine is None else machine.namespaces
        self._process: subprocess.Popen[bytes] | ReadyProcess | None = None
        if "MLFLOW_TRACKING_URI" not in self._environment and "uri" not in spec.get("tracking", {}):
            with_empty_store(self.runs)

    def start(self, *words: str) -> None:
        """Begin to run the study, or with `resume` and its name to resume it."""
        words = words or ("run", str(self._file))
        command = ["study", *words, "--runs", str(self.runs), *self._address]
        with self._log.open("ab") as log:
            if self._is_preloaded:
                self._process = ReadyProcess(
                    ["snas", *command], out=log, err=log, environment=self._environment, namespaces=self._namespaces
                )
                return
            command = [sys.executable, "-c", _SNAS, *command]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def resume(self) -> None:
        """Resume the study in a new process."""
        self.start("resume", self.name)

    @property
    def process(self) -> subprocess.Popen[bytes] | ReadyProcess:
        """The process that runs the study now."""
        assert self._process is not None, "the study was not started"
        return self._process

    @property
    def log(self) -> str:
        """All that its processes wrote to the terminal."""
        return self._log.read_text(encoding="utf-8")

    def finish(self, code: int = 0) -> None:
        """Wait for the end of the process."""
        found = self.process.wait(_PATIENCE_S)
        assert found == code, f"it ended with {found}: {self.log}"

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(_PATIENCE_S)

    def workers(self) -> list[psutil.Process]:
        """The processes in which trials run; of a cluster, on all nodes of this machine."""
        found = psutil.process_iter() if self._address else psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if title(process).startswith("ray::SearchTrainable")]

    def wait_for_epochs(self, number: int) -> None:
        """Wait until every trial has this many epochs in its journal."""
        self.wait_until(lambda: all(len(journal.epochs) >= number for journal in self._all_journals()))

    @contextmanager
    def held(self, number: int, trials: Collection[int] = (0, 1)) -> Iterator[dict[int, psutil.Process]]:
        """Stop each trial (SIGSTOP) when it has that many epochs, so that a fault cannot come after the end of any.

        Yields:
            Their workers. Those that still live continue afterwards, unless they were taken out.
        """
        stopped: dict[int, psutil.Process] = {}

        def all_are() -> bool:
            for trial in set(trials) - stopped.keys():
                # One that is resumed may have the epochs before it has a worker.
                if len(self.journal(trial).epochs) >= number and (worker := self._worker(trial)):
                    stopped[trial] = worker
                    worker.suspend()
            return len(stopped) == len(trials)

        try:
            self.wait_until(all_are)
            # One more report may be on its way: a worker begins no epoch before the driver has the one before.
            found = [len(self.journal(trial).epochs) for trial in trials]
            assert max(found) < self._epochs - 1, f"a trial may end although it was stopped: {found} of {self._epochs}"
            yield stopped
        finally:
            for worker in stopped.values():
                with suppress(psutil.NoSuchProcess):
                    worker.resume()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the running study does."""
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log}"
            assert time.monotonic() < deadline, f"it made no progress: {self.log}"
            time.sleep(0.02)

    def journal(self, number: int) -> Journal:
        """Journal of a trial as it is on disk."""
        return Journal(self.runs / self.name / "trials" / f"{number:04d}.jsonl")

    def checkpoints(self, number: int) -> Path:
        """Folder of a trial's checkpoints, where the study file names no other."""
        return self.runs / self.name / "checkpoints" / f"trial-{number:04d}"

    def events(self) -> list[str]:
        """Kinds of the faults that the trials survived."""
        return sorted(event["event"] for journal in self._all_journals() for event in journal.events)

    @property
    def client(self) -> MlflowClient:
        """Of the embedded store."""
        return MlflowClient(f"sqlite:///{self.runs}/mlflow.db")

    def doctor(self) -> Outcome:
        """What `snas study doctor` says."""
        return snas("study", "doctor", self.name, "--runs", self.runs)

    def records(self) -> list[list[dict[str, Any]]]:
        """All reports of all trials, without times."""
        found = [json.loads(json.dumps(journal.epochs)) for journal in self._all_journals()]
        for trial in found:
            for record in trial:
                del record["time"]
                for clock in CLOCKS:
                    del record["metrics"][clock]
        return found

    def _worker(self, trial: int) -> psutil.Process | None:
        """The process in which a trial runs: Tune has each work in its own folder, `STUDY/working_dirs/TRIAL`."""
        place = (self.name, "working_dirs", f"{trial:04d}")
        found = [worker for worker in self.workers() if Path(worker.cwd()).parts[-3:] == place]
        return max(found, key=psutil.Process.create_time, default=None)  # others may be left of a study before

    def _all_journals(self) -> list[Journal]:
        return [self.journal(0), self.journal(1)]


def assert_as_if_nothing_had_happened(study: StudyProcess, undisturbed: StudyProcess) -> None:
    """A study with faults is whole, and found what it would have found without them."""
    said = study.doctor()
    assert said.code == 0, said.said
    assert "the study is whole" in said.said
    assert [study.journal(number).end for number in (0, 1)] == ["complete", "complete"]
    assert study.records() == undisturbed.records()


def title(process: psutil.Process) -> str:
    """Its command line, or what it calls itself; empty if it is gone."""
    try:
        return "".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
