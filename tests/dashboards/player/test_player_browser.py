import html
import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from playwright import sync_api

from dashboards.pictures.cell_layout import cell_edges
from dashboards.player.page import render_player
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, Genotype
from tests.browser import serious_faults
from tests.dashboards.searches import made_up_search

pytestmark = pytest.mark.browser

EPOCHS = 24
SEARCH = made_up_search(EPOCHS)
LATER = re.compile(r"^([2-9]|1\d)")  # any epoch but the first
HOSTILE = "<img src=x onerror='window.hacked=1'></script><script>window.hacked=1</script>"

#: What every edge looks like: its classes, its width and its name.
LOOKS = """() => [...document.querySelectorAll("[data-edge]")].map((group) => {
    const looks = [...group.children].map((part) => part.getAttribute("class"));
    return [group.dataset.edge, ...looks, group.style.cssText].join(" ");
})"""
PLACES = """() => [...document.querySelectorAll(".cell path, .cell circle, .cell rect")].map((shape) =>
    ["d", "cx", "cy", "x", "y"].map((name) => shape.getAttribute(name)).join(" "))"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Function that writes the page of a history and gives its address."""
    folder = tmp_path_factory.mktemp("player")
    written = []

    def write(history=SEARCH, title="trial 3", subtitle="made up"):
        path = folder / f"{len(written)}.html"
        path.write_text(render_player(history, title=title, subtitle=subtitle), encoding="utf-8")
        written.append(path)
        return path.as_uri()

    return write


@pytest.fixture(scope="module")
def address(page_file):
    return page_file()


@pytest.fixture
def player(open_page, address):
    """The player at epoch 6; afterwards, nothing may have complained and nothing else may have been fetched."""
    page, watched = open_page()
    page.goto(f"{address}#epoch=6&theme=light")
    yield page
    assert watched.complaints == []
    assert watched.requests == [f"{address}#epoch=6&theme=light"] or watched.requests == [address]


def epoch_of(page):
    return int(page.locator("#epoch-number").inner_text())


def wait_for(page, epoch):
    """Wait until the page shows this epoch; `epoch` is a number or a pattern."""
    sync_api.expect(page.locator("#epoch-number")).to_have_text(epoch if isinstance(epoch, re.Pattern) else str(epoch))


def wait_for_end(page):
    wait_for(page, EPOCHS)
    sync_api.expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


# Going through the epochs


def test_player_keys_go_through_the_epochs(player):
    steps = [
        ("ArrowRight", 7), ("ArrowRight", 8), ("ArrowLeft", 7), ("End", 24), ("ArrowRight", 24), ("Home", 1),
        ("ArrowLeft", 1),
    ]  # fmt: skip
    for key, expected in steps:
        player.keyboard.press(key)
        assert epoch_of(player) == expected
        assert player.locator("#slider").input_value() == str(expected - 1)


@pytest.mark.slow
def test_player_keys_do_the_same_while_the_slider_has_the_focus(player):
    player.locator("#slider").focus()
    player.keyboard.press("ArrowRight")
    assert epoch_of(player) == 7  # one step, not the slider's own and ours
    before = player.locator("#speed").inner_text()
    player.keyboard.press("ArrowUp")
    assert player.locator("#speed").inner_text() != before
    assert epoch_of(player) == 7


@pytest.mark.slow
def test_player_says_what_changes_and_goes_from_change_to_change(player):
    genotypes = [Genotype.from_json(text) for text in SEARCH.genotypes]
    looks = [tuple(genotype.edges(kind) for kind in CELL_TYPES) for genotype in genotypes]
    changed = [epoch for epoch in range(1, EPOCHS) if looks[epoch] != looks[epoch - 1]]
    assert len(changed) > 1
    assert player.locator("#changes line").count() == len(changed)
    player.keyboard.press("Home")
    assert player.locator("#change").inner_text() == "The first epoch."
    for epoch in changed:
        player.get_by_role("button", name="Next change").click()
        assert epoch_of(player) == epoch + 1
        assert re.search("vanished|came back as|became", player.locator("#change").inner_text())
    assert player.get_by_role("button", name="Next change").is_disabled()
    player.keyboard.press("n")
    assert epoch_of(player) == changed[-1] + 1
    gone = sum(2 * len(cell_edges(4)) - sum(map(len, edges)) for edges in looks[-1:])
    said = f"{gone} of 28 edges have vanished at the end; the last change came in epoch {changed[-1] + 1} of 24."
    assert player.locator("#story").inner_text() == said


