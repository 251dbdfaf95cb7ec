"""The figure of two cells: nodes, edges, names and legend, put on a sheet without axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Transform

from dashboards.pictures.cell_layout import (
    BOX_HEIGHT,
    BOX_WIDTH,
    HEAD_LENGTH,
    NODE_RADIUS,
    WIDTH,
    CellLayout,
    Point,
    Route,
)
from dashboards.pictures.cell_style import STYLES, Colour, edge_colour, edge_width, label_colour
from dashboards.pictures.figure_text import UNITS_PER_INCH, font, text_width
from dashboards.pictures.figures import FAINT, INK, MUTED
from search_core.primitives.base import Style

_HEADER, _FOOTER = 36.0, 54.0
_LEGEND_COLUMNS = 5
_VANISHED_DASHES = (1.0, 2.4)
# Font sizes in points, in a picture that is 8 inches wide.
_LABEL_SIZE, _LEGEND_SIZE, _HEADING_SIZE, _TITLE_SIZE = 8.0, 7.8, 9.5, 11.5
_CASING = 2.4  # white rim of an edge, so that crossing edges read as bridges; points, both sides together


@dataclass(frozen=True)
class DrawnEdge:
    """One edge of the picture.

    Attributes:
        primitive: its operation, or None where the edge has vanished.
        source: node that it leaves.
        target: node that it enters.
        copy: 0 for the first edge between these nodes, 1 for the second.
        probability: probability of `primitive`, in [0, 1]; 1 where none is known.
    """

    primitive: str | None
    source: int
    target: int
    copy: int = 0
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CellPicture:
    """What is drawn of one cell.

    Attributes:
        cell_type: word for it, with which the groups of an SVG begin.
        heading: over it.
        edges: from the bottom to the top.
        concat: nodes that run to the output.
        boxes: letter and index of both inputs and the output; without a letter there is none.
        stacked: nodes that concatenate their edges.
        notes: two lines below each layer of a chain, of which nothing vanishes; empty for cells.
    """

    cell_type: str
    heading: str
    edges: tuple[DrawnEdge, ...]
    concat: tuple[int, ...]
    boxes: tuple[tuple[str, str], ...] = (("c", "k\N{MINUS SIGN}2"), ("c", "k\N{MINUS SIGN}1"), ("c", "k"))
    stacked: tuple[int, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def reached(self) -> frozenset[int]:
        """Nodes that a cell input reaches along kept edges, the inputs included."""
        reached = {0, 1}
        for edge in sorted(self.edges, key=lambda edge: edge.target):
            if edge.primitive is not None and edge.source in reached:
                reached.add(edge.target)
        return frozenset(reached)


def cells_figure(
    cells: Sequence[CellPicture],
    layout: CellLayout,
    *,
    legend: Mapping[str, Style],
    soft: bool,
    title: str,
    width_px: int,
) -> Figure:
    """Put cells one under the other, with a title above and the legend below.

    Args:
        cells: first to last from the top.
        layout: places of every cell's nodes and edges.
        legend: primitives to explain, and their looks.
        soft: whether the edges have probabilities, so that their width and vanished edges need explaining.
        title: one line; empty for none.
        width_px: width in pixels at which the figure is meant to be drawn.
    """
    sheet = _Sheet(_HEADER + len(cells) * layout.height + _FOOTER, width_px)
    is_chain = any(cell.notes for cell in cells)  # whose labels say all of its operations
    _draw_legend(sheet, {} if is_chain else legend, soft and not is_chain)
    for position, cell in enumerate(reversed(cells)):
        sheet.move_to(_FOOTER + position * layout.height)
        _draw_cell(sheet, layout, cell, legend)
    sheet.move_to(_FOOTER + len(cells) * layout.height)
    room = WIDTH - 44.0 - (260.0 if soft else 0.0)
    sheet.text((22.0, _HEADER / 2), _fitted(title, room), size=_TITLE_SIZE, colour=INK, align="left")
    if soft:
        _draw_width_key(sheet)
    return sheet.figure


class _Sheet:
    """A figure without axes on which shapes are placed in layout units: much cheaper than axes in every frame."""

    def __init__(self, height: float, width_px: int) -> None:
        width_in = WIDTH / UNITS_PER_INCH
        self.figure = Figure(figsize=(width_in, height / UNITS_PER_INCH), dpi=width_px / width_in, facecolor="white")
        self.move_to(0.0)

    def move_to(self, y: float) -> None:
        """Measure all that follows from height `y` above the sheet's lower border."""
        self._transform: Transform = Affine2D().translate(0, y).scale(1 / UNITS_PER_INCH) + self.figure.dpi_scale_trans

    def stroke(
        self,
        path: Path,
        colour: str | Colour,
        width: float,
        zorder: float,
        dashes: tuple[float, ...] = (),
        gid: str = "",
    ) -> None:
        """Draw a line; `width` and `dashes` (on-off lengths) in points."""
        # matplotlib multiplies dashes by the line width; divided here, they keep their length on wide edges.
        style = (0.0, tuple(length / width for length in dashes)) if dashes else "solid"
        patch = PathPatch(path, facecolor="none", edgecolor=colour, linewidth=width, linestyle=style, zorder=zorder)
        patch.set_capstyle("butt")
        if gid:
            patch.set_gid(gid)
        self.add(patch)

    def text(self, at: Point, text: str, *, size: float, colour: str | Colour, align: str = "center") -> None:
        """Write `text` around (or right of, or left of) a point; `size` in points."""
        if text:
            self.figure.text(
                *at, text, fontproperties=font(size), color=colour, ha=align, va="center_baseline",
                transform=self._transform, zorder=9, parse_math=False,
            )  # fmt: skip

    def add(self, artist: PathPatch | FancyBboxPatch | PolyCollection) -> None:
        """Place a shape."""
        artist.set_transform(self._transform)
        artist.set_clip_on(False)
        self.figure.add_artist(artist)


