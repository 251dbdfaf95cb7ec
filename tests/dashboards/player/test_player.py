import base64
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dashboards.history import CellHistory, History
from dashboards.pictures.cell_layout import cell_edges, cell_layout
from dashboards.pictures.cell_style import STYLES, contrast_ratio, readable_colour
from dashboards.player.page import render_player
from dashboards.player.payload import BACKGROUNDS, PROBABILITY_UNKNOWN, thousandths
from search_core.space.genotype import CELL_TYPES, KNOWN_PRIMITIVES, PRIMITIVES
from tests.dashboards.searches import made_up_search

HOSTILE = "</script><script>window.hacked=1</script><!--\u2028&amp;/*STYLE*//*DATA*/"


def data_of(page):
    """The data inside the page, as its script reads them."""
    return json.loads(re.search(r'id="history">(.*?)</script>', page, re.S)[1])


def unpacked(text, kind, *shape):
    return np.frombuffer(base64.b64decode(text), kind).reshape(shape)


def with_cells(history, **changes):
    return replace(history, cells={name: replace(cell, **changes) for name, cell in history.cells.items()})


# Size and content


def test_render_player_size_of_150_epochs_of_noise():
    generator = np.random.default_rng(0)
    search = made_up_search()
    noisy = CellHistory(
        alpha=generator.normal(size=(150, 14, 8)),
        probabilities=generator.random((150, 14, 8)),
        entropy=generator.normal(size=(150, 14)),
        credit=generator.normal(size=(150, 14)),
        resource_credit=generator.normal(size=(150, 14)),
    )
    metrics = {name: generator.normal(size=150) for name in search.metrics}
    page = render_player(replace(search, cells=dict.fromkeys(CELL_TYPES, noisy), metrics=metrics), title="noise")
    assert len(page.encode()) < 250_000


def test_render_player_refers_to_nothing_outside():
    page = render_player(made_up_search(3), title="t")
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space, never fetched
    assert not re.search(r"\b(src|href)\s*=|@import|url\(", page)
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:" in page


def test_render_player_is_deterministic():
    assert render_player(made_up_search(4), title="t") == render_player(made_up_search(4), title="t")


def test_player_data_numbers_are_those_of_the_history():
    search = made_up_search(20)
    for cell, cell_type in zip(data_of(render_player(search, title="t"))["cells"], CELL_TYPES, strict=True):
        own = search.cells[cell_type]
        shares = unpacked(cell["probabilities"], "<u2", 20, 14, 8) / 1000
        assert np.abs(shares - own.probabilities).max() <= 0.0005 + 1e-7  # half a step, single precision
        np.testing.assert_array_equal(unpacked(cell["entropy"], "<f4", 20, 14), own.entropy)
        credit = unpacked(cell["credit"], "<f4", 20, 14)  # of task and penalty together
        np.testing.assert_array_equal(credit, own.credit + own.resource_credit)
        np.testing.assert_array_equal(unpacked(cell["resource"], "<f4", 20, 14), own.resource_credit)


def test_player_data_of_a_search_without_resource_credits_has_those_of_the_task():
    search = made_up_search(2)
    unknown = np.full((2, 14), np.nan, dtype=np.float32)
    cell = data_of(render_player(with_cells(search, resource_credit=unknown), title="t"))["cells"][0]
    np.testing.assert_array_equal(unpacked(cell["credit"], "<f4", 2, 14), search.cells[CELL_TYPES[0]].credit)
    assert np.isnan(unpacked(cell["resource"], "<f4", 2, 14)).all()


def test_player_data_credits_keep_their_digits_however_small():
    search = made_up_search(2)
    credit = np.full((2, 14), 1.234e-12, dtype=np.float32)
    nothing = np.zeros_like(credit)
    cell = data_of(render_player(with_cells(search, credit=credit, resource_credit=nothing), title="t"))["cells"][0]
    np.testing.assert_allclose(unpacked(cell["credit"], "<f4", 2, 14), 1.234e-12, rtol=1e-6)


def test_player_data_shows_what_the_genotype_keeps_else_the_likeliest():
    search = made_up_search(30, edges_per_node=2, seed=3)
    for cell, cell_type in zip(data_of(render_player(search, title="t"))["cells"], CELL_TYPES, strict=True):
        shown, kept = (unpacked(cell[name], "<u1", 30, 14) for name in ("shown", "kept"))
        for epoch, text in enumerate(search.genotypes):
            derived = {(source, target): name for name, source, target in json.loads(text)[cell_type]}
            for edge, place in zip(cell_edges(4), range(14), strict=True):
                assert kept[epoch, place] == (edge in derived)
                likeliest = PRIMITIVES[int(search.cells[cell_type].probabilities[epoch, place].argmax())]
                assert PRIMITIVES[shown[epoch, place]] == derived.get(edge, likeliest)
        assert 0 < kept.mean() < (shown != 0).mean()  # some edges are likely, yet not kept


