"""Cells as text for terminals and logs: a row per node, a column per node that feeds it, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.pictures.cell_layout import cell_edges
from dashboards.pictures.cell_style import styles_of
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, CellType, Genotype

Probabilities = Mapping[CellType, Sequence[Sequence[float]]]

MAX_WIDTH = 100

_TITLES: dict[CellType, str] = {"normal": "Normal cell", "reduce": "Reduction cell"}
_GAP = 2  # columns between two sources
_HEAD = 6  # columns of the names of the nodes


@dataclass(frozen=True)
class Span:
    """A piece of a line; `primitive` names the operation that it shows, for colours, None for all else."""

    text: str
    primitive: str | None = None


def cell_lines(
    genotype: Genotype,
    *,
    probabilities: Probabilities | None = None,
    primitives: Sequence[str] = PRIMITIVES,
) -> list[tuple[Span, ...]]:
    """Draw both cells, the normal cell above the reduction cell, or the one chain of layers that a genotype is.

    Args:
        genotype: the cells.
        probabilities: for both cell types, one row per edge of the searched cell (by target, then source) with one
            value per entry of `primitives`; then every operation has its probability behind it. None leaves them out.
        primitives: names of the columns of `probabilities`.

    Returns:
        Lines of spans, none longer than 100 characters.

    Raises:
        ValueError: if the probabilities have too few edges or no column for an operation of the genotype.
    """
    if genotype.layers:
        return _chain_lines(genotype, probabilities, primitives)
    lines: list[tuple[Span, ...]] = []
    for cell_type in CELL_TYPES:
        rows = None if probabilities is None else probabilities[cell_type]
        if lines:
            lines.append(())
        lines += _one_cell(genotype, cell_type, rows, primitives)
    return lines


def _one_cell(
    genotype: Genotype, cell_type: CellType, rows: Sequence[Sequence[float]] | None, primitives: Sequence[str]
) -> list[tuple[Span, ...]]:
    num_nodes = genotype.num_nodes(cell_type)
    while rows is not None and len(cell_edges(num_nodes)) < len(rows):
        num_nodes += 1
    cells = _operations(genotype, cell_type, num_nodes, rows, primitives)
    fed = _fed(genotype, cell_type)
    edges = len(genotype.edges(cell_type))
    title = f"{_TITLES[cell_type]}: {edges} edge{'' if edges == 1 else 's'}, {len(fed)} of {num_nodes} nodes fed"
    lines: list[tuple[Span, ...]] = [(Span(title),)]
    for sources in _blocks(cells, num_nodes):
        lines += _block(cells, sources, num_nodes, fed)
    concat = ", ".join(str(node - 2) for node in genotype.concat(cell_type))
    lines.append((Span(f"{'c(k)':>{_HEAD}} ◄ concatenation of {concat}"),))
    if stacked := ", ".join(str(node - 2) for node in genotype.stacked(cell_type)):
        lines.append((Span(f"{'':>{_HEAD}}   stacked, not added: {stacked}"),))
    return lines if len(fed) == num_nodes else [*lines, (Span(f"{'✗':>{_HEAD + 2}} no input reaches this node"),)]


def _chain_lines(
    genotype: Genotype, probabilities: Probabilities | None, primitives: Sequence[str]
) -> list[tuple[Span, ...]]:
    """A row per layer: its filters, its strides, and what it reads."""
    chances = {}
    if probabilities is not None:
        rows = probabilities["normal"]
        num_nodes = next(number for number in range(len(rows) + 1) if len(cell_edges(number)) >= len(rows))
        chances = dict(zip(cell_edges(num_nodes), rows, strict=True))
    lines: list[tuple[Span, ...]] = [(Span(f"Chain of {len(genotype.layers)} layers"),)]
    lines.append((Span(f"{'':>{_HEAD}} │ filters           strides  reads"),))
    for number, (filters, height, width) in enumerate(genotype.layers):
        own = [edge for edge in genotype.normal if edge.target == number + 2]
        kernel = own[0].primitive
        head = f"{number:>{_HEAD}} │ "
        about = f"{styles_of([kernel])[kernel].label} x {filters}"
        reads = []
        for _, source, target in own:
            chance = f" {chances[source, target][primitives.index(kernel)]:.2f}" if chances else ""
            reads.append(("image" if source == 0 else str(source - 2)) + chance)
        margin = len(head) + 18 + 9
        wrapped = textwrap.wrap(", ".join(reads), MAX_WIDTH - margin)
        lines.append((Span(head), Span(f"{about:<18}", kernel), Span(f"{f'{height}x{width}':<9}{wrapped[0]}")))
        lines += [(Span(" " * margin + line),) for line in wrapped[1:]]
    concat = ", ".join(str(node - 2) for node in genotype.normal_concat)
    ends = textwrap.wrap(f"concatenation of {concat}", MAX_WIDTH - _HEAD - 3)
    return [
        *lines,
        *((Span(f"{'' if at else 'logits':>{_HEAD}} {' ' if at else '◄'} {end}"),) for at, end in enumerate(ends)),
    ]


def _operations(
    genotype: Genotype,
    cell_type: CellType,
    num_nodes: int,
    rows: Sequence[Sequence[float]] | None,
    primitives: Sequence[str],
) -> dict[tuple[int, int], tuple[Span, ...]]:
    """What stands at the crossing of each target and source."""
    if rows is not None and len(rows) != len(cell_edges(num_nodes)):
        raise ValueError(
            f"`probabilities` of {cell_type} must have {len(cell_edges(num_nodes))} edges for {num_nodes} nodes, "
            f"got {len(rows)}"
        )
    by_edge = {} if rows is None else dict(zip(cell_edges(num_nodes), rows, strict=True))
    cells: dict[tuple[int, int], tuple[Span, ...]] = {}
    styles = styles_of(edge.primitive for edge in genotype.edges(cell_type))
    for primitive, source, target in genotype.edges(cell_type):
        if rows is not None and primitive not in primitives:
            raise ValueError(f"`primitives` must hold every operation of the genotype, got none named {primitive}")
        chance = f" {by_edge[source, target][primitives.index(primitive)]:.2f}" if rows is not None else ""
        before = cells.get((target, source), ())
        joint = (Span(" + "),) if before else ()
        cells[target, source] = (*before, *joint, Span(styles[primitive].label + chance, primitive))
    for source, target in cell_edges(num_nodes):
        cells.setdefault((target, source), (Span("·"),))
    return cells


def _blocks(cells: Mapping[tuple[int, int], tuple[Span, ...]], num_nodes: int) -> list[list[int]]:
    """Sources that fit beside each other."""
    blocks: list[list[int]] = [[]]
    width = _HEAD + 3
    for source in range(num_nodes + 1):
        own = _column_width(cells, source, num_nodes) + _GAP
        if blocks[-1] and width + own > MAX_WIDTH:
            blocks.append([])
            width = _HEAD + 3
        blocks[-1].append(source)
        width += own
    return blocks


def _block(
    cells: Mapping[tuple[int, int], tuple[Span, ...]], sources: Sequence[int], num_nodes: int, fed: frozenset[int]
) -> list[tuple[Span, ...]]:
    widths = {source: _column_width(cells, source, num_nodes) + _GAP for source in sources}
    head = "".join(_name(source).ljust(widths[source]) for source in sources)
    lines: list[tuple[Span, ...]] = [
        (Span(f"{'from':>{_HEAD}} │ {head}".rstrip()),),
        (Span("─" * _HEAD + "─┼" + "─" * (sum(widths.values()) - _GAP + 1)),),
    ]
    for target in range(max(2, sources[0] + 1), num_nodes + 2):
        spans = [Span(f"{_name(target):>{_HEAD}} {'│' if target in fed else '✗'} ")]
        for source in sources:
            if source < target:
                spans += cells[target, source]
                filled = sum(len(span.text) for span in cells[target, source])
                spans.append(Span(" " * (widths[source] - filled)))
        lines.append(tuple(spans))
    return lines


def _column_width(cells: Mapping[tuple[int, int], tuple[Span, ...]], source: int, num_nodes: int) -> int:
    texts = (cells[target, source] for target in range(max(2, source + 1), num_nodes + 2))
    return max(len(_name(source)), *(sum(len(span.text) for span in spans) for spans in texts))


def _fed(genotype: Genotype, cell_type: CellType) -> frozenset[int]:
    """Intermediate nodes that an input of the cell reaches along kept edges."""
    reached = {0, 1}
    for edge in sorted(genotype.edges(cell_type), key=lambda edge: edge.target):
        if edge.source in reached:
            reached.add(edge.target)
    return frozenset(reached - {0, 1})


def _name(node: int) -> str:
    """As in the pictures: inputs c(k-2) and c(k-1), intermediate nodes from 0."""
    return ("c(k-2)", "c(k-1)")[node] if node < 2 else str(node - 2)
