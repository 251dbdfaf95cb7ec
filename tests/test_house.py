"""Where code lives and who may import whom, read from the source; type-only imports count as all others do.

docs/architecture.md draws the same rooms. A room is a folder of a package with its sub-folders, or a file beside them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_core", "orchestrator", "dashboards")

#: Room -> the rooms that it may import. Files and folders that any room of their package may import are not listed.
ARROWS = {
    "search_core": {
        "primitives": "",
        "space": "primitives",
        "kernels": "",
        "data": "",
        "network": "kernels primitives space",
        "cost": "network primitives space",
        "training": "cost data network space",
        "strategies": "cost data network space training",
        "search": "cost data network space strategies training",
        "export": "network primitives space",
        "testing": "data network primitives search space strategies",
        "recurrent": "primitives search space strategies training",
        "api": "cost data network primitives recurrent search space strategies training",
    },
    "orchestrator": {
        "stores": "",
        "study_file": "",
        "jobs": "study_file",
        "files": "stores study_file",
        "sampling": "study_file",
        "study": "files jobs sampling study_file",
        "reports": "files study study_file",
        "tracking": "files jobs reports sampling stores study study_file",
        "cluster": "files jobs study_file",
        "worker": "cluster files jobs",
        "driver": "cluster files jobs sampling stores study study_file tracking worker",
        "doctor": "driver files jobs sampling study study_file tracking",
        "cli": "cluster doctor driver files reports stores study study_file tracking",
        "api": "driver files study study_file",
    },
    "dashboards": {
        "pictures": "",
        "history": "pictures",
        "analysis": "history",
        "player": "history pictures",
        "one_file": "analysis history pictures player",
        "mlflow_store": "analysis history",
        "store": "history",
        "charts": "analysis history pictures",
        "pages": "analysis charts history mlflow_store store",
        "app": "charts pages pictures player store",
    },
}
#: Package -> the packages and rooms of other packages that it may import.
ABROAD = {
    "search_core": "",
    "dashboards": "search_core.primitives search_core.space search_core.errors search_core.json_text",
    "orchestrator": (
        "search_core dashboards.analysis dashboards.mlflow_store dashboards.one_file dashboards.pictures "
        "dashboards.player dashboards.formatting dashboards.history dashboards.errors dashboards.ports"
    ),
}
#: Python files of a folder, and lines of a file.
_MOST_FILES, _MOST_LINES = 20, 400


@cache
def modules() -> dict[str, Path]:
    """All modules by dotted name."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module -> modules of ours that it imports anywhere."""
    return {name: frozenset(set(_imported(file)) - {name}) for name, file in modules().items()}


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [(alias.name, alias.name) for alias in node.names]
        yield from (next((name for name in pair if name in modules()), "") for pair in names)


def arrows() -> Iterator[tuple[str, str, str]]:
    """Importing module, and package and room of what it imports."""
    for name, imported in imports().items():
        for other in filter(None, imported):
            package, _, rest = other.partition(".")
            yield name, package, rest.partition(".")[0]


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("def f():\n    from search_core import ranks, nothing\nimport search_core.errors\nimport os\n")
    assert set(_imported(file)) == {"search_core.ranks", "search_core", "search_core.errors", ""}


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({name: imported - {""} for name, imported in imports().items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_whom_they_may(package: str) -> None:
    table = {room: set(allowed.split()) for room, allowed in ARROWS[package].items()}
    TopologicalSorter(table).prepare()  # no circle of rooms
    wrong, used = [], set()
    for name, where, room in arrows():
        own, _, rest = name.partition(".")
        at = rest.partition(".")[0]
        if (own, where) != (package, package) or at in ("", room) or room not in table:
            continue
        if room in table.get(at, set()):
            used.add((at, room))
        else:
            wrong.append(f"{name} -> {where}.{room}")
    assert wrong == []
    unused = {(room, other) for room, allowed in table.items() for other in allowed} - used
    assert unused == set(), "the table allows what nobody needs"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_whom_they_may(package: str) -> None:
    allowed = set(ABROAD[package].split())
    wrong = {
        f"{name} -> {where}.{room}"
        for name, where, room in arrows()
        if name.partition(".")[0] == package and where != package and not {where, f"{where}.{room}"} & allowed
    }
    assert wrong - {"orchestrator.cli.dashboard -> dashboards.app"} == set()


def test_folders_and_files_can_be_taken_in_at_a_glance() -> None:
    folders = [folder for package in PACKAGES for folder in (ROOT / package).rglob("*") if folder.is_dir()]
    crowded = [folder for folder in folders if len(list(folder.glob("*.py"))) > _MOST_FILES]
    assert crowded == []
    long = [name for name, file in modules().items() if len(file.read_text("utf-8").splitlines()) > _MOST_LINES]
    assert long == []