def _draw_cell(sheet: _Sheet, layout: CellLayout, cell: CellPicture, styles: Mapping[str, Style]) -> None:
    reached = cell.reached()
    concat = [layout.concat_route(node) for node in cell.concat]
    for route in concat:
        sheet.stroke(_path(route), FAINT, 1.0, 1.0)
    ends = {route.tip: (route, FAINT, 0.75) for route in concat}  # those from one lane share an arrow head
    _draw_heads(sheet, list(ends.values()), 1.1)
    for position, edge in enumerate(cell.edges):
        _draw_edge(sheet, layout, cell.cell_type, edge, styles, zorder=2 + position / 1000)
    kept = [edge for edge in cell.edges if edge.primitive is not None]
    _draw_edge_heads(sheet, layout, kept, styles)
    _draw_labels(sheet, layout, kept, styles)
    for node in range(2, layout.num_nodes + 2):
        _draw_node(sheet, layout.places[node], str(node - 2), node in reached, node in cell.stacked)
    for node, lines in enumerate(cell.notes, start=2):
        x, y = layout.places[node]
        for number, line in enumerate(lines):
            sheet.text((x, y - NODE_RADIUS - 7 - 10 * number), line, size=_LABEL_SIZE, colour=MUTED)
    read = {edge.source for edge in kept}
    for node, (letter, index) in zip((0, 1, layout.output), cell.boxes, strict=True):
        if letter:
            _draw_box(sheet, layout.places[node], letter, index, node in read or node == layout.output)
    vertical = layout.height - 14
    sheet.text((22.0, vertical), cell.heading, size=_HEADING_SIZE, colour=INK, align="left")
    nodes = len(reached) - 2
    count = f"{len(cell.stacked)} stacked (double ring), " if cell.stacked else ""
    count += f"{len(kept)} {'edge' if len(kept) == 1 else 'edges'}, {nodes} of {layout.num_nodes} nodes fed"
    sheet.text((WIDTH - 22.0, vertical), count, size=_LEGEND_SIZE, colour=MUTED, align="right")


def _draw_edge(
    sheet: _Sheet, layout: CellLayout, cell_type: str, edge: DrawnEdge, styles: Mapping[str, Style], zorder: float
) -> None:
    route = layout.route(edge.source, edge.target, edge.copy)
    path = _path(route)
    place = f"{cell_type}-{edge.source}-{edge.target}-{edge.copy}"
    if edge.primitive is None:
        sheet.stroke(path, FAINT, 1.0, 1.5, _VANISHED_DASHES, gid=f"{place}-none")
        return
    width = edge_width(edge.probability)
    # Where edges part from an input they run side by side and cross nothing: a rim would only cut into neighbours.
    rim = _path(replace(route, start=route.curves[0][2], curves=route.curves[1:])) if edge.source < 2 else path
    sheet.stroke(rim, "white", width + _CASING, zorder)
    style = styles[edge.primitive]
    colour = edge_colour(style, edge.probability)
    sheet.stroke(path, colour, width, zorder, style.dashes, gid=f"{place}-{edge.primitive}")


def _draw_edge_heads(
    sheet: _Sheet, layout: CellLayout, edges: Sequence[DrawnEdge], styles: Mapping[str, Style]
) -> None:
    heads: list[tuple[Route, str | Colour, float]] = []
    for edge in edges:
        assert edge.primitive is not None
        colour = edge_colour(styles[edge.primitive], edge.probability)
        heads.append((layout.route(edge.source, edge.target, edge.copy), colour, 0.7 + 0.3 * edge.probability))
    _draw_heads(sheet, heads, 4.0)


