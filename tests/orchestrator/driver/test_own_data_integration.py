"""docs/own-data.md as a user follows it: a study of own images, and what leaves it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml

from search_core.data.datasets import DatasetOptions, load_data
from search_core.plugins import trust
from tests.orchestrator.studies import Done, run_to_its_end
from tests.orchestrator.tiny import snas
from tests.preloaded.processes import run_ready

PAGE = Path(__file__).parents[3] / "docs" / "own-data.md"


def written_page(folder: Path) -> dict[str, Any]:
    """The files of the page; its study as plain data."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# shapes.py\n(.*?)```", text, re.DOTALL)
    (study,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (folder / "shapes.py").write_text(code)
    (folder / "study.yaml").write_text(study)
    return dict(yaml.safe_load(study))


def test_study_of_the_page_is_valid_and_its_images_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 70, "one screen"
    dataset = written_page(tmp_path)["search"]["dataset"]
    valid = snas("study", "validate", tmp_path / "study.yaml")
    assert valid.code == 0, valid.said
    trust(str(tmp_path / "shapes.py"))
    options = DatasetOptions(**dataset | {"name": f"{tmp_path}/shapes.py:load"})
    data = load_data(options, torch.device("cpu"))
    assert (data.name, data.classes) == ("shapes.py:load", ("lying", "standing"))
    (tmp_path / "shapes.py").unlink()
    gone = snas("study", "validate", tmp_path / "study.yaml")
    assert gone.code == 2
    assert f"study.yaml:5: search.dataset.name: {tmp_path}/shapes.py must be a readable file of Python" in gone.said


@pytest.mark.slow
def test_a_function_that_gives_other_images_each_time_is_refused(tmp_path: Path) -> None:
    written_page(tmp_path)
    file = tmp_path / "shapes.py"
    file.write_text(file.read_text().replace("default_rng(seed)", "default_rng()"))
    done = snas("study", "run", tmp_path / "study.yaml", "--runs", tmp_path / "runs")
    assert done.code == 2
    assert "shapes.py:load must return the same images whenever it is called, got digest" in done.said
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("shapes")
    return run_to_its_end(folder, written_page(folder))


@pytest.fixture(scope="module")
def model(shapes: Done) -> str:
    (name,) = {version.name for version in shapes.client.search_model_versions()}
    return f"models:/{name}/1"


@pytest.mark.slow
@pytest.mark.integration
def test_workers_have_the_images_and_mlflow_what_they_are(shapes: Done) -> None:
    assert shapes.outcome.code == 0, shapes.outcome.said
    tags = shapes.mlflow_runs["trial-0001"].data.tags
    assert (tags["dataset"], tags["dataset.classes"]) == ("shapes.py:load", "lying, standing")
    assert len(json.loads(tags["dataset.mean"])) == 1
    copy = shapes.runs / "shapes" / "plugins" / "shapes.py"
    assert copy.read_bytes() == (shapes.file.parent / "shapes.py").read_bytes()
    assert f"{copy}:load" in (shapes.runs / "shapes" / "study.yaml").read_text()


@pytest.mark.slow
@pytest.mark.integration
def test_study_resumes_with_its_copy_and_no_other(shapes: Done, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(shapes.runs, runs)
    shapes_file = shapes.file.parent / "shapes.py"
    original = shapes_file.read_text()
    shapes_file.write_text("raise SystemExit")
    try:
        resumed = snas("study", "resume", "shapes", "--runs", runs)
        assert resumed.code == 0, resumed.said
    finally:
        shapes_file.write_text(original)
    copy = runs / "shapes" / "plugins" / "shapes.py"
    copy.write_text(copy.read_text().replace("255", "254"))
    refused = snas("study", "resume", "shapes", "--runs", runs)
    assert refused.code == 2
    assert "search.dataset.name: must stay shapes.py:load of contents " in refused.said


@pytest.mark.slow
@pytest.mark.integration
def test_child_is_exported_with_its_classes(shapes: Done, tmp_path: Path) -> None:
    words = ("--study", "shapes", "--format", "python", "--runs", shapes.runs)
    done = snas("export", *words, "--trial", shapes.shown()["front"][0]["trial"], "--to", tmp_path / "child")
    assert done.code == 0, done.said
    card = (tmp_path / "child" / "card.md").read_text()
    assert "| gives | 2 logits: lying, standing |" in card
    assert "| augmentation | crop_padding 1 |" in card
    assert "CLASSES = ['lying', 'standing']" in (tmp_path / "child" / "child.py").read_text()


@pytest.mark.slow
@pytest.mark.integration
def test_data_that_a_store_names_are_not_loaded_in_another_process(shapes: Done, tmp_path: Path) -> None:
    run = next(run for run in shapes.mlflow_runs.values() if run.data.tags["snas.unit"].startswith("retrain"))
    words = ["snas", "export", "--run", run.info.run_id, "--runs", shapes.runs, "--to", tmp_path / "child"]
    done = run_ready(words, os.environ)
    assert done.returncode == 2
    assert "shapes.py must be named by the study file or by --plugin before its code runs" in done.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_lines_of_the_models_description_work(shapes: Done, model: str, tmp_path: Path) -> None:
    (text,) = {version.description for version in shapes.client.search_model_versions() if int(version.version) == 1}
    printed = re.findall(r"`(mlflow[^`]*)`", text)
    assert [line.split(" ")[0].split("(")[0] for line in printed] == [
        "mlflow.pytorch.load_model",
        "mlflow.pyfunc.load_model",
        "mlflow",
    ]
    assert "gives 2 logits: lying, standing" in text
    uri = f"sqlite:///{shapes.runs}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    module, served = (eval(line, {"mlflow": mlflow}) for line in printed[:2])
    images = np.random.default_rng(0).random((3, 1, 12, 12), dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(served.predict(images), expected, atol=1e-5)
    answer = served_over_http(printed[2].split(" "), uri, {"inputs": images.tolist()})
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-5)


def served_over_http(command: list[str], uri: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of `mlflow models serve`, on a port of its own."""
    port = 20_000 + os.getpid() % 20_000
    program = Path(sys.executable).parent / command[0]
    server = subprocess.Popen(
        [program, *command[1:], "--port", str(port)],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it starts others
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    try:
        for _ in range(120):
            assert server.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return dict(json.load(response))
            except urllib.error.HTTPError:
                raise
            except urllib.error.URLError:  # it begins
                time.sleep(1)
        raise AssertionError("no answer within two minutes")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
