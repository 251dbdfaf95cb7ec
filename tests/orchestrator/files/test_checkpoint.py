"""Checkpoints: whole or not there, checked when read."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.files.checkpoint import CheckpointFolder, DamagedCheckpointError, is_whole, load


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "weights": torch.full((4, 3), float(epoch))}


def record(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "metrics": {"loss": 0.5}, "genotype": {"normal": [["skip_connect", 0, 2]]}}


def filled(path: Path, epochs: int) -> CheckpointFolder:
    folder = CheckpointFolder(path)
    for epoch in range(1, epochs + 1):
        folder.save(epoch, state(epoch), record(epoch - 1))
    return folder


def test_checkpoint_comes_back_with_the_report_that_it_follows(tmp_path: Path) -> None:
    file = filled(tmp_path / "new" / "folder", 1).files()[0]
    found = load(file)
    assert (found.epoch, found.record, found.file) == (1, record(0), file)
    assert torch.equal(found.state["weights"], state(1)["weights"])


def test_folder_keeps_the_newest_by_number(tmp_path: Path) -> None:
    folder = filled(tmp_path, 12)
    assert [file.name for file in folder.files()] == ["epoch-0012.pt", "epoch-0011.pt", "epoch-0010.pt"]
    assert len(list(tmp_path.iterdir())) == 6, "each with its checksum"
    newest = folder.newest_whole()
    assert newest is not None
    assert newest.epoch == 12


def test_those_after_every_so_many_epochs_are_kept_for_good(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "own", every=5)
    for epoch in range(1, 13):
        folder.save(epoch, state(epoch), None)
    folder.thin(1)
    assert [file.name for file in folder.files()] == ["epoch-0012.pt", "epoch-0010.pt", "epoch-0005.pt"]
    assert folder.copy(5, CheckpointFolder(tmp_path / "copy"))
    assert load(tmp_path / "copy" / "epoch-0005.pt").epoch == 5
    assert not folder.copy(6, CheckpointFolder(tmp_path / "copy")), "it is not kept"


def test_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "missing").newest_whole() is None
    assert CheckpointFolder(tmp_path / "missing").files() == []


def test_checksum_is_one_that_sha256sum_knows(tmp_path: Path) -> None:
    folder = filled(tmp_path, 1)
    line = (tmp_path / "epoch-0001.pt.sha256").read_text()
    assert line == f"{hashlib.sha256(folder.files()[0].read_bytes()).hexdigest()}  epoch-0001.pt\n"
    subprocess.run(["sha256sum", "--check", "--status", "epoch-0001.pt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "no checksum", "other file", "deleted"])
def test_damaged_checkpoint_is_refused_and_passed_over(tmp_path: Path, damage: str) -> None:
    folder = filled(tmp_path, 3)
    newest = folder.files()[0]
    content = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(content[:-1])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "flipped":
        newest.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif damage == "no checksum":
        (tmp_path / "epoch-0003.pt.sha256").unlink()
    elif damage == "other file":
        newest.write_bytes(folder.files()[1].read_bytes())
    else:
        newest.unlink()
    assert not is_whole(newest)
    with pytest.raises(DamagedCheckpointError, match=r"epoch-0003\.pt must"):
        load(newest)
    found = folder.newest_whole()
    assert found is not None
    assert found.epoch == 2


def test_file_with_a_right_checksum_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "epoch-0001.pt"
    file.write_bytes(b"text")
    (tmp_path / "epoch-0001.pt.sha256").write_text(f"{hashlib.sha256(b'text').hexdigest()}  epoch-0001.pt\n")
    with pytest.raises(DamagedCheckpointError, match="must be a checkpoint"):
        load(file)
    assert CheckpointFolder(tmp_path).newest_whole() is None


class Hostile:
    """Runs a command when a pickle of it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("/tmp/never-made-by-a-checkpoint",)


def test_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    file = CheckpointFolder(tmp_path).save(1, {"epoch": 1, "code": Hostile()}, None)
    with pytest.raises(DamagedCheckpointError, match="must be a checkpoint"):
        load(file)
    assert not Path("/tmp/never-made-by-a-checkpoint").exists()


def test_drafts_and_other_files_do_not_count(tmp_path: Path) -> None:
    folder = filled(tmp_path, 1)
    for name in ("epoch-0009.pt.tmp", "epoch-x.pt", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in folder.files()] == ["epoch-0001.pt"]