@pytest.mark.slow
def test_player_space_plays_pauses_and_stops_at_the_end(player):
    player.keyboard.press("Home")
    player.keyboard.press(" ")
    assert player.get_by_role("button", name="Pause").is_visible()
    wait_for(player, LATER)
    player.keyboard.press(" ")
    assert player.get_by_role("button", name="Play").is_visible()
    stopped = epoch_of(player)
    player.wait_for_timeout(700)  # at the speed of the start, one epoch and more
    assert epoch_of(player) == stopped
    for _ in range(6):
        player.keyboard.press("+")
    player.keyboard.press(" ")
    wait_for_end(player)
    for _ in range(6):
        player.keyboard.press("-")
    player.keyboard.press(" ")  # at the end, it begins again
    wait_for(player, LATER)
    assert epoch_of(player) < EPOCHS


@pytest.mark.slow
def test_player_buttons(player):
    for name, expected in [("Next epoch", 7), ("Previous epoch", 6), ("First epoch", 1), ("Last epoch", 24)]:
        player.get_by_role("button", name=name, exact=True).click()
        assert epoch_of(player) == expected
    while player.get_by_role("button", name="Faster").is_enabled():
        player.get_by_role("button", name="Faster").click()
    assert player.locator("#speed").inner_text() == "30 epochs/s"
    player.get_by_role("button", name="Play").click()
    wait_for_end(player)


@pytest.mark.slow
def test_player_space_on_a_button_presses_that_button_only(player):
    player.get_by_role("button", name="Next epoch").focus()
    player.keyboard.press(" ")
    assert epoch_of(player) == 7
    assert player.get_by_role("button", name="Play").is_visible()


@pytest.mark.slow
def test_player_speed_changes_how_fast_epochs_pass(player):
    for _ in range(6):
        player.keyboard.press("-")
    assert player.locator("#speed").inner_text() == "1 epoch/s"
    assert player.get_by_role("button", name="Slower").is_disabled()
    player.keyboard.press("Home")
    start = time.perf_counter()
    player.keyboard.press(" ")
    wait_for(player, 2)
    assert time.perf_counter() - start > 0.8  # a second, less what the key took on its way
    for _ in range(6):
        player.keyboard.press("ArrowUp")
    start = time.perf_counter()
    wait_for_end(player)
    assert time.perf_counter() - start < 11  # 22 epochs: 0.7 s at this speed, 22 s at the former


@pytest.mark.slow
def test_player_slider_scrubs_by_mouse(player):
    box = player.locator("#slider").bounding_box()
    player.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert epoch_of(player) == 24
    player.mouse.click(box["x"] + 4, box["y"] + box["height"] / 2)
    assert epoch_of(player) == 1


@pytest.mark.slow
def test_player_curve_scrubs_by_click_and_drag_and_stops_playing(player):
    curve = player.locator("#curves svg[role=img]").first
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    y = box["y"] + 50
    player.keyboard.press("Home")
    player.keyboard.press(" ")
    player.mouse.move(box["x"] + 44, y)
    player.mouse.down()
    assert player.get_by_role("button", name="Play").is_visible()
    assert epoch_of(player) == 1
    middle = box["x"] + 44 + (box["width"] - 54) / 2
    player.mouse.move(middle, y)
    assert epoch_of(player) in (12, 13)
    player.mouse.move(box["x"] + box["width"] + 200, y)  # still held, beyond the panel
    assert epoch_of(player) == 24
    player.mouse.up()
    player.mouse.move(middle, y)
    assert epoch_of(player) == 24


# The picture


def changed_pixels(first, second):
    """Pixels of clearly different colour: Chromium smooths borders a little differently from time to time."""
    arrays = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int) for png in (first, second)]
    return int((np.abs(arrays[0] - arrays[1]).sum(axis=-1) > 150).sum())


