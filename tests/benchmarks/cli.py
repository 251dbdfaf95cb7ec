"""CPU seconds of `snas` commands that only read, and their ratio to a Python that does nothing.

Run: `python -m tests.benchmarks.cli [--repeats 5] [--json]`. Each command is a process of its own, as a user starts it;
user and system time are added up, and the least of the repeats counts, as whatever else runs on the machine only adds
to it. `study list` and `study show` read one study of 24 made-up trials.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
SCRIPT = "from orchestrator.cli import main; main()"
STUDY = "tiny"
#: Command -> its words, and the most CPU seconds that it may take.
COMMANDS: dict[str, tuple[tuple[str, ...], float]] = {
    "help": (("--help",), 0.4),
    "study help": (("study", "--help"), 0.4),
    "validate": (("study", "validate", str(ROOT / "studies" / "quickstart.yaml")), 1.5),
    "list": (("study", "list"), 1.5),
    "strategies": (("strategies",), 1.5),
    "profile": (("profile", "SNAS_mild"), 1.5),
    "show": (("study", "show", STUDY), 2.0),
}


def write_study(runs: Path, num_trials: int = 24) -> None:
    """A study named `STUDY`, whose trials are made up and complete."""
    import optuna

    from orchestrator.files.layout import Runs
    from orchestrator.study.study import Study
    from orchestrator.study_file.yaml_file import dump_yaml
    from tests.orchestrator.tiny import TWO_OBJECTIVES, made_up_record, opened_study, tiny_spec, written_journal

    study = Study(tiny_spec(name=STUDY, objectives=TWO_OBJECTIVES, trials=num_trials), Runs(runs))
    study.folder.path.mkdir(parents=True)
    study.folder.spec_file.write_text(dump_yaml(study.spec.resolved()), encoding="utf-8")
    optuna_study = opened_study(study.spec, study.runs.optuna_url())
    spread = {"penalty.strength": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)}
    for number in range(num_trials):
        error, madds = 0.3 + 0.01 * (number * 7 % 5), 1e6 - 1000.0 * number
        metrics = {
            "supernet_val_accuracy": 0.5,
            "child_val_accuracy": 1 - error,
            "child_val_accuracy_recalibrated": 1 - error,
            "child_val_error": error,
            "child_params": 1e4,
            "child_madds": madds,
            "discretization_gap": 0.01 * (number % 3),
            "seconds": 10.0,
            "cpu_core_hours": 0.5,
        }
        record = made_up_record(0, None, **metrics)
        written_journal(study.folder.journal("search", f"{number:04d}"), [record], "complete")
        params = {"penalty.strength": 1e-4 * 1.2**number}
        trial = optuna.trial.create_trial(params=params, distributions=spread, values=[error, madds])
        optuna_study.add_trial(trial)


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Least CPU seconds of each command, its ratio to `python -c pass`, and its target."""
    with TemporaryDirectory() as runs:
        # By a process of its own, so that this one imports nothing that a command should be charged for.
        _cpu_s(["-c", f"from tests.benchmarks.cli import *; write_study(Path({runs!r}))"], runs)
        nothing = min(_cpu_s(["-c", "pass"], runs) for _ in range(repeats))
        results = {}
        for name, (words, target_s) in COMMANDS.items():
            least = min(_cpu_s(["-c", SCRIPT, *words], runs) for _ in range(repeats))
            results[name] = {"cpu_s": least, "ratio": least / nothing, "target_s": target_s}
    return results


def _cpu_s(words: Sequence[str], runs: str) -> float:
    """CPU seconds (user and system) of a Python process and its children."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SNAS_RUNS": runs, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    asked = parser.parse_args()
    results = measure(asked.repeats)
    if asked.json:
        print(json.dumps(results))
        return
    for name, figures in results.items():
        seconds = f"{figures['cpu_s']:5.2f} s of {figures['target_s']} s"
        print(f"{name:<12} {seconds}, {figures['ratio']:.1f} x `python -c pass`")


if __name__ == "__main__":
    main()
