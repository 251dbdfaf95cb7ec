import ast
import gc
import io
import math
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dashboards import pictures
from dashboards.pictures.cell_layout import HEAD_LENGTH, NODE_RADIUS, WIDTH, cell_edges, cell_layout
from dashboards.pictures.cell_style import STYLES
from dashboards.pictures.cell_svg import cell_difference_svg, cells_text, small_cells_svg
from dashboards.pictures.cells import drawable_edges, render_cells, render_cells_svg, render_recurrent_svg
from dashboards.pictures.figure_text import text_width
from dashboards.pictures.figures import figure_png, figure_svg
from dashboards.pictures.study_summary import TrialPoint, _spread, render_front, render_study
from search_core.space import plan as cell
from search_core.space.chain import Layer
from search_core.space.genotype import CELL_TYPES, KNOWN_PRIMITIVES, PRIMITIVES, PUBLISHED, Edge, Genotype
from search_core.space.recurrent import ACTIVATIONS, PUBLISHED_RECURRENT, RecurrentGenotype, RecurrentNode

SVG = "{http://www.w3.org/2000/svg}"
MILD, AGGRESSIVE = PUBLISHED["SNAS_mild"], PUBLISHED["SNAS_aggressive"]
#: A cell with two edges between the same two nodes, as NASNet and AmoebaNet have them.
DOUBLED = Genotype(
    (Edge("sep_conv_3x3", 0, 2), Edge("sep_conv_5x5", 0, 2), Edge("skip_connect", 2, 3), Edge("max_pool_3x3", 2, 3)),
    (2, 3),
    (Edge("avg_pool_3x3", 1, 3), Edge("avg_pool_3x3", 1, 3)),
    (2, 3),
)


def probabilities_of(genotype, sharpness=0.9, num_nodes=4, primitives=PRIMITIVES):
    """Rows that put `sharpness` on each kept operation and on `none` elsewhere."""
    rest = (1 - sharpness) / (len(primitives) - 1)
    result = {}
    for cell_type in CELL_TYPES:
        chosen = {(source, target): primitive for primitive, source, target in genotype.edges(cell_type)}
        names = [chosen.get(edge, "none") for edge in cell.cell_edges(num_nodes)]
        result[cell_type] = [[sharpness if name == own else rest for name in primitives] for own in names]
    return result


def svg_groups(text):
    return {group.get("id"): group for group in ElementTree.fromstring(text).iter(f"{SVG}g") if group.get("id")}


def curve_points(route):
    """Points along the Bezier curves of a route."""
    start = np.array(route.start)
    for first, second, end in route.curves:
        for t in np.linspace(0, 1, 25):
            yield (
                (1 - t) ** 3 * start
                + 3 * (1 - t) ** 2 * t * np.array(first)
                + 3 * (1 - t) * t**2 * np.array(second)
                + t**3 * np.array(end)
            )
        start = np.array(end)


# Places


def test_cell_edges_order_is_that_of_search_core():
    for num_nodes in range(1, 8):
        assert cell_edges(num_nodes) == cell.cell_edges(num_nodes)


def test_cell_layout_inputs_left_nodes_on_a_line_output_right():
    layout = cell_layout(4)
    places = [layout.places[node] for node in range(7)]
    assert places[0][0] == places[1][0] < places[2][0] < places[3][0] < places[4][0] < places[5][0] < places[6][0]
    assert len({y for _, y in places[2:]}) == 1
    assert places[0][1] > places[2][1] > places[1][1]
    steps = np.diff([x for x, _ in places[2:6]])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-12)


