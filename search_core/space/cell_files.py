"""Cells from files: this project's JSON, DARTS-style code, dictionaries of NNI and NASLib. Nothing is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from search_core.errors import GenotypeError
from search_core.json_text import TextError, load_json
from search_core.space.genotype import CELL_TYPES, PUBLISHED, Edge, Genotype, check_operations
from search_core.space.plan import cell_edges

Cell = TypeVar("Cell")

#: In the order of NASLib's compact form.
_NASLIB = (
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
_KEYS = ("normal", "normal_concat", "reduce", "reduce_concat")
_NNI = re.compile(r"(normal|reduce)/(op|input)_(\d+)_(\d+)")
_NNI_SIZES = ("width", "depth", "num_cells")
_CONFIG = re.compile(r"NetworkSelectorDatasetInfo:darts:(edge|inputs_node)_(normal|reduce)_(\d+)")


def load_genotype(name_or_path: str | Path, say: Callable[[str], None] | None = None) -> Genotype:
    """Find a genotype by the name of a published cell or by file.

    A file may hold this project's JSON; `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)`,
    with a name or without, as in DARTS' `genotypes.py`; the dictionary of NNI's model spaces (`normal/op_2_0`, ...); or
    the dictionary or the compact pair of NASLib's DARTS space. The last three may be JSON or Python's plain values,
    which are parsed and never executed.

    Args:
        name_or_path: as the user gave it.
        say: called with what a file of another system was taken for.

    Raises:
        GenotypeError: if it is neither, or if the file is malformed or has primitives that are not here; the message
            names the file.
    """
    return find_cell(name_or_path, PUBLISHED, lambda document: _known(_of_document(document, say)), plain_values)


def find_cell(
    name_or_path: str | Path,
    published: Mapping[str, Cell],
    read: Callable[[Any], Cell],
    parse: Callable[[str], Any] | None = None,
) -> Cell:
    """Find a cell of some kind by name or by file.

    Args:
        name_or_path: as the user gave it.
        published: cells by name.
        read: makes a cell of a document.
        parse: makes a document of a text that is not JSON.

    Raises:
        GenotypeError: as `load_genotype`.
    """
    if str(name_or_path) in published:
        return published[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise GenotypeError(
            f"{str(name_or_path)!r} is neither a file nor a published cell; published: {', '.join(published)}"
        )
    try:
        document = load_json(path)
    except TextError as error:
        if parse is None or path.suffix == ".json":
            raise GenotypeError(error.of(path)) from error
        try:
            return read(parse(path.read_text(encoding="utf-8")))
        except (GenotypeError, UnicodeDecodeError) as fault:
            raise GenotypeError(f"{path}: {fault}") from fault
    try:
        return read(document.value)
    except GenotypeError as error:
        raise GenotypeError(document.located(path, str(error))) from error


def plain_values(text: str) -> Any:
    """The one value of a text of Python: numbers, texts, lists, tuples, dictionaries, `range(...)` and `Genotype(...)`.

    Raises:
        GenotypeError: if there is anything else in it, or more than one value.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"must be JSON or Python's plain values, got {error}") from error
    if len(statements) != 1:
        raise GenotypeError(f"must hold one cell, got {len(statements)} statements")
    if not isinstance(statements[0], ast.Expr | ast.Assign):
        raise GenotypeError(f"must be plain values, got {ast.unparse(statements[0])[:60]!r}")
    return _plain(statements[0].value)


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | None):
            return node.value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_plain(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(_plain(key)): _plain(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]) if 1 <= len(args) <= 2:
            bounds = [_plain(item) for item in args]
            if all(type(bound) is int and 0 <= bound <= 100 for bound in bounds):
                return list(range(*bounds))
        case ast.Call(func=ast.Name(id="Genotype"), args=args, keywords=keywords) if len(args) <= len(_KEYS):
            named = {str(keyword.arg): _plain(keyword.value) for keyword in keywords}
            return {**dict(zip(_KEYS, map(_plain, args), strict=False)), **named}
    raise GenotypeError(f"must be plain values, got {ast.unparse(node)[:60]!r} in line {node.lineno}")


