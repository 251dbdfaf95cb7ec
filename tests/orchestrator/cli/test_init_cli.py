"""`snas init`: the templates that come with the package, and the file that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.study_file.loading import load_study
from orchestrator.study_file.templates import purpose, templates
from tests.orchestrator.tiny import snas

ROOT = Path(__file__).parents[3]


def test_templates_are_the_files_of_studies() -> None:
    files = sorted((ROOT / "studies").glob("*.yaml"))
    assert templates() == {file.stem: file.read_text(encoding="utf-8") for file in files}


@pytest.mark.parametrize("name", templates())
def test_template_is_valid_and_commented(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = snas("init", name)
    assert (done.code, done.err) == (0, "")
    file = tmp_path / f"{name}.yaml"
    load_study(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(purpose("\n".join(lines))) > 40
    assert sum("#" in line for line in lines) >= 4, "its head and comments on its settings"


def test_list_has_every_template_with_its_purpose() -> None:
    done = snas("init")
    assert (done.code, done.err) == (0, "")
    said = " ".join(done.out.split())
    for name, text in templates().items():
        assert name in said
        assert purpose(text).split()[0] in said
    assert "Does a cell found on CIFAR-10 transfer?" in said


def test_purpose_is_the_first_comment_alone() -> None:
    assert purpose("# What is\n# found?\nname: a # b\n# of the next key\nseed: 0\n") == "What is found?"
    assert purpose("name: a\n# later\n") == ""


def test_next_commands_name_the_file_as_a_shell_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "my study.yaml"
    done = snas("init", "quickstart", file)
    assert f"snas study validate '{file}'" in done.out
    assert f"snas study run '{file}'" in done.out
    assert snas("study", "validate", file).code == 0


@pytest.mark.parametrize("target", ["a file", "a folder", "a dangling link"])
def test_nothing_is_overwritten(target: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if target == "a file":
        file.write_text("mine", encoding="utf-8")
    elif target == "a folder":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "away.yaml")
    done = snas("init", "quickstart", file)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: FILE must not exist yet, got {file}: nothing was written; give another, as in "
        "`snas init quickstart FILE`\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    if target == "a file":
        assert file.read_text(encoding="utf-8") == "mine"


def test_unknown_template_names_the_nearest(tmp_path: Path) -> None:
    done = snas("init", "cifar10-penalty-sweep", tmp_path / "x.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: TEMPLATE must be a name that `snas init` lists, got `cifar10-penalty-sweep`; did you mean "
        "`cifar10_penalty_sweep`?\n"
    )
    assert list(tmp_path.iterdir()) == []
    assert "templates: cifar10_penalty_sweep, " in snas("init", "zzz", tmp_path / "x.yaml").err


def test_missing_folder_is_named(tmp_path: Path) -> None:
    done = snas("init", "quickstart", tmp_path / "away" / "x.yaml")
    assert done.code == 2
    assert done.err == f"error: {tmp_path / 'away' / 'x.yaml'} must be usable: No such file or directory\n"
