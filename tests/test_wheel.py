"""The wheel alone: built, installed into a new environment outside of the repository, and used to run a study."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: What a wheel is made from. A copy, since building leaves folders beside the sources.
SOURCES = ("search_core", "orchestrator", "dashboards", "studies", "pyproject.toml", "README.md", "LICENSE")
TINY = (
    *("trials=1", "search.epochs=1", "search.network.nodes=1", "search.network.init_channels=4"),
    *("retrain.epochs=1", "retrain.cells=3", "retrain.init_channels=4"),
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with `snas` from the wheel, which sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    _build(folder / "source", folder / "dist")
    venv.create(folder / "venv", with_pip=False)
    (wheel,) = (folder / "dist").glob("*.whl")
    _run(sys.executable, "-m", "pip", "--python", folder / "venv", "install", "--no-deps", "--no-index", wheel)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    # A line of a .pth file adds the folder, but does not read the .pth files in it: an editable `snas` stays out.
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    _share_compiled_kernels(Path(packages, "search_core", "kernels"))
    return folder / "venv"


def _share_compiled_kernels(installed: Path) -> None:
    """What Numba compiled for the checkout serves here, too, where sources are of the same size and time."""
    kernels = ROOT / "search_core" / "kernels"
    for file in kernels.glob("*.py"):
        stamp = file.stat()
        os.utime(installed / file.name, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    shutil.copytree(
        kernels / "__pycache__", installed / "__pycache__", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pyc")
    )


def _build(source: Path, dist: Path) -> None:
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", dist)
    _run(sys.executable, "-m", "pip", "wheel", *options, source)


def _run(*words: object, cwd: Path | None = None) -> str:
    """Run a command without this checkout on the path of Python; returns what it prints."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_has_the_templates_and_runs_a_study(environment: Path, tmp_path: Path) -> None:
    python, snas = environment / "bin" / "python", environment / "bin" / "snas"
    show = "import orchestrator, search_core, dashboards, studies as s; print(*(m.__file__ for m in "
    places = _run(python, "-c", f"{show}(orchestrator, search_core, dashboards, s)))", cwd=tmp_path).split()
    assert all(Path(place).is_relative_to(environment) for place in places), places

    listed = _run(snas, "init", cwd=tmp_path)
    assert all(file.stem in listed for file in (ROOT / "studies").glob("*.yaml"))
    _run(snas, "init", "quickstart", "tiny.yaml", cwd=tmp_path)
    assert "tiny.yaml: valid; 6 trials" in _run(snas, "study", "validate", "tiny.yaml", cwd=tmp_path)
    settings = [word for setting in TINY for word in ("--set", setting)]
    said = _run(snas, "study", "run", "tiny.yaml", "--name", "tiny", *settings, cwd=tmp_path)
    assert "front: the best trade-offs" in said
    assert "retrained from scratch, tested once" in said
    assert "done" in _run(snas, "study", "list", cwd=tmp_path)
    assert _run(snas, "study", "doctor", "tiny", cwd=tmp_path)