def test_cell_layout_rejects_a_cell_without_nodes():
    with pytest.raises(ValueError, match=r"`num_nodes` must be at least 1, got 0"):
        cell_layout(0)


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5, 6])
def test_route_keeps_clear_of_other_nodes_and_inside_the_panel(num_nodes):
    layout = cell_layout(num_nodes)
    for source, target in cell_edges(num_nodes):
        others = [layout.places[node] for node in range(2, num_nodes + 2) if node not in (source, target)]
        for copy in (0, 1):
            for x, y in curve_points(layout.route(source, target, copy)):
                assert 0 < x < WIDTH
                assert 4 < y < layout.height - 4
                assert all(math.dist((x, y), other) > NODE_RADIUS + 4 for other in others), (source, target)


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5])
def test_route_labels_overlap_neither_each_other_nor_a_node(num_nodes):
    layout = cell_layout(num_nodes)
    labels = {edge: layout.route(*edge).label for edge in cell_edges(num_nodes)}
    for (_, (x, y)), (_, (other_x, other_y)) in combinations(labels.items(), 2):
        assert abs(x - other_x) >= 54 or abs(y - other_y) >= 12
    for x, y in labels.values():
        for node in range(num_nodes + 2):
            node_x, node_y = layout.places[node]
            assert abs(x - node_x) >= 27 + NODE_RADIUS or abs(y - node_y) >= 6 + NODE_RADIUS


@pytest.mark.parametrize("num_nodes", [1, 4, 5])
def test_route_arrow_touches_the_target_and_points_at_it(num_nodes):
    layout = cell_layout(num_nodes)
    for source, target in cell_edges(num_nodes):
        route, centre = layout.route(source, target), np.array(layout.places[target])
        assert math.dist(route.tip, centre) == pytest.approx(NODE_RADIUS)
        np.testing.assert_allclose(centre - route.tip, NODE_RADIUS * np.array(route.direction), atol=1e-9)
        assert math.dist(route.curves[-1][2], route.tip) < HEAD_LENGTH  # the head covers the end of the line


def test_route_copies_are_apart():
    layout = cell_layout(4)
    for edge in cell_edges(4):
        first, second = (layout.route(*edge, copy) for copy in (0, 1))
        assert math.dist(first.label, second.label) >= 12
        assert math.dist(first.tip, second.tip) > 3


def test_render_cells_svg_edge_place_is_the_same_in_every_genotype():
    probabilities = probabilities_of(AGGRESSIVE)
    frames = [
        render_cells_svg(MILD),
        render_cells_svg(AGGRESSIVE, title="other", probabilities=probabilities),
        render_cells_svg(PUBLISHED["DARTS_V1"]),
    ]
    places = [{"-".join(key.split("-")[:4]): group for key, group in svg_groups(text).items()} for text in frames]
    shared = [key for key in places[0] if key.startswith(("normal-", "reduce-")) and key in places[1]]
    assert len(shared) >= 14
    for key in shared:
        courses = {group[key].find(f"{SVG}path").get("d") for group in places if key in group}
        assert len(courses) == 1, key


# What is drawn


def test_drawable_edges_keeps_both_edges_between_two_nodes():
    edges = drawable_edges(DOUBLED, "normal", 2)
    assert {(edge.primitive, edge.copy) for edge in edges if (edge.source, edge.target) == (0, 2)} == {
        ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 1),
    }
    groups = svg_groups(render_cells_svg(DOUBLED))
    pairs = [("normal-0-2-0-sep_conv_3x3", "normal-0-2-1-sep_conv_5x5")]
    pairs += [("normal-2-3-0-skip_connect", "normal-2-3-1-max_pool_3x3")]
    pairs += [("reduce-1-3-0-avg_pool_3x3", "reduce-1-3-1-avg_pool_3x3")]
    for first, second in pairs:
        assert groups[first].find(f"{SVG}path").get("d") != groups[second].find(f"{SVG}path").get("d")


def test_drawable_edges_lists_every_published_edge():
    for genotype in PUBLISHED.values():
        for cell_type in CELL_TYPES:
            edges = drawable_edges(genotype, cell_type, genotype.num_nodes(cell_type))
            drawn = sorted((edge.primitive, edge.source, edge.target) for edge in edges)
            assert drawn == sorted(tuple(edge) for edge in genotype.edges(cell_type))
            assert len({(edge.source, edge.target, edge.copy) for edge in edges}) == len(edges)


def test_drawable_edges_vanished_are_those_with_none_as_argmax():
    rows = probabilities_of(AGGRESSIVE)["reduce"]
    rows[2] = [0.1, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0]  # edge (0, 3) is kept in this cell, at 0.0 for sep_conv_5x5
    rows[3] = [0.4, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0]  # edge (1, 3) dropped by a derivation rule: not vanished
    edges = drawable_edges(AGGRESSIVE, "reduce", 4, probabilities=rows)
    vanished = {(edge.source, edge.target) for edge in edges if edge.primitive is None}
    assert vanished == set(cell.cell_edges(4)) - {(0, 2), (0, 3), (1, 3)}
    kept = {(edge.source, edge.target): edge.probability for edge in edges if edge.primitive is not None}
    assert kept == {(0, 2): pytest.approx(0.9), (0, 3): 0.0}