@pytest.mark.slow
def test_player_picture_changes_between_epochs_and_nothing_moves(player):
    cells = player.locator("#cells")
    places, looks, pictures = [], [], []
    for key in ("Home", "End", "Home"):
        player.keyboard.press(key)
        places.append(player.evaluate(PLACES))
        looks.append(player.evaluate(LOOKS))
        pictures.append(cells.screenshot())
    assert places[0] == places[1]
    assert sum(first != last for first, last in zip(looks[0], looks[1], strict=True)) == 2 * len(cell_edges(4))
    assert changed_pixels(pictures[0], pictures[1]) > 1000
    assert looks[0] == looks[2]
    assert changed_pixels(pictures[0], pictures[2]) == 0


@pytest.mark.parametrize("edges_per_node", [None, 1])
@pytest.mark.slow
def test_player_edges_are_those_of_the_history(open_page, page_file, edges_per_node):
    search = made_up_search(3, edges_per_node=edges_per_node, seed=4)
    page, _ = open_page()
    page.goto(page_file(search) + "#epoch=3")
    for cell_type in CELL_TYPES:
        kept = {(source, target): name for name, source, target in json.loads(search.genotypes[2])[cell_type]}
        for edge, shares in zip(cell_edges(4), search.cells[cell_type].probabilities[2], strict=True):
            line = page.locator(f"[data-edge='{cell_type}-{edge[0]}-{edge[1]}'] .line")
            likeliest = int(shares.argmax())
            if edge in kept:
                expected = f"line operation-{PRIMITIVES.index(kept[edge])}"
            else:
                expected = "line gone" if likeliest == 0 else f"line operation-{likeliest} spare"
            assert line.get_attribute("class") == expected
            if expected != "line gone":
                width = float(line.evaluate("line => getComputedStyle(line).getPropertyValue('--width')"))
                assert width == pytest.approx(1.3 + 3.2 * shares[likeliest], abs=0.01)
        counts = page.locator(f"#title-{cell_type} + p").inner_text()
        assert counts.startswith(f"{len(kept)} of 14 edges kept, ")
    legend = page.locator("#legend").inner_text()
    assert all(name in legend for name in PRIMITIVES)
    assert ("not in the derived cell" in legend) == (edges_per_node == 1)


@pytest.mark.slow
def test_player_node_without_input_is_hollow_and_so_is_an_input_that_nobody_reads(open_page, page_file):
    search = made_up_search(1, 3)
    genotype = {"normal": [["skip_connect", 0, 2], ["skip_connect", 3, 4]], "reduce": []}
    genotype |= {"normal_concat": [2, 4], "reduce_concat": [2]}
    page, _ = open_page()
    page.goto(page_file(replace(search, genotypes=[json.dumps(genotype)])))
    normal = page.locator("section.cell").first
    shapes = normal.locator(".node, .box").evaluate_all("shapes => shapes.map((shape) => shape.getAttribute('class'))")
    # c(k-2), c(k-1), then 0 (fed), 1 (not), 2 (only by node 1, which is empty), output
    assert shapes == ["box", "box empty", "node", "node empty", "node empty", "box"]
    assert normal.locator("p").first.inner_text() == "2 of 9 edges kept, 1 of 3 nodes fed"
    outputs = normal.locator(".output").evaluate_all("paths => paths.map((path) => getComputedStyle(path).visibility)")
    assert outputs == ["visible", "hidden", "visible"]


@pytest.mark.parametrize(("num_nodes", "num_epochs"), [(1, 1), (2, 3), (6, 2)])
@pytest.mark.slow
def test_player_other_sizes(open_page, page_file, num_nodes, num_epochs):
    page, watched = open_page()
    page.goto(page_file(made_up_search(num_epochs, num_nodes)))
    assert page.locator("[data-edge]").count() == 2 * len(cell_edges(num_nodes))
    assert epoch_of(page) == num_epochs
    assert page.get_by_role("button", name="Play").is_disabled() == (num_epochs == 1)
    page.keyboard.press(" ")
    page.keyboard.press("Home")
    assert epoch_of(page) == 1
    assert watched.complaints == []


