from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from search_core.errors import GenotypeError
from search_core.space.cell_files import load_genotype
from search_core.space.genotype import KNOWN_PRIMITIVES, PRIMITIVES, PUBLISHED, Edge, Genotype, has_pool_norm
from tests.search_core.tiny import published_cells

CHAIN = Genotype(
    normal=(Edge("skip_connect", 0, 2), Edge("max_pool_3x3", 2, 3), Edge("sep_conv_3x3", 4, 5)),
    normal_concat=(2, 3, 4, 5),
    reduce=(),
    reduce_concat=(2, 3),
)


def document(**changes: Any) -> dict[str, Any]:
    return {
        "normal": [["skip_connect", 0, 2], ["max_pool_3x3", 1, 2]],
        "normal_concat": [2],
        "reduce": [],
        "reduce_concat": [2],
        **changes,
    }


def test_primitives_are_those_of_darts_in_order() -> None:
    assert PRIMITIVES == (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    assert set(KNOWN_PRIMITIVES) - set(PRIMITIVES) == {"sep_conv_7x7", "conv_7x1_1x7"}


@pytest.mark.parametrize("name", ["SNAS_mild", "SNAS_moderate", "DARTS_V2"])
def test_published_cells_are_those_of_the_reference_file(name: str) -> None:
    architecture = published_cells()["architectures"][name]
    assert Genotype.from_dict(architecture["genotype"]) == PUBLISHED[name]


def test_reference_file_holds_no_cell_that_is_not_published() -> None:
    assert set(published_cells()["architectures"]) <= set(PUBLISHED)


# Round trip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_json_round_trip_is_exact(name: str) -> None:
    genotype = PUBLISHED[name]
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert Genotype.from_dict(genotype.to_dict()) == genotype
    assert json.loads(genotype.to_json()) == genotype.to_dict()
    assert Genotype.from_json(genotype.to_json()).to_json() == genotype.to_json()


def test_json_round_trip_keeps_order_double_edges_and_empty_cells() -> None:
    genotype = Genotype(
        normal=(Edge("skip_connect", 1, 3), Edge("avg_pool_3x3", 0, 2), Edge("avg_pool_3x3", 0, 2)),
        normal_concat=(3, 2),
        reduce=(),
        reduce_concat=(2,),
    )
    assert Genotype.from_json(genotype.to_json()) == genotype


def test_json_has_one_edge_a_line_and_the_documented_keys() -> None:
    assert Genotype.from_dict(document()).to_json() == (
        "{\n"
        '  "version": 1,\n'
        '  "normal": [\n'
        '    ["skip_connect", 0, 2],\n'
        '    ["max_pool_3x3", 1, 2]\n'
        "  ],\n"
        '  "normal_concat": [2],\n'
        '  "reduce": [],\n'
        '  "reduce_concat": [2]\n'
        "}\n"
    )


def test_version_is_optional_when_read() -> None:
    assert Genotype.from_dict(document(version=1)) == Genotype.from_dict(document())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "`version` must be 1, got 2"),
        ({"version": "1"}, "`version` must be 1, got '1'"),
        ({"extra": 1}, r"missing \[\], unknown \['extra'\]"),
        ({"normal": None}, r"^normal: must be a list of \[primitive, source, target\], got None"),
        ({"reduce": {}}, r"^reduce: must be a list"),
        ({"normal": [["skip_connect", 0]]}, r"^normal\[0\]: must be \[primitive, source node, target node\]"),
        ({"normal": [["skip_connect", 0, 2], "skip"]}, r"^normal\[1\]: must be .*got 'skip'"),
        ({"normal": [["skip_connect", 0.0, 2]]}, r"^normal\[0\]: must be"),
        ({"normal": [["skip_connect", True, 2]]}, r"^normal\[0\]: must be"),
        ({"normal": [[3, 0, 2]]}, r"^normal\[0\]: must be"),
        (
            {"reduce": [["conv 9x9", 0, 2]]},
            r"^reduce\[0\]: the primitive must be the name of an operation.*got 'conv 9x9'",
        ),
        ({"reduce": [["none", 0, 2]]}, r"^reduce\[0\]: .*leave out edges whose choice is none.*got 'none'"),
        ({"normal": [["skip_connect", 2, 2]]}, r"^normal\[0\]: an edge must run from .*got source 2, target 2"),
        ({"normal": [["skip_connect", 3, 2]]}, r"^normal\[0\]: .*got source 3, target 2"),
        ({"normal": [["skip_connect", -1, 2]]}, r"^normal\[0\]: .*got source -1, target 2"),
        ({"normal": [["skip_connect", 0, 1]]}, r"^normal\[0\]: .*got source 0, target 1"),
        ({"normal_concat": []}, r"^normal_concat: must name distinct intermediate nodes .*got \[\]"),
        ({"normal_concat": [2, 2]}, r"^normal_concat: .*got \[2, 2\]"),
        ({"reduce_concat": [1, 2]}, r"^reduce_concat: .*got \[1, 2\]"),
        ({"reduce_concat": 2}, "^reduce_concat: must be a list of node numbers, got 2"),
        ({"reduce_concat": ["2"]}, r"^reduce_concat: must be a list of node numbers, got \['2'\]"),
    ],
)
def test_from_dict_names_the_place_of_a_fault(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(document(**changes))


@pytest.mark.parametrize("key", ["normal", "normal_concat", "reduce", "reduce_concat"])
def test_from_dict_names_a_missing_key(key: str) -> None:
    incomplete = document()
    del incomplete[key]
    with pytest.raises(GenotypeError, match=re.escape(f"missing ['{key}'], unknown []")):
        Genotype.from_dict(incomplete)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a genotype must be a JSON document: .*line 1 column 2"),
        ("", "a genotype must be a JSON document"),
        ('{"normal_concat": [' + "9" * 5000 + "]}", "a genotype must be a JSON document: .*digits"),
        ("[" * 100_000, "a genotype must be a JSON document: must not be nested so deeply"),
        ("[]", "a genotype must be a JSON object, got list"),
        ("null", "a genotype must be a JSON object, got NoneType"),
    ],
)
def test_from_json_rejects_what_is_no_object(text: str, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_json(text)


def test_constructor_checks_edges_too() -> None:
    with pytest.raises(GenotypeError, match=r"^reduce\[1\]: "):
        Genotype((), (2,), (Edge("skip_connect", 0, 2), Edge("skip_connect", 5, 3)), (2,))


def test_genotype_is_frozen_and_hashable() -> None:
    with pytest.raises(FrozenInstanceError):
        CHAIN.normal = ()  # type: ignore[misc]
    assert len({CHAIN, Genotype.from_json(CHAIN.to_json())}) == 1


# Nodes


def test_num_nodes_counts_empty_nodes_too() -> None:
    assert CHAIN.num_nodes("normal") == 4
    assert CHAIN.num_nodes("reduce") == 2
    assert PUBLISHED["SNAS_aggressive"].num_nodes("reduce") == 4
    assert [PUBLISHED["AmoebaNet"].num_nodes(cell_type) for cell_type in ("normal", "reduce")] == [5, 5]


def test_num_nodes_counts_targets_outside_the_concatenation() -> None:
    edges = (Edge("skip_connect", 0, 2), Edge("skip_connect", 1, 6))
    assert Genotype(edges, (3,), (), (2,)).num_nodes("normal") == 5


def test_num_active_nodes_needs_a_path_from_an_input() -> None:
    # Node 4 has no edge, so node 5, fed by it alone, carries zeros.
    assert CHAIN.num_active_nodes("normal") == 2
    assert CHAIN.num_active_nodes("reduce") == 0
    assert PUBLISHED["SNAS_aggressive"].num_active_nodes("reduce") == 2
    assert PUBLISHED["SNAS_mild"].num_active_nodes("reduce") == 4


def test_num_active_nodes_does_not_depend_on_the_order_of_edges() -> None:
    backwards = Genotype(CHAIN.normal[::-1], CHAIN.normal_concat, (), (2,))
    assert backwards.num_active_nodes("normal") == 2


# Loading


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_load_finds_published_cells(name: str) -> None:
    assert load_genotype(name) is PUBLISHED[name]


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(CHAIN.to_json(), encoding="utf-8")
    assert load_genotype(path) == load_genotype(str(path)) == CHAIN


def test_load_lists_the_published_names_when_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(GenotypeError, match=r"neither a file nor a published cell; published: SNAS_mild, .*AmoebaNet"):
        load_genotype(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"normal": []}'])
def test_load_names_a_malformed_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(GenotypeError, match=f"^{re.escape(str(path))}:"):
        load_genotype(path)


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (b'{"normal": [],\n "normal": []}', ":2:2: `normal` is given twice: line 1 has it already"),
        (b'{"normal":\n [["skip_connect", NaN, 2]]}', ":2:20: numbers must be finite, got NaN"),
        ('{"é": 1}'.encode("latin-1"), ":1:3: must be UTF-8 text, but the byte 0xe9 cannot be decoded"),
        ("{}".encode("utf-16"), ": must be UTF-8 text, got UTF-16: save it as UTF-8"),
        (b"", ": must be a JSON document, got nothing"),
        (CHAIN.to_json().replace("skip_connect", "skip").encode(), ":4:5: normal[0]: the primitive must be one of"),
    ],
)
def test_load_names_the_place_of_a_fault(tmp_path: Path, content: bytes, rest: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(GenotypeError) as caught:
        load_genotype(path)
    assert str(caught.value).startswith(f"{path}{rest}")


def test_load_reads_past_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(CHAIN.to_json(), encoding="utf-8-sig")
    assert load_genotype(path) == CHAIN


# Batch norm behind pools


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SNAS_mild", True),
        ("SNAS_moderate", True),
        ("SNAS_aggressive", True),
        ("DARTS_V1", False),
        ("DARTS_V2", False),
        ("NASNet", False),
        ("AmoebaNet", False),
        ("ENAS", False),
    ],
)
def test_pool_norm_is_that_of_the_published_network(name: str, expected: bool) -> None:
    assert has_pool_norm(PUBLISHED[name]) is expected


def test_pool_norm_knows_a_cell_by_its_edges_in_any_order() -> None:
    darts = PUBLISHED["DARTS_V2"]
    shuffled = Genotype(darts.normal[::-1], darts.normal_concat, darts.reduce[::-1], darts.reduce_concat)
    changed = Genotype(darts.normal[1:], darts.normal_concat, darts.reduce, darts.reduce_concat)
    assert not has_pool_norm(shuffled)
    assert has_pool_norm(changed)