def test_render_cells_vanished_edges_change_the_picture():
    probabilities = probabilities_of(AGGRESSIVE)
    with_arcs = svg_groups(render_cells_svg(AGGRESSIVE, probabilities=probabilities))
    assert "reduce-3-5-0-none" in with_arcs
    assert "reduce-3-5-0-none" not in svg_groups(render_cells_svg(AGGRESSIVE))
    other = {name: [list(row) for row in rows] for name, rows in probabilities.items()}
    other["reduce"][-1] = [0.1, 0.9, 0, 0, 0, 0, 0, 0]  # edge (4, 5) no longer vanished, still not kept
    frames = [render_cells(AGGRESSIVE, probabilities=rows) for rows in (probabilities, other)]
    assert (frames[0] != frames[1]).any()


def test_render_cells_strength_grows_with_probability():
    ink = [
        (255.0 - render_cells(MILD, probabilities=probabilities_of(MILD, sharpness))).sum()
        for sharpness in (0.3, 0.6, 1)
    ]
    assert ink[0] < ink[1] < ink[2]


LAYERS = Genotype(
    normal=(Edge("conv_3x1", 0, 2), Edge("conv_5x5", 2, 3), Edge("conv_1x11", 0, 4), Edge("conv_1x11", 3, 4)),
    normal_concat=(4,),
    reduce=(),
    reduce_concat=(),
    layers=(Layer(24, 2, 3), Layer(36), Layer(48)),
)


def test_render_cells_svg_of_a_chain_has_one_panel_with_filters_and_strides():
    svg = render_cells_svg(LAYERS)
    for edge in LAYERS.normal:
        assert f'id="normal-{edge.source}-{edge.target}-0-{edge.primitive}"' in svg
    for text in ("Chain of layers", "24", "/2x3", "36", "48", "1x11", "4 edges, 3 of 3 nodes fed"):
        assert text in svg
    assert "Reduction cell" not in svg
    names = ("none", "conv_3x1", "conv_5x5", "conv_1x11")
    certain = [[0.0, 0.5, 0.5, 0.0] if nodes == (0, 2) else [1.0, 0.0, 0.0, 0.0] for nodes in cell_edges(3)]
    drawn = render_cells_svg(LAYERS, probabilities={"normal": certain}, primitives=names)
    assert "vanished" not in drawn
    with pytest.raises(ValueError, match=r"must have the cell types \['normal'\], got \['normal', 'reduce'\]"):
        render_cells_svg(LAYERS, probabilities={"normal": certain, "reduce": certain}, primitives=names)


def test_render_cells_svg_stacked_nodes_have_a_second_ring():
    added, stacked = (render_cells_svg(replace(DOUBLED, normal_stacked=nodes)) for nodes in ((), (2,)))
    assert stacked.count("<path") > added.count("<path")
    assert "1 stacked (double ring), " in stacked
    assert "stacked" not in added


def test_render_cells_svg_edge_widens_and_darkens_with_probability():
    styles = []
    for sharpness in (0.3, 1.0):
        group = svg_groups(render_cells_svg(MILD, probabilities=probabilities_of(MILD, sharpness)))
        style = group["normal-0-2-0-sep_conv_3x3"].find(f"{SVG}path").get("style")
        styles.append(dict(item.split(": ") for item in style.split("; ")))
    assert float(styles[0]["stroke-width"]) < 0.6 * float(styles[1]["stroke-width"])
    assert styles[1]["stroke"] == STYLES["sep_conv_3x3"].colour.lower()
    assert sum(mpl.colors.to_rgb(styles[0]["stroke"])) > sum(mpl.colors.to_rgb(styles[1]["stroke"])) + 0.5


