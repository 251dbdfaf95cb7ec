from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.files.plugin_copies import copy_digests, with_copies, with_digests, write_copies
from search_core import plugins
from search_core.errors import PluginError
from search_core.plugins import load_plugin, trust


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_TRUSTED", {})


@pytest.fixture
def named(tmp_path: Path) -> dict[str, object]:
    """Settings that name a trusted file, which has changed since."""
    file = tmp_path / "mine" / "data.py"
    file.parent.mkdir()
    file.write_text("def load():\n    return 1\n")
    trust(str(file))
    file.write_text("def load():\n    return 2\n")
    return {"name": f"{file}:load", "others": ["os:getcwd", f"{file}:load", 3]}


def test_a_study_names_copies_with_the_contents_that_the_files_had(named: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study"
    copied = with_copies(named, folder)
    copy = folder / "plugins" / "data.py"
    assert copied == {"name": f"{copy}:load", "others": ["os:getcwd", f"{copy}:load", 3]}
    assert not folder.exists()
    assert load_plugin(copied["name"], "snas.things")() == 1
    write_copies(copied)
    assert copy.read_text() == "def load():\n    return 1\n"
    assert with_copies(copied, folder) == copied


def test_a_file_is_known_by_its_content_wherever_it_lies(named: dict[str, object], tmp_path: Path) -> None:
    here, there = (with_copies(named, tmp_path / place) for place in ("here", "there"))
    known = with_digests(here, copy_digests(here))
    assert known == with_digests(there, copy_digests(there))
    assert known["name"].startswith("data.py:load of contents ")
    trust(f"{tmp_path}/there/plugins/data.py", "def load():\n    return 3\n")
    assert known != with_digests(there, copy_digests(there))


def test_two_files_of_one_name_are_refused(named: dict[str, object], tmp_path: Path) -> None:
    trust(f"{tmp_path}/other/data.py", "")
    with pytest.raises(PluginError, match=r"must differ in their names, .* got \S+/mine/data.py and \S+/other/data.py"):
        with_copies([named, f"{tmp_path}/other/data.py:load"], tmp_path)
