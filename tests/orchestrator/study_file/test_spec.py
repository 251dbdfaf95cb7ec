"""The study file: what loads, and what a user reads when it does not."""

# ruff: noqa: E501 - the table of broken files is easier to read with one case a line.

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError, Fault
from orchestrator.study_file.loading import load_retrain, load_search, load_study, parse_study
from orchestrator.study_file.sections import REPORT_METRICS, Objective, RetrainSection, Scheduler
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import Scalar, SweepEntry
from orchestrator.study_file.yaml_file import dump_yaml, read_yaml
from search_core.cost.penalty_options import PenaltyOptions
from search_core.errors import OptionsError
from search_core.search.collapse import StopOptions
from search_core.search.options import SearchOptions
from search_core.search.temperature import TemperatureOptions
from search_core.training.retrain_options import RetrainOptions

#: The study file that the project promised its users, verbatim.
EXAMPLE = """\
name: digits-quickstart
seed: 0
search:
  dataset: {name: digits}
  network: {nodes: 4, cells: 5, init_channels: 8}
  strategy: {kind: snas}
  temperature: {kind: linear, start: 1.0, end: 0.1}
  penalty: {strength: 1.0e-3, cost: madds, estimator: reparam, log: true}
  epochs: 12
sweep:
  penalty.strength: {log_uniform: [1.0e-5, 1.0e-1]}
  temperature.kind: {choice: [linear, exponential, cosine]}
  temperature.end: {log_uniform: [0.03, 0.5]}
objectives:
  - {metric: child_val_error, mode: min}
  - {metric: child_madds, mode: min}
sampler: tpe
trials: 8
resources: {cpu: 1}
retrain: {top: front, epochs: 15, cells: 8, init_channels: 16, seeds: 1}
"""

TRANSFER = """\
name: imagenet-transfer
search: {dataset: {name: image-folder, root: /data/imagenet}}
trials: 0
retrain: {genotype: SNAS_mild, stem: imagenet, cells: 14, init_channels: 48, epochs: 250, lr_schedule: exponential}
"""

SMALL = "name: t\nsearch: {}\ntrials: 1\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def replaced(old: str, new: str) -> str:
    """The example with one part changed; a part that is not there would leave it valid unnoticed."""
    assert old in EXAMPLE
    return EXAMPLE.replace(old, new, 1)


def with_sweep(*lines: str) -> str:
    """The example with more swept keys."""
    return replaced("sweep:\n", "sweep:\n" + "".join(f"  {line}\n" for line in lines))


def test_example_loads_verbatim(tmp_path: Path) -> None:
    spec = load_study(written(tmp_path, EXAMPLE))
    assert spec.name == "digits-quickstart"
    assert spec.search.temperature == TemperatureOptions(kind="linear", start=1.0, end=0.1)
    assert spec.search.penalty == PenaltyOptions(strength=1e-3, cost="madds")
    assert spec.sweep["penalty.strength"] == SweepEntry(kind="log_uniform", values=(1e-5, 1e-1))
    assert spec.sweep["temperature.kind"] == SweepEntry(kind="choice", values=("linear", "exponential", "cosine"))
    assert spec.objectives == (
        Objective(metric="child_val_error", mode="min"),
        Objective(metric="child_madds", mode="min"),
    )
    assert (spec.sampler, spec.trials, spec.num_trials, spec.resources.cpu) == ("tpe", 8, 8, 1.0)
    assert spec.retrain == RetrainSection(epochs=15, cells=8, init_channels=16)
    assert isinstance(spec.retrain, RetrainOptions)


def test_defaults_are_documented_ones(tmp_path: Path) -> None:
    spec = load_study(written(tmp_path, SMALL))
    assert [objective.metric for objective in spec.objectives] == ["child_val_error", "child_madds"]
    assert (spec.seed, spec.sampler, spec.max_concurrent, spec.retrain) == (0, "tpe", None, None)
    assert spec.scheduler == Scheduler(kind="none")
    assert spec.scheduler_goal == spec.objectives[0]
    assert spec.registered_name == "t-child"
    assert (spec.stop, spec.warm_start, spec.fork) == (StopOptions(), None, None)
    assert (spec.resources.gpu, spec.resources.memory_gb, spec.resources.uses_gpu) == (0.0, None, False)


def test_resources_may_be_left_to_a_measurement(tmp_path: Path) -> None:
    text = SMALL.replace("search: {}", "search: {precision: bfloat16}") + "resources: {gpu: auto, memory_gb: auto}\n"
    spec = load_study(written(tmp_path, text))
    assert (spec.resources.gpu, spec.resources.memory_gb, spec.resources.uses_gpu) == ("auto", "auto", True)
    part = load_study(written(tmp_path, SMALL + "resources: {gpu: 0.25, memory_gb: 2}\n")).resources
    assert (part.gpu, part.memory_gb, part.uses_gpu) == (0.25, 2.0, True)


def test_transfer_study_searches_nothing(tmp_path: Path) -> None:
    spec = load_study(written(tmp_path, TRANSFER))
    assert spec.num_trials == 0
    assert spec.retrain is not None
    assert spec.retrain.genotype == "SNAS_mild"


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median", "front", "none"])
def test_scheduler_may_be_its_bare_kind(tmp_path: Path, kind: str) -> None:
    assert load_study(written(tmp_path, SMALL + f"scheduler: {kind}\n")).scheduler == Scheduler(kind=kind)  # type: ignore[arg-type]


def test_scheduler_goal_is_own_metric(tmp_path: Path) -> None:
    text = SMALL + "scheduler: {kind: asha, metric: supernet_val_accuracy, mode: max, grace_period: 3}\n"
    spec = load_study(written(tmp_path, text))
    assert spec.scheduler_goal == Objective(metric="supernet_val_accuracy", mode="max")