def test_player_data_shows_the_first_kept_operation_though_it_is_not_the_likeliest():
    search = made_up_search(1, 1)  # as DARTS does: `none` is likeliest, the genotype keeps another one
    genotype = {
        "version": 1,
        "normal": [["skip_connect", 0, 2], ["max_pool_3x3", 0, 2]],  # two as in NASNet
        "normal_concat": [2],
        "reduce": [],
        "reduce_concat": [2],
    }
    probabilities = np.zeros((1, 2, 8), dtype=np.float32)
    probabilities[..., 0] = 1
    search = with_cells(replace(search, genotypes=[json.dumps(genotype)]), probabilities=probabilities)
    normal = data_of(render_player(search, title="t"))["cells"][0]
    assert unpacked(normal["shown"], "<u1", 2).tolist() == [PRIMITIVES.index("skip_connect"), 0]
    assert unpacked(normal["kept"], "<u1", 2).tolist() == [1, 0]


def test_player_data_ties_after_rounding_show_the_likeliest():
    search = made_up_search(1, 1)
    probabilities = np.full((1, 2, 8), 0.1, dtype=np.float32)
    probabilities[..., 3], probabilities[..., 5] = 0.2001, 0.2002  # both 200 thousandths
    empty = json.dumps({"normal": [], "normal_concat": [2], "reduce": [], "reduce_concat": [2]})
    search = with_cells(replace(search, genotypes=[empty]), probabilities=probabilities)
    cell = data_of(render_player(search, title="t"))["cells"][0]
    assert unpacked(cell["shown"], "<u1", 2).tolist() == [5, 5]


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5, 6])
def test_player_data_places_are_those_of_the_layout(num_nodes):
    cell = data_of(render_player(made_up_search(1, num_nodes), title="t"))["cells"][1]
    layout = cell_layout(num_nodes)
    assert [(edge["source"], edge["target"]) for edge in cell["edges"]] == list(cell_edges(num_nodes))
    assert len(cell["places"]) == num_nodes + 3
    assert len(cell["outputs"]) == num_nodes
    for node, (x, y) in enumerate(cell["places"]):
        assert (x, layout.height - y) == pytest.approx(layout.places[node], abs=0.051)
    for edge in cell["edges"]:
        route = layout.route(edge["source"], edge["target"])
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", edge["path"])]
        assert (numbers[-2], layout.height - numbers[-1]) == pytest.approx(route.curves[-1][2], abs=0.051)
        tip = [float(number) for number in edge["head"].split(" ")[0].split(",")]
        assert (tip[0], layout.height - tip[1]) == pytest.approx(route.tip, abs=0.051)


def test_player_data_curves_have_units_and_are_in_percent():
    search = made_up_search(5)
    curves = {curve["title"]: curve for curve in data_of(render_player(search, title="t"))["curves"]}
    assert {title: curve["unit"] for title, curve in curves.items()} == {
        "Entropy": "nats",
        "Temperature": "",
        "Penalty strength η": "",
        "Expected cost, searched edges": "multiply-adds",
        "Discretization gap": "percentage points",
        "Validation accuracy": "%",
    }
    gap = unpacked(curves["Discretization gap"]["lines"][0]["values"], "<f8", 5)
    np.testing.assert_allclose(gap, 100 * search.metrics["discretization_gap"])
    assert [title for title, curve in curves.items() if curve["zero"]] == ["Discretization gap"]


def test_player_data_leaves_out_what_nobody_reported_and_takes_the_cost_that_exists():
    search = made_up_search(3)
    metrics = {
        "temperature": np.full(3, np.nan),
        "expected_cost_params": np.array([1.0, np.nan, 3.0]),
        "entropy_normal": search.metrics["entropy_normal"],
    }
    curves = data_of(render_player(replace(search, metrics=metrics), title="t"))["curves"]
    assert [(curve["title"], curve["unit"]) for curve in curves] == [
        ("Entropy", "nats"),
        ("Expected cost, searched edges", "parameters"),
    ]
    assert [line["label"] for line in curves[0]["lines"]] == ["normal"]
    np.testing.assert_array_equal(unpacked(curves[1]["lines"][0]["values"], "<f8", 3), [1.0, np.nan, 3.0])


# Quantisation


def test_thousandths_error_is_half_a_step():
    values = np.random.default_rng(0).random(10_000)
    assert np.abs(thousandths(values) / 1000 - values).max() <= 0.0005 + 1e-12
    assert thousandths(np.array([0.0, 1.0, 1 + 5e-6])).tolist() == [0, 1000, 1000]


def test_thousandths_marks_what_is_no_number():
    assert thousandths(np.array([np.nan, 0.5])).tolist() == [PROBABILITY_UNKNOWN, 500]


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_thousandths_rejects(value):
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\]"):
        thousandths(np.array([0.5, value]))


# Untrusted names


