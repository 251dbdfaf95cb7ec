"""Pictures of cells: which operation sits on which edge, how sure the search is, and what has vanished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.pictures.cell_figure import CellPicture, DrawnEdge, cells_figure
from dashboards.pictures.cell_layout import cell_edges, cell_layout
from dashboards.pictures.cell_style import styles_of
from dashboards.pictures.figures import figure_svg
from search_core.space.chain import Layer
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, CellType, Genotype
from search_core.space.recurrent import ACTIVATIONS, RecurrentGenotype

Probabilities = Mapping[CellType, Sequence[Sequence[float]]]

_MIN_WIDTH_PX = 200
_HEADINGS: dict[CellType, str] = {"normal": "Normal cell", "reduce": "Reduction cell"}
_CHAIN = "Chain of layers, with the number of filters below each"
_CHAIN_BOXES = (("x", ""), ("", ""), ("y", ""))  # the image, no second input, what the classifier reads


def render_cells(
    genotype: Genotype,
    *,
    probabilities: Probabilities | None = None,
    primitives: Sequence[str] = PRIMITIVES,
    num_nodes: int | None = None,
    title: str = "",
    width_px: int = 800,
) -> np.ndarray:
    """Draw both cells, the normal cell above the reduction cell, or the one chain of layers that a genotype is.

    Below each layer of a chain stands its number of filters, above it its strides other than 1. Its picture has places
    for the edges that it keeps alone.

    Every node and edge has a fixed place that depends on the number of nodes alone, so that pictures of different
    epochs can be compared. Edges are as wide and as strong as their operation is probable; a faint dotted arc is an
    edge whose most probable choice is `none`; a dashed hollow node is one that no cell input reaches, one with a double
    ring is stacked.

    Args:
        genotype: the cells.
        probabilities: for both cell types, one row per edge (by target, then source) with one value in [0, 1] per
            entry of `primitives`. None draws every edge at full strength and no vanished edges.
        primitives: names of the columns of `probabilities`.
        num_nodes: intermediate nodes to draw; None takes the number from the probabilities, else from the genotype.
        title: one line over the picture; what does not fit is cut.
        width_px: width of the picture in pixels, at least 200; the height follows.

    Returns:
        The picture, uint8 (height, width_px, 3).

    Raises:
        ValueError: if `num_nodes`, `primitives` or `probabilities` do not fit together or do not fit the genotype, or
            if `width_px` is below 200.
    """
    figure = _figure(genotype, probabilities, primitives, num_nodes, title, width_px)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def render_cells_svg(
    genotype: Genotype,
    *,
    probabilities: Probabilities | None = None,
    primitives: Sequence[str] = PRIMITIVES,
    num_nodes: int | None = None,
    title: str = "",
    width_px: int = 800,
) -> str:
    """Draw what `render_cells` draws as SVG text, every edge a group `<cell>-<source>-<target>-<copy>-<primitive>`.

    Arguments and errors are those of `render_cells`, `width_px` too, though an SVG scales without loss.
    """
    return figure_svg(_figure(genotype, probabilities, primitives, num_nodes, title, width_px))


def render_recurrent_svg(genotype: RecurrentGenotype, *, title: str = "", width_px: int = 800) -> str:
    """Draw a recurrent cell as SVG text: state 0, formed of word and last hidden state, then its nodes.

    Every edge is a group as in `render_cells_svg`, of the cell `recurrent`, whose state s is node s + 2.

    Args:
        genotype: the cell.
        title: one line over the picture; what does not fit is cut.
        width_px: width of the picture in pixels.
    """
    nodes = enumerate(genotype.recurrent, start=3)
    read = [DrawnEdge(activation, source + 2, target) for target, (activation, source) in nodes]
    read.sort(key=lambda edge: edge.source - edge.target)  # as in `drawable_edges`
    edges = (DrawnEdge("tanh", 0, 2), DrawnEdge("tanh", 1, 2), *read)
    cell = CellPicture(
        cell_type="recurrent",
        heading="Recurrent cell, whose output is a mean",
        edges=edges,
        concat=tuple(node + 2 for node in genotype.concat),
        boxes=(("x", "t"), ("h", "t\N{MINUS SIGN}1"), ("h", "t")),
    )
    layout = cell_layout(len(genotype.recurrent) + 1, tuple((edge.source, edge.target) for edge in edges))
    legend = styles_of(ACTIVATIONS)
    return figure_svg(cells_figure([cell], layout, legend=legend, soft=False, title=title, width_px=width_px))


def drawable_edges(
    genotype: Genotype,
    cell_type: CellType,
    num_nodes: int,
    *,
    primitives: Sequence[str] = PRIMITIVES,
    probabilities: Sequence[Sequence[float]] | None = None,
) -> tuple[DrawnEdge, ...]:
    """List the edges that are drawn of one cell: first the vanished, then the kept, long before short.

    Args:
        genotype: the cells.
        cell_type: which of them.
        num_nodes: intermediate nodes of the searchable cell.
        primitives: names of the columns of `probabilities`.
        probabilities: one row per edge of the searchable cell, one value per primitive; None: nothing has vanished.

    Raises:
        ValueError: if a kept operation is not among `primitives` while `probabilities` are given.
    """
    rows = {} if probabilities is None else dict(zip(cell_edges(num_nodes), probabilities, strict=True))
    copies: Counter[tuple[int, int]] = Counter()
    kept = []
    for primitive, source, target in genotype.edges(cell_type):
        strength = 1.0
        if rows:
            if primitive not in primitives:
                raise ValueError(f"`primitives` must hold every operation of the genotype, got none named {primitive}")
            strength = float(rows[source, target][primitives.index(primitive)])
        kept.append(DrawnEdge(primitive, source, target, copies[source, target], strength))
        copies[source, target] += 1
    vanished = [
        DrawnEdge(None, source, target)
        for (source, target), row in rows.items()
        if not genotype.layers and (source, target) not in copies and primitives[int(np.argmax(row))] == "none"
    ]
    # Short edges lie on top: where lines cross, the one that ends nearby keeps its arrow.
    return (*vanished, *sorted(kept, key=lambda edge: edge.source - edge.target))


def _figure(
    genotype: Genotype,
    probabilities: Probabilities | None,
    primitives: Sequence[str],
    num_nodes: int | None,
    title: str,
    width_px: int,
) -> Figure:
    if width_px < _MIN_WIDTH_PX:
        raise ValueError(f"`width_px` must be at least {_MIN_WIDTH_PX}, got {width_px}")
    rows = None if probabilities is None else _checked(probabilities, primitives, genotype.cell_types)
    num_nodes = _shown_nodes(genotype, rows, num_nodes)
    of_chain: dict[str, Any] = {}
    layout = cell_layout(num_nodes)
    if genotype.layers:
        # Most of what a long chain could read has no room.
        layout = cell_layout(num_nodes, tuple((edge.source, edge.target) for edge in genotype.normal))
        of_chain = {"heading": _CHAIN, "boxes": _CHAIN_BOXES, "notes": tuple(map(_layer_notes, genotype.layers))}
    cells = tuple(
        CellPicture(
            **{"heading": _HEADINGS[cell_type], **of_chain},
            cell_type=cell_type,
            edges=drawable_edges(
                genotype,
                cell_type,
                num_nodes,
                primitives=primitives,
                probabilities=None if rows is None else rows[cell_type].tolist(),
            ),
            concat=genotype.concat(cell_type),
            stacked=genotype.stacked(cell_type),
        )
        for cell_type in genotype.cell_types
    )
    # A search lists all its candidates, in every frame at the same place; a plain cell only what it uses.
    used = {edge.primitive for cell in cells for edge in cell.edges if edge.primitive is not None}
    legend = styles_of([*used, *(() if rows is None else primitives)])
    return cells_figure(cells, layout, legend=legend, soft=rows is not None, title=title, width_px=width_px)


def _layer_notes(layer: Layer) -> tuple[str, str]:
    strides = "" if layer[1:] == (1, 1) else f"/{layer.stride_height}x{layer.stride_width}"
    return str(layer.filters), strides


def _checked(
    probabilities: Probabilities, primitives: Sequence[str], cell_types: Sequence[CellType]
) -> dict[CellType, np.ndarray]:
    """Probabilities per cell type as float arrays (edges, primitives)."""
    if len(set(primitives)) != len(primitives):
        raise ValueError(f"`primitives` must be different operations, got {list(primitives)}")
    if set(probabilities) != set(cell_types):
        raise ValueError(f"`probabilities` must have the cell types {list(cell_types)}, got {sorted(probabilities)}")
    arrays = {cell_type: np.asarray(probabilities[cell_type], dtype=np.float64) for cell_type in cell_types}
    for cell_type, array in arrays.items():
        if array.ndim != 2 or array.shape[1] != len(primitives):
            raise ValueError(
                f"`probabilities` of {cell_type} must be (edges, {len(primitives)} primitives), got {array.shape}"
            )
        # Written so that NaN fails as well; the slack is float32 rounding.
        if not np.all((array >= 0) & (array <= 1 + 1e-5)):
            raise ValueError(f"`probabilities` of {cell_type} must lie in [0, 1], got {array.min()} to {array.max()}")
    return arrays


def _shown_nodes(genotype: Genotype, rows: Mapping[CellType, np.ndarray] | None, num_nodes: int | None) -> int:
    """Number of intermediate nodes of the picture, checked against the genotype and the probabilities."""
    needed = max(genotype.num_nodes(cell_type) for cell_type in CELL_TYPES)
    if num_nodes is None:
        num_nodes = needed
        while rows is not None and len(cell_edges(num_nodes)) < len(rows["normal"]):
            num_nodes += 1
    if num_nodes < needed:
        raise ValueError(f"`num_nodes` must be at least the {needed} nodes of the genotype, got {num_nodes}")
    for cell_type, array in ({} if rows is None else rows).items():
        expected = len(cell_edges(num_nodes))
        if len(array) != expected:
            raise ValueError(
                f"`probabilities` of {cell_type} must have {expected} edges for {num_nodes} nodes, got {len(array)}"
            )
    return num_nodes