#: (case, file, faults as (place, part of the message)); no other faults may be reported.
BROKEN: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("unknown root key", replaced("trials:", "trails:"), [("trails", "did you mean `trials`?"), ("trials", "must be given")]),
    ("unknown nested key", replaced("  temperature:", "  tempreture:"), [("search.tempreture", "unknown key `tempreture`; did you mean `temperature`? valid keys: dataset, network")]),
    ("key of another section", SMALL + "epochs: 3\n", [("epochs", "did you mean `search.epochs`?")]),
    ("dotted key in search", replaced("epochs: 12", "penalty.log: true"), [("search.penalty.log", "did you mean `penalty: {log: ...}`?")]),
    ("missing name and trials", "search: {}\n", [("name", "must be given"), ("trials", "must be given")]),
    ("missing mode", replaced("child_madds, mode: min", "child_madds"), [("objectives[1].mode", "must be given")]),
    ("wrong enum", replaced("kind: linear,", "kind: linaer,"), [("search.temperature.kind", "must be constant, linear, exponential, cosine or step, got `linaer`; did you mean `linear`?")]),
    ("quoted number", replaced("epochs: 12", "epochs: '12'"), [("search.epochs", "must be a whole number, got the text `12`; leave out the quotes")]),
    ("fractional number", replaced("epochs: 12", "epochs: 12.0"), [("search.epochs", "must be a whole number, got 12.0; write 12")]),
    ("yes is no boolean", replaced("log: true", "log: yes"), [("search.penalty.log", "must be true or false, got the text `yes`; write true")]),
    ("off is no boolean", replaced("log: true", "log: Off"), [("search.penalty.log", "got the text `Off`; write false")]),
    ("quoted boolean", replaced("log: true", "log: 'true'"), [("search.penalty.log", "got the text `true`; leave out the quotes")]),
    ("leading zero", replaced("epochs: 12", "epochs: 012"), [("search.epochs", "got the text `012`; write 12, or 10 if it is octal")]),
    ("leading zero of no octal", replaced("start: 1.0", "start: 08"), [("search.temperature.start", "got the text `08`; write 8")]),
    ("octal", replaced("epochs: 12", "epochs: 0o14"), [("search.epochs", "got the text `0o14`; write 12")]),
    ("sexagesimal", replaced("epochs: 12", "epochs: 1:30"), [("search.epochs", "got the text `1:30`; write one number, without `:`")]),
    ("thousands", replaced("epochs: 12", "epochs: 1,200"), [("search.epochs", "got the text `1,200`; write 1200")]),
    ("date", replaced("epochs: 12", "epochs: 2024-01-02"), [("search.epochs", "must be a whole number, got the text `2024-01-02`")]),
    ("infinity", replaced("strength: 1.0e-3", "strength: .inf"), [("search.penalty.strength", "finite")]),
    ("thousands of digits", replaced("seed: 0", "seed: " + "9" * 5000), [("seed", "must be a number below 1e308, got one of 5,000 digits")]),
    ("thousands of hexadecimal digits", replaced("seed: 0", "seed: 0x" + "f" * 5000), [("seed", "must be a number below 1e308")]),
    ("hundreds of digits in a range", with_sweep("alpha.lr: {uniform: [1, 1" + "0" * 400 + "]}"), [("sweep.alpha.lr.uniform[1]", "must be a number below 1e308"), ("sweep.alpha.lr.uniform", "two finite numbers")]),
    ("tag that does not fit", replaced("seed: 0", "seed: !!int abc"), [("seed", "must be what its tag `!!int` says, got `abc`")]),
    ("merge key", SMALL + "stop: &a {patience: 9}\nscheduler:\n  <<: *a\n  kind: none\n", [("scheduler", "must not use the merge key `<<`: write its keys out")]),
    ("half a surrogate", SMALL + 'tracking: {uri: "\\ud800"}\n', [("tracking.uri", "half of a surrogate pair")]),
    ("half a surrogate in a key", SMALL + '"\\ud800": 1\n', [("", "half of a surrogate pair")]),
    ("nested sweep", replaced("  penalty.strength: {log_uniform: [1.0e-5, 1.0e-1]}", "  penalty:\n    strength: {log_uniform: [1.0e-5, 1.0e-1]}"), [("sweep.penalty.strength", "must be one key with dots, not sections: write `penalty.strength: {...}`")]),
    ("sweep nested twice", with_sweep("strategy: {estimate: {epochs: {int: [1, 2]}}}"), [("sweep.strategy.estimate", "write `strategy.estimate.epochs: {...}`")]),
    ("boolean is no number", replaced("strength: 1.0e-3", "strength: true"), [("search.penalty.strength", "must be a number, got true")]),
    ("number is no text", replaced("name: digits-quickstart", "name: 12"), [("name", "must be text, got 12; put it into quotes")]),
    ("empty section", replaced("resources: {cpu: 1}", "resources:"), [("resources", "must be a section of keys, got nothing (null)")]),
    ("list for a section", replaced("{name: digits}", "[digits]"), [("search.dataset", "must be a section of keys, got the list ['digits']")]),
    ("short tuple", replaced("{name: digits}", "{name: fake, shape: [3, 32]}"), [("search.dataset.shape", "item 3 is missing, got [3, 32]")]),
    ("long tuple", replaced("{name: digits}", "{name: fake, shape: [3, 32, 32, 1]}"), [("search.dataset.shape", "must have at most 3 items, got [3, 32, 32, 1]")]),
    ("list item", replaced("nodes: 4", "primitives: [none, 3]"), [("search.network.primitives[1]", "must be text, got 3")]),
    ("bfloat16 without a GPU", replaced("epochs: 12", "epochs: 12\n  precision: bfloat16"), [("search.precision", "must be float32 with `resources.gpu` 0.0, got bfloat16")]),
    ("word for a graph", replaced("epochs: 12", "epochs: 12\n  cuda_graph: yes"), [("search.cuda_graph", "must be true, false or auto, got `yes`; write true")]),
    ("graph without a GPU", replaced("epochs: 12", "epochs: 12\n  cuda_graph: true"), [("search.cuda_graph", "needs a GPU, got true with `resources.gpu` 0.0")]),
    ("out of range", replaced("epochs: 12", "epochs: 0"), [("search.epochs", "must be at least 1, got 0")]),
    ("end above start", replaced("end: 0.1", "end: 1.5"), [("search.temperature.end", "must be in (0, `start`] with `start` 1.0, got 1.5")]),
    ("default end above start", replaced("start: 1.0, end: 0.1", "start: 0.02"), [("search.temperature.end", "got 0.03 (the default; `search` must be valid by itself")]),
    ("option of another kind", replaced("end: 0.1}", "end: 0.1, rate: 0.9}"), [("search.temperature.rate", "is for kind exponential only, not linear")]),
    ("seed in search", replaced("epochs: 12", "seed: 3"), [("search.seed", "must be left out: the study's own `seed`")]),
    ("bad name", replaced("name: digits-quickstart", "name: a/b"), [("name", "must be 1 to 80 letters, digits")]),
    ("negative seed", replaced("seed: 0", "seed: -1"), [("seed", "must be in [0, 2^31), got -1")]),
    ("unknown metric", replaced("child_val_error", "child_val_eror"), [("objectives[0].metric", "got `child_val_eror`; did you mean `child_val_error`? metrics: supernet_val_accuracy, child_val_accuracy, child_val_error")]),
    ("same metric twice", replaced("child_madds", "child_val_error"), [("objectives", "must differ in their metric")]),
    ("five objectives", replaced("objectives:\n", "objectives:\n" + "".join(f"  - {{metric: {name}, mode: min}}\n" for name in ("child_params", "train_loss", "child_memory_access"))), [("objectives", "must be one to four, got 5")]),
    ("unknown sampler", replaced("sampler: tpe", "sampler: tpee"), [("sampler", "must be tpe, nsga2, gp, random or grid, got `tpee`; did you mean `tpe`?")]),
    ("grid over a range", replaced("sampler: tpe", "sampler: grid"), [("sweep.penalty.strength", "must be a `choice` or `int` for sampler grid, got `log_uniform`"), ("sweep.temperature.end", "sampler grid")]),
    ("identical trials", SMALL.replace("1", "5"), [("trials", "must be 1 with an empty `sweep`, since all trials would be identical, got 5; or sweep `seed`")]),
    ("no trials", replaced("trials: 8", "trials: 0"), [("trials", "must be at least 1 (or 0 with `retrain.genotype`), got 0")]),
    ("trials of a transfer", TRANSFER.replace("trials: 0", "trials: 4\nsweep: {seed: {int: [0, 3]}}"), [("trials", "must be 0 with `genotype` SNAS_mild"), ("sweep", "must be empty with `genotype`")]),
    ("top of a transfer", TRANSFER.replace("{genotype", "{top: 3, genotype"), [("retrain.top", "must be left out with `genotype`")]),
    ("top", replaced("top: front", "top: 0"), [("retrain.top", "must be `front`, `all` or a whole number of at least 1, got 0")]),
    ("workers", replaced("top: front", "workers: 0"), [("retrain.workers", "must be at least 1, got 0")]),
    ("workers that cannot share", replaced("top: front", "workers: 5"), [("retrain.batch_size", "must divide by 5 workers, at least 2 images for each, got ")]),
    ("registered name", replaced("top: front", "register_as: a/b"), [("retrain.register_as", "without / and :, got `a/b`")]),
    ("population of which too few checkpoints stay", replaced("sampler: tpe", "sampler: tpe\nscheduler: {kind: pbt, interval: 4}\nstorage: {keep: {every: 3}}"), [("storage.keep.every", "must divide `scheduler.interval` 4, after which trials are forked, got 3")]),
    ("scheduler kind", replaced("trials: 8", "trials: 8\nscheduler: ashaa"), [("scheduler.kind", "must be none, asha, hyperband, median, front or pbt, got `ashaa`")]),
    ("scheduler", replaced("trials: 8", "trials: 8\nscheduler: {kind: asha, metric: child_madds, grace_period: 0, reduction_factor: 1}"), [("scheduler.mode", "together with `metric`"), ("scheduler.grace_period", "at least 1 epoch, got 0"), ("scheduler.reduction_factor", "at least 2, got 1")]),
    ("scheduler of the front", replaced("trials: 8", "trials: 8\nscheduler: {kind: front, metric: child_madds, mode: min, dominated_by: 0}"), [("scheduler.dominated_by", "at least 1, got 0"), ("scheduler.metric", "must be left out with `kind` front")]),
    ("resources", replaced("cpu: 1", "cpu: 0, gpu: 1.5, memory: 3"), [("resources.cpu", "above 0, got 0.0"), ("resources.gpu", "fraction of 1 or a whole number, got 1.5"), ("resources.memory", "did you mean `memory_gb`?")]),
    ("amount of memory", replaced("cpu: 1", "memory_gb: -1"), [("resources.memory_gb", "must be `auto` or a finite number above 0, got -1.0")]),
    ("word for an amount", replaced("cpu: 1", "gpu: automatic, memory_gb: '3'"), [("resources.gpu", "must be `auto` or a number, got the text `automatic`"), ("resources.memory_gb", "must be `auto` or a number, got the text `3`")]),
    ("nothing for an amount", replaced("cpu: 1", "gpu: null"), [("resources.gpu", "must be `auto` or a number, got nothing (null)")]),
    ("collapse", replaced("trials: 8", "trials: 8\nstop: {skip_share: 2, patience: 0, none_edge: false}"), [("stop.skip_share", "must be in [0, 1], where 1 means never, got 2.0"), ("stop.patience", "must be at least 1 epoch, got 0"), ("stop.none_edge", "did you mean `none_edges`?")]),
    ("warm start of a grid", EXAMPLE.replace("sampler: tpe", "sampler: grid\nwarm_start: {experiment: other}").replace("log_uniform: [1.0e-5, 1.0e-1]", "choice: [1.0e-5]").replace("log_uniform: [0.03, 0.5]", "choice: [0.1]"), [("warm_start", "must be left out for sampler grid")]),
    ("warm start without a sweep", SMALL + "warm_start: {experiment: other}\n", [("warm_start", "must be left out with an empty `sweep`")]),
    ("warm start from itself", replaced("trials: 8", "trials: 8\nwarm_start: {experiment: digits-quickstart}"), [("warm_start.experiment", "must name another study than this one, got `digits-quickstart`")]),
    ("warm start from nowhere", replaced("trials: 8", "trials: 8\nwarm_start: {top: 1}"), [("warm_start.experiment", "must be given")]),
    ("fork at the end", replaced("sampler: tpe", "sampler: tpe\nfork: {epoch: 12}"), [("fork.epoch", "must be below `search.epochs` 12, got 12")]),
    ("fork at the beginning", replaced("sampler: tpe", "sampler: tpe\nfork: {epoch: 0}"), [("fork.epoch", "must be at least 1, got 0")]),
    ("fork beyond the grace", replaced("sampler: tpe", "sampler: tpe\nfork: {epoch: 3}\nscheduler: {kind: asha, grace_period: 3}"), [("scheduler.grace_period", "must be above `fork.epoch` 3, up to which all trials are alike, got 3")]),
    ("multi-trial strategy with what stops or forks trials", replaced("kind: snas", "kind: random").replace("sampler: tpe", "sampler: tpe\nfork: {epoch: 3}\nscheduler: {kind: asha, grace_period: 4}"), [("scheduler.kind", "must be none with strategy random, which trains every child independently, got asha"), ("fork", "must be left out with strategy random")]),
    ("swept multi-trial strategies with a scheduler", with_sweep("strategy.kind: {choice: [snas, random, bayesian]}").replace("sampler: tpe", "sampler: tpe\nscheduler: median"), [("scheduler.kind", "must be none with strategy random and bayesian")]),
    ("estimate", replaced("{kind: snas}", "{kind: regularised_evolution, population: 1, children: 0, estimate: {epochs: 0, data_fraction: 2.0, stop: {kind: curve, grace: 1}}}"), [("search.strategy.estimate.epochs", "must be at least 1, got 0"), ("search.strategy.estimate.data_fraction", "must be in (0, 1], got 2.0"), ("search.strategy.estimate.stop.grace", "must be at least 3 epochs, got 1"), ("search.strategy.children", "must be at least 1, got 0"), ("search.strategy.population", "must be at least 2, got 1")]),
    ("setting of the other family", replaced("{kind: snas}", "{kind: snas, children: 3}"), [("search.strategy.children", "unknown key `children`")]),
    ("estimate that only some strategies have", with_sweep("strategy.kind: {choice: [snas, random]}", "strategy.estimate.epochs: {int: [1, 3]}", "strategy.estimate.lr: {choice: [0.1]}"), [("sweep.strategy.estimate.epochs", "(when `strategy.kind` is snas); add `when: {strategy.kind: [random]}`"), ("sweep.strategy.estimate.lr", "add `when: {strategy.kind: [random]}`")]),
    ("children on a GPU graph", replaced("{kind: snas}", "{kind: random}\n  cuda_graph: true").replace("{cpu: 1}", "{cpu: 1, gpu: 1}"), [("search.cuda_graph", "must be auto or false, got true: strategy random trains each child by itself")]),
    ("strength swept beside a swept target", with_sweep("penalty.target.madds: {choice: [1.0e+5]}"), [("sweep.penalty.strength", "must be left out with `penalty.target`, which decides the strength itself")]),
    ("target for a strategy without penalty and a schedule", replaced("kind: snas", "kind: spos").replace("log: true", "log: true, schedule: step, target: {madds: 1.0e+5}"), [("search.penalty.schedule", "must be constant with `target`"), ("search.penalty.target", "must be left out with strategy spos, which has no penalty")]),
    ("target in latency without a table", replaced("log: true", "log: true, target: {latency_ms: 2.0}").replace("  penalty.strength: {log_uniform: [1.0e-5, 1.0e-1]}\n", ""), [("search.latency.table", "must be given for `penalty.target`")]),
    ("fork without its epoch", replaced("sampler: tpe", "sampler: tpe\nfork: {}"), [("fork.epoch", "must be given")]),
    ("fork of searches that differ from the start", with_sweep("theta.lr: {uniform: [0.01, 0.1]}", "seed: {int: [0, 9]}").replace("sampler: tpe", "sampler: tpe\nfork: {epoch: 3}"), [("sweep.theta.lr", "must be a key of penalty, temperature, constraints with `fork`"), ("sweep.seed", "must be a key of penalty, temperature, constraints with `fork`")]),
    ("warm start from none", replaced("trials: 8", "trials: 8\nwarm_start: {experiment: '', top: 0}"), [("warm_start.experiment", "must be the name of a study, got nothing"), ("warm_start.top", "must be at least 1, got 0")]),
    ("no concurrency", replaced("trials: 8", "trials: 8\nmax_concurrent: 0"), [("max_concurrent", "must be at least 1, got 0")]),
    ("unknown swept key", with_sweep("penalty.strenght: {choice: [1]}"), [("sweep.penalty.strenght", "did you mean `penalty.strength`?")]),
    ("swept key with search", with_sweep("search.epochs: {int: [1, 2]}"), [("sweep.search.epochs", "inside `search`, got `search.epochs`; did you mean `epochs`?")]),
    ("swept section", with_sweep("temperature: {choice: [linear]}"), [("sweep.temperature", "is a section; its settings: temperature.kind, temperature.start")]),
    ("no form", with_sweep("alpha.lr: [1, 2]"), [("sweep.alpha.lr", "must be {log_uniform: [low, high]}")]),
    ("unknown form", with_sweep("alpha.lr: {loguniform: [1, 2]}"), [("sweep.alpha.lr.loguniform", "did you mean `log_uniform`? valid keys: log_uniform, uniform, int, choice, when")]),
    ("two forms", with_sweep("epochs: {int: [1, 2], choice: [1]}"), [("sweep.epochs", "must have only one of log_uniform, uniform, int, choice, got int and choice")]),
    ("no range", with_sweep("epochs: {when: {temperature.kind: linear}}"), [("sweep.epochs", "must have one of log_uniform, uniform, int, choice")]),
    ("low above high", with_sweep("alpha.lr: {uniform: [2, 1]}"), [("sweep.alpha.lr.uniform", "must have low < high, got [2.0, 1.0]")]),
    ("log of zero", replaced("[1.0e-5, 1.0e-1]", "[0, 1.0e-1]"), [("sweep.penalty.strength.log_uniform", "must have low above 0, since logarithms are drawn, got [0.0, 0.1]")]),
    ("three ends", with_sweep("alpha.lr: {uniform: [1, 2, 3]}"), [("sweep.alpha.lr.uniform", "must be [low, high], two finite numbers, got [1.0, 2.0, 3.0]")]),
    ("text ends", with_sweep("alpha.lr: {uniform: [a, b]}"), [("sweep.alpha.lr.uniform", "two finite numbers, got ['a', 'b']")]),
    ("fractional int", with_sweep("epochs: {int: [1.5, 3]}"), [("sweep.epochs.int", "must be two whole numbers, got [1.5, 3]")]),
    ("no choice", with_sweep("seed: {choice: []}"), [("sweep.seed.choice", "must have at least one value, got none")]),
    ("choice repeated", with_sweep("epochs: {choice: [1, 2, 1]}"), [("sweep.epochs.choice", "must hold different values, got 1 more than once")]),
    ("choice of lists", with_sweep("alpha.betas: {choice: [[0.5, 0.9]]}"), [("sweep.alpha.betas.choice", "must hold single values")]),
    ("choice of no value", with_sweep("dataset.flip: {choice: [true, maybe]}"), [("sweep.dataset.flip", "must be true or false, got the text `maybe`")]),
    ("choice not in enum", replaced("[linear, exponential, cosine]", "[linear, cosin]"), [("sweep.temperature.kind", "got `cosin`; did you mean `cosine`?")]),
    ("uniform whole number", with_sweep("network.cells: {uniform: [2, 8]}"), [("sweep.network.cells", "must have whole numbers, so `int` or `choice`, got `uniform`")]),
    ("swept end above start", replaced("[0.03, 0.5]", "[0.03, 1.5]"), [("sweep.temperature.end", "must be in (0, `start`] with `start` 1.0, got 1.5")]),
    ("swept end above swept start", with_sweep("temperature.start: {choice: [0.1, 1.0]}"), [("sweep.temperature.end", "with `start` 0.1, got 0.5 (when `temperature.start` is 0.1)")]),
    ("restriction through a linked section", with_sweep("temperature.start: {choice: [0.1, 1.0], when: {theta.lr: 0.1}}", "theta.lr: {choice: [0.1, 0.2]}", "batch_size: {choice: [8], when: {theta.lr: 0.1}}"), [("sweep.temperature.end", "with `start` 0.1, got 0.5 (when `temperature.start` is 0.1")]),
    ("middle choice", with_sweep("network.init_channels: {choice: [8, 9, 16]}"), [("sweep.network.init_channels", "must be an even number of at least 2, got 9")]),
    ("fixed rate, swept kind", replaced("kind: linear, start: 1.0, end: 0.1", "kind: exponential, rate: 0.9"), [("sweep.temperature.kind", "linear does not fit: `temperature.rate` is for kind exponential only, not linear; sweep `temperature.rate` too, with `when: {temperature.kind: [exponential]}`, and leave it out of `search`")]),
    ("swept rate without condition", with_sweep("temperature.rate: {uniform: [0.8, 0.95]}"), [("sweep.temperature.rate", "add `when: {temperature.kind: [exponential]}`")]),
    ("kind that needs more", with_sweep("penalty.schedule: {choice: [constant, warmup]}"), [("sweep.penalty.schedule", "warmup does not fit: `penalty.warmup_epochs` must be given for schedule warmup")]),
    ("need that a condition leaves open", with_sweep("penalty.schedule: {choice: [constant, warmup]}", "penalty.warmup_epochs: {int: [1, 3], when: {temperature.kind: linear, penalty.schedule: warmup}}"), [("sweep.penalty.schedule", "warmup does not fit: `penalty.warmup_epochs` must be given for schedule warmup, and only there (schedule is warmup) (when `temperature.kind` is exponential)")]),
    ("values that fail together only", with_sweep("temperature.start: {choice: [0.1, 1.0]}").replace("[0.03, 0.5]", "[1.0, 2.0]"), [("sweep.temperature.end", "with `start` 0.1, got 1.0 (when `temperature.start` is 0.1 and ")]),
    ("word of a faulty key in another rule", replaced("{kind: snas}", "{kind: random, estimate: {epochs: x, stop: {kind: curve, grace: 1}}}"), [("search.strategy.estimate.epochs", "got the text `x`"), ("search.strategy.estimate.stop.grace", "must be at least 3 epochs, got 1")]),
    ("rule over a faulty value", replaced("start: 1.0, end: 0.1", "start: -1, end: 0.1"), [("search.temperature.start", "above 0, got -1.0")]),
    ("rule over a faulty value elsewhere", replaced("cpu: 1", "gpu: x").replace("epochs: 12", "epochs: 12\n  precision: bfloat16", 1), [("resources.gpu", "must be `auto` or a number")]),
    ("rule over a faulty sweep", with_sweep("strategy.kind: {choice: [snas, randm]}", "strategy.estimate.epochs: {int: [1, 3]}"), [("sweep.strategy.kind", "did you mean `random`?")]),
    ("base invalid by itself", replaced("log: true", "schedule: warmup").replace("sweep:\n", "sweep:\n  penalty.warmup_epochs: {int: [1, 3]}\n"), [("search.penalty.warmup_epochs", "`search` must be valid by itself")]),
    ("when form", with_sweep("epochs: {int: [1, 2], when: 3}"), [("sweep.epochs.when", "must be {other.swept.key: value or [values]}, got 3")]),
    ("when of no swept key", with_sweep("epochs: {int: [1, 2], when: {temperature.knd: linear}}"), [("sweep.epochs", "`when` must name a swept key, got `temperature.knd`; did you mean `temperature.kind`?")]),
    ("when of a range", with_sweep("epochs: {int: [1, 2], when: {penalty.strength: 0.1}}"), [("sweep.epochs", "`when` must name a `choice` or `int` entry, but `penalty.strength` is a `log_uniform`")]),
    ("when of no choice", with_sweep("epochs: {int: [1, 2], when: {temperature.kind: step}}"), [("sweep.epochs", "that `temperature.kind` can have (linear, exponential, cosine), got step")]),
    ("circle", with_sweep("epochs: {int: [1, 2], when: {batch_size: 8}}", "batch_size: {choice: [8], when: {epochs: 1}}"), [("sweep.epochs", "goes round in a circle: `epochs` needs `batch_size` needs `epochs`")]),
    ("given twice", replaced("epochs: 12", "epochs: 12\n  epochs: 13"), [("search.epochs", "is given twice: line 9 has it already")]),
    ("strange tag", replaced("name: digits-quickstart", "name: !!python/name:os.system"), [("name", "got the tag `!!python/name:os.system`")]),
    ("numeric key", SMALL + "3: x\n", [("", "keys must be text, got `3`; put it into quotes")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_study_names_place_and_rule(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(written(tmp_path, text))
    faults = {fault.place: fault.message for fault in caught.value.faults}
    assert sorted(faults) == sorted(place for place, _ in expected), str(caught.value)
    for place, part in expected:
        assert part in faults[place]
    message = str(caught.value).lower()
    assert not any(word in message for word in ("pydantic", "_type", "input should", "value error", "nonetype"))


#: (case, file, line, column, part of the message)
UNREADABLE = [
    ("empty", "", None, None, "the file is empty"),
    ("only a comment", "# nothing yet\n", None, None, "the file is empty"),
    ("list", "- a\n- b\n", 1, None, "must hold keys with values, such as `epochs: 12`, got the list ['a', 'b']"),
    ("text", "hello\n", 1, None, "got the text `hello`"),
    ("open bracket", "name: [1\ntrials: 2\n", 2, 7, "must be valid YAML: expected ',' or ']'"),
    ("two colons", "name: a: b\n", 1, 8, "must be valid YAML: mapping values are not allowed here"),
    ("tab", "search:\n\tepochs: 3\n", 2, 1, "indent with spaces, not tabs"),
    (
        "two documents",
        "name: a\n---\nname: b\n",
        2,
        1,
        "expected a single document in the stream, but found another document",
    ),
    ("control character", "name: a\nseed: \x00\n", 2, 7, "must be printable text, got the character U+0000"),
    (
        "aliases of aliases",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        1,
        None,
        "must have at most 20,000 values, those of aliases counted",
    ),
    ("alias in itself", "a: &x [*x]\n", 1, 4, "an alias must not contain itself"),
    ("deep", "a: " + "[" * 3000, None, None, "must not be nested so deeply"),
]


@pytest.mark.parametrize(
    ("text", "line", "column", "part"), [c[1:] for c in UNREADABLE], ids=[c[0] for c in UNREADABLE]
)
def test_unreadable_file_is_one_fault(
    tmp_path: Path, text: str, line: int | None, column: int | None, part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(written(tmp_path, text))
    (fault,) = caught.value.faults
    assert (fault.line, fault.column) == (line, column)
    assert part in fault.message


def test_missing_file_folder_and_binary_are_one_fault_each(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    for name, part in [("none.yaml", "no such file"), ("", "is a directory"), ("binary.yaml", "must be UTF-8 text")]:
        with pytest.raises(ConfigError, match=part) as caught:
            load_study(tmp_path / name)
        assert len(caught.value.faults) == 1
        assert str(tmp_path / name) in str(caught.value)


def test_all_faults_are_reported_at_once_in_order_of_lines(tmp_path: Path) -> None:
    # Type faults of a section hide its range faults from pydantic, and any fault hides the rules across sections.
    text = """\
name: a/b
search:
  temperature: {kind: linaer, start: abc, factor: 7}
  theta:
    momentum: x
    lr: 0
  epoch: 3
sweep:
  penalty.strength: {log_uniform: [0, 1]}
  network.nodes: {int: [0, 4]}
  temprature.end: {uniform: [1, 2]}
objectives:
  - {metric: child_val_error, mode: minn}
sampler: grid
trials: 0
retrain: {epochs: 0, drop_paths: 0.1}
"""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert [(fault.line, fault.place) for fault in caught.value.faults] == [
        (1, "name"),
        (3, "search.temperature.kind"),
        (3, "search.temperature.start"),
        (3, "search.temperature.factor"),  # out of range for any kind
        (5, "search.theta.momentum"),
        (6, "search.theta.lr"),
        (7, "search.epoch"),
        (9, "sweep.penalty.strength.log_uniform"),
        (10, "sweep.network.nodes"),
        (11, "sweep.temprature.end"),
        (13, "objectives[0].mode"),
        (15, "trials"),
        (16, "retrain.drop_paths"),
        (16, "retrain.epochs"),
    ]
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 14 faults"
    assert lines[6] == f"  {path}:6: search.theta.lr: must be a finite number above 0, got 0.0"


def test_consequence_of_a_fault_is_not_reported(tmp_path: Path) -> None:
    # Without the misspelt kind the default applies, for which `rate` is wrong: not what the user meant.
    text = replaced("kind: linear, start: 1.0, end: 0.1", "kind: exponental, rate: 0.9, start: 1.0, end: 0.1")
    with pytest.raises(ConfigError) as caught:
        load_study(written(tmp_path, text))
    assert [fault.place for fault in caught.value.faults] == ["search.temperature.kind"]


def test_fault_without_sweep_left_is_not_identical_trials(tmp_path: Path) -> None:
    text = "name: t\nsearch: {}\ntrials: 5\nsweep: {penalty.strength: {log_uniform: [0, 1]}}\n"
    with pytest.raises(ConfigError) as caught:
        load_study(written(tmp_path, text))
    assert [fault.place for fault in caught.value.faults] == ["sweep.penalty.strength.log_uniform"]


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    path = written(
        tmp_path, "a: 1e-5\nb: 1E3\nc: off\nd: 010\ne: 2024-01-02\nf: 12:30\ng: .inf\nh: -3\ni: ~\nj: True\n"
    )
    assert read_yaml(path).data == {
        "a": 1e-5, "b": 1000.0, "c": "off", "d": "010", "e": "2024-01-02", "f": "12:30", "g": float("inf"), "h": -3,
        "i": None, "j": True,
    }  # fmt: skip


def test_dump_reads_back_the_same(tmp_path: Path) -> None:
    data = {
        "text": ["1e-5", "off", "12", "null", "~", "", "a: b", "1.5", "true", "2024-01-02", "é"],
        "x": [1e-5, 1e22, 3],
    }
    assert read_yaml(written(tmp_path, dump_yaml(data))).data == data


RICH = with_sweep(
    "temperature.rate: {uniform: [0.8, 0.95], when: {temperature.kind: exponential}}",
    "dataset.flip: {choice: [true, null]}",
    "network.cells: {int: [2, 5]}",
).replace(
    "trials: 8",
    "trials: 8\nscheduler: asha\nmax_concurrent: 2\nstorage: {path: /shared}\nstop: {skip_share: 0.5}\n"
    "warm_start: {experiment: other, top: 3}",
).replace("resources: {cpu: 1}", "resources: {gpu: auto, memory_gb: auto}") + "seed2: 0\n".replace(
    "seed2: 0\n", "tracking: {uri: 'http://127.0.0.1:5000'}\n"
)
FORKED = replaced(
    "sampler: tpe",
    "sampler: tpe\nfork: {epoch: 10}\nscheduler: {kind: asha, grace_period: 11}\nstop: {stalled_entropy: 0.9, patience: 2}",
)


@pytest.mark.parametrize("text", [EXAMPLE, SMALL, TRANSFER, RICH, FORKED, replaced("seed: 0", "seed: 7")])
def test_resolved_study_loads_back_equal(tmp_path: Path, text: str) -> None:
    spec = load_study(written(tmp_path, text))
    data = spec.resolved()
    assert parse_study(data) == spec
    assert load_study(written(tmp_path, dump_yaml(data))) == spec
    assert data["search"]["theta"]["momentum"] == 0.9, "defaults are written out"


def test_resolved_differs_when_the_study_does(tmp_path: Path) -> None:
    one = load_study(written(tmp_path, EXAMPLE))
    other = load_study(written(tmp_path, replaced("0.5]}", "0.4]}")))
    assert one != other
    assert one.resolved() != other.resolved()


def test_spec_and_errors_survive_pickle(tmp_path: Path) -> None:
    spec = load_study(written(tmp_path, RICH))
    assert pickle.loads(pickle.dumps(spec)) == spec
    error = ConfigError("x.yaml", [Fault("search.epochs", "must be at least 1, got 0", 3)])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.faults) == (str(error), error.faults)


def test_parse_study_keeps_callers_data() -> None:
    data = {"name": "t", "search": {"seed": 3}, "trials": 1, "scheduler": "asha"}
    with pytest.raises(ConfigError, match=r"search\.seed: must be left out"):
        parse_study(data)
    assert data == {"name": "t", "search": {"seed": 3}, "trials": 1, "scheduler": "asha"}


def test_overrides_replace_and_add(tmp_path: Path) -> None:
    overrides = [
        "search.epochs=2",
        "trials = 4",
        "sweep.penalty.strength={log_uniform: [1e-4, 1e-2]}",
        "sweep.temperature.rate={uniform: [0.8, 0.9], when: {temperature.kind: exponential}}",
        "tracking.uri=http://host:5000",
        "retrain=null",
    ]
    spec = load_study(written(tmp_path, EXAMPLE), overrides)
    assert (spec.search.epochs, spec.trials, spec.retrain) == (2, 4, None)
    assert spec.search.temperature.end == 0.1, "the rest stays"
    assert spec.sweep["penalty.strength"].values == (1e-4, 1e-2)
    assert spec.sweep["temperature.rate"].when == {"temperature.kind": ("exponential",)}
    assert spec.tracking.uri == "http://host:5000"


def test_faulty_overrides_are_reported_with_their_origin(tmp_path: Path) -> None:
    overrides = ["search.epochs=0", "trials", "foo=", "=3", "a..b=1", "name.x=3", "x={a: [", "trails=4"]
    with pytest.raises(ConfigError) as caught:
        load_study(written(tmp_path, replaced("end: 0.1", "end: 2")), overrides)
    assert all(fault.is_override == (fault.place != "search.temperature.end") for fault in caught.value.faults)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(": 9 faults")
    assert "  --set search.epochs: must be at least 1, got 0" in lines
    assert "  --set trials: must have the form key=value, such as search.epochs=2" in lines
    assert "  --set foo=: must have the form key=value, such as search.epochs=2" in lines
    assert any(
        line.startswith("  --set name.x=3: must name a key of a section, but `name` is the text") for line in lines
    )
    assert any(line.startswith("  --set x={a: [: must have a YAML value") for line in lines)
    assert any(line.startswith("  --set trails: unknown key `trails`; did you mean `trials`?") for line in lines)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["name=abc #1"], "--set name=abc #1: must not end in a comment, got `#1`: leave it out, or put the value into quotes, --set 'name=\"abc #1\"'"),
        (["name=# a"], "--set name=# a: must not end in a comment, got `# a`"),
        (["trials=3 # three"], "--set trials=3 # three: must not end in a comment, got `# three`: leave it out, or put the value into quotes"),
        (["retrian.epochs=3"], "--set retrian: unknown key `retrian`; did you mean `retrain`?"),
        (["retrain.epoch=3"], "--set retrain.epoch: unknown key `epoch`; did you mean `epochs`?"),
        (["warm_start.top=1"], "--set warm_start.experiment: must be given"),
        (["objectives[0].mode=max"], "--set objectives[0].mode=max: must name a key, not an item of a list: set `objectives` whole"),
        (["seed=1", "seed=2"], "--set seed=2: must be given once, but another --set has `seed`"),
        (["stop.patience=2", "stop={}"], "--set stop={}: must be given once, but another --set has `stop.patience`"),
        (["seed=010"], "--set seed: must be a whole number, got the text `010`; write 10, or 8 if it is octal"),
        (["seed=" + "9" * 5000], "...: must be a number below 1e308, got one of 5,000 digits"),
        (["name=\udcff"], "must have a YAML value: must be printable text, got the character U+DCFF"),
        (["x=" + "[" * 1500], "...: must have a YAML value: must not be nested so deeply"),
        (["name=*a"], "--set name=*a: must have a YAML value: must be valid YAML: found undefined alias 'a'"),
    ],
)  # fmt: skip
def test_faulty_override_is_one_fault_of_its_own(tmp_path: Path, settings: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(written(tmp_path, SMALL), settings)
    (fault,) = caught.value.faults
    assert fault.is_override
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_overrides_keep_what_quotes_and_equals_signs_hold(tmp_path: Path) -> None:
    overrides = ["tracking.uri=http://host/?a=b#c", "retrain={}", "retrain.register_as='a #1'", "retrain.epochs=3"]
    spec = load_study(written(tmp_path, SMALL), overrides)
    assert spec.tracking.uri == "http://host/?a=b#c"
    assert spec.retrain is not None
    assert (spec.retrain.register_as, spec.retrain.epochs) == ("a #1", 3)


@pytest.mark.parametrize(
    ("content", "place", "rule"),
    [
        (SMALL.encode("utf-16"), "", "must be UTF-8 text, got UTF-16: save it as UTF-8"),
        (SMALL.replace("t", "é").encode("latin-1"), ":1:7", "must be UTF-8 text, but the byte 0xe9 cannot be decoded"),
    ],
)
def test_other_encodings_are_refused_by_name(tmp_path: Path, content: bytes, place: str, rule: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    assert f"{file}{place}: {rule}" in str(caught.value)
    file.write_text(SMALL, encoding="utf-8-sig")
    assert load_study(file).name == "t"


def test_search_loads_from_bare_file_and_from_study(tmp_path: Path) -> None:
    bare = written(tmp_path, "temperature: {end: 0.1}\nepochs: 3\nseed: 5\n")
    options = load_search(bare, ["penalty.strength=1e-5", "seed=6"])
    assert options == SearchOptions(
        temperature=TemperatureOptions(end=0.1), epochs=3, penalty=PenaltyOptions(strength=1e-5), seed=6
    )
    study = written(tmp_path, replaced("seed: 0", "seed: 9"))
    options = load_search(study, ["epochs=2", "search.batch_size=8", "temperature.end=0.2"])
    assert (options.epochs, options.batch_size, options.temperature.end, options.seed) == (2, 8, 0.2, 9)
    assert load_search(study, ["seed=4"]).seed == 4


def test_bare_search_file_names_places_from_its_root(tmp_path: Path) -> None:
    path = written(tmp_path, "epochs: 0\nstrength: 3\ntemperature:\n  end: 4\n")
    with pytest.raises(ConfigError) as caught:
        load_search(path, ["theta.lr=-1"])
    assert [(f.line, f.place) for f in caught.value.faults] == [
        (1, "epochs"),
        (2, "strength"),
        (4, "temperature.end"),
        (None, "theta.lr"),
    ]
    assert "did you mean `penalty.strength`?" in str(caught.value)


def test_retrain_loads_from_study_and_from_own_file(tmp_path: Path) -> None:
    config = load_retrain(written(tmp_path, replaced("seed: 0", "seed: 3")), ["cells=4", "dataset.cutout=2"])
    assert (config.dataset.name, config.dataset.cutout, config.seed) == ("digits", 2, 3)
    assert config.retrain == RetrainSection(epochs=15, cells=4, init_channels=16)
    config = load_retrain(written(tmp_path, "dataset: {name: fake}\nretrain: {epochs: 2}\n"), ["retrain.lr=0.1"])
    assert (config.dataset.name, config.retrain, config.seed) == ("fake", RetrainSection(epochs=2, lr=0.1), 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALL, ["retrain: must be given to retrain a cell"]),
        ("retrain: {epochs: 0}\nseed: -1\n", ["retrain.epochs: must be at least 1", "seed: must be", "dataset: must be given"]),
        ("dataset: {}\nretrian: {}\n", ["retrian: unknown key `retrian`; did you mean `retrain`?", "retrain: must be given"]),
    ],
)  # fmt: skip
def test_broken_retrain_file_names_place(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_retrain(written(tmp_path, text))
    assert len(caught.value.faults) == len(expected)
    for part in expected:
        assert part in str(caught.value)


def test_search_options_apply_values_and_seed(tmp_path: Path) -> None:
    spec = load_study(written(tmp_path, replaced("seed: 0", "seed: 7")))
    values: dict[str, Scalar] = {"temperature.kind": "exponential", "temperature.rate": 0.9, "penalty.strength": 0.02}
    options = search_options(spec, values)
    assert options.temperature == TemperatureOptions(kind="exponential", start=1.0, end=0.1, rate=0.9)
    assert options.penalty == PenaltyOptions(strength=0.02, cost="madds")
    assert (options.epochs, options.network, options.seed) == (12, spec.search.network, 7)
    assert search_options(spec, {"seed": 11}).seed == 11
    assert search_options(spec, {}) == spec.search


def test_search_options_refuse_values_that_do_not_fit(tmp_path: Path) -> None:
    spec = load_study(written(tmp_path, EXAMPLE))
    with pytest.raises(OptionsError, match=r"`search\.temperature\.rate` is for kind exponential only"):
        search_options(spec, {"temperature.rate": 0.9})
    with pytest.raises(OptionsError, match="unknown key `strenght`"):
        search_options(spec, {"penalty.strenght": 0.9})


def test_conditional_sweep_is_valid_for_every_kind(tmp_path: Path) -> None:
    text = with_sweep(
        "temperature.rate: {uniform: [0.8, 0.95], when: {temperature.kind: exponential}}",
        "penalty.schedule: {choice: [constant, warmup, step]}",
        "penalty.warmup_epochs: {int: [1, 5], when: {penalty.schedule: warmup}}",
        "penalty.off_epoch: {int: [1, 5], when: {penalty.schedule: [step]}}",
        "penalty.cost: {choice: [madds, mix]}",
        "penalty.mix.params: {uniform: [0.1, 1], when: {penalty.cost: mix}}",
    )
    assert len(load_study(written(tmp_path, text)).sweep) == 9


def test_grid_runs_at_most_its_points(tmp_path: Path) -> None:
    text = "name: g\nsearch: {}\nsampler: grid\ntrials: {n}\nsweep: {seed: {int: [0, 2]}, penalty.cost: {choice: [snas, madds]}}\n"
    assert load_study(written(tmp_path, text.replace("{n}", "100"))).num_trials == 6
    assert load_study(written(tmp_path, text.replace("{n}", "4"))).num_trials == 4


def test_named_strengths_are_kept_as_numbers(tmp_path: Path) -> None:
    text = "name: n\nsearch: {penalty: {strength: moderate}}\nsampler: grid\ntrials: 9\n"
    text += "sweep: {penalty.strength: {choice: [0.5, mild, aggressive]}}\n"
    spec = load_study(written(tmp_path, text))
    assert spec.search.penalty.strength == 1e-2
    assert spec.sweep["penalty.strength"].values == (0.5, 1e-3, 3e-2)
    assert parse_study(spec.resolved()) == spec
    with pytest.raises(ConfigError, match=r"sweep\.penalty\.strength: must be a number for cost madds"):
        load_study(written(tmp_path, text), ["search.penalty.strength=0.1", "search.penalty.cost=madds"])


def test_size_and_operations_of_the_network_may_be_swept(tmp_path: Path) -> None:
    lines = ("network.nodes: {int: [2, 4]}", 'network.primitives: {choice: ["none skip_connect", "none sep_conv_3x3"]}')
    spec = load_study(written(tmp_path, with_sweep(*lines)))
    assert parse_study(spec.resolved()) == spec
    network = search_options(spec, {"network.nodes": 2, "network.primitives": "none skip_connect"}).network
    assert (network.nodes, network.primitives) == (2, ("none", "skip_connect"))
    with pytest.raises(ConfigError, match=r"sweep\.network\.primitives: .*must be among none, .*got nothing"):
        load_study(written(tmp_path, with_sweep('network.primitives: {choice: ["none nothing"]}')))


def test_study_can_be_built_in_python() -> None:
    spec = StudySpec(
        name="py",
        seed=3,
        search=SearchOptions(epochs=2),
        sweep={"penalty.strength": SweepEntry(kind="log_uniform", values=(1e-4, 1e-2))},
        objectives=(Objective(metric=REPORT_METRICS[0], mode="min"),),
        trials=2,
    )
    assert spec.search.seed == 3
    assert parse_study(spec.resolved()) == spec
    with pytest.raises(ValueError, match="must be 1 with an empty `sweep`"):
        StudySpec(name="py", search=SearchOptions(), trials=2)
