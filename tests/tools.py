"""System tools that some tests need: whether this machine has them, and how to get them.

A test that needs one uses the fixture of its name (`tests/conftest.py`) and is not run where it is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.integration import namespaces

#: The shell without a window draws the same pages in half the CPU time.
_CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_POSTGRES = ("initdb", "postgres", "psql", "pg_dump", "pg_isready")
_DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Tool:
    """Something that is installed beside Python.

    Attributes:
        title: its name in words.
        remedy: how to get it.
        why_not: says why this machine does not have it; empty if it has.
    """

    title: str
    remedy: str
    why_not: Callable[[], str]


def chromium_path() -> str | None:
    """Chromium of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


def postgres_folder() -> Path | None:
    """Folder of PostgreSQL's programs; None where they are not installed."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(_DEBIAN_POSTGRES.glob("*/bin"), reverse=True)
    return next((folder for folder in folders if all((folder / name).exists() for name in _POSTGRES)), None)


def _not_in_path(*names: str) -> str:
    return "" if any(map(shutil.which, names)) else f"no {' or '.join(names)} in PATH"


def _no_small_disk() -> str:
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            subprocess.run(["umount", place], check=True)
        return done.stderr.strip()


#: By the name of the fixture.
TOOLS = {
    "chromium": Tool("Chromium", "apt-get install chromium-headless-shell", lambda: _not_in_path(*_CHROMIUM)),
    "postgres_programs": Tool(
        "PostgreSQL", "apt-get install postgresql", lambda: "" if postgres_folder() else "no initdb"
    ),
    "network_namespaces": Tool(
        "network namespaces", "apt-get install iproute2, and the rights of root", namespaces.why_not
    ),
    "small_disks": Tool("disks of any size", "the rights of root", _no_small_disk),
    "shellcheck": Tool("shellcheck", "apt-get install shellcheck", lambda: _not_in_path("shellcheck")),
    "fashion_mnist": Tool(
        "Fashion-MNIST",
        "apt-get install dataset-fashion-mnist",
        lambda: "" if _DEBIAN_FASHION_MNIST.is_dir() else f"no {_DEBIAN_FASHION_MNIST}",
    ),
}
