"""The fused kernels against torch's own modules, with and without Numba."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.kernels.backend import num_parts, torch_only
from search_core.kernels.depthwise import relu_depthwise
from search_core.kernels.pools import normalised_pools
from search_core.kernels.product import Statistics, normalised_sum
from tests.search_core.tiny import seeded


@pytest.fixture(params=["numba", "torch"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with torch_only() if request.param == "torch" else nullcontext():
        yield request.param


#: For what torch's own operations do not promise, or have no part in.
with_numba_only = pytest.mark.parametrize("backend", ["numba"], indirect=True)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Of a random linear function of the outputs."""
    total = sum((output * normal(*output.shape, seed=i, dtype=output.dtype)).sum() for i, output in enumerate(outputs))
    return list(torch.autograd.grad(total, inputs))


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


# Depthwise


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("size", "channels"), [((8, 8), 8), ((5, 17), 12), ((1, 1), 4), ((3, 10), 2)])
def test_relu_depthwise_equals_convolutions_of_every_edge(
    stride: int, shared: bool, size: tuple[int, int], channels: int
) -> None:
    kernels, dilations = ((3, 5, 7, 3, 5), (1, 1, 1, 2, 2)) if shared else ((5,), (1,))
    x, *weights = leaves(
        normal(1 if shared else 3, 4, *size, channels),
        *(normal(3, channels, kernel, kernel, seed=i) for i, kernel in enumerate(kernels)),
    )
    outputs = relu_depthwise(x, weights, dilations, stride)
    expected = [
        torch.stack(
            [
                nhwc(
                    functional.conv2d(
                        nchw(x[0 if shared else edge].relu()),
                        weight[edge].unsqueeze(1),
                        stride=stride,
                        padding=weight.shape[-1] // 2 * dilation,
                        dilation=dilation,
                        groups=channels,
                    )
                )
                for edge in range(3)
            ]
        )
        for weight, dilation in zip(weights, dilations, strict=True)
    ]
    torch.testing.assert_close(outputs, tuple(expected), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradients(list(outputs), [x, *weights]), gradients(expected, [x, *weights]), rtol=1e-11, atol=1e-11
    )


# Pools


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("names", [("max_pool_3x3",), ("avg_pool_3x3",), ("max_pool_3x3", "avg_pool_3x3")])
@pytest.mark.parametrize(("size", "channels"), [((8, 8), 8), ((5, 7), 12), ((2, 1), 4), ((4, 4), 6)])
@pytest.mark.parametrize("training", [True, False])
def test_normalised_pools_equal_pool_and_batch_norm(
    stride: int, names: tuple[str, ...], size: tuple[int, int], channels: int, training: bool
) -> None:
    (x,) = leaves(normal(6, *size, channels).round(decimals=1))  # ties, in windows and with the border
    running = [(normal(channels, seed=i), normal(channels, seed=i).square() + 0.1) for i in range(len(names))]
    given = None if training else (torch.stack([mean for mean, _ in running]), torch.stack([v for _, v in running]))
    pools, moments = normalised_pools(x, names, stride, given)
    assert (moments is None) == (not training)
    expected = []
    for name, (mean, variance) in zip(names, running, strict=True):
        pool = (
            functional.max_pool2d(nchw(x), 3, stride, 1)
            if name == "max_pool_3x3"
            else functional.avg_pool2d(nchw(x), 3, stride, 1, count_include_pad=False)
        )
        expected.append(nhwc(functional.batch_norm(pool, mean.clone(), variance.clone(), training=training)))
        if moments is not None:
            flat, position = pool.transpose(0, 1).flatten(1), names.index(name)
            torch.testing.assert_close(moments[0][position], flat.mean(1))
            torch.testing.assert_close(moments[1][position], flat.var(1, correction=0))
    torch.testing.assert_close(pools, tuple(expected), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradients(list(pools), [x]), gradients(expected, [x]), rtol=1e-10, atol=1e-10)


# Products