def _of_document(document: Any, say: Callable[[str], None] | None) -> Genotype:
    """The genotype of a document in whichever notation it is."""
    notation, cells = "", None
    if isinstance(document, Mapping):
        if any(_NNI.fullmatch(str(key)) for key in document):
            notation, cells = "a cell of NNI, whose output are all nodes", _of_nni(document)
        elif any(_CONFIG.fullmatch(str(key)) for key in document):
            notation, cells = "a dictionary of NASLib", _of_config(document)
        elif _are_pairs(document.get("normal")) or _are_pairs(document.get("reduce")):
            missing, unknown = set(_KEYS) - set(document), sorted(set(document) - set(_KEYS))
            if missing or unknown:
                rule = f"Genotype must have {', '.join(_KEYS)}"
                raise GenotypeError(f"{rule}; missing {sorted(missing)}, unknown {unknown}")
            notation = "DARTS-style code"
            cells = {name: _two_a_node(document[name], name) for name in CELL_TYPES}
            cells |= {f"{name}_concat": document[f"{name}_concat"] for name in CELL_TYPES}
    elif isinstance(document, list) and len(document) == 2:
        notation, cells = "a compact pair of NASLib", _of_compact(document)
    if cells is None:
        return Genotype.from_dict(document)
    if say is not None:
        say(f"read as {notation}")
    return Genotype.from_dict({**cells, **{name: [list(edge) for edge in cells[name]] for name in CELL_TYPES}})


def _known(genotype: Genotype) -> Genotype:
    check_operations(genotype)
    return genotype


def _are_pairs(value: Any) -> bool:
    """Whether edges are (primitive, source), as in DARTS, and not triples as here."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], list) and len(value[0]) == 2


def _two_a_node(pairs: Any, place: str) -> list[Edge]:
    """Edges of (primitive, source) pairs, of which each node has two; those of `none` are left out."""
    are_pairs = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if not are_pairs or len(pairs) % 2:
        raise GenotypeError(f"{place}: must be pairs of primitive and source, two a node, got {pairs!r}")
    edges = [Edge(primitive, source, 2 + number // 2) for number, (primitive, source) in enumerate(pairs)]
    return [edge for edge in edges if edge.primitive != "none"]


def _of_nni(document: Mapping[str, Any]) -> dict[str, Any]:
    edges: dict[str, list[Edge]] = {name: [] for name in CELL_TYPES}
    nodes: dict[str, set[int]] = {name: set() for name in CELL_TYPES}
    for key, value in document.items():
        if (match := _NNI.fullmatch(key)) is None:
            if key not in _NNI_SIZES:
                known = ", ".join(_NNI_SIZES)
                raise GenotypeError(f"`{key}`: must be like normal/op_2_0 or normal/input_2_0, or {known}")
            continue
        cell, kind, node, number = match.groups()
        if kind == "op":
            source = document.get(f"{cell}/input_{node}_{number}")
            source = source[0] if isinstance(source, list) and len(source) == 1 else source
            if source is None:
                raise GenotypeError(f"`{key}`: must come with {cell}/input_{node}_{number}, got none")
            nodes[cell].add(int(node))
            if value != "none":
                edges[cell].append(Edge(value, source, int(node)))
        elif f"{cell}/op_{node}_{number}" not in document:
            raise GenotypeError(f"`{key}`: must come with {cell}/op_{node}_{number}, got none")
    in_order = {name: sorted(found, key=lambda edge: edge.target) for name, found in edges.items()}
    return {**in_order, **{f"{name}_concat": sorted(found) for name, found in nodes.items()}}


def _of_config(document: Mapping[str, Any]) -> dict[str, Any]:
    places = cell_edges(4)
    cells: dict[str, Any] = {name: [] for name in CELL_TYPES} | {f"{name}_concat": [2, 3, 4, 5] for name in CELL_TYPES}
    for key, value in document.items():
        match = _CONFIG.fullmatch(key)
        if match is None or int(match[3]) >= len(places):
            rule = f"must be like NetworkSelectorDatasetInfo:darts:edge_normal_0, 0 to {len(places) - 1}"
            raise GenotypeError(f"`{key}`: {rule}")
        if match[1] == "edge":
            cells[match[2]].append(Edge(value, *places[int(match[3])]))
    for name in CELL_TYPES:
        cells[name].sort(key=lambda edge: (edge.target, edge.source))
    return cells


def _of_compact(document: Sequence[Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, pairs in zip(CELL_TYPES, document, strict=True):
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int and 0 <= pair[1] < len(_NASLIB)
            for pair in pairs
        ):
            rule = f"must be pairs of source and operation, 0 to {len(_NASLIB) - 1}"
            raise GenotypeError(f"{name}: {rule}, got {pairs!r}")
        cells[name] = _two_a_node([[_NASLIB[number], source] for source, number in pairs], name)
        cells[f"{name}_concat"] = list(range(2, 2 + len(pairs) // 2))
    return cells
