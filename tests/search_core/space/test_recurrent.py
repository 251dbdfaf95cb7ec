from __future__ import annotations

import json
from pathlib import Path

import pytest

from search_core.errors import GenotypeError
from search_core.space.recurrent import (
    PUBLISHED_RECURRENT,
    RecurrentGenotype,
    RecurrentNode,
    load_recurrent_genotype,
)


@pytest.mark.parametrize("name", PUBLISHED_RECURRENT)
def test_published_cells_survive_their_document(name: str, tmp_path: Path) -> None:
    genotype = load_recurrent_genotype(name)
    file = tmp_path / "cell.json"
    file.write_text(genotype.to_json(), encoding="utf-8")
    assert load_recurrent_genotype(file) == genotype
    assert json.loads(genotype.to_json()) == genotype.to_dict()


def test_published_darts_cell_reads_as_its_authors_wrote_it() -> None:
    document = {
        "recurrent": [
            ["sigmoid", 0], ["relu", 1], ["relu", 1], ["identity", 1],
            ["tanh", 2], ["sigmoid", 5], ["tanh", 3], ["relu", 5],
        ],
        "concat": [1, 2, 3, 4, 5, 6, 7, 8],
    }  # fmt: skip
    assert RecurrentGenotype.from_dict(document) == PUBLISHED_RECURRENT["DARTS_V2"]


@pytest.mark.parametrize(
    ("nodes", "concat", "message"),
    [
        ([("none", 0)], (1,), r"recurrent\[0\]: must be one of tanh, relu, sigmoid, identity and a state of 0 to 0"),
        ([("tanh", 0), ("tanh", 2)], (1,), r"recurrent\[1\]: .* a state of 0 to 1, got 'tanh' and 2"),
        ([("tanh", 0)], (), r"concat: must name distinct nodes of 1 to 1, got \[\]"),
        ([("tanh", 0)], (0,), r"concat: must name distinct nodes of 1 to 1, got \[0\]"),
        ([("tanh", 0)], (1, 1), r"concat: must name distinct nodes"),
    ],
)
def test_malformed_cells_are_refused(nodes: list[tuple[str, int]], concat: tuple[int, ...], message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        RecurrentGenotype(tuple(RecurrentNode(*node) for node in nodes), concat)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"recurrent": []}', "a genotype must have the keys .* missing .'concat'"),
        ('{"recurrent": {}, "concat": [1]}', "recurrent: must be a list of .activation, state., got {}"),
        ('{"recurrent": [["tanh"]], "concat": [1]}', r"cell.json:1:16: recurrent\[0\]: must be .activation, state."),
        ('{"recurrent": [["tanh", 0]], "concat": "1"}', "concat: must be a list of node numbers"),
    ],
)
def test_faults_of_a_file_are_named(document: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    file.write_text(document)
    with pytest.raises(GenotypeError, match=message):
        load_recurrent_genotype(file)


def test_unknown_name_lists_the_published_recurrent_cells() -> None:
    with pytest.raises(GenotypeError, match="'SNAS' is neither a file nor a published cell; published: DARTS_V1"):
        load_recurrent_genotype("SNAS")