def test_render_cells_node_without_inputs_is_hollow():
    layout, picture = cell_layout(4), render_cells(AGGRESSIVE, width_px=800)
    fills = []
    for node in range(2, 6):
        x, y = layout.places[node]
        # The reduction cell stands on the legend; beside the number, inside the circle.
        row = round(picture.shape[0] - 54 - y)
        fills.append(tuple(picture[row, round(x) - 10].tolist()))
    assert fills[0] == fills[1] == (0xE8, 0xEE, 0xF4)
    assert fills[2] == fills[3] == (255, 255, 255)


def test_render_cells_node_fed_only_by_an_empty_node_is_not_counted():
    genotype = Genotype((Edge("skip_connect", 2, 3),), (2, 3), (Edge("skip_connect", 0, 2),), (2, 3))
    text = render_cells_svg(genotype)
    assert "1 edge, 0 of 2 nodes fed" in text
    assert "1 edge, 1 of 2 nodes fed" in text


def test_render_cells_genotype_without_any_edge():
    assert render_cells(Genotype((), (2, 3, 4, 5), (), (2, 3, 4, 5))).shape[1] == 800


# Format


@pytest.mark.parametrize("name", PUBLISHED)
def test_render_cells_published(name):
    picture = render_cells(PUBLISHED[name], title=name)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (800, 3)
    assert picture.flags.c_contiguous
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert (picture < 128).any()


@pytest.mark.parametrize("width_px", [200, 333, 800, 1601])
def test_render_cells_width(width_px):
    picture = render_cells(MILD, width_px=width_px)
    assert picture.shape[1] == width_px
    assert picture.shape[0] / width_px == pytest.approx(render_cells(AGGRESSIVE).shape[0] / 800, abs=1 / width_px)


def test_render_cells_is_deterministic():
    arguments = {"probabilities": probabilities_of(MILD, 0.7), "title": "epoch 3"}
    first, first_svg = render_cells(MILD, **arguments), render_cells_svg(MILD, **arguments)
    render_cells(AGGRESSIVE)
    assert first.tobytes() == render_cells(MILD, **arguments).tobytes()
    assert first_svg == render_cells_svg(MILD, **arguments)


def test_render_cells_frame_size_does_not_depend_on_title_or_probabilities():
    plain = render_cells(MILD).shape
    assert render_cells(AGGRESSIVE, probabilities=probabilities_of(AGGRESSIVE), title="x " * 400).shape == plain
    assert render_cells(DOUBLED, num_nodes=4).shape == plain


@pytest.mark.slow
def test_render_cells_same_from_threads():
    cells = [MILD, AGGRESSIVE, PUBLISHED["DARTS_V1"], PUBLISHED["DARTS_V2"]] * 3
    before = mpl.rcParams["svg.fonttype"], mpl.rcParams["svg.hashsalt"]
    with ThreadPoolExecutor(4) as pool:
        frames, texts = list(pool.map(render_cells, cells)), list(pool.map(render_cells_svg, cells))
    for genotype, frame, text in zip(cells, frames, texts, strict=True):
        assert frame.tobytes() == render_cells(genotype).tobytes()
        assert text == render_cells_svg(genotype)
    assert (mpl.rcParams["svg.fonttype"], mpl.rcParams["svg.hashsalt"]) == before


@pytest.mark.parametrize("name", PUBLISHED)
def test_render_cells_svg_names_every_operation_in_use(name):
    genotype = PUBLISHED[name]
    root = ElementTree.fromstring(render_cells_svg(genotype, title="a < b & $c$"))
    words = [element.text for element in root.iter(f"{SVG}text")]
    used = {edge.primitive for cell_type in CELL_TYPES for edge in genotype.edges(cell_type)}
    legend = {word for word in words if word in KNOWN_PRIMITIVES}
    assert legend == used
    for primitive in used:
        edges = [edge for cell_type in CELL_TYPES for edge in genotype.edges(cell_type) if edge.primitive == primitive]
        assert words.count(STYLES[primitive].label) == len(edges)
    assert "a < b & $c$" in words


CHAIN = RecurrentGenotype(tuple(RecurrentNode("sigmoid", source) for source in range(8)), (8,))


