"""Who may import whom, read from the source: search_core must run where only torch, torchvision and numpy are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

#: Never, not even inside a function.
NOT_IN_SEARCH_CORE = {"ray", "optuna", "mlflow", "pydantic", "yaml", "orchestrator", "dashboards", "typer", "pandas"}
#: Inside functions only: they are needed by some data sets alone.
ONLY_WHEN_NEEDED = {"torchvision", "sklearn", "pyarrow", "datasets"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST, *, in_functions: bool = True) -> Iterator[tuple[str, int]]:
    """Top-level names of imported packages, with their lines; without `in_functions` only what runs on import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield str(node.module).split(".")[0], node.lineno
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, in_functions=in_functions)


def dynamic_imports(tree: ast.AST) -> list[int]:
    """Lines that import by name at run time, which the rules above cannot see."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) in ("__import__", "import_module")
    ]


def violations(package: str, forbidden: set[str], *, in_functions: bool = True) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line in imports(ast.parse(path.read_text(encoding="utf-8")), in_functions=in_functions)
        if name in forbidden
    ]


def test_reading_imports_sees_them_wherever_they_stand() -> None:
    code = """
import a.b
from c.d import e
if True:
    import f
class G:
    import h
    def i(self):
        import j
"""
    tree = ast.parse(code)
    assert [name for name, _ in imports(tree)] == ["a", "c", "f", "h", "j"]
    assert [name for name, _ in imports(tree, in_functions=False)] == ["a", "c", "f", "h"]


@pytest.mark.parametrize("package", ["search_core", "dashboards"])
def test_packages_are_there_to_be_read(package: str) -> None:
    assert sources(package)


def test_search_core_is_pure_pytorch() -> None:
    assert violations("search_core", NOT_IN_SEARCH_CORE) == []


def test_search_core_imports_optional_packages_inside_functions_only() -> None:
    assert violations("search_core", ONLY_WHEN_NEEDED, in_functions=False) == []


def test_numba_is_imported_by_the_modules_of_its_kernels_alone_and_they_inside_functions_alone() -> None:
    """So that machines without Numba, and those whose tensors are on a GPU, never need it."""
    kernels = [path for path in sources("search_core") if path.stem == "tiles" or path.stem.startswith("native_")]
    assert len(kernels) == 4
    for path in sources("search_core"):
        if path not in kernels:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert not {"numba", "llvmlite"} & {name for name, _ in imports(tree)}, path
            at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not any(kernel.stem in ast.unparse(node) for node in at_import for kernel in kernels), path


def test_dashboards_never_import_the_orchestrator() -> None:
    assert violations("dashboards", {"orchestrator"}) == []


@pytest.mark.parametrize("package", ["search_core", "dashboards"])
def test_nothing_but_plugins_is_imported_by_name_at_run_time(package: str) -> None:
    found = [path for path in sources(package) if dynamic_imports(ast.parse(path.read_text(encoding="utf-8")))]
    assert found == ([ROOT / "search_core/plugins.py"] if package == "search_core" else [])
