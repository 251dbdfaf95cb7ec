"""One cell in every notation that people have is the same genotype; what is none has one message and is never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search_core.errors import GenotypeError
from search_core.space.cell_files import load_genotype
from search_core.space.genotype import PUBLISHED, Genotype

DARTS = """
DARTS_V1 = Genotype(
    normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
            ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)],
    normal_concat=range(2, 6),
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
            ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)],
    reduce_concat=[2, 3, 4, 5])
"""
#: (node, operation, source) of the normal and the reduction cell of DARTS_V1, each node's sources in their order.
CELLS: dict[str, list[tuple[int, str, int]]] = {
    cell_type: sorted(
        ((edge.target, edge.primitive, edge.source) for edge in PUBLISHED["DARTS_V1"].edges(cell_type)),
        key=lambda edge: (edge[0], edge[2]),
    )
    for cell_type in ("normal", "reduce")
}
NASLIB_OPERATIONS = [
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"
]  # fmt: skip


def nni(as_list: bool = False) -> dict[str, Any]:
    """As NNI exports it: inputs as numbers, or as lists of one."""
    found: dict[str, Any] = {"width": 36, "num_cells": 20}
    for cell_type, edges in CELLS.items():
        for number, (node, primitive, source) in enumerate(edges):
            found[f"{cell_type}/op_{node}_{number % 2}"] = primitive
            found[f"{cell_type}/input_{node}_{number % 2}"] = [source] if as_list else source
    return found


def config() -> dict[str, str]:
    """As NASLib's `convert_genotype_to_config` makes it."""
    first = {2: 0, 3: 2, 4: 5, 5: 9}
    edges = {
        f"NetworkSelectorDatasetInfo:darts:edge_{cell_type}_{first[node] + source}": primitive
        for cell_type, found in CELLS.items()
        for node, primitive, source in found
    }
    return {**edges, "NetworkSelectorDatasetInfo:darts:inputs_node_normal_3": "0_1"}


def compact() -> list[list[list[int]]]:
    return [
        [[source, NASLIB_OPERATIONS.index(primitive)] for _, primitive, source in found] for found in CELLS.values()
    ]


def in_order(genotype: Genotype) -> dict[str, Any]:
    """Edges sorted, as notations list them in different orders."""
    document = genotype.to_dict()
    return {**document, **{name: sorted(document[name], key=lambda edge: edge[::-1]) for name in ("normal", "reduce")}}


@pytest.mark.parametrize(
    ("text", "notation"),
    [
        (DARTS, "DARTS-style code"),
        (DARTS.replace("DARTS_V1 = ", "").replace("normal=", "", 1), "DARTS-style code"),
        (json.dumps(nni()), "a cell of NNI, whose output are all nodes"),
        (repr(nni(as_list=True)), "a cell of NNI, whose output are all nodes"),
        (json.dumps(config()), "a dictionary of NASLib"),
        (repr(tuple(tuple(map(tuple, cell)) for cell in compact())), "a compact pair of NASLib"),
        (json.dumps(compact()), "a compact pair of NASLib"),
        (PUBLISHED["DARTS_V1"].to_json(), None),
    ],
)
def test_cell_is_the_same_in_every_notation(text: str, notation: str | None, tmp_path: Path) -> None:
    (file := tmp_path / "cell.txt").write_text(text)
    said: list[str] = []
    assert in_order(load_genotype(file, said.append)) == in_order(PUBLISHED["DARTS_V1"])
    assert said == ([] if notation is None else [f"read as {notation}"])


def test_none_is_left_out(tmp_path: Path) -> None:
    (file := tmp_path / "cell.py").write_text(DARTS.replace("('skip_connect', 2)],", "('none', 2)],", 1))
    assert len(load_genotype(file).normal) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", "must be plain values, got 'import os'"),
        (DARTS + DARTS, "must hold one cell, got 2 statements"),
        ("__import__('os').abort()", r"must be plain values, got \"__import__\('os'\)\.abort\(\)\" in line 1"),
        (DARTS.replace("range(2, 6)", "range(2, 10**9)"), "must be plain values, got"),
        (DARTS.replace("range(2, 6)", "open('x')"), r"must be plain values, got \"open\('x'\)\" in line 5"),
        (DARTS.replace("reduce_concat=[2, 3, 4, 5]", "more=1"), "missing \\['reduce_concat'\\], unknown \\['more'\\]"),
        (DARTS.replace("('sep_conv_3x3', 1), ", "", 1), "normal: must be pairs of primitive and source, two a node"),
        (DARTS.replace("sep_conv_3x3", "mbconv"), "the primitive must be one of"),
        ("(" * 5000, "must be JSON or Python's plain values"),
        (json.dumps({**nni(), "nodes": 4}), "`nodes`: must be like normal/op_2_0"),
        (json.dumps({"normal/op_2_0": "skip_connect"}), "must come with normal/input_2_0, got none"),
        (json.dumps({"normal/op_2_0": "skip_connect", "normal/input_2_0": 0, "normal/input_2_1": 0}), "normal/op_2_1"),
        (json.dumps({**config(), "NetworkSelectorDatasetInfo:darts:edge_normal_14": "skip_connect"}), "0 to 13"),
        ("[[[0, 7]], []]", "normal: must be pairs of source and operation, 0 to 6"),
    ],
    ids=lambda value: " ".join(value.split())[:40],
)
def test_what_is_no_cell_has_one_message(text: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "cell.txt").write_text(text)
    with pytest.raises(GenotypeError, match=message) as caught:
        load_genotype(file)
    assert str(caught.value).startswith(str(file))
