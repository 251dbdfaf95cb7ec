"""The discrete architecture: which primitive sits on which edge of the two cells.

Nodes 0 and 1 of a cell are its inputs (outputs of the two previous cells); intermediate nodes start at 2. A genotype
lists every kept edge; an edge whose choice is `none` is left out. Two edges between the same two nodes are allowed
(NASNet has such cells), and a node may have no edge at all (its channels are zeros).

A genotype with layers is a chain (Zoph and Le, ICLR 2017) in place of cells: a single `normal` cell, whose node 0 is
the image and whose other nodes are the layers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from search_core.errors import GenotypeError
from search_core.json_text import TextError, parse_json
from search_core.primitives.builtin import KNOWN_PRIMITIVES as KNOWN_PRIMITIVES
from search_core.primitives.builtin import POOLS as POOLS
from search_core.primitives.builtin import PRIMITIVES as PRIMITIVES
from search_core.primitives.registry import find, is_name
from search_core.space.chain import Layer, check_chain

Cell = TypeVar("Cell")
CellType = Literal["normal", "reduce"]
CELL_TYPES: tuple[CellType, CellType] = ("normal", "reduce")

FORMAT_VERSION = 1


class Edge(NamedTuple):
    """One kept edge of a cell: `primitive` reads node `source` and adds to node `target`."""

    primitive: str
    source: int
    target: int


@dataclass(frozen=True)
class Genotype:
    """Both cells of an architecture, with the nodes that each concatenates to its output.

    A node adds what its edges bring. One that is *stacked* concatenates it along the channels, in the order of its
    edges, and brings it back to the channels of a node by ReLU, 1x1 convolution and batch norm (NASNet section 3, step
    5, which leaves open how; so do cells with their inputs). Documents without stacked nodes do not mention them.

    In a chain layer t is node t + 2. All edges into it have the same convolution, which reads what they bring
    concatenated; `layers` has its filters and strides. Documents of cells do not mention layers.

    Raises:
        GenotypeError: if an edge has a malformed name or does not run forward (`source < target`, `target >= 2`), if a
            concatenation is empty, repeats a node or names an input node, if a stacked node has less than two edges or
            is repeated, or if a chain has a layer without inputs or with several kernels, or a second cell. Whether the
            primitives are here is for `check_operations`.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    normal_stacked: tuple[int, ...] = ()
    reduce_stacked: tuple[int, ...] = ()
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        if self.layers:
            check_chain(self.layers, self.normal, self.normal_concat)
            if self.reduce or self.reduce_concat or self.reduce_stacked or self.normal_stacked:
                raise GenotypeError("layers: a chain must have no reduction cell and no stacked nodes")
        for cell_type in self.cell_types:
            for position, edge in enumerate(self.edges(cell_type)):
                _check_edge(edge, f"{cell_type}[{position}]", is_of_chain=bool(self.layers))
            _check_concat(self.concat(cell_type), f"{cell_type}_concat")
            _check_stacked(self.stacked(cell_type), self.edges(cell_type), f"{cell_type}_stacked")

    @property
    def cell_types(self) -> tuple[CellType, ...]:
        """Cells that there are: a chain is a single one."""
        return CELL_TYPES[:1] if self.layers else CELL_TYPES

    def edges(self, cell_type: CellType) -> tuple[Edge, ...]:
        """Kept edges of one cell type, in the order of the document."""
        return self.normal if cell_type == "normal" else self.reduce

    def concat(self, cell_type: CellType) -> tuple[int, ...]:
        """Nodes whose channels form the output of one cell type."""
        return self.normal_concat if cell_type == "normal" else self.reduce_concat

    def stacked(self, cell_type: CellType) -> tuple[int, ...]:
        """Nodes of one cell type that concatenate what their edges bring; the others add it."""
        return self.normal_stacked if cell_type == "normal" else self.reduce_stacked

    def num_nodes(self, cell_type: CellType) -> int:
        """Number of intermediate nodes that one cell type spans, those without any input included."""
        return max((*(edge.target for edge in self.edges(cell_type)), *self.concat(cell_type), 1)) - 1

    def num_active_nodes(self, cell_type: CellType) -> int:
        """Number of intermediate nodes that a cell input still reaches along kept edges."""
        reached = {0, 1}
        for edge in sorted(self.edges(cell_type), key=lambda edge: edge.target):
            if edge.source in reached:
                reached.add(edge.target)
        return len(reached) - 2

    def to_dict(self) -> dict[str, Any]:
        """The document as plain lists: keys of the published files, `version`, stacked nodes and layers if any."""
        document: dict[str, Any] = {"version": FORMAT_VERSION}
        for cell_type in CELL_TYPES:
            document[cell_type] = [list(edge) for edge in self.edges(cell_type)]
            document[f"{cell_type}_concat"] = list(self.concat(cell_type))
            if self.stacked(cell_type):
                document[f"{cell_type}_stacked"] = list(self.stacked(cell_type))
        if self.layers:
            document["layers"] = [list(layer) for layer in self.layers]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Genotype:
        """Read the document form.

        Args:
            document: keys `normal`, `normal_concat`, `reduce`, `reduce_concat`; `version`, `normal_stacked`,
                `reduce_stacked` and `layers` (each filters, stride over rows, stride over columns) optional.

        Raises:
            GenotypeError: on missing or unknown keys, a version that is not known, or a malformed entry.
        """
        optional = {"normal_stacked", "reduce_stacked", "layers"}
        check_keys(document, {"normal", "normal_concat", "reduce", "reduce_concat"}, optional)
        return cls(
            normal=_parse_edges(document["normal"], "normal"),
            reduce=_parse_edges(document["reduce"], "reduce"),
            layers=_parse_layers(document.get("layers", [])),
            **{
                key: parse_nodes(document.get(key, []), key)
                for cell_type in CELL_TYPES
                for key in (f"{cell_type}_concat", f"{cell_type}_stacked")
            },
        )

    def to_json(self) -> str:
        """The document as JSON with one edge a line, for people and for `from_json`."""
        lines = [f'  "version": {FORMAT_VERSION}']
        for cell_type in CELL_TYPES:
            edges = ",\n".join(f"    {json.dumps(list(edge))}" for edge in self.edges(cell_type))
            lines.append(f'  "{cell_type}": [\n{edges}\n  ]' if edges else f'  "{cell_type}": []')
            lines.append(f'  "{cell_type}_concat": {json.dumps(list(self.concat(cell_type)))}')
            if self.stacked(cell_type):
                lines.append(f'  "{cell_type}_stacked": {json.dumps(list(self.stacked(cell_type)))}')
        if self.layers:
            layers = ",\n".join(f"    {json.dumps(list(layer))}" for layer in self.layers)
            lines.append(f'  "layers": [\n{layers}\n  ]')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read what `to_json` writes.

        Raises:
            GenotypeError: if the text is not JSON or not a genotype.
        """
        try:
            document = parse_json(text)
        except TextError as error:
            raise GenotypeError(f"a genotype must be a JSON document: {error}") from error
        return cls.from_dict(document.value)


def check_keys(document: Mapping[str, Any], keys: set[str], optional: Collection[str] = ()) -> None:
    """Check that a document has these keys, no others but `version` and optional ones, and the version of this format.

    Raises:
        GenotypeError: if it has not.
    """
    if not isinstance(document, Mapping):
        raise GenotypeError(f"a genotype must be a JSON object, got {type(document).__name__}")
    missing, unknown = sorted(keys - set(document)), sorted(set(document) - keys - {"version", *optional})
    if missing or unknown:
        raise GenotypeError(f"a genotype must have the keys {sorted(keys)}; missing {missing}, unknown {unknown}")
    if document.get("version", FORMAT_VERSION) != FORMAT_VERSION:
        raise GenotypeError(f"`version` must be {FORMAT_VERSION}, got {document['version']!r}")


def check_operations(genotype: Genotype) -> None:
    """Check that all operations of cells are there, those of plug-ins included, which are imported.

    Raises:
        GenotypeError: if one is not; the message says what to install or to pass.
    """
    for cell_type in () if genotype.layers else CELL_TYPES:
        for position, edge in enumerate(genotype.edges(cell_type)):
            try:
                find(edge.primitive)
            except GenotypeError as error:
                raise GenotypeError(f"{cell_type}[{position}]: {error}") from error


def _check_edge(edge: Edge, place: str, *, is_of_chain: bool) -> None:
    if not is_of_chain and (not is_name(edge.primitive) or edge.primitive == "none"):
        raise GenotypeError(
            f"{place}: the primitive must be the name of an operation (leave out edges whose choice is none), "
            f"got {edge.primitive!r}"
        )
    if edge.target < 2 or not 0 <= edge.source < edge.target:
        raise GenotypeError(
            f"{place}: an edge must run from a lower node to an intermediate node (0 <= source < target, target >= 2), "
            f"got source {edge.source}, target {edge.target}"
        )


def _check_concat(concat: tuple[int, ...], place: str) -> None:
    if not concat or len(set(concat)) != len(concat) or min(concat) < 2:
        raise GenotypeError(f"{place}: must name distinct intermediate nodes (2 or higher), got {list(concat)}")


def _check_stacked(stacked: tuple[int, ...], edges: tuple[Edge, ...], place: str) -> None:
    targets = [edge.target for edge in edges]
    if len(set(stacked)) != len(stacked) or any(targets.count(node) < 2 for node in stacked):
        raise GenotypeError(f"{place}: must name distinct nodes with two edges or more, got {list(stacked)}")


def _parse_layers(value: Any) -> tuple[Layer, ...]:
    rows = value if isinstance(value, list) else [None]
    if not all(isinstance(row, list) and len(row) == 3 and _are_nodes(row) for row in rows):
        raise GenotypeError(f"layers: must be a list of [filters, stride, stride], got {value!r}")
    return tuple(Layer(*item) for item in value)


def _parse_edges(value: Any, place: str) -> tuple[Edge, ...]:
    if not isinstance(value, list):
        raise GenotypeError(f"{place}: must be a list of [primitive, source, target], got {value!r}")
    for position, item in enumerate(value):
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str) and _are_nodes(item[1:])):
            raise GenotypeError(f"{place}[{position}]: must be [primitive, source node, target node], got {item!r}")
    return tuple(Edge(*item) for item in value)


def parse_nodes(value: Any, place: str) -> tuple[int, ...]:
    """A list of node numbers from a document.

    Raises:
        GenotypeError: if it is none.
    """
    if not (isinstance(value, list) and _are_nodes(value)):
        raise GenotypeError(f"{place}: must be a list of node numbers, got {value!r}")
    return tuple(value)


def _are_nodes(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)


def _published(normal: str, normal_concat: str, reduce: str, reduce_concat: str) -> Genotype:
    """Build a genotype from words such as `sep_conv_3x3:0>2` and digits of the concatenated nodes."""

    def edges(words: str) -> tuple[Edge, ...]:
        parsed = []
        for word in words.split():
            primitive, _, nodes = word.partition(":")
            source, _, target = nodes.partition(">")
            parsed.append(Edge(primitive, int(source), int(target)))
        return tuple(parsed)

    return Genotype(edges(normal), tuple(map(int, normal_concat)), edges(reduce), tuple(map(int, reduce_concat)))


#: Published cells: SNAS (Xie et al., ICLR 2019, figures 3-5 and the authors' release), DARTS (Liu et al., ICLR 2019,
#: figures 4-7), NASNet-A (Zoph et al., CVPR 2018) and AmoebaNet-A (Real et al., AAAI 2019) in DARTS' encoding, and
#: ENAS (Pham et al., ICML 2018; `fixed_arc` of the authors' `cifar10_micro_final.sh`).
PUBLISHED: dict[str, Genotype] = {
    "SNAS_mild": _published(
        "sep_conv_3x3:0>2 sep_conv_3x3:1>2 skip_connect:0>3 dil_conv_3x3:1>3 "
        "skip_connect:0>4 skip_connect:1>4 skip_connect:0>5 sep_conv_3x3:1>5",
        "2345",
        "max_pool_3x3:0>2 max_pool_3x3:1>2 max_pool_3x3:1>3 skip_connect:2>3 "
        "max_pool_3x3:1>4 skip_connect:2>4 max_pool_3x3:0>5 dil_conv_5x5:2>5",
        "2345",
    ),
    "SNAS_moderate": _published(
        "dil_conv_5x5:0>2 skip_connect:1>2 sep_conv_3x3:0>3 skip_connect:1>3 "
        "skip_connect:0>4 skip_connect:1>4 sep_conv_3x3:0>5 dil_conv_5x5:1>5",
        "2345",
        "max_pool_3x3:0>2 max_pool_3x3:1>2 sep_conv_5x5:0>3 dil_conv_5x5:1>3 "
        "sep_conv_5x5:0>4 sep_conv_5x5:1>4 sep_conv_5x5:0>5 sep_conv_5x5:1>5",
        "2345",
    ),
    "SNAS_aggressive": _published(
        "sep_conv_5x5:0>2 skip_connect:1>2 skip_connect:0>3 skip_connect:1>3 "
        "dil_conv_5x5:1>4 skip_connect:0>4 skip_connect:0>5 dil_conv_5x5:1>5",
        "2345",
        "sep_conv_5x5:0>2 sep_conv_5x5:0>3",
        "2345",
    ),
    "DARTS_V1": _published(
        "sep_conv_3x3:1>2 sep_conv_3x3:0>2 skip_connect:0>3 sep_conv_3x3:1>3 "
        "skip_connect:0>4 sep_conv_3x3:1>4 sep_conv_3x3:0>5 skip_connect:2>5",
        "2345",
        "max_pool_3x3:0>2 max_pool_3x3:1>2 skip_connect:2>3 max_pool_3x3:0>3 "
        "max_pool_3x3:0>4 skip_connect:2>4 skip_connect:2>5 avg_pool_3x3:0>5",
        "2345",
    ),
    "DARTS_V2": _published(
        "sep_conv_3x3:0>2 sep_conv_3x3:1>2 sep_conv_3x3:0>3 sep_conv_3x3:1>3 "
        "skip_connect:0>4 sep_conv_3x3:1>4 skip_connect:0>5 dil_conv_3x3:2>5",
        "2345",
        "max_pool_3x3:0>2 max_pool_3x3:1>2 max_pool_3x3:1>3 skip_connect:2>3 "
        "max_pool_3x3:0>4 skip_connect:2>4 max_pool_3x3:1>5 skip_connect:2>5",
        "2345",
    ),
    "NASNet": _published(
        "sep_conv_5x5:1>2 sep_conv_3x3:0>2 sep_conv_5x5:0>3 sep_conv_3x3:0>3 avg_pool_3x3:1>4 "
        "skip_connect:0>4 avg_pool_3x3:0>5 avg_pool_3x3:0>5 sep_conv_3x3:1>6 skip_connect:1>6",
        "23456",
        "sep_conv_5x5:1>2 sep_conv_7x7:0>2 max_pool_3x3:1>3 sep_conv_7x7:0>3 avg_pool_3x3:1>4 "
        "sep_conv_5x5:0>4 skip_connect:3>5 avg_pool_3x3:2>5 sep_conv_3x3:2>6 max_pool_3x3:1>6",
        "456",
    ),
    "AmoebaNet": _published(
        "avg_pool_3x3:0>2 max_pool_3x3:1>2 sep_conv_3x3:0>3 sep_conv_5x5:2>3 sep_conv_3x3:0>4 "
        "avg_pool_3x3:3>4 sep_conv_3x3:1>5 skip_connect:1>5 skip_connect:0>6 avg_pool_3x3:1>6",
        "456",
        "avg_pool_3x3:0>2 sep_conv_3x3:1>2 max_pool_3x3:0>3 sep_conv_7x7:2>3 sep_conv_7x7:0>4 "
        "avg_pool_3x3:1>4 max_pool_3x3:0>5 max_pool_3x3:1>5 conv_7x1_1x7:0>6 sep_conv_3x3:5>6",
        "346",
    ),
    "ENAS": _published(
        "avg_pool_3x3:0>2 sep_conv_3x3:0>2 skip_connect:0>3 sep_conv_5x5:0>3 skip_connect:0>4 "
        "sep_conv_5x5:1>4 sep_conv_3x3:1>5 sep_conv_5x5:0>5 avg_pool_3x3:0>6 sep_conv_5x5:1>6",
        "23456",
        "sep_conv_3x3:1>2 sep_conv_3x3:1>2 max_pool_3x3:0>3 avg_pool_3x3:0>3 sep_conv_5x5:1>4 "
        "sep_conv_5x5:3>4 sep_conv_3x3:1>5 skip_connect:0>5 max_pool_3x3:0>6 sep_conv_5x5:1>6",
        "2456",
    ),
}

#: Cells whose published counts come from DARTS' evaluation network, which has no batch norm behind pools. SNAS' own
#: network has an affine one there, and so has every child network that this project derives.
_WITHOUT_POOL_NORM = ("DARTS_V1", "DARTS_V2", "NASNet", "AmoebaNet", "ENAS")


def has_pool_norm(genotype: Genotype) -> bool:
    """Whether the network of this genotype has batch norm behind its pools.

    True, as in SNAS, but for the cells published with DARTS' evaluation network, known by their edges in any order.
    """

    def key(cells: Genotype) -> list[object]:
        return [(sorted(cells.edges(name)), cells.concat(name), cells.stacked(name)) for name in CELL_TYPES]

    return all(key(genotype) != key(PUBLISHED[name]) for name in _WITHOUT_POOL_NORM)