def plain_sum(
    maps: list[Tensor], matrices: Tensor, weights: Tensor, features: list[Tensor], factors: Tensor,
    bases: list[Tensor | None], statistics: Statistics | None, keep: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    outputs = []
    for b, base in enumerate(bases):
        terms = []
        for k, z in enumerate(maps):
            y = nchw(z[b if len(z) > 1 else 0] @ matrices[k, b].T)
            if statistics is None:
                y = functional.batch_norm(y, None, None, training=True)
            else:
                y = functional.batch_norm(y, statistics.mean[k, b], statistics.variance[k, b])
            terms.append(weights[b, k] * nhwc(y))
        terms += [factors[b, q] * feature for q, feature in enumerate(features)]
        if keep is not None:
            terms = [term * keep[b, position, :, None, None, None] for position, term in enumerate(terms)]
        outputs.append(sum(terms, torch.zeros(()) if base is None else base))
    return outputs


@pytest.mark.parametrize("channels", [4, 8, 20, 6])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("num_maps", "num_features"), [(3, 2), (1, 0), (0, 3)])
def test_normalised_sum_equals_products_batch_norms_and_sums(
    channels: int, training: bool, dropped: bool, num_maps: int, num_features: int
) -> None:
    size, num_edges = (5, 3, 7, channels), 3
    maps = leaves(*(normal(1 if k == 1 else num_edges, *size, seed=k) + k for k in range(num_maps)))
    features = leaves(*(normal(*size, seed=10 + q) for q in range(num_features)))
    matrices, weights, factors, base = leaves(
        normal(num_maps, num_edges, channels, channels), normal(num_edges, num_maps), normal(num_edges, num_features),
        normal(*size, seed=20),
    )  # fmt: skip
    bases = [None, base, None]
    given = None
    if not training:
        shape = (num_maps, num_edges, channels)
        given = Statistics(normal(*shape, seed=1), normal(*shape, seed=2).square() + 0.1)
    keep = None
    if dropped:
        keep = (torch.rand(num_edges, num_maps + num_features, 5, generator=seeded(3)) > 0.4).to(torch.uint8)
    outputs, statistics = normalised_sum(
        maps, matrices, weights, features_NHWC=features, factors_BQ=factors, bases_NHWC=bases, statistics=given,
        keep_BON=keep,
    )  # fmt: skip
    expected = plain_sum(maps, matrices, weights, features, factors, bases, given, keep)
    torch.testing.assert_close(list(outputs), expected, rtol=1e-11, atol=1e-11)
    inputs = [base, *maps, *features]
    inputs += [matrices, weights] if num_maps else []
    inputs += [factors] if num_features else []
    torch.testing.assert_close(gradients(list(outputs), inputs), gradients(expected, inputs), rtol=1e-9, atol=1e-10)
    if training:
        for k, z in enumerate(maps):
            y = torch.stack([z[b if len(z) > 1 else 0] @ matrices[k, b].T for b in range(num_edges)]).flatten(1, 3)
            torch.testing.assert_close(statistics.mean[k], y.mean(1))
            torch.testing.assert_close(statistics.variance[k], y.var(1, correction=0))


@pytest.mark.parametrize("channels", [16, 12])
def test_float32_products_of_inputs_with_a_large_mean(channels: int) -> None:
    """A mean of 100 standard deviations. 1e-3 of outputs of variance 1: float32 holds the inputs to 100 * 6e-8 = 6e-6
    deviations, and a pointwise product of C of them, whose means add up, to about C times that.
    """
    z = normal(2, 16, 8, 8, channels, dtype=torch.float32) + 100
    matrices, weights = normal(1, 2, channels, channels, dtype=torch.float32), torch.ones(2, 1)
    outputs, _ = normalised_sum([z], matrices, weights)
    exact = plain_sum([z.double()], matrices.double(), weights.double(), [], weights.double(), [None] * 2, None, None)
    for output, expected in zip(outputs, exact, strict=True):
        torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-3)


def test_float32_variances_of_weak_directions_are_not_negative() -> None:
    """Channels nearly agree, and weights nearly cancel: the variance is lost in rounding, but results stay finite."""
    for scale in (3.0, 30.0, 300.0):
        common = scale * normal(1, 8, 16, 16, 1, dtype=torch.float32)
        z = common + 0.01 * normal(1, 8, 16, 16, 16, seed=1, dtype=torch.float32)
        matrices = normal(1, 1, 16, 16, dtype=torch.float32)
        matrices -= matrices.mean(3, keepdim=True)
        leaf, matrix = leaves(z, matrices)
        outputs, statistics = normalised_sum([leaf], matrix, torch.ones(1, 1))
        assert (statistics.variance >= 0).all()
        assert all(values.isfinite().all() for values in (*outputs, *gradients(list(outputs), [leaf, matrix])))


@with_numba_only
def test_float32_gram_matrices_are_summed_with_care() -> None:
    """Variances of 260,000 positive numbers to 2e-6: torch's matrix product is off by 7e-5 on the machine of CI."""
    z = 1 + normal(1, 64, 64, 64, 4, dtype=torch.float32).abs()
    _, statistics = normalised_sum([z], torch.eye(4).expand(1, 1, 4, 4), torch.ones(1, 1))
    exact = z.double().flatten(0, 3).var(0, correction=0)
    torch.testing.assert_close(statistics.variance[0, 0].double(), exact, rtol=2e-6, atol=0)