@pytest.mark.parametrize("genotype", [*PUBLISHED_RECURRENT.values(), CHAIN], ids=[*PUBLISHED_RECURRENT, "chain"])
def test_render_recurrent_svg_has_every_edge_and_readable_names(genotype):
    text = render_recurrent_svg(genotype, title="a cell")
    ends = [(0, 2, "tanh"), (1, 2, "tanh")]
    ends += [(source + 2, node, name) for node, (name, source) in enumerate(genotype.recurrent, start=3)]
    assert {name for name in svg_groups(text) if name.startswith("recurrent-")} == {
        f"recurrent-{source}-{target}-0-{name}" for source, target, name in ends
    }
    words = [element.text for element in ElementTree.fromstring(text).iter(f"{SVG}text")]
    nodes = len(genotype.recurrent)
    assert f"{nodes + 2} edges, {nodes + 1} of {nodes + 1} nodes fed" in words
    layout = cell_layout(nodes + 1, tuple((source, target) for source, target, _ in ends))
    boxes = [(layout.route(source, target).label, text_width(name, 8.0) / 2) for source, target, name in ends]
    for (one, half), (other, other_half) in combinations(boxes, 2):
        assert abs(one[0] - other[0]) > half + other_half or abs(one[1] - other[1]) > 11
    for (x, y), half in boxes:
        for node in range(2, nodes + 3):
            at = layout.places[node]
            assert abs(x - at[0]) > half + NODE_RADIUS or abs(y - at[1]) > NODE_RADIUS


def test_styles_cover_every_primitive_and_differ():
    assert set(STYLES) == set(KNOWN_PRIMITIVES) - {"none"} | set(ACTIVATIONS)
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)
    assert len({style.label for style in STYLES.values()}) == len(STYLES)


def test_legend_of_a_search_is_the_same_in_every_frame():
    legends = []
    for genotype in (MILD, AGGRESSIVE):
        root = ElementTree.fromstring(render_cells_svg(genotype, probabilities=probabilities_of(genotype)))
        words = [element.text for element in root.iter(f"{SVG}text")]
        legends.append([word for word in words if word in PRIMITIVES])
    assert legends[0] == legends[1] == list(PRIMITIVES[1:])


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width_px": 100}, r"`width_px` must be at least 200, got 100"),
        ({"num_nodes": 3}, r"`num_nodes` must be at least the 4 nodes of the genotype, got 3"),
        ({"probabilities": {"normal": []}}, r"must have the cell types"),
        ({"probabilities": {name: [[1.0]] * 14 for name in CELL_TYPES}}, r"must be \(edges, 8 primitives\)"),
        (
            {"probabilities": {name: [[1 / 8] * 8] * 13 for name in CELL_TYPES}},
            r"must have 14 edges for 4 nodes, got 13",
        ),
        (
            {"probabilities": {name: [[1 / 8] * 8] * 15 for name in CELL_TYPES}},
            r"must have 20 edges for 5 nodes, got 15",
        ),
        ({"probabilities": {name: [[math.nan] * 8] * 14 for name in CELL_TYPES}}, r"must lie in \[0, 1\]"),
        (
            {"probabilities": {name: [[0.5] * 2] * 14 for name in CELL_TYPES}, "primitives": ("none", "skip_connect")},
            r"`primitives` must hold every operation of the genotype, got none named sep_conv_3x3",
        ),
        (
            {"probabilities": {name: [[0.5] * 2] * 14 for name in CELL_TYPES}, "primitives": ("none", "none")},
            r"`primitives` must be different operations",
        ),
    ],
)
def test_render_cells_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_cells(MILD, **arguments)


# Cost


@pytest.mark.slow
def test_render_cells_memory_does_not_grow_over_many_frames():
    def frames(count):
        for epoch in range(count):
            render_cells(AGGRESSIVE, title=f"epoch {epoch}", width_px=400)
        gc.collect()
        figures = sum(type(item) is Figure for item in gc.get_objects())
        return figures, psutil.Process().memory_info().rss

    figures_before, bytes_before = frames(100)  # until the allocator has found its size
    figures_after, bytes_after = frames(120)
    assert figures_after == figures_before
    # The allocator's slack is a few MB; 120 frames of 400 px that someone keeps are 51 MB.
    assert bytes_after - bytes_before < 25_000_000


