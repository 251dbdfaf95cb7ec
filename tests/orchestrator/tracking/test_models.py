"""A trained child as an MLflow model, on a real store."""

from __future__ import annotations

import importlib
import os
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from orchestrator.files.layout import Runs
from orchestrator.tracking.models import is_logged, log_child, model_weights
from orchestrator.tracking.run_spec import Unit
from orchestrator.tracking.tracker import Tracker
from search_core.export import PixelChild
from search_core.training.retrain import Retrain
from search_core.training.retrain_options import RetrainOptions
from tests.orchestrator.tiny import cell_of
from tests.search_core.tiny import CPU, images_of

NAME = "tiny-child"


@dataclass(frozen=True)
class Logged:
    """A child that was trained, logged and registered."""

    uri: str
    run_id: str
    trained: Retrain
    environment: str | None
    tracker: Tracker

    def log(self, name: str = NAME) -> None:
        log_child(
            self.tracker,
            self.run_id,
            genotype=self.trained.genotype,
            options=self.trained.options,
            data=self.trained.data,
            state=self.trained.state_dict(),
            registered_name=name,
        )

    def logits(self, images: Tensor) -> np.ndarray:
        """What the trained child itself says."""
        self.trained.child.eval()
        with torch.no_grad():
            return self.trained.child(images).numpy()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    root = tmp_path_factory.mktemp("runs")
    runs = Runs(root)
    # The auxiliary head (on by default) must not come along.
    options = RetrainOptions(epochs=1, batch_size=32, cells=3, init_channels=4, drop_path=0.2)
    trained = Retrain(cell_of("sep_conv_3x3"), options, images_of(), CPU, seed=3)
    list(trained)
    uri = f"sqlite:///{root}/mlflow.db"
    tracker = Tracker(uri, "models", artifact_location=runs.artifact_location(uri, "models"), tags={})
    run_id = tracker.run_id(Unit(label="retrain-0000-seed3", kind="retrain"))
    found = Logged(uri, run_id, trained, None, tracker)
    found.log()
    return Logged(uri, run_id, trained, os.environ.get("MLFLOW_TRACKING_URI"), tracker)


@pytest.fixture(autouse=True)
def store(logged: Logged) -> None:
    mlflow.set_tracking_uri(logged.uri)


def example(number: int) -> Tensor:
    images, _ = next(iter(images_of().test.batches(number)))
    assert len(images) == number
    return images


def raw(logged: Logged, images: Tensor) -> Tensor:
    """Pixels in [0, 1] of normalised images."""
    data = logged.trained.data
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return images * std + mean


@pytest.mark.slow
def test_child_is_registered_with_its_run(logged: Logged) -> None:
    (version,) = MlflowClient(logged.uri).search_model_versions(f"name = '{NAME}'")
    assert version.run_id == logged.run_id
    assert int(version.version) == 1


def test_child_is_logged_once_per_run(logged: Logged) -> None:
    """A resumed study comes by again."""
    assert is_logged(logged.tracker, logged.run_id)
    logged.log()
    assert len(MlflowClient(logged.uri).search_model_versions(f"name = '{NAME}'")) == 1


def test_child_whose_tag_is_missing_is_not_registered_again(logged: Logged) -> None:
    """A driver was killed, or an answer lost, right after the registration; MLflow then has the run as failed."""
    client = MlflowClient(logged.uri)
    client.delete_tag(logged.run_id, "snas.model")
    client.set_terminated(logged.run_id, "FAILED")
    logged.log()
    assert is_logged(logged.tracker, logged.run_id)
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
    assert len(client.search_logged_models([logged.tracker.experiment_id])) == 1
    assert client.get_run(logged.run_id).info.status == "FINISHED"


def test_child_of_another_run_gets_a_version_of_its_own(logged: Logged) -> None:
    """The seeds of a cell share the name of their model."""
    client, name = MlflowClient(logged.uri), "shared-child"
    client.create_registered_model(name)
    client.create_model_version(name, client.get_run(logged.run_id).info.artifact_uri, logged.run_id)
    run_id = logged.tracker.run_id(Unit(label="retrain-0000-seed4", kind="retrain"))
    replace(logged, run_id=run_id).log(name)
    versions = client.search_model_versions(f"name = '{name}'")
    assert {version.run_id for version in versions} == {logged.run_id, run_id}


