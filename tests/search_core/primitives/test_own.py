"""Operations of plug-ins: found by name, counted, in supernet and child, drawn where their code is not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dashboards.pictures.cell_style import STYLES, styles_of
from dashboards.pictures.cells import render_cells_svg
from search_core import plugins
from search_core.cost.counts import child_cost, supernet_cost
from search_core.cost.latency_parts import child_parts, network_parts
from search_core.errors import GenotypeError, OptionsError, PluginError
from search_core.export import export_child
from search_core.network.child import Child, discretised_forward, inherit_child
from search_core.network.supernet import Supernet
from search_core.plugins import trust
from search_core.primitives.builtin import KNOWN_PRIMITIVES
from search_core.primitives.measured import measured_cost
from search_core.primitives.own import OwnPrimitive
from search_core.primitives.registry import find
from search_core.space.cell_files import load_genotype
from search_core.space.genotype import CELL_TYPES, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.weight_sharing.row_sgd import step_used
from search_core.testing import check_primitive
from search_core.training.optimisers import SGD
from tests.search_core.swap import Swap
from tests.search_core.tiny import count_madds, num_params, seeded

GHOST_FILE = Path(__file__).parents[3] / "studies" / "ghost.py"
GHOST = "ghost.py:GhostConv"
NETWORK = NetworkOptions(
    nodes=2, cells=2, init_channels=4, primitives=("none", f"{GHOST_FILE}:GhostConv", "skip_connect")
)
SIZE = NetworkSize(NETWORK, (1, 8, 8), 5)
CELL = Genotype(
    normal=(Edge(GHOST, 0, 2), Edge("skip_connect", 1, 3)),
    normal_concat=(2, 3),
    reduce=(Edge(GHOST, 1, 2), Edge(GHOST, 2, 3)),
    reduce_concat=(2, 3),
)


@pytest.fixture
def nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_TRUSTED", {})


@pytest.fixture
def ghost(nothing_trusted: None) -> None:
    trust(str(GHOST_FILE))


# Names and trust


def test_name_is_that_of_the_file_without_its_folders(ghost: None) -> None:
    assert NETWORK.operations == ("none", GHOST, "skip_connect")
    assert find(GHOST) is find(f"{GHOST_FILE}:GhostConv")
    assert find(GHOST).name == GHOST


@pytest.mark.usefixtures("nothing_trusted")
def test_cell_names_code_and_never_runs_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    for name, advice in (
        ("evil.py:Evil", r"pass `--plugin evil.py:Evil`, with the path of its class"),
        ("antigravity:Evil", r"pass `--plugin antigravity:Evil`, with the module of its class"),
        ("ghost_conv", r"install the one that has ghost_conv in the group snas.primitives"),
    ):
        file = tmp_path / "cell.json"
        file.write_text(CELL.to_json().replace(GHOST, name))
        with pytest.raises(GenotypeError, match=rf"cell.json:4:5: normal\[0\]: the primitive .*{advice}"):
            load_genotype(file)
    assert not ran.exists()
    assert "antigravity" not in sys.modules


def test_entry_point_of_a_package_is_a_name_and_pages_draw_it_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ghost_ops.py").write_text(GHOST_FILE.read_text())
    about = tmp_path / "ghost_ops-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost-ops\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[snas.primitives]\nghost_conv = ghost_ops:GhostConv\n")
    monkeypatch.syspath_prepend(tmp_path)
    cell = Genotype.from_json(CELL.to_json().replace(GHOST, "ghost_conv"))
    options = NetworkOptions(nodes=2, cells=2, init_channels=4, primitives=("none", "ghost_conv"))
    assert "ghost_conv" in render_cells_svg(cell)
    assert "ghost_ops" not in sys.modules
    Child(cell, NetworkSize(options, (1, 8, 8), 5))
    assert sys.modules.pop("ghost_ops").GhostConv is find("ghost_conv").module_class  # type: ignore[attr-defined]
    with pytest.raises(OptionsError, match=r"`primitives` must be among .*, or of plug-ins, got gost_conv"):
        NetworkOptions(primitives=("none", "gost_conv"))


def test_looks_of_plug_ins_are_free_differ_and_do_not_depend_on_the_picture() -> None:
    names = ["none", "sep_conv_3x3", *(f"ops.py:Op{number}" for number in range(12))]
    styles = styles_of(names)
    assert next(iter(styles)) == "sep_conv_3x3"
    own = [(style.colour, style.dashes) for name, style in styles.items() if name not in STYLES]
    assert len(set(own)) == 12
    assert not {colour for colour, _ in own} & {style.colour for style in STYLES.values()}
    assert styles_of([GHOST, "none", "tanh"])[GHOST] == styles_of(["conv_7x1_1x7", GHOST])[GHOST]
    assert styles_of([GHOST])[GHOST].label == "GhostConv"


# Counts


@pytest.mark.parametrize("name", KNOWN_PRIMITIVES[1:])
def test_measured_counts_are_those_of_the_built_in_operations(name: str) -> None:
    for stride, affine, size in itertools.product((1, 2), (False, True), ((8, 8), (7, 5))):
        expected = find(name).cost(6, size, stride, affine)
        found = measured_cost(find(name), 6, size, stride, affine)
        assert found[:2] == expected[:2]
        # These read every second pixel only, by slices that are no convolutions, where the counts have whole inputs.
        if (name[:4], stride) not in {("skip", 2), ("dil_", 2)}:
            assert found == expected


def test_networks_count_what_their_modules_have_and_do(ghost: None) -> None:
    child, cost = Child(CELL, SIZE).eval(), child_cost(CELL, SIZE)
    image = torch.randn(1, 1, 8, 8, generator=seeded())
    assert (cost.params, cost.madds) == (num_params(child), count_madds(child, image))
    assert supernet_cost(SIZE).params == num_params(Supernet(SIZE, seed=0))
    keys = {part.key for part in network_parts(SIZE)}
    assert {part.key for part in child_parts(CELL, SIZE)} <= keys
    assert sum(key.startswith(f"{GHOST} ") for key in keys) == 4  # both strides in both cells, which halve


class Counted(nn.Identity):
    """Says its own counts, which may be malformed."""

    counts: tuple[Any, ...] = (1, 2, 3)

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()

    @staticmethod
    def cost(channels: int, size: tuple[int, int], stride: int, affine: bool) -> tuple[Any, ...]:
        return Counted.counts


def test_counts_that_a_class_says_are_taken_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OwnPrimitive("counted", Counted).cost(4, (8, 8), 1, False) == (1, 2, 3)
    monkeypatch.setattr(Counted, "counts", (1, -2, 3))
    with pytest.raises(PluginError, match=r"cost of the primitive counted must be three whole numbers .* got \(1, -2"):
        OwnPrimitive("counted", Counted).cost(4, (8, 8), 1, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (seeded, "must be a class of torch.nn.Module, got <function seeded"),
        (nn.Identity, None),
        (nn.ReLU, "must be called with channels, stride, affine: too many positional arguments"),
    ],
)
def test_what_is_no_operation_is_refused(given: Any, message: str | None) -> None:
    if message is None:
        with pytest.raises(AssertionError, match="must give"):
            check_primitive(given)
    else:
        with pytest.raises(PluginError, match=message):
            OwnPrimitive("name", given)


# Networks


def test_child_inherits_and_rests_and_leaves(ghost: None, tmp_path: Path) -> None:
    supernet = Supernet(SIZE, seed=1)
    images = torch.randn(6, 1, 8, 8, generator=seeded())
    edges = [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    names = {(name, *edge[1:]): edge.primitive for name in CELL_TYPES for edge in CELL.edges(name)}
    z = {
        name: torch.eye(3)[[NETWORK.operations.index(names.get((name, *edge), "none")) for edge in edges]]
        for name in CELL_TYPES
    }
    supernet(images, z)  # statistics move
    supernet.eval()
    with torch.no_grad():
        expected = supernet(images, z)
        child = inherit_child(supernet, CELL)
        torch.testing.assert_close(child(images), expected)
        torch.testing.assert_close(discretised_forward(supernet, CELL, images), expected)
    used = {name: z[name].bool() for name in CELL_TYPES}
    before = {name: value.clone() for name, value in supernet.named_parameters()}
    discretised_forward(supernet.train(), CELL, images).square().sum().backward()
    step_used(SGD(supernet.parameters(), 0.1, momentum=0.9, weight_decay=1e-2), supernet, used)
    moved = [name for name, value in supernet.named_parameters() if not torch.equal(value, before[name])]
    assert len([name for name in moved if ".own." in name]) == 2 * 2 * 2  # cells, edges, weights

    found = export_child(child, tmp_path, images, title="ghost", formats=("python",))
    assert max(file.difference for file in found) < 1e-6
    assert "class GhostConv(nn.Module)" in (tmp_path / "child.py").read_text()


def test_contract_holds_for_the_examples_and_finds_what_breaks_it(ghost: None) -> None:
    check_primitive(find(GHOST).module_class)  # type: ignore[attr-defined]
    check_primitive(Swap)

    class Wrong(Swap):
        @staticmethod
        def together(modules: Sequence[Swap], x: Tensor) -> list[Tensor]:
            return [2 * module(x) for module in modules]

    with pytest.raises(AssertionError, match=r"Wrong\.together must give what its modules give"):
        check_primitive(Wrong)
