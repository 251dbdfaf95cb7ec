"""Both cells as a small SVG for pages: kept edges only, large names, drawn in a millisecond and without matplotlib."""

from __future__ import annotations

from collections import Counter
from xml.sax.saxutils import escape

from dashboards.pictures.cell_layout import (
    BOX_HEIGHT,
    BOX_WIDTH,
    HEAD_LENGTH,
    NODE_RADIUS,
    WIDTH,
    CellLayout,
    Point,
    Route,
    cell_layout,
)
from dashboards.pictures.cell_style import readable_colour, styles_of
from search_core.primitives.base import Style
from search_core.space.genotype import CellType, Genotype

CELL_NAMES: dict[CellType, str] = {"normal": "Normal cell", "reduce": "Reduction cell"}
_FONT = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
_ENDS = ("c(k\N{MINUS SIGN}2)", "c(k\N{MINUS SIGN}1)", "c(k)")
_CHAIN_ENDS = ("image", "\N{EN DASH}", "output")
_HEADING = 10.0
_TEXT_CONTRAST, _LINE_CONTRAST = 5.0, 3.0


def small_cells_svg(genotype: Genotype, *, ink: str, muted: str, ground: str) -> str:
    """The normal cell above the reduction cell, or the one chain of layers that a genotype is.

    Args:
        genotype: the cells.
        ink: colour of text and nodes, `#RRGGBB`.
        muted: colour of what only connects.
        ground: colour of the paper, on which all must be read.
    """
    drawings = [_Drawing(genotype, cell_type, ink, muted, ground) for cell_type in genotype.cell_types]
    parts, top = [], 0.0
    for drawing in drawings:
        parts.append(f'<g transform="translate(0 {top:g})">{drawing.svg()}</g>')
        top += drawing.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {top:g}" font-family="{_FONT}" '
        f'text-anchor="middle" role="img"><title>{escape(cells_text(genotype))}</title>{"".join(parts)}</svg>'
    )


def cells_text(genotype: Genotype) -> str:
    """Both cells in a sentence each, such as `Normal cell: sep 3x3 from c(k-2) to 0.`"""
    return " ".join(f"{_name(genotype, kind)}: {_edges_text(genotype, kind)}." for kind in genotype.cell_types)


def _name(genotype: Genotype, kind: CellType) -> str:
    return "Chain of layers" if genotype.layers else CELL_NAMES[kind]


def _styles(genotype: Genotype) -> dict[str, Style]:
    return styles_of(edge.primitive for kind in genotype.cell_types for edge in genotype.edges(kind))


def _edges_text(genotype: Genotype, kind: CellType) -> str:
    names = {0: "image"} if genotype.layers else {0: "c(k-2)", 1: "c(k-1)"}
    styles = _styles(genotype)
    said = (
        f"{styles[edge.primitive].label} from {names.get(edge.source, edge.source - 2)} to {edge.target - 2}"
        for edge in genotype.edges(kind)
    )
    return ", ".join(said) or "no edge"


class _Drawing:
    """One cell; y points down here, as in SVG."""

    def __init__(self, genotype: Genotype, cell_type: CellType, ink: str, muted: str, ground: str) -> None:
        self._edges, self._concat = genotype.edges(cell_type), genotype.concat(cell_type)
        pairs = {(0, 2), (1, 2), *((edge.source, edge.target) for edge in self._edges)}  # both inputs have their room
        self.layout: CellLayout = cell_layout(genotype.num_nodes(cell_type), tuple(sorted(pairs)))
        self._name, self._styles = _name(genotype, cell_type), _styles(genotype)
        self._ends = _CHAIN_ENDS if genotype.layers else _ENDS
        self._ink, self._muted, self._ground = ink, muted, ground

    @property
    def height(self) -> float:
        """Of the drawing, with room for a line of text at the top."""
        return self.layout.height + _HEADING

    def svg(self) -> str:
        """Lines, then names, then nodes."""
        lines, names = [self._line(self.layout.concat_route(node), self._muted, 1.5) for node in self._concat], []
        copies: Counter[tuple[int, int]] = Counter()
        for primitive, source, target in sorted(self._edges, key=lambda edge: edge.source - edge.target):
            route = self.layout.route(source, target, copies[source, target])
            copies[source, target] += 1
            style = self._styles[primitive]
            dashes = " ".join(f"{1.6 * length:g}" for length in style.dashes)
            lines.append(self._line(route, readable_colour(style.colour, self._ground, _LINE_CONTRAST), 3, dashes))
            colour = readable_colour(style.colour, self._ground, _TEXT_CONTRAST)
            names.append(self._text(route.label, style.label, 17, colour, is_rimmed=True))
        nodes = [self._node(node) for node in range(2, self.layout.num_nodes + 2)]
        boxes = [self._box(node, end) for node, end in zip((0, 1, self.layout.output), self._ends, strict=True)]
        count = f"{len(self._edges)} {'edge' if len(self._edges) == 1 else 'edges'}"
        title = (
            f'<text x="22" y="20" font-size="18" text-anchor="start" fill="{self._ink}">{self._name}'
            f'<tspan fill="{self._muted}">, {count}</tspan></text>'
        )
        return "".join((title, *lines, *names, *nodes, *boxes))

    def _at(self, point: Point) -> Point:
        return point[0], self.height - point[1]

    def _line(self, route: Route, colour: str, width: float, dashes: str = "") -> str:
        points = [self._at(point) for point in (route.start, *(point for curve in route.curves for point in curve))]
        first, *rest = (f"{x:.1f} {y:.1f}" for x, y in points)
        (x, y), (dx, dy) = self._at(route.tip), (route.direction[0], -route.direction[1])
        half, base = 0.55 * HEAD_LENGTH, (x - HEAD_LENGTH * dx, y - HEAD_LENGTH * dy)
        head = f"M{x:.1f} {y:.1f}L{base[0] - half * dy:.1f} {base[1] + half * dx:.1f}"
        head += f"L{base[0] + half * dy:.1f} {base[1] - half * dx:.1f}Z"
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        return (
            f'<path d="M{first}C{" ".join(rest)}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dash}/>'
            f'<path d="{head}" fill="{colour}"/>'
        )

    def _text(self, at: Point, text: str, size: float, colour: str, *, is_rimmed: bool = False) -> str:
        x, y = self._at(at)
        rim = f' paint-order="stroke" stroke="{self._ground}" stroke-width="7"' if is_rimmed else ""
        place = f'x="{x:.1f}" y="{y + 0.35 * size:.1f}"'
        return f'<text {place} font-size="{size:g}" fill="{colour}"{rim}>{text}</text>'

    def _node(self, node: int) -> str:
        x, y = self._at(self.layout.places[node])
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{NODE_RADIUS:g}" fill="{self._ground}" stroke="{self._ink}"/>'
        return circle + self._text(self.layout.places[node], str(node - 2), 17, self._ink)

    def _box(self, node: int, end: str) -> str:
        x, y = self._at(self.layout.places[node])
        box = f'<rect x="{x - BOX_WIDTH / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{BOX_WIDTH:g}"'
        box += f' height="{BOX_HEIGHT:g}" rx="6" fill="{self._ground}" stroke="{self._ink}"/>'
        return box + self._text(self.layout.places[node], end, 15, self._ink)
