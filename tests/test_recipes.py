"""The files of docs/cluster.md as far as they can be checked without the clusters that they are for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.files.layout import Runs

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "studies" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def test_every_recipe_is_mentioned() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert [file.name for file in FOLDER.iterdir() if f"cluster/{file.name}" not in page] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_is_bash_and_may_be_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_passes_shellcheck(shellcheck: None, script: Path) -> None:
    found = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_node_script_wants_a_role_and_a_token(tmp_path: Path) -> None:
    def said(*words: str, **environment: str) -> tuple[int, str]:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environment}
        done = subprocess.run([FOLDER / "node.sh", *words], env=env, capture_output=True, text=True)
        return done.returncode, done.stderr

    code, message = said()
    assert code != 0
    assert "usage:" in message
    assert said("head") == (
        2,
        f"there must be a token in {tmp_path}/.ray/auth_token: run `ray get-auth-token --generate` once and copy the "
        "file here\n",
    )
    assert said("dance", RAY_AUTH_TOKEN="t")[0] == 2
    assert "usage:" in said("join", RAY_AUTH_TOKEN="t")[1]


def test_launcher_file_passes_rays_own_validation() -> None:
    data = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text(encoding="utf-8"))
    validate_config(prepare_config(data))
    assert data["max_workers"] == len(data["provider"]["worker_ips"])
    for phase in ("head", "worker"):
        assert "RAY_AUTH_MODE=token" in data[f"{phase}_start_ray_commands"][1]
    with pytest.raises(jsonschema.ValidationError):  # or the validation says yes to anything
        validate_config(prepare_config({**data, "wokers": 2}))


def test_kuberay_file_has_one_image_and_the_same_mounts_everywhere() -> None:
    spec = yaml.safe_load((FOLDER / "kuberay-job.yaml").read_text(encoding="utf-8"))["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values()), (
        "KubeRay's rule"
    )
    pods = [group["template"]["spec"] for group in groups]
    containers = [pod["containers"][0] for pod in pods]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["volumeMounts"] == containers[0]["volumeMounts"] for container in containers)
    for pod in pods:
        named = {volume["name"] for volume in pod["volumes"]}
        assert named == {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert ["envFrom" in container for container in containers] == [True, False], "only the driver has credentials"


def test_kuberay_job_resumes_with_a_study_that_exists(tmp_path: Path) -> None:
    spec = yaml.safe_load((FOLDER / "kuberay-job.yaml").read_text(encoding="utf-8"))["spec"]
    (tmp_path / "bin").mkdir()
    for name, body in {"snas": 'echo "$@"', "python": "echo tiny"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    entrypoint = spec["entrypoint"].replace("/shared", str(tmp_path))
    runs = Runs(tmp_path / "runs")

    def said() -> str:
        env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        return subprocess.run(entrypoint, shell=True, env=env, capture_output=True, text=True).stdout.strip()

    assert said() == f"study run /study/study.yaml --address auto --runs {runs.root}"
    runs.study("tiny").path.mkdir(parents=True)
    runs.study("tiny").spec_file.touch()
    assert said() == f"study resume tiny --address auto --runs {runs.root}"
