"""The command line as a user meets it: what it prints, what it writes, how it fails."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.cli.dashboard import server_environment, training_views
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from search_core.cost.memory import StepMemory
from search_core.space.cell_files import load_genotype
from search_core.space.choices import load_choices
from search_core.space.genotype import PUBLISHED, Genotype
from search_core.space.plan import NetworkSize
from tests.orchestrator.tiny import (
    RETRAIN,
    SEARCH,
    Outcome,
    artifact_paths,
    cell_of,
    image_steps,
    runs_of,
    snas,
    steps_of,
    study_data,
    with_empty_store,
)
from tests.search_core.tiny import published_cells

COST_KEYS = {"params", "madds", "memory_access", "auxiliary_params"}
SIZES = [(name, network) for name, cell in published_cells()["architectures"].items() for network in cell["expected"]]


def written(file: Path, data: Any) -> Path:
    """A YAML file of plain data."""
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def refused(outcome: Outcome, *words: str) -> None:
    """Bad input: exit code 2 and one message that names what is wrong."""
    assert outcome.code == 2, outcome.said
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in outcome.said


def nothing_begun(runs: Path) -> bool:
    """Whether no run left a trace; a store may have been made."""
    return not any(
        path.name not in ("mlflow.db", "optuna.db", "mlartifacts", ".stores.lock") for path in runs.glob("*")
    )


# --- profile


def size_words(expected: dict[str, Any]) -> list[str]:
    shape = "x".join(map(str, expected["input"]))
    words = ["--init-channels", expected["init_channels"], "--cells", expected["cells"], "--input", shape]
    return [*map(str, words), "--classes", str(expected.get("classes", 10))]


@pytest.mark.parametrize(("name", "network"), SIZES)
@pytest.mark.parametrize("by", ["name", "file"])
def test_profile_meets_the_published_figures(tmp_path: Path, name: str, network: str, by: str) -> None:
    cell = published_cells()["architectures"][name]
    expected = cell["expected"][network]
    file = tmp_path / "cell.json"
    file.write_text(json.dumps(cell["genotype"]))
    outcome = snas("profile", name if by == "name" else file, *size_words(expected), "--network", network, "--json")
    assert outcome.code == 0, outcome.said
    cost = json.loads(outcome.out)
    assert set(cost) == COST_KEYS
    figures = {key: expected[key] for key in COST_KEYS & set(expected)}
    assert {key: cost[key] for key in figures} == figures
    assert {"params", "madds"} <= set(figures)


def test_profile_defaults_to_the_published_size() -> None:
    expected = published_cells()["architectures"]["SNAS_mild"]["expected"]["cifar"]
    assert json.loads(snas("profile", "SNAS_mild", "--json").out)["params"] == expected["params"]
    imagenet = published_cells()["architectures"]["DARTS_V2"]["expected"]["imagenet"]
    outcome = snas("profile", "DARTS_V2", "--network", "imagenet", "--json")
    assert json.loads(outcome.out)["madds"] == imagenet["madds"]


def test_profile_prints_a_table() -> None:
    outcome = snas("profile", "SNAS_mild")
    assert "SNAS_mild: 20 cells, 36 channels, 3x32x32, 10 classes" in outcome.said
    assert "parameters 2,663,542" in outcome.said
    assert "multiply-adds 422,218,368" in outcome.said


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_profile_knows_every_published_name(name: str) -> None:
    outcome = snas("profile", name, "--init-channels", 8, "--cells", 3, "--input", "1x8x8", "--classes", 3, "--json")
    assert outcome.code == 0, outcome.said
    assert json.loads(outcome.out)["params"] > 0


@pytest.mark.parametrize("expected", published_cells()["supernets"], ids=lambda size: f"{size['init_channels']}")
def test_profile_counts_the_weights_of_a_supernet(expected: dict[str, int]) -> None:
    words = [
        "--init-channels",
        expected["init_channels"],
        "--cells",
        expected["cells"],
        "--classes",
        expected["classes"],
    ]
    outcome = snas("profile", "--supernet", *words, "--json")
    assert outcome.code == 0, outcome.said
    cost = json.loads(outcome.out)
    assert cost["params"] == expected["params_theta"]
    assert set(cost) == COST_KEYS


SMALL_STEP = ["--supernet", "--init-channels", 4, "--cells", 3, "--input", "3x16x16", "--device", "cpu"]


@pytest.mark.slow
def test_profile_adds_the_memory_of_a_step() -> None:
    outcome = snas("profile", *SMALL_STEP, "--batch-size", 4, "--recompute", "--json")
    assert outcome.code == 0, outcome.said
    data = json.loads(outcome.out)
    assert set(data) == {*COST_KEYS, "memory"}
    memory = data["memory"]
    figures = {"weight_bytes", "saved_bytes", "peak_bytes"}
    assert set(memory) == {*figures, "device", "batch_size", "recompute"}
    assert (memory["device"], memory["batch_size"], memory["recompute"]) == ("cpu", 4, True)
    assert memory["weight_bytes"] == 3 * 4 * data["params"]  # with gradients and momentum, four bytes each
    assert 0 < memory["saved_bytes"] < memory["peak_bytes"] - memory["weight_bytes"]


@pytest.mark.slow
def test_profile_prints_the_memory_and_nothing_of_the_profiler() -> None:
    outcome = snas("profile", *SMALL_STEP, "--batch-size", 4)
    assert outcome.code == 0, outcome.said
    for words in (
        "supernet: 3 cells, 4 channels, 3x16x16, 10 classes",
        "one training step: batch 4, cpu",
        "weights, gradients and momentum (MB)",
        "saved for the backward pass (MB)",
        "peak of a step (MB)",
    ):
        assert words in outcome.said
    assert "per GPU" not in outcome.said
    assert outcome.err == ""


def test_profile_says_how_many_searches_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(size: NetworkSize, batch_size: int, device: torch.device) -> StepMemory:
        assert (size.network.cells, batch_size, str(device)) == (3, 4, "cuda:1")
        return StepMemory(
            weight_bytes=20_000_000,
            saved_bytes=900_000_000,
            peak_bytes=1_000_000_000,
            device="Some GPU",
            process_bytes=1_500_000_000,
        )

    monkeypatch.setattr("orchestrator.cli.views.profile_memory.measure_apart", measure)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70_000_000_000, 80_000_000_000))
    outcome = snas("profile", *SMALL_STEP[:-1], "cuda:1", "--batch-size", 4)
    assert outcome.code == 0, outcome.said
    assert "batch 4, Some GPU" in outcome.said
    assert "peak of a step (MB) 1,000.0" in outcome.said
    assert "with CUDA's own (MB) 1,500.0" in outcome.said
    assert "data sets apart) 48" in outcome.said  # 0.9 * 80 / 1.5
    refused(snas("profile", *SMALL_STEP[:-1], "cuda:2", "--batch-size", 4), "--device", "cuda:1", "cuda:2")


@pytest.mark.slow
def test_profile_says_in_one_line_why_a_step_failed() -> None:
    outcome = snas("profile", *SMALL_STEP, "--input", "3x2x2", "--batch-size", 1)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("failed: a step of batch 1 on cpu: Expected more than 1 value per channel")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["SNAS_mild", "--batch-size", "4"], ["--batch-size", "--supernet"]),
        (["SNAS_mild", "--recompute"], ["--recompute", "--supernet"]),
        (["SNAS_mild", "--device", "cpu"], ["--device", "--supernet"]),
        (["--supernet", "--recompute"], ["--recompute", "--batch-size"]),
        (["--supernet", "--device", "cpu"], ["--device", "--batch-size"]),
        (["--supernet", "--batch-size", "0"], ["--batch-size", "0"]),
        (["--supernet", "--batch-size", "4", "--device", "cuda:99"], ["--device", "cpu", "cuda:99"]),
        (["--supernet", "--batch-size", "4", "--device", "tpu"], ["--device", "cpu", "tpu"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_profile_refuses_a_step_that_cannot_be(words: list[str], named: list[str]) -> None:
    refused(snas("profile", *words), *named)


MALFORMED = {
    "not JSON": "{",
    "a list": "[]",
    "no edges": '{"normal": []}',
    "unknown operation": json.dumps({**cell_of("skip_connect").to_dict(), "normal": [["conv_9x9", 0, 2]]}),
    "backward edge": json.dumps({**cell_of("skip_connect").to_dict(), "normal": [["skip_connect", 3, 2]]}),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_profile_refuses_a_malformed_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cell.json"
    file.write_text(text)
    refused(snas("profile", file), str(file))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["SNAS_milf"], ["SNAS_milf", "SNAS_mild"]),
        ([], ["GENOTYPE"]),
        (["SNAS_mild", "--input", "3x32"], ["--input", "3x32"]),
        (["SNAS_mild", "--input", "0x32x32"], ["--input", "0x32x32"]),
        (["SNAS_mild", "--classes", "0"], ["--classes"]),
        (["SNAS_mild", "--cells", "0"], ["cells"]),
        (["SNAS_mild", "--init-channels", "3"], ["init_channels", "3"]),
        (["SNAS_mild", "--network", "mnist"], ["mnist"]),
        (["SNAS_mild", "--supernet"], ["GENOTYPE", "--supernet"]),
        (["SNAS_mild", "--run", "abc"], ["GENOTYPE", "--run"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_profile_refuses_bad_input(words: list[str], named: list[str]) -> None:
    refused(snas("profile", *words), *named)


def test_profile_refuses_a_folder(tmp_path: Path) -> None:
    refused(snas("profile", tmp_path), str(tmp_path))


# --- study validate, list, show


def test_validate_says_what_a_good_study_does(tmp_path: Path) -> None:
    file = written(tmp_path / "study.yaml", study_data())
    outcome = snas("study", "validate", file)
    assert outcome.code == 0, outcome.said
    assert "valid; 3 trials, min child_val_error and min child_madds" in outcome.said
    assert snas("study", "validate", file, "--set", "trials=5").said.count("5 trials") == 1


def test_validate_lists_all_faults_with_their_places(tmp_path: Path) -> None:
    search = {**SEARCH, "epochs": 0, "temprature": {}}
    file = written(tmp_path / "study.yaml", study_data(search=search, sampler="tpo"))
    refused(
        snas("study", "validate", file),
        f"{file}: 3 faults",
        "search.epochs",
        "got 0",
        "did you mean `temperature`",
        "sampler",
        "tpo",
    )


@pytest.mark.parametrize("name", ["searches", "mlartifacts", "mlflow.db", "../up", "a b"])
def test_validate_refuses_names_that_are_no_folder_of_their_own(tmp_path: Path, name: str) -> None:
    refused(snas("study", "validate", written(tmp_path / "study.yaml", study_data(name=name))), "name", name)


def test_validate_refuses_what_is_no_study_file(tmp_path: Path) -> None:
    refused(snas("study", "validate", tmp_path / "none.yaml"), "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    refused(snas("study", "validate", tmp_path / "bad.yaml"), "bad.yaml:1")
    refused(snas("study", "validate", tmp_path), str(tmp_path))


def test_list_of_an_empty_folder_makes_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    outcome = snas("study", "list", "--runs", runs)
    assert (outcome.code, outcome.said) == (0, f"no studies in {runs}")
    assert json.loads(snas("study", "list", "--json", "--runs", runs).out) == []
    assert not runs.exists()


@pytest.mark.parametrize("command", ["show", "resume"])
def test_unknown_study_is_named(tmp_path: Path, command: str) -> None:
    runs = tmp_path / "runs"
    refused(snas("study", command, "nothing", "--runs", runs), "nothing", str(runs))
    assert not runs.exists()


def test_runs_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAS_RUNS", str(tmp_path / "from-environment"))
    assert str(tmp_path / "from-environment") in snas("study", "list").said
    assert str(tmp_path / "option") in snas("study", "list", "--runs", tmp_path / "option").said


@pytest.fixture(scope="module")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of MLflow's database as shows that it is one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")
    return file


def test_ui_without_a_store_says_so(tmp_path: Path) -> None:
    refused(snas("ui", "--runs", tmp_path), str(tmp_path / "mlflow.db"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--port", "70000"], ["--port", "65535"]),
        (["--port", "-1"], ["--port", "0"]),
        (["--host", "0.0.0.0"], ["--host"]),
        (["extra"], ["extra"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_dashboard_refuses_bad_input(words: list[str], named: list[str]) -> None:
    refused(snas("dashboard", *words), *named)


@pytest.mark.parametrize("command", ["dashboard", "ui"])
def test_server_names_a_port_that_is_taken(command: str, mlflow_database: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        outcome = snas(command, "--port", port, "--runs", mlflow_database.parent)
        refused(outcome, "--port", str(port), "must be free")
        assert "http://" not in outcome.said, "no address is printed before it is served"


@pytest.mark.parametrize("command", ["dashboard", "ui"])
@pytest.mark.parametrize(
    ("number", "rule"),
    [(errno.EACCES, "must be one that this user may serve"), (errno.EADDRNOTAVAIL, "must be one of this machine")],
)
def test_server_names_a_port_that_it_may_not_have(
    command: str, number: int, rule: str, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As port 80, but for root."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("socket.socket.bind", fail)
    refused(snas(command, "--port", 80, "--runs", mlflow_database.parent), "--port", "port 80", rule)


def test_ui_names_the_training_view_of_each_study(tmp_path: Path) -> None:
    uri = Runs(with_empty_store(tmp_path)).tracking_uri()
    made = MlflowClient(uri).create_experiment("tiny")
    views = {"tiny": f"http://127.0.0.1:5001/#/experiments/{made}/runs?workflowType=machine_learning"}
    assert training_views(uri, 5001) == views


def test_ui_is_silent_about_what_mlflow_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error::ResourceWarning")
    environment = {**os.environ, **server_environment("sqlite:///any.db")}
    assert environment["PYTHONWARNINGS"].startswith("error::ResourceWarning,")
    program = "import warnings; warnings.warn('starlette.middleware.wsgi is deprecated and'); warnings.warn('other')"
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "starlette" not in ended.stderr.replace(program, "")
    assert "UserWarning: other" in ended.stderr


def test_ui_refuses_a_store_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("text")
    refused(snas("ui", "--runs", tmp_path), str(tmp_path / "mlflow.db"), "must be a database of MLflow")


def test_ui_refuses_a_store_that_may_not_be_read(mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    is_allowed = lambda path, *rest, **more: Path(path) != mlflow_database and real(path, *rest, **more)  # noqa: E731
    monkeypatch.setattr("os.access", is_allowed)  # root may read all files
    refused(snas("ui", "--runs", mlflow_database.parent), str(mlflow_database), "must be readable")


@pytest.mark.parametrize("uri", ["file:./mlruns", "mlruns", "databricks", "s3://bucket/runs", "sqlite://", "http://"])
@pytest.mark.parametrize("command", ["dashboard", "ui", "search"])
def test_tracking_uri_of_another_kind_is_not_supported(
    command: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = command_words(command, tmp_path) if command == "search" else [command]
    refused(snas(*words, "--runs", tmp_path / "runs"), repr(uri), "is not supported: use", "sqlite:///FILE")
    assert nothing_begun(tmp_path / "runs")


def test_store_that_may_only_be_read_is_named_without_its_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        def __init__(self, *_: object, **__: object) -> None:
            raise MlflowException(
                "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: INSERT INTO x]"
            )

    monkeypatch.setattr("orchestrator.driver.single.Tracker", ReadOnly)
    outcome = snas(*command_words("search", tmp_path), "--runs", tmp_path / "runs")
    refused(outcome, "mlflow.db must be writable")
    assert "SQL" not in outcome.said


def test_help_names_every_command() -> None:
    outcome = snas("--help")
    assert outcome.code == 0
    for command in ("search", "study", "retrain", "profile", "dashboard", "ui"):
        assert command in outcome.said
    for command in ("run", "resume", "list", "show", "validate"):
        assert command in snas("study", "--help").said


# --- search and retrain


@dataclass(frozen=True)
class Found:
    """A folder of runs with one search and the retrainings of its cell."""

    runs: Path
    config: Path
    recipe: Path
    search: Outcome
    retrain: Outcome

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.runs}/mlflow.db")

    @property
    def folder(self) -> Path:
        return self.runs / "searches" / "first"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("cli")
    runs, config = folder / "runs", written(folder / "search.yaml", SEARCH)
    recipe = written(folder / "recipe.yaml", {"dataset": SEARCH["dataset"], "retrain": {**RETRAIN, "epochs": 2}})
    search = snas("search", config, "--name", "first", "--runs", runs)
    genotype = runs / "searches" / "first" / "genotype.json"
    words = ["--config", recipe, "--seeds", 2, "--name", "again", "--runs", runs]
    retrain = snas("retrain", "--genotype", genotype, *words)
    return Found(runs, config, recipe, search, retrain)


def test_search_writes_its_folder(found: Found) -> None:
    assert found.search.code == 0, found.search.said
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "cells.svg",
        "genotype.json",
        "history.jsonl",
        "search.yaml",
    ]
    journal = Journal(found.folder / "history.jsonl")
    assert ([record["epoch"] for record in journal.epochs], journal.end) == ([0, 1], "complete")
    genotype = Genotype.from_json((found.folder / "genotype.json").read_text())
    assert genotype == Genotype.from_dict(journal.epochs[-1]["genotype"])
    assert yaml.safe_load((found.folder / "search.yaml").read_text())["network"]["init_channels"] == 4
    assert "<svg" in (found.folder / "cells.svg").read_text()


def test_search_prints_an_epoch_a_line_and_what_to_do_next(found: Found) -> None:
    lines = found.search.out.splitlines()
    assert lines[0].split()[:2] == ["epoch", "supernet"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert all(len(line) <= 80 for line in lines[:3]), "fits a terminal"
    assert f"snas retrain --genotype {found.folder / 'genotype.json'}" in found.search.out
    assert found.search.err == ""


def test_search_is_one_run_in_mlflow(found: Found) -> None:
    (run,) = runs_of(found.client, "searches")
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert steps_of(found.client, run.info.run_id, "child_val_error") == [0, 1]
    assert image_steps(found.client, run.info.run_id) == [0, 1]
    assert {"cells.svg", "genotype.json", "history.parquet"} < set(artifact_paths(found.client, run.info.run_id))
    assert run.data.params["network.init_channels"] == "4"
    assert run.data.tags["dataset"] == "fake"
    assert len(run.data.tags["dataset.digest"]) >= 16


def test_search_with_the_same_seed_finds_the_same(found: Found) -> None:
    outcome = snas("search", found.config, "--name", "twin", "--runs", found.runs)
    assert outcome.code == 0, outcome.said
    twin = Journal(found.runs / "searches" / "twin" / "history.jsonl")
    first = Journal(found.folder / "history.jsonl")
    assert [record["cells"] for record in twin.epochs] == [record["cells"] for record in first.epochs]


def test_search_takes_the_search_section_of_a_study_file(found: Found, tmp_path: Path) -> None:
    file = written(tmp_path / "my study's file.yaml", study_data())
    outcome = snas("search", file, "--set", "epochs=1", "--set", "search.seed=0", "--runs", found.runs)
    refused(outcome, "seed")
    outcome = snas("search", file, "--set", "epochs=1", "--runs", found.runs)
    assert outcome.code == 0, outcome.said
    (folder,) = (found.runs / "searches").glob("my-study-s-file-2*")
    assert len(Journal(folder / "history.jsonl").epochs) == 1


def test_search_whose_loss_is_not_finite_fails_with_the_reason(found: Found) -> None:
    words = ["--set", "theta.lr=1e30", "--name", "diverging", "--runs", found.runs]
    outcome = snas("search", found.config, *words)
    assert outcome.code == 1
    assert "failed: the training loss must stay finite" in outcome.said
    run = runs_of(found.client, "searches")[-1]
    assert (run.info.run_name, run.info.status) == ("diverging", "FAILED")
    assert "the training loss must stay finite" in run.data.tags["mlflow.note.content"]
    assert Journal(found.runs / "searches" / "diverging" / "history.jsonl").end == "failed"


@pytest.mark.slow
def test_search_refuses_limits_that_no_genotype_keeps(found: Found) -> None:
    limits = ["--set", "strategy.kind=one_shot", "--set", "constraints.params.max=1", "--set", "batch_size=8"]
    outcome = snas("search", found.config, *limits, "--name", "tight", "--runs", found.runs)
    refused(outcome, "error: no genotype in 10,000 draws keeps the constraints: at most params 1")


def test_search_refuses_a_name_that_is_taken(found: Found) -> None:
    before = (found.folder / "history.jsonl").read_bytes()
    outcome = snas("search", found.config, "--name", "first", "--runs", found.runs)
    refused(outcome, "first", "--name")
    assert outcome.out == ""
    assert (found.folder / "history.jsonl").read_bytes() == before


def test_search_refuses_a_name_that_the_store_has_from_another_folder(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{found.runs}/mlflow.db")
    num_runs = len(runs_of(found.client, "searches"))
    refused(snas("search", found.config, "--name", "first", "--runs", tmp_path / "runs"), "first", "--name")
    assert list((tmp_path / "runs").glob("searches/*")) == []
    assert len(runs_of(found.client, "searches")) == num_runs


@pytest.mark.parametrize("name", ["it's", "../up", "a/b", ""])
def test_search_refuses_a_name_that_is_no_name(found: Found, name: str) -> None:
    refused(snas("search", found.config, "--name", name, "--runs", found.runs), "--name", f"got `{name}`")
    assert not (found.runs / "up").exists()


def test_retrain_trains_a_child_per_seed(found: Found) -> None:
    assert found.retrain.code == 0, found.retrain.said
    runs = runs_of(found.client, "retrains")
    assert [run.info.run_name for run in runs] == ["again-seed0", "again-seed1"]
    accuracies = []
    for seed, run in enumerate(runs):
        assert (run.info.status, run.data.params["seed"]) == ("FINISHED", str(seed))
        assert steps_of(found.client, run.info.run_id, "val_accuracy") == [0, 1]
        assert "mlflow.parentRunId" not in run.data.tags
        journal = Journal(found.runs / "retrains" / f"again-seed{seed}" / "history.jsonl")
        assert journal.end == "complete"
        accuracies.append(journal.last_metric("test_accuracy"))
        assert run.data.metrics["test_accuracy"] == accuracies[-1]
    mean = sum(accuracies) / 2
    assert f"test accuracy {100 * mean:.2f} ±" in found.retrain.said
    assert "over 2 seeds" in found.retrain.said
    versions = found.client.search_model_versions("name = 'again-child'")
    assert {version.run_id for version in versions} == {run.info.run_id for run in runs}


@pytest.mark.slow
def test_retrain_of_a_run_goes_below_that_run(found: Found) -> None:
    parent = next(run for run in runs_of(found.client, "searches") if run.info.run_name == "first")
    words = ["--config", found.recipe, "--set", "epochs=1", "--name", "below", "--runs", found.runs]
    outcome = snas("retrain", "--run", parent.info.run_id, *words)
    assert outcome.code == 0, outcome.said
    (run,) = [run for run in runs_of(found.client, "searches") if run.info.run_name == "below-seed0"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params["epochs"] == "1"
    found_cell = Genotype.from_json((found.folder / "genotype.json").read_text())
    file = found.runs / "retrains" / "below-seed0" / "genotype.json"
    assert Genotype.from_json(file.read_text()) == found_cell


@pytest.mark.slow
def test_channels_and_bits_that_a_search_chose_are_retrained(found: Found, tmp_path: Path) -> None:
    strategy = {"kind": "spos", "population": 2, "generations": 1, "top_k": 1, "preview": 0, "held_out": 0.5}
    strategy |= {"channels": [0.5], "bits": [[2, 3], [3, 2]]}
    file = written(tmp_path / "mixed.yaml", {**SEARCH, "epochs": 1, "batch_size": 16, "strategy": strategy})
    outcome = snas("search", file, "--name", "mixed", "--runs", found.runs)
    assert outcome.code == 0, outcome.said
    folder = found.runs / "searches" / "mixed"
    choices = load_choices(folder / "choices.json")
    assert choices.shares == (0.5, 0.5, 0.5)
    assert f"--choices {folder / 'choices.json'}" in outcome.said
    run = next(run for run in runs_of(found.client, "searches") if run.info.run_name == "mixed")
    by_run = ["--run", run.info.run_id]
    by_file = ["--genotype", folder / "genotype.json", "--choices", folder / "choices.json"]
    for name, words in (("by-run", by_run), ("by-file", by_file)):
        recipe = ["--config", found.recipe, "--set", "epochs=1", "--name", name, "--seeds", 1, "--runs", found.runs]
        outcome = snas("retrain", *words, *recipe)
        assert outcome.code == 0, outcome.said
        assert "bit operations" in outcome.said
        journal = Journal(found.runs / "retrains" / f"{name}-seed0" / "history.jsonl")
        assert 0 < journal.last_metric("bit_operations") < 1024 * journal.last_metric("madds")
        assert len(found.client.search_model_versions(f"name = '{name}-child'")) == 1
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"shares": [0.5], "bits": [[2, 99]]}), encoding="utf-8")
    refused(snas("retrain", *by_run, "--choices", broken, "--runs", found.runs), "broken.json", "[1, 16] or 32")


def test_profile_of_a_run_is_that_of_its_genotype(found: Found) -> None:
    run = next(run for run in runs_of(found.client, "searches") if run.info.run_name == "first")
    outcome = snas("profile", "--run", run.info.run_id, "--json", "--runs", found.runs)
    assert outcome.code == 0, outcome.said
    by_file = snas("profile", found.folder / "genotype.json", "--json")
    assert json.loads(outcome.out) == json.loads(by_file.out)
    shown = snas("profile", "--run", run.info.run_id, "--runs", found.runs)
    assert f"cell of run {run.info.run_id}: 20 cells, 36 channels" in shown.said
    refused(snas("profile", "--run", "no-such-run", "--runs", found.runs), "no-such-run")


def test_retrain_whose_loss_is_not_finite_fails_with_the_reason(found: Found) -> None:
    words = ["--config", found.recipe, "--set", "lr=1e30", "--name", "diverging", "--runs", found.runs]
    outcome = snas("retrain", "--genotype", "SNAS_mild", *words)
    assert outcome.code == 1
    assert "failed: the training loss must stay finite" in outcome.said
    run = runs_of(found.client, "retrains")[-1]
    assert (run.info.run_name, run.info.status) == ("diverging-seed0", "FAILED")
    assert Journal(found.runs / "retrains" / "diverging-seed0" / "history.jsonl").end == "failed"


@pytest.mark.parametrize("source", ["--run", "--model"])
def test_export_writes_a_retrained_child(found: Found, tmp_path: Path, source: str) -> None:
    run = runs_of(found.client, "retrains")[0]
    name = run.info.run_id if source == "--run" else "again-child/1"
    words = ["--to", tmp_path / "child", "--format", "python", "--json", "--runs", found.runs]
    outcome = snas("export", source, name, *words)
    assert outcome.code == 0, outcome.said
    (written_file,) = json.loads(outcome.out)
    assert (written_file["format"], written_file["file"]) == ("python", str(tmp_path / "child" / "child.py"))
    assert written_file["difference"] <= 1e-5
    assert {path.name for path in (tmp_path / "child").iterdir()} == {
        "card.md", "cells.svg", "child.py", "genotype.json", "state_dict.pt"
    }  # fmt: skip
    card = (tmp_path / "child" / "card.md").read_text(encoding="utf-8")
    assert f"run `{run.info.run_id}`, seed 0, 2 epochs" in card
    assert f"| test accuracy | {run.data.metrics['test_accuracy']:.2%}, " in card
    assert load_genotype(tmp_path / "child" / "genotype.json") == load_genotype(found.folder / "genotype.json")


def test_export_refuses_bad_input(found: Found, tmp_path: Path) -> None:
    words = ["--to", tmp_path / "child", "--runs", found.runs]
    refused(snas("export", *words), "give one of them")
    refused(snas("export", "--trial", 1, "--run", "x", *words), "belong together")
    refused(
        snas("export", "--run", "x", "--format", "tflite", *words),
        "must be one of python, state-dict, pt2, onnx, all, got tflite",
    )
    refused(snas("export", "--run", "0" * 32, *words), "must be whole in sqlite:")
    refused(
        snas("export", "--model", "again-child", *words), "--model must be NAME@ALIAS or NAME/VERSION, got again-child"
    )
    refused(snas("export", "--model", "again-child@best", *words), "model again-child@best must be whole")
    refused(snas("export", "--study", "none", "--trial", 0, *words), "there is no study `none`")
    search = runs_of(found.client, "searches")[0]
    refused(snas("export", "--run", search.info.run_id, *words), "must have trained a child to its end: first did not")
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "mine").touch()
    refused(snas("export", "--run", "x", *words), "must be an empty folder or none")
    assert [path.name for path in (tmp_path / "child").iterdir()] == ["mine"]


def test_retrain_refuses_bad_input(found: Found) -> None:
    snas("search", found.config, "--set", "theta.lr=1e30", "--name", "empty", "--runs", found.runs)
    runs = ["--runs", found.runs]
    refused(snas("retrain", *runs), "--genotype", "--run")
    refused(snas("retrain", "--genotype", "SNAS_mild", "--run", "x", *runs), "--genotype", "--run")
    refused(snas("retrain", "--genotype", "SNAS_milf", *runs), "SNAS_milf")
    refused(snas("retrain", "--genotype", "SNAS_mild", "--set", "epochs=1", *runs), "--config")
    refused(snas("retrain", "--genotype", "SNAS_mild", "--seeds", 0, *runs), "--seeds")
    refused(snas("retrain", "--run", "no-such-run", *runs), "no-such-run")
    (search, *_) = runs_of(found.client, "searches")
    refused(snas("retrain", "--run", search.info.run_id, *runs), search.info.run_id, "--config")
    diverged = next(run for run in runs_of(found.client, "searches") if run.info.run_name == "empty")
    words = ["--run", diverged.info.run_id, "--config", found.recipe]
    refused(snas("retrain", *words, *runs), diverged.info.run_id, "genotype.json")
    no_retrain = written(found.runs.parent / "study.yaml", study_data())
    refused(snas("retrain", "--genotype", "SNAS_mild", "--config", no_retrain, *runs), str(no_retrain), "retrain")


# --- nothing is half-started


@pytest.mark.parametrize("name", ["it's", "", "a" * 81])
@pytest.mark.parametrize("command", ["search", "study run", "retrain"])
def test_name_is_shown_as_it_was_given(tmp_path: Path, command: str, name: str) -> None:
    outcome = snas(*command_words(command, tmp_path), "--name", name, "--runs", tmp_path / "runs")
    refused(outcome, "error: --name must be 1 to", f"got `{name}`")
    assert "seed0" not in outcome.said
    assert not (tmp_path / "runs").exists()


def test_name_leaves_room_for_the_seeds(tmp_path: Path) -> None:
    words = [*command_words("retrain", tmp_path), "--seeds", 11, "--name", "a" * 74, "--runs", tmp_path / "runs"]
    refused(snas(*words), "--name must be 1 to 73 letters")


COMMANDS = ["search", "study run", "retrain"]


def command_words(command: str, folder: Path, **search: Any) -> list[object]:
    """A command that would run, with search settings replaced."""
    data = study_data(search={**SEARCH, **search}, retrain=RETRAIN)
    file = written(folder / "study.yaml", data)
    if command == "retrain":
        return ["retrain", "--genotype", "SNAS_mild", "--config", file]
    return [*command.split(), file]


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_data_set_is_named_before_anything_begins(tmp_path: Path, command: str) -> None:
    runs, root = tmp_path / "runs", tmp_path / "no-cifar"
    words = command_words(command, tmp_path, dataset={"name": "cifar10", "root": str(root)})
    refused(snas(*words, "--runs", runs), str(root))
    assert not runs.exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_tracking_server_that_does_not_answer_is_named_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    runs, begin = tmp_path / "runs", time.monotonic()
    refused(snas(*command_words(command, tmp_path), "--runs", runs), "http://127.0.0.1:9", "must be reachable")
    assert time.monotonic() - begin < 20
    assert nothing_begun(runs), list(runs.glob("**/*"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("below", ["", "deeper"])
def test_runs_folder_that_is_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, below: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # a box of Typer's breaks long paths anywhere
    file = tmp_path / "a-file"
    file.write_text("kept")
    refused(snas(*command_words(command, tmp_path), "--runs", file / below), "a-file")
    assert file.read_text() == "kept"


@pytest.mark.slow
def test_optuna_storage_that_cannot_be_opened_is_named_before_anything_begins(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/no/such/folder/optuna.db"
    file = written(tmp_path / "study.yaml", study_data(storage={"url": url}))
    refused(snas("study", "run", file, "--runs", tmp_path / "runs"), url)
    assert nothing_begun(tmp_path / "runs")


@pytest.mark.integration
@pytest.mark.slow
def test_script_ends_with_the_code_and_without_a_traceback(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("snas")
    environment = {**os.environ, "SNAS_RUNS": str(tmp_path / "runs")}
    done = subprocess.run([script, "study", "show", "nothing"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: there is no study `nothing` in {tmp_path}/runs; studies there: none\n"