@pytest.mark.slow
def test_player_shows_unknown_numbers_as_gaps(open_page, page_file):
    gap = SEARCH.metrics["discretization_gap"].copy()
    gap[3:6] = np.nan
    cells = {}
    for name, cell in SEARCH.cells.items():
        probabilities, credit = cell.probabilities.copy(), cell.credit.copy()
        probabilities[4, 0], credit[4, 0] = np.nan, np.nan
        cells[name] = replace(cell, probabilities=probabilities, credit=credit)
    genotypes = list(SEARCH.genotypes)
    genotypes[4] = json.dumps({"normal": [], "normal_concat": [2], "reduce": [], "reduce_concat": [2]})
    history = replace(SEARCH, metrics=SEARCH.metrics | {"discretization_gap": gap}, cells=cells, genotypes=genotypes)
    page, watched = open_page()
    page.goto(page_file(history) + "#epoch=5")
    panel = page.locator("figure", has_text="Discretization gap")
    assert panel.locator("b").inner_text() == "\N{EN DASH}"
    assert panel.locator(".curve").get_attribute("d").count("M") == 2
    assert panel.locator(".dot").get_attribute("visibility") == "hidden"
    assert page.locator("#details-state").inner_text() == "its probabilities are no numbers"
    page.keyboard.press("ArrowLeft")
    assert "at 0." in page.locator("#details-state").inner_text()
    assert watched.complaints == []


# Details


def shown_probabilities(page):
    return [float(text) for text in page.locator("#details-rows .number").all_inner_texts()[: len(PRIMITIVES)]]


@pytest.mark.slow
def test_player_details_on_hover_stay_in_step(player):
    place = cell_edges(4).index((0, 3))
    player.locator("[data-target='normal-0-3'] rect").hover()
    assert player.locator("#details-title").inner_text() == "Normal cell, c(k\N{MINUS SIGN}2) → node 1"
    for epoch in (5, 6):
        own = SEARCH.cells["normal"]
        np.testing.assert_allclose(shown_probabilities(player), own.probabilities[epoch, place], atol=0.00051)
        entropy, *credits = player.locator("#details-rows .number").all_inner_texts()[-3:]
        assert float(entropy) == pytest.approx(own.entropy[epoch, place], rel=0.005)
        for shown, part in zip(credits, (own.full_credit, own.resource_credit), strict=True):
            assert float(shown.replace("\N{MINUS SIGN}", "-")) == pytest.approx(part[epoch, place], rel=0.005)
        player.keyboard.press("ArrowRight")
    assert player.locator("#details-rows .spark path:last-of-type").first.get_attribute("d").count("L") == EPOCHS - 1


@pytest.mark.slow
def test_player_details_on_focus_with_words(player):
    player.locator("#faster").focus()
    player.keyboard.press("Tab")
    focused = player.evaluate("document.activeElement.dataset.target")
    assert focused == "normal-0-2"
    player.keyboard.press("Tab")
    assert player.locator("#details-title").inner_text() == "Normal cell, c(k\N{MINUS SIGN}1) → node 0"
    label = player.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("Normal cell, c(k\N{MINUS SIGN}1) → node 0: ")
    assert label.endswith(player.locator("#details-state").inner_text())
    assert player.locator(".focused").count() == 2
    player.keyboard.press("Enter")
    assert player.get_by_text("pinned", exact=True).is_visible()
    player.keyboard.press("Tab")
    assert player.get_by_text("pinned", exact=True).is_hidden()


@pytest.mark.slow
def test_player_pinned_edge_stays_under_the_mouse(player):
    title = player.locator("#details-title")
    player.locator("[data-target='reduce-0-3'] rect").click()
    player.locator("[data-target='normal-0-3'] rect").hover()
    assert title.inner_text() == "Reduction cell, c(k\N{MINUS SIGN}2) → node 1"
    assert player.get_by_text("pinned", exact=True).is_visible()
    player.keyboard.press("Escape")
    assert player.get_by_text("pinned", exact=True).is_hidden()
    player.locator("[data-target='normal-0-4'] rect").hover()
    assert title.inner_text() == "Normal cell, c(k\N{MINUS SIGN}2) → node 2"


# For everybody