def test_render_player_names_cannot_leave_the_data():
    search = made_up_search(2, primitives=("none", "skip_connect", "sep_conv_3x3"))
    genotypes = [text.replace("sep_conv_3x3", json.dumps(HOSTILE)[1:-1]) for text in search.genotypes]
    search = replace(search, primitives=("none", "skip_connect", HOSTILE), genotypes=genotypes)
    page = render_player(search, title=HOSTILE, subtitle=HOSTILE)
    harmless = render_player(made_up_search(2), title="t")
    for mark in ("<script", "</script", "<!--", "\u2028"):
        assert page.count(mark) == harmless.count(mark)
    data = data_of(page)
    assert data["title"] == data["subtitle"] == data["operations"][2]["name"] == HOSTILE


def test_player_data_operation_without_style_is_neutral_under_its_own_name():
    search = made_up_search(2, primitives=("none", "sep_conv_3x3"))
    genotypes = [text.replace("sep_conv_3x3", "mbconv_expand_6_kernel_5") for text in search.genotypes]
    search = replace(search, primitives=("none", "mbconv_expand_6_kernel_5"), genotypes=genotypes)
    unknown = data_of(render_player(search, title="t"))["operations"][1]
    assert unknown["name"] == "mbconv_expand_6_kernel_5"
    assert unknown["label"] == "mbconv_expa…"
    assert unknown["line"][0] not in {style.colour.lower() for style in STYLES.values()}


# Colours


@pytest.mark.parametrize("name", sorted(STYLES.keys() & set(KNOWN_PRIMITIVES)))
def test_player_data_names_can_be_read_in_light_and_dark(name):
    search = made_up_search(1, 1, primitives=("none", name))
    operation = data_of(render_player(search, title="t"))["operations"][1]
    for colour, ground in zip(operation["text"], BACKGROUNDS, strict=True):
        assert contrast_ratio(colour, ground) >= 4.5
    assert operation["line"][0] == STYLES[name].colour.lower()
    assert contrast_ratio(operation["line"][1], BACKGROUNDS[1]) >= 3


def test_contrast_ratio_is_that_of_wcag():
    assert contrast_ratio("#000000", "#ffffff") == pytest.approx(21)
    assert contrast_ratio("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast_ratio("#0072B2", "#0072B2") == 1


def test_readable_colour_changes_only_what_must_change():
    assert readable_colour("#0072B2", "#ffffff", 4.5) == "#0072b2"
    assert contrast_ratio(readable_colour("#332288", "#171e26", 4.5), "#171e26") == pytest.approx(4.5, abs=0.15)
    assert readable_colour("#808080", "#808080", 21) in ("#000000", "#ffffff")


# Errors


def broken(**changes):
    return replace(made_up_search(2, 2), **changes)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (History(epochs=np.arange(2), metrics={}), r"must get a history with cells and at least one epoch"),
        (broken(epochs=np.arange(0)), r"must get a history with cells and at least one epoch"),
        (broken(genotypes=()), r"one genotype per epoch, got 0 for 2 epochs"),
        (broken(genotypes=["{", "{"]), r"the genotype of epoch 1 must list edges"),
        (broken(genotypes=["[]", "[]"]), r"the genotype of epoch 1 must list edges"),
        (broken(primitives=PRIMITIVES[:3]), r"`probabilities` of the normal cell must have the shape \(2, 5, 3\)"),
        (with_cells(broken(), credit=np.zeros((2, 4))), r"`credit` of the normal cell must have the shape \(2, 5\)"),
        (with_cells(broken(), probabilities=np.zeros((2, 6, 8))), r"must have 2, 5, 9, 14, 20, ... edges, got 6"),
        (with_cells(broken(), probabilities=np.full((2, 5, 8), 2.0)), r"probabilities must lie in \[0, 1\]"),
    ],
)
def test_render_player_rejects(history, message):
    with pytest.raises(ValueError, match=message):
        render_player(history, title="t")


@pytest.mark.parametrize(
    ("edges", "concat", "message"),
    [
        ([["wat", 0, 2]], [2], r"keep candidates of the searchable cell's edges, got 'wat' from node 0 to 2"),
        ([["skip_connect", 0, 9]], [2], r"keep candidates .* from node 0 to 9"),
        ([["skip_connect", 0, "2"]], [2], r"the genotype of epoch 1 must list edges"),
        ([], [7], r"the output must join nodes 2 to 3, got 7"),
        ([], ["2"], r"the genotype of epoch 1 must list edges"),
    ],
)
def test_render_player_rejects_genotype(edges, concat, message):
    text = json.dumps({"normal": edges, "normal_concat": concat, "reduce": [], "reduce_concat": [2]})
    with pytest.raises(ValueError, match=message):
        render_player(broken(genotypes=[text, text]), title="t")


def test_player_imports_neither_matplotlib_nor_torch():
    code = (
        "import sys, dashboards.player.page\n"
        "print([name for name in ('matplotlib', 'torch', 'orchestrator', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
