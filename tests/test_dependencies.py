"""What is imported against what pyproject.toml declares, both ways; and the versions of constraints.txt."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.search_core.test_imports import ROOT, imports, sources

pytestmark = pytest.mark.xdist_group("sources")  # all sources are parsed once

OWN = {"search_core", "orchestrator", "dashboards", "studies", "tests"}
#: Imported, but not to be installed: stubs that only type checkers have, and peers that their benchmarks describe.
NOT_INSTALLED = {"_typeshed", "confopt", "model_search", "nni"}
#: Brought by PyTorch's builds for GPUs; without it PyTorch's operations compute the same.
OF_TORCH = {"triton"}
#: Declared though nothing imports them: why.
NOT_IMPORTED = {
    "scikit-learn": "its digits, whose file is read",
    "onnx": "torch.onnx",
    "onnxscript": "torch.onnx",
    "optuna-dashboard": "a test starts it",
    "psycopg": "SQLAlchemy's driver for PostgreSQL",
    "pytest-timeout": "plug-in of pytest, set in pyproject.toml",
    "pytest-xdist": "plug-in of pytest, `-n` in the Makefile",
    "setuptools": "builds the wheel",
    "ruff": "make lint",
    "mypy": "make lint",
    "types-pyyaml": "stubs for mypy",
    "pre-commit": "checks before a commit",
    "snas-orchestrator": "its own extra",
}
#: Modules that no documentation names, and private attributes that the standard library documents.
UNDOCUMENTED, STANDARD = ("mlflow.utils.", "ray.train.v2.", "numba.core."), ("_replace", "_fields", "_exit")
#: Private interfaces outside `orchestrator/adapters`: what makes an inner loop fast, and what sees every operation of a
#: module, is used where it stands.
PRIVATE = {
    ("search_core/kernels/tiles.py", "numba.core.cgutils"),
    ("search_core/network/search_cell.py", "torch._foreach_lerp_"),
    ("search_core/network/search_cell.py", "torch._foreach_mul"),
    ("search_core/primitives/measured.py", "torch.ops.aten._adaptive_avg_pool2d"),
    ("search_core/primitives/measured.py", "torch.utils._python_dispatch.TorchDispatchMode"),
    ("search_core/primitives/measured.py", "torch.utils._pytree.tree_leaves"),
    ("search_core/training/optimisers.py", "torch._foreach_add"),
    ("search_core/training/optimisers.py", "torch._foreach_add_"),
    ("search_core/training/optimisers.py", "torch._foreach_mul"),
    ("search_core/training/optimisers.py", "torch._foreach_mul_"),
    ("search_core/training/optimisers.py", "torch._foreach_sub_"),
}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements of the package with some extras, by canonical name of the distribution."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


@cache
def trees(package: str) -> list[ast.Module]:
    """The sources of a package."""
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sources(package)]


@cache
def imported(package: str) -> set[str]:
    """Modules that a package imports anywhere, `pytest.importorskip` included."""
    return {name for tree in trees(package) for name in {*(name for name, _ in imports(tree)), *skipped_without(tree)}}


def third_party(packages: Iterable[str]) -> set[str]:
    """Third-party modules that the packages import."""
    return set().union(*map(imported, packages)) - set(sys.stdlib_module_names) - OWN - NOT_INSTALLED - OF_TORCH


def skipped_without(tree: ast.AST) -> set[str]:
    """Modules named in calls of `importorskip`."""
    return {
        str(ast.literal_eval(node.args[0])).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip"
    }


_distributions = cache(packages_distributions)


def distributions(modules: Iterable[str]) -> dict[str, set[str]]:
    """Distributions that hold each module, by canonical names; none for a module that is not installed."""
    known = _distributions()
    return {module: {canonicalize_name(name) for name in known.get(module, ())} for module in modules}


def undeclared(modules: Iterable[str], names: Iterable[str]) -> list[str]:
    """Modules of which no distribution is among the names; several hold a part of `mlflow`: one is enough."""
    return sorted(module for module, holders in distributions(modules).items() if not holders & set(names))


def test_undeclared_modules_are_found() -> None:
    assert undeclared({"yaml", "sklearn", "mlflow", "nosuch"}, ["pyyaml", "mlflow"]) == ["nosuch", "sklearn"]
    assert skipped_without(ast.parse("a = pytest.importorskip('b.c', reason='d')")) == {"b"}


def test_every_import_of_the_packages_is_declared() -> None:
    assert undeclared(third_party(["search_core", "orchestrator", "dashboards"]), declared("onnx", "hf")) == []


def test_every_import_of_the_tests_is_declared() -> None:
    assert undeclared(third_party(["tests"]), declared("dev")) == []


def test_every_dependency_is_imported_or_said_to_be_needed() -> None:
    packages = ["search_core", "orchestrator", "dashboards"]
    own = set().union(*distributions(third_party(packages)).values())
    all_used = own | set().union(*distributions(third_party([*packages, "tests"])).values())
    assert sorted(set(declared()) - own - set(NOT_IMPORTED)) == []
    assert sorted(set(declared("postgres", "onnx", "dev")) - all_used - set(NOT_IMPORTED)) == []
    assert sorted(set(NOT_IMPORTED) - set(declared("postgres", "onnx", "dev"))) == [], (
        "exceptions that are none any more"
    )
    assert sorted(set(NOT_IMPORTED) & all_used) == []


def private_uses(tree: ast.AST) -> set[str]:
    """Private or undocumented interfaces of other packages in a source: imported, as attributes, or in strings.

    An attribute is another package's if it is of no `self` and the source itself defines none of its name.
    """
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    found = {name for node in nodes for name in _imported_names(node) if re.search(r"\._(?!_)", name)}
    found |= {name for node in nodes for name in _imported_names(node) if name.startswith(UNDOCUMENTED)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr) and node.attr not in {*own, *STANDARD}:
            found |= {ast.unparse(node)} - {f"{base}.{node.attr}" for base in ("self", "cls", "super()")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\b(?:ray|optuna|mlflow|numba|torch)(?:\.\w+)*?\._[a-z]\w*", node.value))
    return found


def test_private_uses_are_found_wherever_they_stand() -> None:
    code = """
