"""Narrow cells and cells of few bits against networks and formulas that are written out."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from search_core.cost.constraints import ChildLimits, Constraints
from search_core.cost.counts import child_cost
from search_core.network.child import Child, discretised_forward, inherit_child
from search_core.network.quantisation import CEILING, quantise_activations, quantise_unit, quantise_weights
from search_core.network.supernet import Supernet
from search_core.space.choices import Bits, CellChoices, even_share
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkOptions, NetworkSize
from tests.search_core.tiny import count_madds, differences, genotype_of, num_params, random_choices, seeded

#: Every kind of operation: two convolutions in a row, a dilated one, a factorized one, pools, both skips.
OPTIONS = NetworkOptions(
    nodes=2,
    cells=4,
    init_channels=8,
    primitives=("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3", "conv_7x1_1x7"),
)
#: Full channels are 8, 16, 32, 32: cells narrower, wider and as wide as those before them.
CHANNELS = (4, 16, 10, 20)
WIDEST = (8, 16, 32, 32)
FULL = (32, 32, 32, 32)
SHAPE = (1, 9, 9)  # odd, so that halves differ in size
SIZE = NetworkSize(OPTIONS, SHAPE, 10)


def chosen(channels: tuple[int, ...], bits: tuple[int | tuple[int, int], ...]) -> CellChoices:
    shares = (own / most for own, most in zip(channels, WIDEST, strict=True))
    return CellChoices(tuple(shares), tuple(map(Bits.of, bits)))


def supernet_with_statistics() -> Supernet:
    """A supernet whose weights and running statistics are all different numbers."""
    supernet, generator = Supernet(SIZE, seed=1), seeded(2)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return supernet


def genotypes() -> list[Genotype]:
    generator = seeded(3)
    return [genotype_of(OPTIONS, random_choices(OPTIONS, generator)) for _ in range(4)]


def images(number: int = 5) -> Tensor:
    return torch.randn(number, *SHAPE, generator=seeded(4))


def hand_sliced(whole: Child, narrow: Child) -> dict[str, Tensor]:
    """The narrow network's state from the wide one's, each index spelled out from the plans of both."""
    state, cut = whole.state_dict(), {}
    wide_channels = [cell.channels for cell in whole.plan.cells]

    def outputs_of(cell: int) -> list[int] | None:
        """Which channels of a cell's output the narrow network has; None for all of the stem's."""
        if cell < 0:
            return None
        return [node * wide_channels[cell] + channel for node in range(2) for channel in range(CHANNELS[cell])]

    for name, tensor in state.items():
        parts = name.split(".")
        rows = columns = None
        if parts[0] == "cells":
            index = int(parts[1])
            own, half, wide_half = CHANNELS[index], CHANNELS[index] // 2, wide_channels[index] // 2
            rows = list(range(own))
            if "conv_even" in name or "conv_odd" in name:
                rows = list(range(half))
            is_reduction = any(
                "conv_even" in other for other in state if other.startswith(name.rpartition(".norm.")[0])
            )
            if ".norm." in name and is_reduction:
                rows = [*range(half), *range(wide_half, wide_half + half)]
            if parts[2] == "inputs":
                columns = outputs_of(index - 1 if parts[3] == "previous" else index - 2)
            elif "depthwise" not in name:
                columns = list(range(own))
        elif parts[0] == "classifier":
            columns = outputs_of(3)
        if tensor.dim() >= 1 and rows is not None:
            tensor = tensor[rows]
        if tensor.dim() >= 2 and columns is not None:
            tensor = tensor[:, columns]
        cut[name] = tensor
    return cut


def independent(genotype: Genotype) -> Child:
    """A narrow network of its own weights."""
    return Child(genotype, SIZE, affine=False, pool_norm=True, cell_channels=CHANNELS, seed=7)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("training", [False, True])
def test_narrow_child_equals_a_narrow_network_with_weights_sliced_by_hand(position: int, training: bool) -> None:
    supernet, genotype = supernet_with_statistics().train(training), genotypes()[position]
    expected = independent(genotype).train(training)
    expected.load_state_dict(hand_sliced(inherit_child(supernet, genotype), expected))
    narrow = inherit_child(supernet, genotype, chosen(CHANNELS, FULL))
    assert [cell.channels for cell in narrow.plan.cells] == list(CHANNELS)
    assert differences(narrow.state_dict(), expected.state_dict()) == []
    logits = expected(images())
    assert torch.equal(narrow(images()), logits)
    torch.testing.assert_close(
        discretised_forward(supernet, genotype, images(), chosen(CHANNELS, FULL)), logits, rtol=0, atol=1e-5
    )


def test_all_channels_in_full_precision_are_no_choice_at_all() -> None:
    genotype, choices = genotypes()[0], chosen(WIDEST, FULL)
    first, second = supernet_with_statistics(), supernet_with_statistics()
    assert torch.equal(
        discretised_forward(first, genotype, images()), discretised_forward(second, genotype, images(), choices)
    )
    assert differences(first.state_dict(), second.state_dict()) == []


@pytest.mark.parametrize("position", range(4))
def test_gradients_reach_the_slices_and_nothing_else(position: int) -> None:
    supernet, genotype = supernet_with_statistics(), genotypes()[position]
    discretised_forward(supernet, genotype, images(), chosen(CHANNELS, FULL)).square().sum().backward()
    narrow = independent(genotype)
    touched = sum(int((p.grad != 0).sum()) for p in supernet.parameters() if p.grad is not None)
    # The narrow network's own parameters; a few weights see padding only, or ReLUs that are never open.
    assert 0.8 * num_params(narrow) < touched <= num_params(narrow)
    stem = supernet.stem.get_parameter("conv.weight").grad
    assert stem is not None
    assert (stem != 0).all()


@pytest.mark.parametrize("position", range(4))
def test_training_moves_the_statistics_of_the_slices_and_no_others(position: int) -> None:
    supernet, genotype = supernet_with_statistics(), genotypes()[position]
    expected = independent(genotype)
    expected.load_state_dict(hand_sliced(inherit_child(supernet, genotype), expected))
    expected(images())
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    discretised_forward(supernet, genotype, images(), chosen(CHANNELS, FULL))
    after = hand_sliced(inherit_child(supernet, genotype), expected)
    pools = {
        f"cells.{index}.operations.{number}.norm"
        for index, cell in enumerate(expected.cells)
        for number, edge in enumerate(cell.kept)
        if edge.primitive in ("max_pool_3x3", "avg_pool_3x3")
    }
    followed = 0
    for name, value in expected.state_dict().items():
        if name.endswith(("running_mean", "running_var")) and name.rpartition(".")[0] not in pools:
            torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)
            followed += value.numel()
    moved = sum(
        int((value != before[name]).sum())
        for name, value in supernet.state_dict().items()
        if name.endswith(("running_mean", "running_var"))
    )
    shared = sum(supernet_pool_entries(expected))
    assert moved == followed + shared


def supernet_pool_entries(narrow: Child) -> list[int]:
    """Means and variances of the pools that a child uses: one pair per channel, source and kind."""
    entries = []
    for cell in narrow.cells:
        pools = {(edge.primitive, edge.source) for edge in cell.kept if edge.primitive.endswith("pool_3x3")}
        entries.append(2 * cell.plan.channels * len(pools))
    return entries


@pytest.mark.parametrize("position", range(4))
def test_cost_counts_the_narrow_child_itself(position: int) -> None:
    genotype = genotypes()[position]
    cost = child_cost(genotype, SIZE, pool_norm=True, cell_channels=CHANNELS)
    child = Child(genotype, SIZE, pool_norm=True, cell_channels=CHANNELS)
    assert cost.params == num_params(child)
    assert cost.madds == count_madds(child.eval(), images(1))


def test_bit_operations_weigh_each_cell_by_its_bits() -> None:
    genotype = genotypes()[0]
    limits = ChildLimits(Constraints(), SIZE)
    child = Child(genotype, SIZE, pool_norm=True, cell_channels=CHANNELS).eval()
    x = images(1)
    madds, outputs = [], list(child.stem(x))
    for cell in child.cells:
        madds.append(count_madds(cell, *outputs[-2:], 0.0, None))
        outputs.append(cell(*outputs[-2:], 0.0, None))
    ends = count_madds(child, x) - sum(madds)
    bits = ((2, 4), (32, 32), (8, 3), (1, 2))
    expected = ends * 1024 + madds[0] * 8 + madds[1] * 1024 + madds[2] * 24 + madds[3] * 2
    assert limits.bit_operations(genotype, CHANNELS, bits) == expected
    assert limits.bit_operations(genotype, CHANNELS) == 1024 * count_madds(child, x)


@pytest.mark.parametrize(
    ("channels", "share", "expected"),
    [(16, 1.0, 16), (16, 0.5, 8), (16, 0.2, 4), (16, 0.3, 4), (16, 0.7, 12), (4, 0.01, 2), (2, 0.5, 2), (36, 0.25, 8)],
)
def test_share_of_channels_is_an_even_number(channels: int, share: float, expected: int) -> None:
    assert even_share(channels, share) == expected


def test_choices_of_a_deeper_stack_are_those_at_the_same_depth_and_survive_plain_data() -> None:
    choices = chosen(CHANNELS, ((1, 2), 4, 8, 32))
    assert choices.stretched(4) == choices
    assert choices.stretched(8).shares == tuple(share for share in choices.shares for _ in range(2))
    assert choices.stretched(2).bits == (Bits(1, 2), Bits(8, 8))
    plain = json.loads(json.dumps(choices.to_dict()))
    assert plain["bits"] == [[1, 2], [4, 4], [8, 8], [32, 32]]
    assert CellChoices.from_dict(plain) == choices
    assert CellChoices.from_dict({}) is CellChoices.from_dict(None) is None
    assert CellChoices.from_dict({"channels": [4], "bits": [8], "bit_operations": 1}) is None, "of an earlier version"


# Quantisation


def dorefa(weights: list[float], bits: int) -> list[float]:
    """Equations 5, 6 and 9 number by number; with one bit 7 and 8."""
    if bits == 1:
        mean = sum(map(abs, weights)) / len(weights)
        return [mean if w >= 0 else -mean for w in weights]
    most, levels = max(abs(math.tanh(w)) for w in weights), 2**bits - 1
    return [2 * round((math.tanh(w) / (2 * most) + 0.5) * levels) / levels - 1 for w in weights]


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_weights_equal_the_formula_number_by_number(bits: int, float64: None) -> None:
    weights = torch.randn(50, generator=seeded(bits))
    quantised = quantise_weights(weights, bits)
    torch.testing.assert_close(quantised, torch.tensor(dorefa(weights.tolist(), bits)), rtol=0, atol=1e-12)
    assert len(quantised.unique()) <= 2**bits


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_activations_equal_the_formula_number_by_number(bits: int, float64: None) -> None:
    x, levels = 4 * torch.randn(200, generator=seeded(bits)), 2**bits - 1
    clipped = [min(max(value, 0.0), 6.0) for value in x.tolist()]
    expected = [round(value / 6.0 * levels) / levels * 6.0 for value in clipped]
    torch.testing.assert_close(quantise_activations(x, bits), torch.tensor(expected), rtol=0, atol=1e-12)
    clipped = [min(max(value, -6.0), 6.0) for value in x.tolist()]
    expected = [6.0 * (2 * round((value / 6.0 + 1) / 2 * levels) / levels - 1) for value in clipped]
    torch.testing.assert_close(quantise_activations(x, bits, signed=True), torch.tensor(expected), rtol=0, atol=1e-12)


def test_written_out_values_of_two_bits() -> None:
    assert quantise_unit(torch.tensor([0.0, 0.16, 0.17, 0.5, 0.6, 1.0]), 2).tolist() == pytest.approx(
        [0, 0, 1 / 3, 2 / 3, 2 / 3, 1]
    )
    assert quantise_activations(torch.tensor([-3.0, 0.9, 1.1, 5.1, 60.0]), 2).tolist() == [0, 0, 2, 6, 6]
    assert quantise_weights(torch.tensor([-0.5, 0.5, 0.1]), 2).tolist() == pytest.approx([-1, 1, 1 / 3])


def test_full_precision_is_the_tensor_itself() -> None:
    x = torch.randn(5, generator=seeded())
    assert quantise_weights(x, 32) is x
    assert quantise_activations(x, 32) is x


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_gradient_of_activations_is_one_inside_the_clip_and_zero_outside(bits: int) -> None:
    for signed, inside in [(False, [0, 0, 1, 1, 0]), (True, [0, 1, 1, 1, 0])]:
        x = torch.tensor([-7.0, -1.0, 0.3, 5.9, 6.1], requires_grad=True)
        quantise_activations(x, bits, signed=signed).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == pytest.approx(inside)


def test_gradient_of_weights_is_that_without_the_rounding(float64: None) -> None:
    weights, upstream = torch.randn(3, 4, generator=seeded()), torch.randn(3, 4, generator=seeded(1))
    rounded, plain = weights.clone().requires_grad_(), weights.clone().requires_grad_()
    (quantise_weights(rounded, 3) * upstream).sum().backward()
    squashed = plain.tanh()
    (squashed / squashed.abs().max() * upstream).sum().backward()
    torch.testing.assert_close(rounded.grad, plain.grad, rtol=1e-12, atol=0)
    one_bit = weights.clone().requires_grad_()
    (quantise_weights(one_bit, 1) * upstream).sum().backward()
    assert torch.equal(one_bit.grad, upstream)


def test_layer_of_zeros_stays_finite() -> None:
    weights = torch.zeros(4, requires_grad=True)
    quantise_weights(weights, 2).sum().backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


@pytest.mark.parametrize("position", range(4))
def test_cells_of_few_bits_compute_with_few_values(position: int) -> None:
    supernet, genotype = supernet_with_statistics().eval(), genotypes()[position]
    child = inherit_child(supernet, genotype, chosen(WIDEST, ((2, 3), 32, (1, 2), (4, 1))))
    seen: dict[str, tuple[int, int]] = {}

    def count(name: str):  # type: ignore[no-untyped-def]
        def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
            seen[name] = len(module.weight.unique()), len(inputs[0].unique())

        return look

    for name, module in child.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(count(name))  # runs after the one that quantises
    child(images())
    for name, (weights, features) in seen.items():
        most = {"cells.0": (4, 8), "cells.2": (2, 4), "cells.3": (16, 2)}.get(name[:7], (math.inf, math.inf))
        assert weights <= most[0], name
        assert features <= most[1], name
    assert max(weights for name, (weights, _) in seen.items() if name.startswith("cells.3")) > 2
    assert len(child.get_parameter("classifier.linear.weight").unique()) > 16
    assert {name[:7] for name in seen} >= {"cells.0", "cells.1", "cells.2", "cells.3"}


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("bits", [(2, 32, 1, 4), (8, 8, 8, 8), ((1, 32), (32, 1), (2, 4), (4, 2))])
def test_training_forward_equals_the_quantised_child(position: int, bits: tuple[int | tuple[int, int], ...]) -> None:
    supernet, genotype = supernet_with_statistics().eval(), genotypes()[position]
    choices = chosen(CHANNELS, bits)
    child = inherit_child(supernet, genotype, choices)
    assert torch.equal(discretised_forward(supernet, genotype, images(), choices), child(images()))
    assert not torch.equal(child(images()), inherit_child(supernet, genotype, chosen(CHANNELS, FULL))(images()))


def test_sixteen_bits_are_close_to_weights_squashed_and_activations_clipped() -> None:
    assert CEILING == 6
    x = torch.rand(1000, generator=seeded()) * 6
    torch.testing.assert_close(quantise_activations(x, 16), x, rtol=0, atol=6 / 2**16)


def test_gradients_reach_all_weights_of_a_cell_of_few_bits() -> None:
    supernet, genotype = supernet_with_statistics(), genotypes()[1]
    discretised_forward(supernet, genotype, images(16), chosen(CHANNELS, (4, 4, 4, 4))).square().sum().backward()
    for name, weight in supernet.named_parameters():
        if weight.grad is not None and "inputs" in name:
            assert weight.grad.isfinite().all(), name
            assert weight.grad.any(), name
