from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from search_core import plugins
from search_core.errors import PluginError
from search_core.plugins import beside, failure, load_plugin, named_sources, split_reference, trust, trusted

TEXT = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Thing:
    value: int = 3

def fail():
    raise KeyError("rows")
"""


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_TRUSTED", {})


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my-things.py"
    path.write_text(TEXT)
    return str(path)


def test_a_reference_has_a_file_or_a_module_before_its_name() -> None:
    assert split_reference("my data.py:load") == ("my data.py", "load")
    assert split_reference("my_package.my_data:load") == ("my_package.my_data", "load")
    for text in ("digits", "http://host:5000", "sqlite:///a.db", "a.py", "data/train.py:1", "host:"):
        assert split_reference(text) is None


def test_files_are_found_beside_the_study_file_at_any_depth(tmp_path: Path) -> None:
    data = {"search": {"dataset": {"name": "a.py:load"}, "epochs": 3}, "ops": ["sub/../b.py:Op", "max_pool", "m.n:f"]}
    found = beside(data, tmp_path)
    assert found["search"] == {"dataset": {"name": f"{tmp_path}/a.py:load"}, "epochs": 3}
    assert found["ops"] == [f"{tmp_path}/b.py:Op", "max_pool", "m.n:f"]
    places = {f"{tmp_path}/a.py": ("search", "dataset", "name"), f"{tmp_path}/b.py": ("ops", 0), "m.n": ("ops", 2)}
    assert named_sources(found) == places


def test_only_what_is_trusted_runs(file: str) -> None:
    for reference in (f"{file}:Thing", "os:getcwd"):
        with pytest.raises(PluginError, match="must be named by the study file or by --plugin before its code runs"):
            load_plugin(reference, "snas.things")
    trust(file)
    trust("os")
    assert load_plugin(f"{file}:Thing", "snas.things")().value == 3
    assert load_plugin("os:getcwd", "snas.things")() == str(Path.cwd())


def test_the_content_is_what_the_file_held_when_it_was_trusted(file: str) -> None:
    trust(file)
    Path(file).write_text("raise SystemExit")
    thing = load_plugin(f"{file}:Thing", "snas.things")
    assert "value: int = 3" in inspect.getsource(thing)  # by the trusted text too
    trust(file, TEXT.replace("3", "4"))
    assert (thing().value, load_plugin(f"{file}:Thing", "snas.things")().value) == (3, 4)


def test_another_process_with_the_same_contents_reads_pickles_of_their_objects(file: str) -> None:
    trust(file)
    pickled = pickle.dumps(load_plugin(f"{file}:Thing", "snas.things")(5))
    Path(file).unlink()
    code = (
        "import pickle, sys; from search_core.plugins import trust_all\n"
        "sources, pickled = pickle.load(sys.stdin.buffer); trust_all(sources); print(pickle.loads(pickled).value)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps((trusted(), pickled)), capture_output=True)
    assert (done.stdout, done.stderr) == (b"5\n", b"")


def test_what_is_wrong_is_said_with_the_line(file: str, tmp_path: Path) -> None:
    trust(file)
    with pytest.raises(PluginError, match=r"my-things.py must define `Thin`, got only Thing, fail"):
        load_plugin(f"{file}:Thin", "snas.things")
    with pytest.raises(KeyError) as found:
        load_plugin(f"{file}:fail", "snas.things")()
    assert failure(found.value, file) == "KeyError: 'rows' (line 9)"
    for text, message in (("x = (", r"'\(' was never closed \(line 1\)"), ("\n1 / 0", r"division by zero \(line 2\)")):
        trust(file, text)
        with pytest.raises(PluginError, match=f"must import without an error, got .*{message}$"):
            load_plugin(f"{file}:Thing", "snas.things")
    with pytest.raises(PluginError, match=r"nowhere.py must be a readable file of Python, got: No such file"):
        trust(str(tmp_path / "nowhere.py"))
    trust("no_such.module")
    with pytest.raises(PluginError, match=r"no_such.module must import .*; install its package, or put its folder"):
        load_plugin("no_such.module:f", "snas.things")


def test_installed_packages_offer_objects_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offered.py").write_text("def load(): return 7")
    (tmp_path / "offered-1.dist-info").mkdir()
    (tmp_path / "offered-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (tmp_path / "offered-1.dist-info/entry_points.txt").write_text("[snas.things]\nseven = offered:load\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.installed("snas.things") == ["seven"]
    assert load_plugin("seven", "snas.things")() == 7
    with pytest.raises(PluginError, match=r"an entry point of the group snas.things \(seven\), got `eight`"):
        load_plugin("eight", "snas.things")