def test_retraining_whose_child_cannot_be_logged_has_not_failed(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_export(*args: object, **options: object) -> None:
        raise RuntimeError("this child cannot be exported")

    monkeypatch.setattr("mlflow.pytorch.log_model", no_export)
    run_id = logged.tracker.run_id(Unit(label="retrain-0000-seed5", kind="retrain"))
    with pytest.raises(RuntimeError, match="cannot be exported"):
        replace(logged, run_id=run_id).log("unexported-child")
    assert logged.tracker.client.get_run(run_id).info.status == "FINISHED"
    assert not is_logged(logged.tracker, run_id)


def test_child_has_signature_and_input_example(logged: Logged) -> None:
    info = mlflow.models.get_model_info(f"models:/{NAME}/1")
    assert info.signature is not None
    (inputs,), (outputs,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (inputs.type, inputs.shape) == (np.dtype("float32"), (-1, 1, 8, 8))
    assert (outputs.type, outputs.shape) == (np.dtype("float32"), (-1, 10))
    assert info.saved_input_example_info is not None


@pytest.mark.parametrize("number", [2, 1, 7])
def test_served_child_gives_the_same_logits_from_raw_pixels(logged: Logged, number: int) -> None:
    images = example(number)
    served = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    # Another order of the same float32 sums.
    np.testing.assert_allclose(served.predict(raw(logged, images).numpy()), logged.logits(images), rtol=1e-4, atol=1e-5)


def test_loaded_child_evaluates_trains_and_moves(logged: Logged) -> None:
    images = example(7)
    model = mlflow.pytorch.load_model(f"models:/{NAME}/1")
    assert isinstance(model, PixelChild)
    assert not model.training
    assert model.classes == tuple(map(str, range(10)))
    with torch.no_grad():
        np.testing.assert_allclose(model(raw(logged, images)), logged.logits(images), rtol=1e-4, atol=1e-5)
    assert [name for name in model.state_dict() if "auxiliary" in name] == []
    optimiser = torch.optim.SGD(model.train().parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(model(raw(logged, images)), torch.arange(7))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {value.device.type for value in model.to("meta").state_dict().values()} == {"meta"}  # as to a GPU
    assert not any(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in vars(model).values())


def test_pickle_of_a_child_names_classes_of_pytorch_and_this_project_alone(logged: Logged) -> None:
    files = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/1"))
    assert [file.name for file in files.rglob("*.py")] == []
    assert (files / "data/pickle_module_info.txt").read_text() == "pickle"
    with zipfile.ZipFile(files / "data/model.pth") as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    named = {*_globals(pickled)} - {("__builtin__", "set")}
    assert named
    for module, name in named:
        assert module.split(".")[0] in ("torch", "search_core", "collections"), (module, name)
        found = getattr(importlib.import_module(module), name)
        assert isinstance(found, type) or module.startswith("torch"), "classes, but for what rebuilds tensors"


def _globals(pickled: bytes) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a pickle of protocol 2 looks up."""
    for operation, argument, _ in pickletools.genops(pickled):
        assert operation.name != "STACK_GLOBAL", "its names stand elsewhere"
        if operation.name == "GLOBAL":
            module, name = argument.split(" ")
            yield module, name


def test_weights_of_a_child_are_read_without_its_pickle(logged: Logged, tmp_path: Path) -> None:
    (model,) = MlflowClient(logged.uri).get_run(logged.run_id).outputs.model_outputs
    folder = MlflowClient(logged.uri).get_logged_model(model.model_id).artifact_location
    weights = model_weights(logged.uri, folder)
    expected = logged.trained.child.state_dict()
    assert {*expected} - {*weights} == {name for name in expected if name.startswith("auxiliary.")} != set()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    # As children were logged before.
    old = tmp_path / "old" / "data"
    old.mkdir(parents=True)
    torch.export.save(torch.export.export(logged.trained.child.eval(), (example(2),)), old / "model.pt2")
    found = model_weights(logged.uri, old.parent.as_uri())
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_logging_a_child_leaves_the_process_its_own_store(logged: Logged) -> None:
    """MLflow's global store would be taken for the user's MLFLOW_TRACKING_URI by the next study of this process."""
    assert logged.environment is None


def test_run_of_a_logged_child_is_finished(logged: Logged) -> None:
    run = MlflowClient(logged.uri).get_run(logged.run_id)
    assert run.info.status == "FINISHED"
