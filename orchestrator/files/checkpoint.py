"""Checkpoints of one search or retraining: written whole or not at all, checked when read.

Ray's own checkpoints are off. They have no checksums, they end a trial when the disk is full, and one that was taken
after a report that never arrived leaves a hole. Here a checkpoint carries the report that it follows: a worker that
resumes sends it again, and the journal recognises the repeat.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.errors import OrchestratorError
from orchestrator.files.whole_file import write_whole

_NAME = re.compile(r"epoch-(\d+)\.pt")
#: What a file that is no checkpoint may raise in torch.load.
_LOAD_ERRORS = (EOFError, RuntimeError, LookupError, TypeError, ValueError, pickle.UnpicklingError)


class DamagedCheckpointError(OrchestratorError):
    """A checkpoint is truncated, changed or no checkpoint at all."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        epoch: number of epochs that are done.
        state: state dict of the work.
        record: report of the last epoch as plain data; None before the first.
        file: where it lies.
    """

    epoch: int
    state: Mapping[str, Any]
    record: Mapping[str, Any] | None
    file: Path


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one unit, `epoch-0008.pt` with `epoch-0008.pt.sha256` beside each.

    Args:
        path: the folder; it is made with the first checkpoint.
        keep: how many of the newest are kept, at least 2: the newest may be damaged.
        every: those after every so many epochs are kept as well; None for none.
    """

    path: Path
    keep: int = 3
    every: int | None = None

    def save(self, epoch: int, state: Mapping[str, Any], record: Mapping[str, Any] | None) -> Path:
        """Write a checkpoint, then drop the oldest ones.

        Args:
            epoch: number of epochs that are done.
            state: state dict of the work, tensors and plain values only.
            record: report of the last epoch.

        Raises:
            OSError: if it cannot be written, as on a full disk; what was there before is kept.
        """
        buffer = io.BytesIO()
        torch.save({"state": dict(state), "record": record}, buffer)
        file = self.file(epoch)
        _write(file, buffer.getbuffer())
        self.thin(self.keep)
        return file

    def thin(self, keep: int) -> None:
        """Drop all but the newest `keep` and those that are kept for good."""
        for old in self.files()[keep:]:
            if self.every is None or epoch_of(old) % self.every:
                _checksum_file(old).unlink(missing_ok=True)
                old.unlink(missing_ok=True)

    def copy(self, epoch: int, to: CheckpointFolder) -> bool:
        """Copy a checkpoint to another folder; False if it is not there, or damaged.

        Raises:
            OSError: if the copy cannot be written.
        """
        try:
            content = _checked_bytes(self.file(epoch))
        except DamagedCheckpointError:
            return False
        _write(to.file(epoch), content)
        return True

    def file(self, epoch: int) -> Path:
        """Where the checkpoint after so many epochs lies, if there is one."""
        return self.path / f"epoch-{epoch:04d}.pt"

    def files(self) -> list[Path]:
        """All checkpoint files, newest first."""
        named = [path for path in self.path.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(named, key=epoch_of, reverse=True)

    def newest_whole(self) -> Checkpoint | None:
        """The newest checkpoint that is not damaged, or None."""
        return next((found for found in map(_try_load, self.files()) if found is not None), None)


def epoch_of(file: Path) -> int:
    """After how many epochs a checkpoint was taken: `epoch-0008.pt` -> 8."""
    return int(file.stem.rpartition("-")[2])


def is_whole(file: Path) -> bool:
    """Whether a checkpoint file has its checksum."""
    try:
        _checked_bytes(file)
    except DamagedCheckpointError:
        return False
    return True


def load(file: Path) -> Checkpoint:
    """Read a checkpoint to CPU memory, tensors and plain values only.

    Raises:
        DamagedCheckpointError: if it is not what was written.
    """
    content = _checked_bytes(file)
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return Checkpoint(int(stored["state"]["epoch"]), stored["state"], stored["record"], file)
    except _LOAD_ERRORS as error:
        raise DamagedCheckpointError(f"{file} must be a checkpoint, got: {error}") from error


def _try_load(file: Path) -> Checkpoint | None:
    try:
        return load(file)
    except DamagedCheckpointError:
        return None


def _checked_bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        wanted = _checksum_file(file).read_text(encoding="ascii").split()[:1]
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{file} must be readable with its checksum, got: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if wanted != [found]:
        raise DamagedCheckpointError(f"{file} must have the SHA-256 {' '.join(wanted)}, got {found}: it is damaged")
    return content


def _write(file: Path, content: bytes | memoryview) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # The checksum first: a state without one would count as damaged.
    write_whole(_checksum_file(file), f"{hashlib.sha256(content).hexdigest()}  {file.name}\n".encode())
    write_whole(file, content)


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")