def _draw_heads(sheet: _Sheet, heads: Sequence[tuple[Route, str | Colour, float]], zorder: float) -> None:
    """Arrow heads as a single shape collection; the last item of each is a scale of its breadth."""
    triangles = []
    for route, _, scale in heads:
        (x, y), (dx, dy) = route.tip, route.direction
        length, half = HEAD_LENGTH, 4.6 * scale
        base = (x - length * dx, y - length * dy)
        triangles.append(
            [(x, y), (base[0] - half * dy, base[1] + half * dx), (base[0] + half * dy, base[1] - half * dx)]
        )
    colours = [colour for _, colour, _ in heads]
    sheet.add(PolyCollection(triangles, facecolors=colours, edgecolors="white", linewidths=0.4, zorder=zorder))


def _draw_labels(sheet: _Sheet, layout: CellLayout, edges: Sequence[DrawnEdge], styles: Mapping[str, Style]) -> None:
    """Names of the operations, each in a gap of its line."""
    gaps = []
    for edge in edges:
        x, y = layout.route(edge.source, edge.target, edge.copy).label
        assert edge.primitive is not None
        style = styles[edge.primitive]
        label = style.label
        half = text_width(label, _LABEL_SIZE) / 2 + 2.5
        gaps.append([(x - half, y - 6), (x + half, y - 6), (x + half, y + 6), (x - half, y + 6)])
        sheet.text((x, y), label, size=_LABEL_SIZE, colour=label_colour(style, edge.probability))
    sheet.add(PolyCollection(gaps, facecolors="white", edgecolors="none", zorder=5))


def _draw_node(sheet: _Sheet, at: Point, name: str, fed: bool, stacked: bool) -> None:
    for radius in (NODE_RADIUS, NODE_RADIUS - 3.0)[: 1 + stacked]:
        circle = PathPatch(Path.circle(at, radius), zorder=6)
        _paint(circle, "#E8EEF4", alive=fed)
        sheet.add(circle)
    sheet.text(at, name, size=9.5, colour=INK if fed else MUTED)


def _draw_box(sheet: _Sheet, at: Point, letter: str, index: str, used: bool) -> None:
    """A cell input or output, a letter with its index (set by hand: the parser for formulas is slow)."""
    corner = (at[0] - BOX_WIDTH / 2, at[1] - BOX_HEIGHT / 2)
    box = FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=6", zorder=6)
    _paint(box, "#F6F3EC", alive=used)
    sheet.add(box)
    left, colour = at[0] - (4.0 if len(index) == 1 else 10.0), INK if used else MUTED
    sheet.text((left, at[1] + 1), letter, size=10.0, colour=colour)
    sheet.text((left + 5, at[1] - 4), index, size=7.0, colour=colour, align="left")


def _paint(shape: PathPatch | FancyBboxPatch, face: str, *, alive: bool) -> None:
    """Solid and filled, or hollow and dashed where nothing flows."""
    style = "solid" if alive else (0.0, (3.0, 2.2))
    shape.set(facecolor=face if alive else "white", edgecolor=INK if alive else FAINT, linewidth=1.1, linestyle=style)


def _draw_legend(sheet: _Sheet, primitives: Mapping[str, Style], soft: bool) -> None:
    entries: list[tuple[str, str, tuple[float, ...], float]] = [
        (name if name in STYLES else style.label, style.colour, style.dashes, 2.2) for name, style in primitives.items()
    ]
    if soft:
        entries.append(("none (vanished)", FAINT, _VANISHED_DASHES, 1.0))
    step = (WIDTH - 44.0) / _LEGEND_COLUMNS
    for position, (name, colour, dashes, width) in enumerate(entries):
        row, column = divmod(position, _LEGEND_COLUMNS)
        x, y = 22.0 + column * step, _FOOTER - 17 - row * 19
        sheet.stroke(Path([(x, y), (x + 42, y)]), colour, width, 2.0, dashes)
        sheet.text((x + 49, y), name, size=_LEGEND_SIZE, colour=INK, align="left")


def _draw_width_key(sheet: _Sheet) -> None:
    """How probability shows as width and strength, at the right of the title."""
    x, y = WIDTH - 22.0, _HEADER / 2
    for probability in (1.0, 0.6, 0.2):
        colour = edge_colour(STYLES["skip_connect"], probability)
        sheet.text((x, y), f"{probability:g}", size=_LEGEND_SIZE, colour=MUTED, align="right")
        sheet.stroke(Path([(x - 50, y), (x - 22, y)]), colour, edge_width(probability), 2.0)
        x -= 62
    sheet.text((x, y), "probability", size=_LEGEND_SIZE, colour=MUTED, align="right")


def _path(route: Route) -> Path:
    vertices = [route.start, *(point for curve in route.curves for point in curve)]
    return Path(vertices, [Path.MOVETO, *[Path.CURVE4] * (len(vertices) - 1)])


def _fitted(title: str, room: float) -> str:
    """The title on one line of at most `room` layout units, cut with an ellipsis where it is longer."""
    line = " ".join(title.split())
    width = text_width(line, _TITLE_SIZE)
    if width <= room:
        return line
    kept = int(len(line) * room / width)
    while text_width(line[:kept] + "…", _TITLE_SIZE) > room:
        kept -= 1
    return line[:kept].rstrip() + "…"
