"""Where everything in the picture of a cell lies: pure geometry that depends on the number of nodes alone.

Every edge has a lane of its own, so that the pictures of two epochs can be flipped through and nothing jumps. The
intermediate nodes stand on one line. Edges between neighbours run along it; edges from c_{k-2} and from even nodes run
in lanes above it, edges from c_{k-1} and from odd nodes in lanes below, and the concatenation runs in a lane just under
the nodes. Lengths are in units of 1/800 of the picture's width; y points up, from the lower border of the cell's panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Point = tuple[float, float]

WIDTH = 800.0
NODE_RADIUS = 15.0
BOX_WIDTH, BOX_HEIGHT = 58.0, 28.0
HEAD_LENGTH = 9.0

_MARGIN = 22.0
_FIRST_COLUMN, _LAST_COLUMN = 146.0, 70.0  # between the box edges and the outermost nodes
_FIRST_LANE, _LANE_STEP = 40.0, 24.0
_CONCAT_LANE = 33.0
_HEADING_ROOM, _BOTTOM_ROOM = 32.0, 20.0
_COPY_STEP, _COPY_SHIFT = 13.0, 7.0  # between two edges between the same nodes: about a label's height
_PORT_SPREAD = 10.5  # outermost edges leave an input this far from its middle
_MAX_BEND = 46.0  # horizontal room of the bend between a lane and a node
_LABEL_ROOM = 27.0  # half the room of an operation's name


@dataclass(frozen=True)
class Route:
    """Course of one edge.

    Attributes:
        start: where the edge leaves its source.
        curves: cubic Bezier pieces, each (first control, second control, end).
        label: centre of the operation's name, on the level part of the edge.
        tip: where the arrow touches the target.
        direction: unit vector in which the arrow points at its tip.
    """

    start: Point
    curves: tuple[tuple[Point, Point, Point], ...]
    label: Point
    tip: Point
    direction: Point


@dataclass(frozen=True)
class CellLayout:
    """Fixed places of a cell with `num_nodes` intermediate nodes.

    Attributes:
        num_nodes: intermediate nodes B.
        height: height of the panel.
        axis: y of the line on which the intermediate nodes and the output stand.
        places: centre of every node: 0 and 1 the inputs, 2 to B + 1 the intermediate nodes, B + 2 the output.
        levels: signed lane of every edge (source, target); 0 on the line, +1 the first lane above, -1 the first below.
    """

    num_nodes: int
    height: float
    axis: float
    places: dict[int, Point]
    levels: dict[tuple[int, int], int]

    @property
    def output(self) -> int:
        """Number of the output node."""
        return self.num_nodes + 2

    def route(self, source: int, target: int, copy: int = 0) -> Route:
        """Course of the edge from `source` to `target`.

        Args:
            source: node 0 to B.
            target: intermediate node, above `source`.
            copy: 0 for the first edge between the two nodes, 1 for the second, and so on; each lies further out.
        """
        level = self.levels[source, target]
        side = -1 if level < 0 else 1
        lane = self.axis + _lane_offset(level) + side * copy * _COPY_STEP
        angle = side * self._angle(level, copy)
        bend = self._bend()
        x_target, y_target = self.places[target]
        outward = (-math.cos(angle), math.sin(angle))
        tip = (x_target + NODE_RADIUS * outward[0], y_target + NODE_RADIUS * outward[1])
        # The line ends inside the arrow head, otherwise its blunt end would show beside the tip.
        end = (tip[0] + 0.7 * HEAD_LENGTH * outward[0], tip[1] + 0.7 * HEAD_LENGTH * outward[1])
        reach = 0.5 * abs(lane - end[1])
        leave = x_target - bend + copy * _COPY_SHIFT
        arrival = ((leave + 0.7 * bend, lane), (end[0] + reach * outward[0], end[1] + reach * outward[1]), end)
        start, departure = self._departure(source, target, copy, angle, lane)
        level_part = (departure[2], (leave, lane), (leave, lane))
        # Between neighbours that stand close, the name is over the line.
        over = NODE_RADIUS + 8 if self._column() < 2 * (NODE_RADIUS + _LABEL_ROOM) else 0.0
        label = (x_target - self._column() / 2, lane + over)
        if level:  # the name of a further edge stands beside that of the first, where its lane is long enough
            beside = min(copy * 2.4 * _LABEL_ROOM, max(0.0, leave - departure[2][0] - 2 * _LABEL_ROOM))
            label = (x_target - bend - _LABEL_ROOM - beside, lane)
        return Route(start, (departure, level_part, arrival), label, tip, (-outward[0], -outward[1]))

    def concat_route(self, node: int) -> Route:
        """Course of the concatenation edge from an intermediate node to the output; its label place has no meaning."""
        x_output, y_output = self.places[self.output]
        x_node, y_node = self.places[node]
        tip_x = x_output - BOX_WIDTH / 2
        if node == self.num_nodes + 1:  # nothing stands between the last node and the output
            tip, start = (tip_x, y_output), (x_node + NODE_RADIUS, y_node)
            return Route(start, ((start, tip, tip),), tip, tip, (1.0, 0.0))
        lane = self.axis - _CONCAT_LANE
        angle = math.radians(-55)
        start = (x_node + NODE_RADIUS * math.cos(angle), y_node + NODE_RADIUS * math.sin(angle))
        corner, bend = (x_node + 30, lane), (tip_x - 34, lane)
        tip = (tip_x, y_output - BOX_HEIGHT / 4)
        leave = ((start[0] + 6, start[1] - 9), (corner[0] - 10, lane), corner)
        arrive = ((bend[0] + 16, lane), (tip[0] - 16, tip[1]), tip)
        return Route(start, (leave, (corner, bend, bend), arrive), tip, tip, (1.0, 0.0))

    def _column(self) -> float:
        return self.places[3][0] - self.places[2][0] if self.num_nodes > 1 else _FIRST_COLUMN

    def _bend(self) -> float:
        return min(_MAX_BEND, 0.36 * self._column())

    def _angle(self, level: int, copy: int) -> float:
        """Angle over the nodes' line at which an edge meets a node, in radians.

        Lanes further out meet the node nearer to its pole, so that edges fan out around a node and never cross there.
        """
        outermost = max(abs(value) for value in self.levels.values())
        degrees = 42 + 34 * (abs(level) - 1) / max(1, outermost - 1) if level else 0.0
        return math.radians(degrees + 16 * copy)

    def _departure(
        self, source: int, target: int, copy: int, angle: float, lane: float
    ) -> tuple[Point, tuple[Point, Point, Point]]:
        """Start of an edge and the bend that brings it to its lane."""
        x_source, y_source = self.places[source]
        if source < 2:
            # Ports in the order of the lanes, so that the edges of an input do not cross where they part.
            port = 2 * (target - 2 + copy / 2) / max(1, self.num_nodes - 1) - 1
            start = (x_source + BOX_WIDTH / 2, y_source + math.copysign(1, angle) * _PORT_SPREAD * min(port, 1.15))
            corner = (start[0] + 54 - 3 * copy, lane)
            return start, ((start[0] + 30, start[1]), (corner[0] - 32, lane), corner)
        outward = (math.cos(angle), math.sin(angle))
        start = (x_source + NODE_RADIUS * outward[0], y_source + NODE_RADIUS * outward[1])
        reach = 0.5 * abs(lane - start[1])
        bend = self._bend()
        corner = (x_source + bend - copy * _COPY_SHIFT, lane)
        control = (start[0] + reach * outward[0], start[1] + reach * outward[1])
        return start, (control, (corner[0] - 0.7 * bend, lane), corner)


def cell_edges(num_nodes: int) -> tuple[tuple[int, int], ...]:
    """All edges (source, target) of a searchable cell, by target, then source; the same order as in `search_core`."""
    return tuple((source, target) for target in range(2, num_nodes + 2) for source in range(target))


@lru_cache(maxsize=32)
def cell_layout(num_nodes: int, edges: tuple[tuple[int, int], ...] | None = None) -> CellLayout:
    """Places of a cell.

    Args:
        num_nodes: intermediate nodes B, at least 1.
        edges: (source, target) of those that need lanes; default: all that a cell may have.

    Raises:
        ValueError: if `num_nodes` is below 1.
    """
    if num_nodes < 1:
        raise ValueError(f"`num_nodes` must be at least 1, got {num_nodes}")
    levels = _edge_levels(num_nodes, cell_edges(num_nodes) if edges is None else edges)
    above, below = _lane_offset(max(levels.values())), -_lane_offset(min(levels.values()))
    axis = _BOTTOM_ROOM + below
    height = axis + above + _HEADING_ROOM
    x_input, x_output = _MARGIN + BOX_WIDTH / 2, WIDTH - _MARGIN - BOX_WIDTH / 2
    x_first, x_last = x_input + BOX_WIDTH / 2 + _FIRST_COLUMN, x_output - BOX_WIDTH / 2 - _LAST_COLUMN
    column = (x_last - x_first) / max(1, num_nodes - 1)
    places = {0: (x_input, axis + 0.55 * above), 1: (x_input, axis - 0.55 * below), num_nodes + 2: (x_output, axis)}
    places |= {node: (x_first + (node - 2) * column, axis) for node in range(2, num_nodes + 2)}
    return CellLayout(num_nodes, height, axis, places, levels)


def _edge_levels(num_nodes: int, needed: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Give every edge the lowest lane of its side in which no other edge overlaps it; short edges choose first."""
    levels: dict[tuple[int, int], int] = {}
    for parity, side in ((0, 1), (1, -1)):
        taken: list[tuple[int, int, int]] = []  # lane, first column, last column
        edges = [(s, t) for s, t in needed if s % 2 == parity and (s < 2 or t - s > 1)]
        # Both inputs stand in the column before node 2, hence max(1, source).
        for source, target in sorted(edges, key=lambda edge: (edge[1] - max(1, edge[0]), -edge[0])):
            begin = max(1, source)
            busy = {lane for lane, first, last in taken if begin < last and first < target}
            lane = next(lane for lane in range(1, len(taken) + 2) if lane not in busy)
            taken.append((lane, begin, target))
            levels[source, target] = side * lane
    levels |= {(node, node + 1): 0 for node in range(2, num_nodes + 1)}
    return levels


def _lane_offset(level: int) -> float:
    """Signed height of a lane over the nodes' line; the lanes below leave room for the concatenation."""
    if level == 0:
        return 0.0
    if level > 0:
        return _FIRST_LANE + (level - 1) * _LANE_STEP
    return -(_CONCAT_LANE + 22.0 + (-level - 1) * _LANE_STEP)
