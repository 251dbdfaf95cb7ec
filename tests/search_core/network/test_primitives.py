from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from search_core.cost.counts import primitive_cost
from search_core.primitives.modules import DilatedDepthwise, FactorizedReduce
from search_core.primitives.registry import find
from search_core.space.genotype import KNOWN_PRIMITIVES
from tests.search_core.tiny import count_madds, num_params, seeded

SIZES = [(1, 1), (2, 2), (7, 9), (8, 8), (5, 4)]


def kinds(module: nn.Module) -> list[str]:
    """Names of the leaves in the order in which they run."""
    return [type(leaf).__name__ for leaf in module.modules() if not list(leaf.children())]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", KNOWN_PRIMITIVES)
def test_primitive_keeps_channels_and_halves_sizes_rounding_up(name: str, stride: int) -> None:
    operation = find(name).module(4, stride, False)
    for height, width in SIZES:
        output = operation(torch.randn(3, 4, height, width, generator=seeded()))
        assert output.shape == (3, 4, -(-height // stride), -(-width // stride))
        assert output.isfinite().all()


@pytest.mark.parametrize(("stride", "affine"), list(itertools.product([1, 2], [True, False])))
@pytest.mark.parametrize("name", KNOWN_PRIMITIVES)
def test_primitive_cost_counts_what_the_module_has_and_does(name: str, stride: int, affine: bool) -> None:
    operation = find(name).module(6, stride, affine)
    for size in SIZES:
        cost = primitive_cost(name, 6, size, stride, affine=affine)
        assert cost.params == num_params(operation)
        # Two images, so that batch norm has statistics at 1x1; counts are for one.
        assert cost.madds == count_madds(operation, torch.randn(2, 6, *size, generator=seeded()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_affine_only_if_asked(affine: bool, stride: int) -> None:
    for name in KNOWN_PRIMITIVES:
        norms = [m for m in find(name).module(4, stride, affine).modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(norm.affine is affine for norm in norms)
        assert bool(norms) == (name != "none" and (name, stride) != ("skip_connect", 1))


def test_unknown_primitive_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"the primitive must be one of none, max_pool_3x3, .*, got 'conv_9x9', did you"
    ):
        find("conv_9x9").module(4, 1, False)


@pytest.mark.parametrize("stride", [1, 2])
def test_none_is_zeros(stride: int) -> None:
    x = torch.full((2, 3, 5, 4), float("inf"))
    output = find("none").module(3, stride, False)(x)
    assert output.shape == (2, 3, -(-5 // stride), -(-4 // stride))
    assert not output.any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("max_pool_3x3", lambda x, stride: functional.max_pool2d(x, 3, stride, 1)),
        ("avg_pool_3x3", lambda x, stride: functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False)),
    ],
)
def test_pool_is_followed_by_batch_norm(name: str, pool: object, stride: int) -> None:
    x = torch.randn(4, 3, 7, 6, generator=seeded())
    operation = find(name).module(3, stride, False)
    assert kinds(operation)[1:] == ["BatchNorm2d"]
    expected = functional.batch_norm(pool(x, stride), None, None, training=True)  # type: ignore[operator]
    torch.testing.assert_close(operation(x), expected)


def test_average_pool_leaves_out_the_padding() -> None:
    pool = find("avg_pool_3x3").module(1, 1, False)[0]  # type: ignore[index]
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_skip_is_identity_at_stride_1_and_factorized_reduce_at_stride_2() -> None:
    x = torch.randn(2, 4, 6, 6, generator=seeded())
    assert find("skip_connect").module(4, 1, False)(x) is x
    assert isinstance(find("skip_connect").module(4, 2, False), FactorizedReduce)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_sep_conv_is_relu_depthwise_pointwise_norm_twice(kernel: int, stride: int) -> None:
    operation = find(f"sep_conv_{kernel}x{kernel}").module(4, stride, False)
    assert kinds(operation) == ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"] * 2
    convs = [module for module in operation.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.groups) for c in convs] == [
        (kernel, stride, 4),
        (1, 1, 1),
        (kernel, 1, 4),
        (1, 1, 1),
    ]


@pytest.mark.parametrize("kernel", [3, 5])
def test_dil_conv_is_relu_depthwise_pointwise_norm_once(kernel: int) -> None:
    operation = find(f"dil_conv_{kernel}x{kernel}").module(4, 2, False)
    assert kinds(operation) == ["ReLU", "DilatedDepthwise", "Conv2d", "BatchNorm2d"]


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_7x1_1x7_has_one_relu_before_and_one_norm_after(stride: int) -> None:
    operation = find("conv_7x1_1x7").module(3, stride, False).double()
    assert kinds(operation) == ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"]
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=seeded())
    across, down = (module.weight for module in operation.modules() if isinstance(module, nn.Conv2d))
    assert (across.shape, down.shape) == ((3, 3, 1, 7), (3, 3, 7, 1))
    # 1x7 then 7x1 without anything between is one 7x7 conv whose kernel is their product.
    kernel = torch.einsum("omh,miw->oihw", down[..., 0], across[:, :, 0])
    expected = functional.conv2d(x.relu(), kernel, stride=stride, padding=3)
    expected = functional.batch_norm(expected, None, None, training=True)
    torch.testing.assert_close(operation(x), expected, rtol=1e-10, atol=1e-10)  # float64 sums of 147 terms


# Dilation


@pytest.mark.parametrize("size", [*SIZES, (3, 3), (16, 15)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_dilated_depthwise_equals_a_conv_of_dilation_2(kernel: int, stride: int, size: tuple[int, int]) -> None:
    conv = DilatedDepthwise(4, kernel, stride).double()
    x = torch.randn(3, 4, *size, dtype=torch.float64, generator=seeded(), requires_grad=True)
    expected = functional.conv2d(x, conv.weight, stride=stride, padding=kernel - 1, dilation=2, groups=4)
    output = conv(x)
    # The same at most 25 products in another order: float64 rounding only.
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    toward = torch.randn(output.shape, dtype=torch.float64, generator=seeded(1))
    for ours, theirs in zip(
        torch.autograd.grad(output, (x, conv.weight), toward),
        torch.autograd.grad(expected, (x, conv.weight), toward),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kernel", [3, 5])
def test_dilated_depthwise_takes_channels_last_images(kernel: int) -> None:
    conv = DilatedDepthwise(4, kernel, 1)
    x = torch.randn(2, 4, 7, 8, generator=seeded())
    expected = functional.conv2d(x, conv.weight, padding=kernel - 1, dilation=2, groups=4)
    torch.testing.assert_close(conv(x.contiguous(memory_format=torch.channels_last)), expected)


# Factorized reduce


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5), (1, 1)])
def test_factorized_reduce_loses_no_pixel(size: tuple[int, int]) -> None:
    """Every pixel on the diagonals (even, even) and (odd, odd) reaches the output: the two convs see different ones."""
    reduce = FactorizedReduce(2, 4, affine=False).eval()
    x = torch.rand(1, 2, *size, generator=seeded(), requires_grad=True)
    reduce(x).square().sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum((0, 1)) > 0
    rows, columns = torch.arange(size[0])[:, None] % 2, torch.arange(size[1])[None] % 2
    assert torch.equal(touched, rows == columns)


@pytest.mark.parametrize("channels_out", [4, 5])
def test_factorized_reduce_equals_two_shifted_convs(channels_out: int) -> None:
    reduce = FactorizedReduce(3, channels_out, affine=False)
    x = torch.randn(2, 3, 6, 8, generator=seeded())
    halves = [
        functional.conv2d(x.relu(), reduce.conv_even.weight, stride=2),
        functional.conv2d(x.relu()[:, :, 1:, 1:], reduce.conv_odd.weight, stride=2),
    ]
    expected = functional.batch_norm(torch.cat(halves, 1), None, None, training=True)
    assert expected.shape == (2, channels_out, 3, 4)
    torch.testing.assert_close(reduce(x), expected)


def test_factorized_reduce_stands_zeros_in_for_missing_pixels_of_odd_sizes() -> None:
    reduce = FactorizedReduce(1, 2, affine=False).eval()
    with torch.no_grad():
        reduce.conv_even.weight.fill_(1)
        reduce.conv_odd.weight.fill_(1)
    x = torch.arange(1.0, 10.0).view(1, 1, 3, 3)  # rows 1 2 3 / 4 5 6 / 7 8 9
    scale = (1 + reduce.norm.eps) ** -0.5  # fresh running statistics: mean 0, variance 1
    expected = torch.tensor([[[1.0, 3.0], [7.0, 9.0]], [[5.0, 0.0], [0.0, 0.0]]])[None] * scale
    torch.testing.assert_close(reduce(x), expected)