from ray._private import a
import mlflow.utils.b, torch.nn
c = 'mock ray.d._e', 'a_b._c'
class F:
    def _g(self): self._h, self.i._j, self.k._g, l._replace()
"""
    assert private_uses(ast.parse(code)) == {"ray._private.a", "mlflow.utils.b", "ray.d._e", "self.i._j"}


def test_private_interfaces_are_used_by_the_adapters_alone_and_their_libraries_have_an_upper_bound() -> None:
    libraries, elsewhere = set[str](), set[tuple[str, str]]()
    for path in (path for package in ("search_core", "orchestrator", "dashboards") for path in sources(package)):
        uses = private_uses(ast.parse(path.read_text(encoding="utf-8")))
        if path.parent.name == "adapters":
            library = path.stem.removesuffix("_internals").removesuffix("_agent")
            has_program = path.stem == "ray_agent"  # Ray's own, whose path it is given
            assert uses or has_program or library == "__init__", f"{path.name} has nothing to adapt"
            assert {use.split(".")[0] for use in uses} & {"ray", "optuna", "mlflow"} <= {library}
            libraries |= {library} - {"__init__"}
        else:
            elsewhere |= {(str(path.relative_to(ROOT)), use) for use in uses}
    assert elsewhere == PRIVATE
    assert libraries == {"ray", "optuna", "mlflow"}
    for name in libraries | {use.split(".")[0] for _, use in PRIVATE}:
        (holder,) = distributions([name])[name] & set(declared())
        bounds = [specifier.operator for specifier in declared()[holder].specifier]
        assert "<" in bounds, f"{holder} has no upper bound"


def _imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_constraints_hold_one_version_of_every_dependency_and_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in pins)
    assert all(re.fullmatch(r"[0-9A-Za-z.!+]+", version) for version in pins.values())
    versions = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    needed = declared("postgres", "dev")
    # pip freeze leaves out what an environment begins with; the project itself is not pinned.
    assert set(needed) - set(versions) <= {"snas-orchestrator", "setuptools"}
    for name, requirement in needed.items():
        assert name not in versions or versions[name] in requirement.specifier, requirement
