"""The recurrent cell of ENAS and DARTS as a discrete architecture: which state each node reads, by which activation.

State 0 is formed from the word and the last hidden state; node i (from 1) reads one state before it. The cell's output
is the mean of the nodes in `concat` (ENAS section 2.1, DARTS section 3.1.2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from search_core.errors import GenotypeError
from search_core.space.cell_files import find_cell
from search_core.space.genotype import FORMAT_VERSION, check_keys, parse_nodes

#: What a node may do, in DARTS' order. DARTS' search has `none` before them, which no derived cell has.
ACTIVATIONS: tuple[str, ...] = ("tanh", "relu", "sigmoid", "identity")


class RecurrentNode(NamedTuple):
    """One node: `activation` of state `source`, gated against that state."""

    activation: str
    source: int


@dataclass(frozen=True)
class RecurrentGenotype:
    """A recurrent cell.

    Attributes:
        recurrent: nodes 1, 2, ... in order.
        concat: nodes whose mean is the output.

    Raises:
        GenotypeError: if a node names an unknown activation or a state that is not before it, or if `concat` is
            empty, repeats a node or names one that is not there.
    """

    recurrent: tuple[RecurrentNode, ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for position, (activation, source) in enumerate(self.recurrent):
            if activation not in ACTIVATIONS or not 0 <= source <= position:
                raise GenotypeError(
                    f"recurrent[{position}]: must be one of {', '.join(ACTIVATIONS)} and a state of 0 to {position}, "
                    f"got {activation!r} and {source}"
                )
        nodes = range(1, len(self.recurrent) + 1)
        if not self.concat or len(set(self.concat)) != len(self.concat) or not set(self.concat) <= set(nodes):
            raise GenotypeError(f"concat: must name distinct nodes of 1 to {len(nodes)}, got {list(self.concat)}")

    def to_dict(self) -> dict[str, Any]:
        """The document as plain lists, with the keys of the published cells and `version`."""
        return {
            "version": FORMAT_VERSION,
            "recurrent": [list(node) for node in self.recurrent],
            "concat": list(self.concat),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RecurrentGenotype:
        """Read the document form: keys `recurrent` (pairs of activation and state) and `concat`; `version` optional.

        Raises:
            GenotypeError: on missing or unknown keys, a version that is not known, or a malformed entry.
        """
        check_keys(document, {"recurrent", "concat"})
        nodes = document["recurrent"]
        if not isinstance(nodes, list):
            raise GenotypeError(f"recurrent: must be a list of [activation, state], got {nodes!r}")
        for position, item in enumerate(nodes):
            is_pair = isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and type(item[1]) is int
            if not is_pair:
                raise GenotypeError(f"recurrent[{position}]: must be [activation, state], got {item!r}")
        return cls(tuple(RecurrentNode(*item) for item in nodes), parse_nodes(document["concat"], "concat"))

    def to_json(self) -> str:
        """The document as JSON, one node a line."""
        nodes = ",\n".join(f"    {json.dumps(list(node))}" for node in self.recurrent)
        head, tail = f'  "version": {FORMAT_VERSION}', f'  "concat": {json.dumps(list(self.concat))}'
        return f'{{\n{head},\n  "recurrent": [\n{nodes}\n  ],\n{tail}\n}}\n'


def load_recurrent_genotype(name_or_path: str | Path) -> RecurrentGenotype:
    """Find a recurrent cell by its published name or by file.

    Raises:
        GenotypeError: if it is neither, or if the file is malformed; the message names the file.
    """
    return find_cell(name_or_path, PUBLISHED_RECURRENT, RecurrentGenotype.from_dict)


def _published(nodes: str, concat: range | tuple[int, ...]) -> RecurrentGenotype:
    """Build a cell from words such as `tanh:0`."""
    pairs = (word.split(":") for word in nodes.split())
    return RecurrentGenotype(tuple(RecurrentNode(name, int(source)) for name, source in pairs), tuple(concat))


#: Published cells: DARTS of first and second order (the authors' release; figure 6 has the latter), and ENAS in its
#: encoding.
PUBLISHED_RECURRENT: dict[str, RecurrentGenotype] = {
    "DARTS_V1": _published("relu:0 relu:1 tanh:2 relu:3 relu:4 identity:1 relu:5 relu:1", range(1, 9)),
    "DARTS_V2": _published("sigmoid:0 relu:1 relu:1 identity:1 tanh:2 sigmoid:5 tanh:3 relu:5", range(1, 9)),
    "ENAS": _published(
        "tanh:0 tanh:1 relu:1 tanh:3 tanh:3 relu:3 relu:4 relu:7 relu:8 relu:8 relu:8", (2, 5, 6, 9, 10, 11)
    ),
}
