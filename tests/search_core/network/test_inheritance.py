"""Weights from the parent: copied where they fit, or so that the child begins as the parent's function (morphism)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.network.child import Child
from search_core.network.inheritance import inherit_weights, morph
from search_core.network.widening import widen
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.genotype import KNOWN_PRIMITIVES
from search_core.space.morphisms import keeps_function, morphed_codes
from search_core.space.plan import NetworkOptions
from search_core.training.evaluation import recalibrate
from tests.search_core.tiny import TINY_NETWORK, TINY_SIZE, images_of, seeded

SPACE = genotype_space(TINY_NETWORK)
CODE = (3, 1, 2, 3, 3, 3, 2, 1, 3, 2)
#: One node; three cells, of which the second and the third reduce: an edge of stride 1 and one of stride 2.
NARROW_SPACE = genotype_space(NetworkOptions(nodes=1, primitives=KNOWN_PRIMITIVES))
#: Two nodes with all primitives.
WIDE_SPACE = genotype_space(NetworkOptions(nodes=2, primitives=KNOWN_PRIMITIVES))
SKIP, SEP_3, SEP_5, SEP_7, DIL_3 = map(
    KNOWN_PRIMITIVES.index, ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3")
)
MODES = ["evaluation", "training", "recomputed"]


def child_of(code: Code, seed: int, init_channels: int = 4, space: GenotypeSpace = SPACE, **network: Any) -> Child:
    size = replace(TINY_SIZE, network=replace(TINY_NETWORK, init_channels=init_channels, **network))
    return Child(space.decode(code), size, seed=seed)


def trained(child: Child) -> Child:
    """As after a training: no scale, shift or statistic is what it began with."""
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
        for seed in range(3):
            child(torch.randn(8, *child.plan.size.input_shape, generator=seeded(seed)))
    return child


def logits(child: Child, mode: str) -> Tensor:
    """Of the same images with running statistics, those of the batch, or statistics recomputed on training images."""
    child = copy.deepcopy(child).train(mode == "training")
    if mode == "recomputed":
        recalibrate(child, images_of().train, batch_size=16, num_batches=2, generator=seeded())
    with torch.no_grad():
        return child(torch.randn(6, *child.plan.size.input_shape, generator=seeded(9)))


def assert_same_function(child: Child, parent: Child, mode: str) -> None:
    """To 1e-5, as rounding is all that differs; and the logits are of the order of 1, so that this says something."""
    ours, theirs = logits(child, mode), logits(parent, mode)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# Where primitive and shape agree


def test_child_inherits_where_primitive_and_shape_agree() -> None:
    parent, child = child_of(CODE, 1), child_of((3, 3, *CODE[2:]), 2)
    fresh = {name: value.clone() for name, value in child.state_dict().items()}
    inherit_weights(child, parent.genotype, parent.state_dict())
    own, theirs = child.state_dict(), parent.state_dict()
    for index, cell in enumerate(child.cells):
        for number, edge in enumerate(cell.kept):  # type: ignore[arg-type]
            prefix = f"cells.{index}.operations.{number}."
            names = [name for name in own if name.startswith(prefix)]
            parents = list(parent.genotype.edges(cell.plan.cell_type))  # type: ignore[union-attr]
            for name in names:
                if edge in parents:
                    source = name.replace(prefix, f"cells.{index}.operations.{parents.index(edge)}.")
                    assert torch.equal(own[name], theirs[source]), name
                else:
                    assert torch.equal(own[name], fresh[name]), name
    assert torch.equal(own["classifier.linear.weight"], theirs["classifier.linear.weight"])
    assert torch.equal(own["stem.conv.weight"], theirs["stem.conv.weight"])


def test_child_of_the_same_code_is_the_parent_and_of_other_size_stays_fresh() -> None:
    parent, twin, wide = child_of(CODE, 1), child_of(CODE, 2), child_of(CODE, 2, init_channels=8)
    inherit_weights(twin, parent.genotype, parent.state_dict())
    images = torch.randn(4, 1, 8, 8, generator=seeded())
    assert torch.equal(twin.eval()(images), parent.eval()(images))
    fresh = {name: value.clone() for name, value in wide.state_dict().items()}
    inherit_weights(wide, parent.genotype, parent.state_dict())
    assert torch.equal(wide.state_dict()["stem.conv.weight"], fresh["stem.conv.weight"])


# Morphisms


def beside_sep_convs(edge: int, primitive: str) -> Code:
    """A code of the narrow space with a primitive on one edge; the node so always has another input."""
    return tuple(KNOWN_PRIMITIVES.index(primitive) if position == edge else SEP_3 for position in range(4))


@pytest.mark.slow
@pytest.mark.parametrize("edge", [1, 3], ids=["stride 1", "stride 2"])
def test_morphism_keeps_the_function_after_exactly_the_changes_that_can(edge: int) -> None:
    """Every pair of primitives on an edge of either stride. The others change it, so the rule leaves nothing out."""
    kept = []
    for before in KNOWN_PRIMITIVES:
        parent = trained(child_of(beside_sep_convs(edge, before), 1, space=NARROW_SPACE))
        theirs = logits(parent, "evaluation")
        for after in KNOWN_PRIMITIVES:
            if after == before:
                continue
            child = child_of(beside_sep_convs(edge, after), 2, space=NARROW_SPACE)
            is_exact = morph(child, parent.genotype, parent.state_dict(), 4, seeded())
            assert is_exact == keeps_function(before, after, stride=2 if edge == 3 else 1)
            difference = (logits(child, "evaluation") - theirs).abs().max()
            assert difference < 1e-5 if is_exact else difference > 1e-3, (before, after)
            kept += [(before, after)] * is_exact
    grown = {("sep_conv_3x3", "sep_conv_5x5"), ("sep_conv_3x3", "sep_conv_7x7"), ("sep_conv_5x5", "sep_conv_7x7")}
    grown |= {("dil_conv_3x3", "dil_conv_5x5")}
    added = {("none", name) for name in KNOWN_PRIMITIVES[1:] if edge == 3 or name != "skip_connect"}
    assert set(kept) == grown | added


@pytest.mark.parametrize("mode", MODES)
def test_all_moves_together_keep_the_function_in_every_mode(mode: str) -> None:
    """Wider, deeper (a convolution that leaves an intermediate node), a halving skip, a pool and larger kernels."""
    parent = trained(child_of((SEP_3, DIL_3, 0, SKIP, 0, SEP_5, 0, 0, 1, DIL_3), 1, space=WIDE_SPACE))
    grown = (SEP_7, DIL_3 + 1, 1, SKIP, SEP_3, SEP_7, SKIP, DIL_3, 1, DIL_3 + 1)
    child = child_of(grown, 2, init_channels=6, space=WIDE_SPACE)
    assert morph(child, parent.genotype, parent.state_dict(), 4, seeded())
    assert_same_function(child, parent, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("stem", "wider", "code"),
    [("cifar", 6, CODE), ("cifar", 16, (2, 3, 0, 2, 1, 3, 2, 1, 0, 3)), ("imagenet", 10, CODE)],
)
def test_wider_child_is_the_same_function(stem: str, wider: int, code: Code, mode: str) -> None:
    parent = trained(child_of(code, 1, stem=stem))
    size = replace(parent.plan.size, network=replace(parent.plan.size.network, init_channels=wider))
    child = widen(parent, size, seeded())
    assert child.cells[0].plan.channels == wider  # type: ignore[union-attr]
    assert_same_function(child, parent, mode)


def test_morphed_operations_and_copied_channels_learn() -> None:
    """Zero scales have gradients, and copies of a channel different ones, so that they do not stay copies."""
    parent = trained(child_of((2, 0, 2, 2, 2, 3, 3, 2, 2, 2), 1))
    child = child_of((2, 3, 2, 2, 2, 3, 3, 2, 2, 2), 2, init_channels=8)
    assert morph(child, parent.genotype, parent.state_dict(), 4, seeded())
    child(torch.randn(8, 1, 8, 8, generator=seeded())).square().sum().backward()
    cell: Any = child.cells[0]
    scale = cell.operations[1].norm.weight
    assert scale.eq(0).all()
    assert scale.grad.abs().min() > 0
    rows = cell.inputs.previous[1].weight
    copies = [(i, j) for i in range(8) for j in range(i) if torch.equal(rows[i], rows[j])]
    assert copies
    assert all(not torch.allclose(rows.grad[i], rows.grad[j], rtol=1e-3) for i, j in copies)


def test_morph_of_other_changes_inherits_the_rest() -> None:
    parent, plain, morphed = child_of(CODE, 1), child_of((1, *CODE[1:]), 2), child_of((1, *CODE[1:]), 2)
    inherit_weights(plain, parent.genotype, parent.state_dict())
    assert not morph(morphed, parent.genotype, parent.state_dict(), 4, seeded())
    assert all(torch.equal(value, morphed.state_dict()[name]) for name, value in plain.state_dict().items())


def test_morphed_codes_are_the_neighbours_that_keep_the_function() -> None:
    code = (3, 1, 0, 3, 3, 3, 0, 1, 3, 0)  # of `TINY_NETWORK`: none, max pool, skip, dilated 3x3
    expected = {(*code[:2], choice, *code[3:]) for choice in (1, 3)}  # stride 1: no skip
    expected |= {(*code[:6], choice, *code[7:]) for choice in (1, 2, 3)}  # from an input of the reduction cell
    expected |= {(*code[:9], choice) for choice in (1, 3)}  # from its intermediate node
    morphed = list(morphed_codes(code, SPACE))
    assert set(morphed) == expected
    assert len(morphed) == len(expected)