@with_numba_only
def test_backward_uses_the_code_of_the_forward() -> None:
    x, kernel, matrix = leaves(normal(1, 2, 6, 6, 8), normal(2, 8, 3, 3), normal(1, 2, 8, 8))
    results = []
    for context in (nullcontext(), torch_only()):
        with context:
            (z,) = relu_depthwise(x, [kernel], (1,), 1)
            outputs, _ = normalised_sum([z], matrix, torch.ones(2, 1, dtype=torch.float64))
        results.append(gradients(list(outputs), [x, kernel, matrix]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@with_numba_only
def test_tensors_of_another_type_are_refused_by_the_kernels() -> None:
    x, z = normal(1, 2, 6, 6, 8, dtype=torch.float32), normal(2, 2, 6, 6, 8, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"all must be torch.float32 on cpu, got torch.float64 on cpu"):
        relu_depthwise(x, [normal(2, 8, 3, 3)], (1,), 1)
    statistics = Statistics(torch.zeros(1, 2, 8), torch.ones(1, 2, 8))
    with pytest.raises(TypeError, match=r"all must be torch.float64 on cpu, got torch.float32 on cpu"):
        normalised_sum([z], normal(1, 2, 8, 8), torch.ones(2, 1), statistics=statistics)


def test_kernel_sizes_without_a_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kernels must be of 3, 5 or 7 pixels, got \[9\]"):
        relu_depthwise(normal(1, 2, 6, 6, 8), [normal(2, 8, 9, 9)], (1,), 1)


@with_numba_only
@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, kernel = normal(1, 16, 32, 32, 16, dtype=torch.float32), normal(2, 16, 3, 3, dtype=torch.float32)
    matrix = normal(1, 2, 16, 16, dtype=torch.float32)
    assert num_parts(16, x.numel()) > 1
    results, threads = [], torch.get_num_threads()
    for num in (1, 2):
        torch.set_num_threads(num)
        inputs = leaves(x, kernel, matrix)
        (z,) = relu_depthwise(inputs[0], [inputs[1]], (1,), 1)
        outputs, statistics = normalised_sum([z], inputs[2], torch.ones(2, 1))
        results.append([*outputs, *statistics, *gradients(list(outputs), inputs)])
    torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_modules_of_torch_give_the_same_block_in_float32() -> None:
    """ReLU, depthwise, pointwise, batch norm: 1e-5 of values of order 1, sums of 25 and 16 terms in another order."""
    x, depthwise, pointwise = (
        normal(1, 8, 16, 16, 16, dtype=torch.float32), normal(1, 16, 5, 5, dtype=torch.float32) / 5,
        normal(1, 1, 16, 16, dtype=torch.float32) / 4,
    )  # fmt: skip
    (z,) = relu_depthwise(x, [depthwise], (2,), 1)
    (output,), _ = normalised_sum([z], pointwise, torch.ones(1, 1))
    block = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=4, dilation=2, groups=16, bias=False),
        nn.Conv2d(16, 16, 1, bias=False),
        nn.BatchNorm2d(16, affine=False),
    )
    with torch.no_grad():
        block[1].weight.copy_(depthwise[0].unsqueeze(1))
        block[2].weight.copy_(pointwise[0, 0, :, :, None, None])
    torch.testing.assert_close(output, nhwc(block(nchw(x[0]))), rtol=1e-5, atol=1e-5)


_UNDER_ALLOCATOR = """
import torch
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.kernels.backend import num_parts, torch_only
from search_core.network.supernet import Supernet

torch.set_default_dtype(torch.float64)
network = Supernet(NetworkSize(NetworkOptions(nodes=2, cells=3, init_channels=16), (3, 16, 16), 10), seed=0)
images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
z = {name: torch.full((5, 8), 0.125) for name in ("normal", "reduce")}

def results():
    logits = network(images, z)
    return [logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()))]

for _ in range(3):
    ours = results()
    with torch_only():
        theirs = results()
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
"""


@with_numba_only
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["MALLOC_PERTURB_", "MALLOC_MMAP_THRESHOLD_"])
def test_kernels_read_no_memory_that_was_freed(setting: str) -> None:
    """glibc overwrites freed memory, or gives all of it back to the system: reading it would show, or crash."""
    value = {"MALLOC_PERTURB_": "64", "MALLOC_MMAP_THRESHOLD_": "4096"}[setting]
    environment = {**os.environ, setting: value, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_ALLOCATOR], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
