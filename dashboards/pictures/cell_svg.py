"""Both cells as a small SVG for pages: kept edges only, large names, drawn in a millisecond and without matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from dashboards.formatting import counted
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
from search_core.space.genotype import CellType, Edge, Genotype

CELL_NAMES: dict[CellType, str] = {"normal": "Normal cell", "reduce": "Reduction cell"}
_FONT = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
_ENDS = ("c(k\N{MINUS SIGN}2)", "c(k\N{MINUS SIGN}1)", "c(k)")
_CHAIN_ENDS = ("image", "\N{EN DASH}", "output")
_HEADING = 10.0
_TEXT_CONTRAST, _LINE_CONTRAST = 5.0, 3.0
_DOUBLE_SIZE = 14  # of names where many edges are double
_OTHER_DASHES = "9 5"  # of what only the other cell has, so that the two differ without colour


class _Stroke(NamedTuple):
    """How an edge and its name are drawn: colours, width of the line, its dashes as of SVG, size of the name."""

    line: str
    text: str
    width: float
    dashes: str = ""
    size: float = 17


def small_cells_svg(genotype: Genotype, *, ink: str, muted: str, ground: str) -> str:
    """The normal cell above the reduction cell, or the one chain of layers that a genotype is.

    Args:
        genotype: the cells.
        ink: colour of text and nodes, `#RRGGBB`.
        muted: colour of what only connects.
        ground: colour of the paper, on which all must be read.
    """
    styles = _styles(genotype)
    drawings = []
    for kind in genotype.cell_types:
        strokes = [(edge, _own_stroke(styles[edge.primitive], ground)) for edge in genotype.edges(kind)]
        drawings.append(_Drawing((genotype,), kind, strokes, counted(len(strokes), "edge"), ink, muted, ground))
    return _stacked(drawings, cells_text(genotype))


def cell_difference_svg(
    first: Genotype, second: Genotype, *, ink: str, muted: str, ground: str, colours: Sequence[str]
) -> str:
    """The cells of two genotypes in one drawing: faint what both have, in colour what only one of them has.

    An edge with another operation is there twice, once for each genotype. What only `second` has is dashed.

    Args:
        first: cells.
        second: cells of the same kind: both chains of layers, or both not.
        ink: as of `small_cells_svg`, like `muted` and `ground`.
        muted: of what both have, too.
        ground: of the paper.
        colours: of what only the first has, and of what only the second has, `#RRGGBB`.
    """
    lines = [readable_colour(colour, ground, _LINE_CONTRAST) for colour in colours]
    texts = [readable_colour(colour, ground, _TEXT_CONTRAST) for colour in colours]
    looks = zip(lines, texts, ("", _OTHER_DASHES), strict=True)
    own = [_Stroke(line, text, 3.5, dashes, _DOUBLE_SIZE) for line, text, dashes in looks]
    drawings, said = [], []
    for kind in first.cell_types:
        mine, others = Counter(first.edges(kind)), Counter(second.edges(kind))
        shared, only = mine & others, (mine - others, others - mine)
        strokes = [(edge, _Stroke(muted, muted, 1.2, "", _DOUBLE_SIZE)) for edge in shared.elements()]
        strokes += [(edge, stroke) for edges, stroke in zip(only, own, strict=True) for edge in edges.elements()]
        count = f"{counted(shared.total(), 'edge')} in both"
        drawings.append(_Drawing((first, second), kind, strokes, count, ink, muted, ground))
        said.append(
            f"{_name(first, kind)}: only in the first: {_edges_text(first, only[0].elements())}; "
            f"only in the second: {_edges_text(second, only[1].elements())}."
        )
    return _stacked(drawings, " ".join(said))


def _stacked(drawings: Sequence[_Drawing], title: str) -> str:
    parts, top = [], 0.0
    for drawing in drawings:
        parts.append(f'<g transform="translate(0 {top:g})">{drawing.svg()}</g>')
        top += drawing.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {top:g}" font-family="{_FONT}" '
        f'text-anchor="middle" role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _own_stroke(style: Style, ground: str) -> _Stroke:
    line, text = (readable_colour(style.colour, ground, contrast) for contrast in (_LINE_CONTRAST, _TEXT_CONTRAST))
    return _Stroke(line, text, 3, " ".join(f"{1.6 * length:g}" for length in style.dashes))


def cells_text(genotype: Genotype) -> str:
    """Both cells in a sentence each, such as `Normal cell: sep 3x3 from c(k-2) to 0.`"""
    return " ".join(
        f"{_name(genotype, kind)}: {_edges_text(genotype, genotype.edges(kind))}." for kind in genotype.cell_types
    )


def _name(genotype: Genotype, kind: CellType) -> str:
    return "Chain of layers" if genotype.layers else CELL_NAMES[kind]


def _styles(*genotypes: Genotype) -> dict[str, Style]:
    return styles_of(edge.primitive for cells in genotypes for kind in cells.cell_types for edge in cells.edges(kind))


def _edges_text(genotype: Genotype, edges: Iterable[Edge]) -> str:
    names = {0: "image"} if genotype.layers else {0: "c(k-2)", 1: "c(k-1)"}
    styles = _styles(genotype)
    said = (
        f"{styles[edge.primitive].label} from {names.get(edge.source, edge.source - 2)} to {edge.target - 2}"
        for edge in edges
    )
    return ", ".join(said) or "no edge"


class _Drawing:
    """One cell, of one genotype or of two in one; y points down here, as in SVG."""

    def __init__(
        self,
        genotypes: Sequence[Genotype],
        kind: CellType,
        strokes: Sequence[tuple[Edge, _Stroke]],
        count: str,
        ink: str,
        muted: str,
        ground: str,
    ) -> None:
        self._strokes, self._count = strokes, count
        self._concat = sorted({node for genotype in genotypes for node in genotype.concat(kind)})
        pairs = {(0, 2), (1, 2), *((edge.source, edge.target) for edge, _ in strokes)}  # both inputs have their room
        num_nodes = max(genotype.num_nodes(kind) for genotype in genotypes)
        self.layout: CellLayout = cell_layout(num_nodes, tuple(sorted(pairs)))
        self._name, self._styles = _name(genotypes[0], kind), _styles(*genotypes)
        self._ends = _CHAIN_ENDS if genotypes[0].layers else _ENDS
        self._ink, self._muted, self._ground = ink, muted, ground

    @property
    def height(self) -> float:
        """Of the drawing, with room for a line of text at the top."""
        return self.layout.height + _HEADING

    def svg(self) -> str:
        """Lines, then names, then nodes."""
        lines, names = [self._line(self.layout.concat_route(node), self._muted, 1.5) for node in self._concat], []
        copies: Counter[tuple[int, int]] = Counter()
        ordered = sorted(self._strokes, key=lambda entry: entry[0].source - entry[0].target)
        for (primitive, source, target), stroke in ordered:
            route = self.layout.route(source, target, copies[source, target])
            copies[source, target] += 1
            lines.append(self._line(route, stroke.line, stroke.width, stroke.dashes))
            names.append(
                self._text(route.label, self._styles[primitive].label, stroke.size, stroke.text, rim=0.4 * stroke.size)
            )
        nodes = [self._node(node) for node in range(2, self.layout.num_nodes + 2)]
        boxes = [self._box(node, end) for node, end in zip((0, 1, self.layout.output), self._ends, strict=True)]
        title = (
            f'<text x="22" y="20" font-size="18" text-anchor="start" fill="{self._ink}">{self._name}'
            f'<tspan fill="{self._muted}">, {self._count}</tspan></text>'
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

    def _text(self, at: Point, text: str, size: float, colour: str, *, rim: float = 0) -> str:
        x, y = self._at(at)
        around = f' paint-order="stroke" stroke="{self._ground}" stroke-width="{rim:g}"' if rim else ""
        place = f'x="{x:.1f}" y="{y + 0.35 * size:.1f}"'
        return f'<text {place} font-size="{size:g}" fill="{colour}"{around}>{text}</text>'

    def _node(self, node: int) -> str:
        x, y = self._at(self.layout.places[node])
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{NODE_RADIUS:g}" fill="{self._ground}" stroke="{self._ink}"/>'
        return circle + self._text(self.layout.places[node], str(node - 2), 17, self._ink)

    def _box(self, node: int, end: str) -> str:
        x, y = self._at(self.layout.places[node])
        box = f'<rect x="{x - BOX_WIDTH / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{BOX_WIDTH:g}"'
        box += f' height="{BOX_HEIGHT:g}" rx="6" fill="{self._ground}" stroke="{self._ink}"/>'
        return box + self._text(self.layout.places[node], end, 15, self._ink)
