"""What each command of `snas` imports, and what a shell completes: both decide how long a user waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from orchestrator.cli import COMMANDS, completion
from search_core.space.genotype import PUBLISHED
from search_core.strategies.registry import STRATEGIES
from tests.benchmarks.cli import COMMANDS as MEASURED
from tests.benchmarks.cli import STUDY, write_study

#: What help and completion never wait for.
SLOW = {"torch", "ray", "mlflow", "optuna", "pandas", "scipy", "numba", "sklearn", "matplotlib", "pyarrow"}
#: Command of the benchmark -> what it must not import.
FORBIDDEN = {
    "help": SLOW,
    "study help": SLOW,
    "validate": SLOW,
    "list": SLOW - {"optuna"},  # whose storage says how many trials are open
    "strategies": SLOW,
    "profile": SLOW,
    "show": SLOW - {"optuna", "scipy"},  # the importance of parameters is Optuna's
}
#: Runs the command and says on stderr, in its last line, which packages there are then.
_TOLD = (
    "import atexit, json, sys\n"
    "atexit.register(lambda: print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), "
    "file=sys.stderr))\n"
    "sys.argv[0] = 'snas'\n"
    "from orchestrator.cli import main\n"
    "main()\n"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one study, whose trials are enough to rate its parameters."""
    folder = tmp_path_factory.mktemp("runs")
    write_study(folder)
    return folder


def started(words: Sequence[str], runs: Path, **environment: str) -> tuple[str, set[str]]:
    """What a command printed, and the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD, *words],
        env={**os.environ, "SNAS_RUNS": str(runs), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("command", FORBIDDEN)
def test_command_imports_only_what_it_needs(command: str, runs: Path) -> None:
    words, _ = MEASURED[command]
    out, imported = started(words, runs)
    assert out
    assert imported & FORBIDDEN[command] == set()


def test_completion_imports_no_more_than_help(runs: Path) -> None:
    typed = {"COMP_WORDS": "snas study show ", "COMP_CWORD": "3", "_SNAS_COMPLETE": "complete_bash"}
    out, imported = started([], runs, **typed)
    assert out.split() == [STUDY]
    assert imported & SLOW == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_what_their_own_help_does(name: str) -> None:
    loaded = COMMANDS[name].load(name)
    assert loaded.help.partition("\n")[0] == COMMANDS[name].help


def test_published_cells_strategies_and_templates_are_completed() -> None:
    assert completion.published_cells("") == list(PUBLISHED)
    assert completion.published_cells("SNAS_mi") == ["SNAS_mild"]
    assert completion.strategy_settings("strategy.kind=s") == [
        f"strategy.kind={kind}" for kind in STRATEGIES if kind.startswith("s")
    ]
    assert {f"search.strategy.kind={kind}" for kind in STRATEGIES} <= set(completion.strategy_settings(""))
    assert "quickstart" in completion.templates("qu")


def test_studies_are_completed_from_the_folder_that_is_named(runs: Path, tmp_path: Path) -> None:
    command = COMMANDS["study"].load("study").commands["show"]
    here = typer.Context(command)
    here.params["runs"] = runs
    assert completion.study_names(here, "") == [STUDY]
    assert completion.study_names(here, "other") == []
    here.params["runs"] = tmp_path
    assert completion.study_names(here, "") == []