def test_render_cells_takes_no_longer_than_two_plain_figures():
    def plain_figure():
        figure = Figure(figsize=(9, 4.5), dpi=100)
        for axes in figure.subplots(1, 2):
            axes.plot(range(10))
        figure.savefig(io.BytesIO(), format="png")

    def seconds(draw):
        def once():
            start = time.process_time()
            draw()
            return time.process_time() - start

        draw()
        return min(once() for _ in range(5))

    # As long as one was measured.
    assert seconds(lambda: render_cells(MILD, probabilities=probabilities_of(MILD))) < 2 * seconds(plain_figure)


def test_pictures_import_no_pyplot_and_no_orchestrator():
    code = (
        "import sys, dashboards.pictures.cells, dashboards.pictures.study_summary\n"
        "print([name for name in ('matplotlib.pyplot', 'orchestrator', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_pictures_import_only_the_genotypes_of_search_core():
    files = list(Path(pictures.__path__[0]).glob("*.py"))
    assert len(files) > 7
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        own = ("space.chain", "space.genotype", "space.recurrent", "primitives.base", "primitives.builtin")
        allowed = {f"search_core.{name}" for name in own}
        assert {module for module in modules if module.startswith("search_core")} <= allowed


# The study


def trial(number, *, eta=1e-3, error=0.1, madds=1e8, on_front=False, num_epochs=6):
    epochs = list(range(num_epochs))
    return TrialPoint(
        number=number,
        eta=eta,
        error=error,
        madds=madds,
        on_front=on_front,
        epochs=epochs,
        entropy=[50.0 / (epoch + 1) for epoch in epochs],
        gap=[0.2 - 0.03 * epoch for epoch in epochs],
        temperature=[0.9**epoch for epoch in epochs],
    )


def many_trials(count):
    return [
        trial(
            number,
            eta=0.0 if number % 7 == 0 else 10 ** (-4 + 3 * number / count),
            error=0.1 + 0.001 * number,
            madds=3e8 / (number + 1),
            on_front=number % 10 == 0,
            num_epochs=number % 5 + 1,
        )
        for number in range(count)
    ]


def texts(axes):
    return [text.get_text().strip() for text in axes.texts]


@pytest.mark.parametrize(
    "trials",
    [
        [trial(0, on_front=True)],
        [trial(0, eta=0.0, on_front=True)],
        [trial(0, eta=0.0, num_epochs=0), trial(1, eta=2e-3, num_epochs=1)],
        [trial(0, error=math.nan, madds=math.nan)],
        [trial(0, madds=0.0, on_front=True), trial(1, madds=5e8)],
        many_trials(200),
    ],
    ids=["one", "one without penalty", "mixed lengths", "not evaluated", "empty child", "200"],
)
def test_render_study_renders(trials):
    png = figure_png(render_study(trials, title="Study $x_1$ & co"))
    assert Image.open(io.BytesIO(png)).size[0] == 11 * 120


def test_narrow_render_study_fits_mlflows_descriptions():
    narrow = render_study(many_trials(8), title="t", columns=1)
    assert Image.open(io.BytesIO(figure_png(narrow, dpi=96))).size[0] <= 800
    lefts = [axes.get_position().x0 for axes in narrow.axes[:4]]
    assert max(lefts) - min(lefts) < 0.05, "panels stand under each other"
    wide = render_study(many_trials(8), title="t")
    assert [axes.get_title(loc="left") for axes in narrow.axes] == [axes.get_title(loc="left") for axes in wide.axes]


def test_render_study_panels_say_what_they_show_with_units():
    figure = render_study(many_trials(8), title="t")
    panels = figure.axes[:4]
    assert all(axes.get_title(loc="left") for axes in panels)
    assert [axes.get_xlabel() for axes in panels] == ["multiply-adds (millions)", "epoch", "epoch", "epoch"]
    assert [axes.get_ylabel() for axes in panels] == [
        "validation error (%)",
        "entropy (nats)",
        "gap (percentage points)",
        "temperature",
    ]


def test_render_study_labels_only_the_front():
    figure = render_study(many_trials(200), title="t")
    assert sorted(texts(figure.axes[0]), key=int) == [str(number) for number in range(0, 200, 10)]
    few = render_study([trial(3, on_front=True), trial(4), trial(5, on_front=True, num_epochs=4)], title="t")
    assert texts(few.axes[0]) == ["3, 5"], "they are at one point"
    for axes in few.axes[1:4]:
        assert sorted(texts(axes)) == ["3", "5"]


def test_labels_of_points_close_together_on_the_front_do_not_touch():
    near = [trial(n, error=0.2 - 0.0001 * n, madds=1e7 + 1e4 * n, on_front=True) for n in (400, 401)]
    figure = render_study([*many_trials(200), *near], title="t")
    figure.draw_without_rendering()
    panel = figure.axes[0]
    boxes = {text.get_text(): Text.get_window_extent(text) for text in panel.texts}
    assert set(boxes) == {"400, 401", *(str(n) for n in range(0, 200, 10))}
    assert not [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]


@pytest.mark.parametrize("columns", [1, 2])
def test_panels_have_room_for_long_numbers(columns):
    one = trial(0, error=0.12345, madds=1.2345e13, eta=1.25e-5)
    long = replace(one, gap=[-0.12270 + 1e-5 * n for n in range(len(one.gap))])
    for figure in (
        render_study([long, replace(long, number=1, error=0.12346)], title="t", columns=columns),
        render_front([long]),
    ):
        figure.draw_without_rendering()
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_render_study_points_are_in_percent_and_millions():
    figure = render_study([trial(0, error=0.125, madds=2.5e8)], title="t")
    points = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert points == [[[250.0, 12.5]]]
    gap = figure.axes[2].lines[0].get_ydata()
    np.testing.assert_allclose(gap[:2], [20.0, 17.0], rtol=1e-12)


def test_render_study_connects_the_front_by_cost():
    trials = [trial(0, error=0.1, madds=3e8, on_front=True), trial(1, error=0.2, madds=1e8, on_front=True), trial(2)]
    lines = [line for line in render_study(trials, title="t").axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert [line.get_xydata().tolist() for line in lines] == [[[100.0, 20.0], [300.0, 10.0]]]


@pytest.mark.parametrize(("largest", "scale"), [(9e8, "linear"), (1.1e9, "log")])
def test_render_study_cost_axis_is_logarithmic_beyond_tenfold(largest, scale):
    figure = render_study([trial(0, madds=1e8), trial(1, madds=largest)], title="t")
    assert figure.axes[0].get_xscale() == scale


def test_render_study_colours_grow_darker_with_eta_and_zero_is_marked():
    etas = (0.0, 1e-4, 1e-3, 1e-2)
    figure = render_study([trial(number, eta=eta) for number, eta in enumerate(etas)], title="t")
    curves = figure.axes[1].lines[:4]
    lightness = [sum(mpl.colors.to_rgb(line.get_color())) for line in curves[1:]]
    assert lightness[0] > lightness[1] > lightness[2]
    assert curves[0].get_linestyle() != curves[1].get_linestyle()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["η = 0"]


def test_spread_keeps_labels_apart_and_in_order():
    moved = _spread([0.1, 0.1, 0.12, 0.9, 0.99, 1.0], 0.05)
    assert min(np.diff(moved)) >= 0.05 - 1e-12
    assert max(moved) <= 1.0
    assert _spread([0.1, 0.5], 0.05) == [0.1, 0.5]


def test_render_study_rejects_no_trials():
    with pytest.raises(ValueError, match=r"`trials` must hold at least one trial"):
        render_study([], title="t")


def test_trial_point_rejects_curves_of_different_length():
    with pytest.raises(ValueError, match=r"curves of trial 7 must have one length"):
        TrialPoint(number=7, eta=0, error=0, madds=0, on_front=False, epochs=[0], entropy=[1], gap=[], temperature=[1])


@pytest.mark.parametrize("eta", [-1.0, math.nan, math.inf])
def test_trial_point_rejects_eta(eta):
    with pytest.raises(ValueError, match=r"`eta` must be finite and at least 0"):
        trial(0, eta=eta)


@pytest.mark.slow
def test_figure_bytes_are_deterministic():
    png, svg = zip(
        *[(figure_png(figure), figure_svg(figure)) for figure in (render_study(many_trials(9), title="t"),) * 2],
        strict=True,
    )
    fresh = render_study(many_trials(9), title="t")
    assert png[0] == png[1] == figure_png(fresh)
    assert svg[0] == svg[1] == figure_svg(fresh)
    ElementTree.fromstring(svg[0])


def test_figure_png_rejects_dpi():
    with pytest.raises(ValueError, match=r"`dpi` must be above 0, got 0"):
        figure_png(render_study([trial(0)], title="t"), dpi=0)


@pytest.mark.parametrize("name", ["NASNet", "AmoebaNet"])
def test_names_of_two_operations_on_one_edge_do_not_touch(name):
    genotype = PUBLISHED[name]
    num_nodes = max(genotype.num_nodes(cell_type) for cell_type in CELL_TYPES)
    labels = {}
    for cell_type in CELL_TYPES:
        for edge in drawable_edges(genotype, cell_type, num_nodes):
            at = cell_layout(num_nodes).route(edge.source, edge.target, edge.copy).label
            labels.setdefault((cell_type, edge.source, edge.target), []).append((at, STYLES[edge.primitive].label))
    doubled = [places for places in labels.values() if len(places) > 1]
    assert doubled
    for (first, text), (second, other) in doubled:
        widths = text_width(text, 8.0) + text_width(other, 8.0)
        assert abs(first[0] - second[0]) > widths / 2


def test_small_cells_show_every_kept_edge_and_both_inputs_in_any_colours():
    empty = Genotype((), (2, 3), (Edge("sep_conv_3x3", 2, 3),), (2, 3))
    for genotype in (*PUBLISHED.values(), empty):
        root = ElementTree.fromstring(small_cells_svg(genotype, ink="#1F2A33", muted="#56636E", ground="#FFFFFF"))
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        wanted = [STYLES[edge.primitive].label for kind in CELL_TYPES for edge in genotype.edges(kind)]
        assert sorted(text for text in texts if text in {s.label for s in STYLES.values()}) == sorted(wanted)
        assert texts.count("c(k\N{MINUS SIGN}2)") == texts.count("c(k\N{MINUS SIGN}1)") == 2
        box = [float(number) for number in root.get("viewBox").split()]
        places = [float(node.get("y")) for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert all(0 < place < box[3] for place in places)
    assert cells_text(empty) == "Normal cell: no edge. Reduction cell: sep 3x3 from 0 to 1."


def test_small_cells_show_chains_and_operations_of_plug_ins():
    svg = small_cells_svg(LAYERS, ink="#1F2A33", muted="#56636E", ground="#FFFFFF")
    assert [text in svg for text in ("Chain of layers", ">3x1<", ">image<", "Reduction")] == [True, True, True, False]
    own = Genotype((Edge("ops.py:mine", 0, 2),), (2,), (), (2,))
    assert ">mine<" in small_cells_svg(own, ink="#1F2A33", muted="#56636E", ground="#FFFFFF")


def test_difference_of_cells_has_shared_edges_once_and_others_in_the_colour_of_their_cell():
    first = Genotype((Edge("skip_connect", 0, 2), Edge("sep_conv_3x3", 1, 2)), (2,), (), (2,))
    second = Genotype(
        (Edge("skip_connect", 0, 2), Edge("max_pool_3x3", 1, 2), Edge("skip_connect", 2, 3)), (3,), (), (2,)
    )
    root = ElementTree.fromstring(
        cell_difference_svg(
            first, second, ink="#000000", muted="#555555", ground="#FFFFFF", colours=("#0000AA", "#AA0000")
        )
    )
    names = [STYLES[name].label for name in ("skip_connect", "sep_conv_3x3", "max_pool_3x3")]
    texts = [(node.text, node.get("fill").upper()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    skip, separable, pool = names
    assert sorted(entry for entry in texts if entry[0] in names) == sorted(
        [(skip, "#555555"), (separable, "#0000AA"), (pool, "#AA0000"), (skip, "#AA0000")]
    )
    dashed = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("stroke-dasharray")]
    assert {path.get("stroke").upper() for path in dashed} == {"#AA0000"}, "they differ without colour"
    title = root.find("{http://www.w3.org/2000/svg}title").text
    assert f"only in the first: {separable} from c(k-1) to 0; only in the second" in title
