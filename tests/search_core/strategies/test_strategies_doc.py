"""docs/own-strategies.md: its file as an installed package and beside a study file, run by the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_core import plugins
from search_core.errors import OptionsError, PluginError
from search_core.plugins import load_plugin, trust
from search_core.search.options import SearchOptions
from search_core.search.search import Search
from search_core.strategies.multi_trial.build import build_proposer
from search_core.strategies.multi_trial.options import OwnMultiTrialOptions
from search_core.strategies.multi_trial.proposer import Proposer
from search_core.strategies.weight_sharing.options import OWN_GROUP, OwnOptions
from search_core.testing import check_strategy
from tests.search_core.tiny import images_of, tiny_options

TEXT = (Path(__file__).parents[3] / "docs" / "own-strategies.md").read_text(encoding="utf-8")
((FILE,), (SECTION,), (ENTRY,)) = (
    re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("python", "yaml", "toml")
)


@pytest.fixture
def hill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the example's class, whose file is trusted."""
    monkeypatch.setattr(plugins, "_TRUSTED", {})
    file = tmp_path / "hill.py"
    file.write_text(FILE, encoding="utf-8")
    trust(str(file))
    return f"{file}:HillClimbing"


def options_of(name: str, **options: Any) -> SearchOptions:
    return tiny_options(strategy=OwnOptions(name=name, options=options, held_out=0.5), epochs=1)


def test_example_has_forty_lines() -> None:
    assert sum(bool(line.strip()) for line in FILE.split("\n")) <= 40


def test_example_keeps_the_contract_and_searches(hill: str) -> None:
    check_strategy(load_plugin(hill, OWN_GROUP), steps=2)
    (report,) = Search(options_of(hill, steps=1), images_of())
    assert report.genotype is not None


def test_contract_finds_what_breaks_it(hill: str) -> None:
    base = load_plugin(hill, OWN_GROUP)

    class Forgetful(base):  # type: ignore[misc, valid-type]
        def state_dict(self) -> dict[str, Any]:
            return {key: value for key, value in super().state_dict().items() if key != "best"}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            super().load_state_dict({**state, "best": list(self._best)})

    with pytest.raises(AssertionError, match="a state must resume bit for bit"):
        check_strategy(Forgetful, steps=2)


def test_what_does_not_fit_has_one_message(hill: str) -> None:
    for options, error, message in (
        (options_of(hill, step=1), OptionsError, r"`strategy.options` must be those of HillClimbing: .*'step'"),
        (options_of(hill, steps=0), OptionsError, r"`strategy.options.steps` must be at least 1, got 0"),
        (
            options_of(hill.replace("HillClimbing", "require")),
            PluginError,
            r"must be a class of .*\.Strategy with kind own",
        ),
        (options_of("os:getcwd"), PluginError, r"os must be named by the study file or by --plugin"),
    ):
        with pytest.raises(error, match=message):
            Search(options, images_of())
    with pytest.raises(PluginError, match=r"\.Proposer with kind own_multi_trial, got <class .*HillClimbing"):
        build_proposer(OwnMultiTrialOptions(name=hill), None, None, 0)  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match=r"`name` must be file.py:Class.* \(none is installed\), got `hill`"):
        OwnOptions(name="hill")


def test_proposer_of_a_plug_in_is_called_with_space_limits_seed_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_TRUSTED", {})
    (tmp_path / "mine.py").write_text(
        "from search_core.strategies.multi_trial.random_search import RandomSearch\n"
        "class Mine(RandomSearch):\n"
        "    def __init__(self, space, limits, seed, *, bold=False):\n"
        "        self.given = (space, limits, seed, bold)\n"
    )
    trust(str(tmp_path / "mine.py"))
    options = OwnMultiTrialOptions(name=f"{tmp_path}/mine.py:Mine", options={"bold": True})
    found: Any = build_proposer(options, "space", "limits", 3)  # type: ignore[arg-type]
    assert isinstance(found, Proposer)
    assert found.given == ("space", "limits", 3, True)


@pytest.mark.slow
def test_installed_package_searches(tmp_path: Path) -> None:
    """With its entry point, which no study file has to find."""
    site = tmp_path / "site"
    (package := site / "my_package").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "strategies.py").write_text(FILE, encoding="utf-8")
    (about := site / "hill-1.0.dist-info").mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hill\nVersion: 1.0\n")
    name, _, target = ENTRY.strip().split("\n")[1].partition(" = ")
    (about / "entry_points.txt").write_text(f"[{OWN_GROUP}]\n{name} = {target.strip(chr(34))}\n")
    file = tmp_path / "search.yaml"
    section = {**yaml.safe_load(SECTION)["strategy"], "name": name}
    file.write_text(
        "dataset: {name: fake, shape: [1, 8, 8], images: 200}\n"
        "network: {nodes: 1, cells: 3, init_channels: 4}\nepochs: 2\nbatch_size: 16\n"
        f"strategy: {section}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "search", str(file)]
    path = os.pathsep.join([str(site), str(Path(__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = ["--runs", str(tmp_path / "runs"), "--name", "hill"]
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "runs/searches/hill/history.jsonl").read_text().splitlines()) >= 2