@pytest.mark.slow
def test_player_says_the_epoch_once_it_stands_still(player):
    words = player.locator("#words")
    assert words.inner_text().startswith(f"epoch 6 of {EPOCHS}. Normal cell: ")
    player.keyboard.press("Home")
    assert words.inner_text().startswith("epoch 1 of")
    player.keyboard.press(" ")
    wait_for(player, LATER)
    assert words.inner_text().startswith("epoch 1 of")
    player.keyboard.press(" ")
    assert words.inner_text().startswith(f"epoch {epoch_of(player)} of")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "rest"), [(1400, ""), (420, "&compact"), (420, "")])
@pytest.mark.slow
def test_player_axe_finds_nothing_serious_and_nothing_overflows(open_page, address, theme, width, rest):
    page, watched = open_page(width=width)
    page.goto(f"{address}#theme={theme}{rest}")
    assert serious_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#curves").is_visible() == (rest == "")
    assert watched.complaints == []


def background(page):
    return page.evaluate("getComputedStyle(document.querySelector('.cell')).backgroundColor")


@pytest.mark.slow
def test_player_theme_follows_the_reader_unless_the_address_says_otherwise(open_page, address):
    light, dark = "rgb(255, 255, 255)", "rgb(23, 30, 38)"
    for preference, fragment, expected in [
        ("light", "", light), ("dark", "", dark), ("dark", "#theme=light", light), ("light", "#theme=dark", dark),
    ]:  # fmt: skip
        page, _ = open_page(color_scheme=preference)
        page.goto(address + fragment)
        assert background(page) == expected
    page.keyboard.press("Home")
    page.evaluate("location.hash = 'theme=light'")
    sync_api.expect(page.locator(".cell").first).to_have_css("background-color", light)
    assert epoch_of(page) == 1  # another theme is no reason to leave the epoch
    page.evaluate("location.hash = 'epoch=7'")
    wait_for(page, 7)


@pytest.mark.parametrize(("fragment", "epoch"), [("", 24), ("#epoch=last", 24), ("#epoch=1", 1), ("#epoch=99", 24)])
@pytest.mark.slow
def test_player_address_chooses_the_epoch(open_page, address, fragment, epoch):
    page, _ = open_page()
    page.goto(address + fragment)
    assert epoch_of(page) == epoch
    assert page.get_by_role("button", name="Play").is_visible()


@pytest.mark.slow
def test_player_names_are_text_only(open_page, page_file):
    search = made_up_search(2, primitives=("none", "skip_connect", "sep_conv_3x3"))
    genotypes = [text.replace("sep_conv_3x3", HOSTILE) for text in search.genotypes]
    page, watched = open_page()
    history = replace(search, primitives=("none", "skip_connect", HOSTILE), genotypes=genotypes)
    page.goto(page_file(history, title=HOSTILE, subtitle=HOSTILE))
    assert page.locator("#title").inner_text() == HOSTILE
    assert page.locator("#subtitle").inner_text() == HOSTILE
    assert HOSTILE in page.locator("#legend").inner_text()
    assert page.locator("#details-rows th", has_text="onerror").count() == 1
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert watched.complaints == []


@pytest.mark.slow
def test_player_works_in_a_sandboxed_frame(open_page):
    page, watched = open_page()
    content = html.escape(render_player(SEARCH, title="t"), quote=True)
    page.set_content(f'<iframe title="player" sandbox="allow-scripts" width="1200" height="800" srcdoc="{content}">')
    frame = page.frame_locator("iframe")
    assert frame.locator("#epoch-number").inner_text() == "24"
    frame.locator("#title").click()
    page.keyboard.press("ArrowLeft")
    assert frame.locator("#epoch-number").inner_text() == "23"
    assert watched.complaints == []
    assert [address for address in watched.requests if not re.match("about:|data:", address)] == []


@pytest.mark.slow
def test_player_draws_an_epoch_of_a_long_search_as_fast_as_of_a_short_one(open_page, page_file):
    def per_epoch(epochs):
        page, _ = open_page()
        page.goto(page_file(made_up_search(epochs)))
        return min(
            page.evaluate(
                """(epochs) => {
                const start = performance.now();
                for (let time = 0; time < epochs; time++) {
                    show(time);
                    document.body.getBoundingClientRect(); // styles and layout, too
                }
                return (performance.now() - start) / epochs;
            }""",
                epochs,
            )
            for _ in range(5)
        )  # another process may have been in the way

    assert per_epoch(150) < 3 * per_epoch(EPOCHS)
