"""Triton's kernels on CPU tensors, run by Triton's interpreter, against PyTorch's operations.

Run: `TRITON_INTERPRET=1 python -m tests.pretended_gpu.interpreted [NAME ...]`, for all cases if none is named. Both
compute in float32 and sum in another order: results agree to 1e-5 of the largest, gradients to 1e-4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from search_core.kernels.backend import torch_only
from search_core.kernels.depthwise import relu_depthwise
from search_core.kernels.pools import normalised_pools
from search_core.kernels.product import Statistics, normalised_products, normalised_sum
from search_core.network.supernet import Supernet
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges

_USERS = ("depthwise", "pools", "product")


@contextmanager
def on_triton() -> Iterator[None]:
    """Inside, tensors of the CPU take the code of a GPU."""
    places = [mock.patch(f"search_core.kernels.{module}.use_triton", return_value=True) for module in _USERS]
    with torch_only():
        for place in places:
            place.start()
        try:
            yield
        finally:
            for place in places:
                place.stop()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare(
    compute: Callable[..., Sequence[Tensor]], *inputs: Tensor, tolerances: tuple[float, float] = (1e-5, 1e-4)
) -> None:
    """Results, and gradients of a random linear function of them, each to a tolerance times its largest number."""
    found = []
    for code in (torch_only(), on_triton()):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with code:
            results = compute(*leaves)
            learnt = [result for result in results if result.requires_grad]
            total = sum((y.float() * normal(*y.shape, seed=50 + i)).sum() for i, y in enumerate(learnt))
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        found.append(([result.detach() for result in results], [g for g in gradients if g is not None]))
    for (expected, got), tolerance in zip(zip(*found, strict=True), tolerances, strict=True):
        for plain, ours in zip(expected, got, strict=True):
            torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance * max(plain.abs().max().item(), 1e-3))


def depthwise(
    channels: int, size: tuple[int, int], stride: int, kernels: Sequence[int], dilations: Sequence[int]
) -> None:
    """All edges share their input if there is more than one convolution, else each has its own."""
    shared = len(kernels) > 1
    x = normal(1 if shared else 2, 2, *size, channels, seed=1)
    weights = [normal(2, channels, kernel, kernel, seed=kernel) for kernel in kernels]
    compare(lambda x, *weights: relu_depthwise(x, weights, dilations, stride), x, *weights)


def pools(channels: int, size: tuple[int, int], stride: int, names: Sequence[str]) -> None:
    """With ties, in windows and with the border."""

    def compute(x: Tensor) -> list[Tensor]:
        pools, moments = normalised_pools(x, names, stride, None)
        assert moments is not None
        return [*pools, *moments]

    compare(compute, normal(3, *size, channels, seed=1).round(decimals=1))


def product(
    channels: int,
    num_maps: int,
    num_features: int,
    *,
    has_base: bool = True,
    drops: bool = False,
    evaluates: bool = False,
) -> None:
    """One map is shared by all edges, as pixels of a factorized reduction are."""
    size, num_edges = (3, 4, 7, channels), 2
    maps = [normal(1 if k == 1 else num_edges, *size, seed=k) + k for k in range(num_maps)]
    features = [normal(*size, seed=10 + q) for q in range(num_features)]
    keep = None
    if drops:
        keep = (normal(num_edges, num_maps + num_features, 3, seed=4) > -0.5).to(torch.uint8)

    shape = (num_maps, num_edges, channels)
    given = Statistics(normal(*shape, seed=5), normal(*shape, seed=6).square() + 0.1) if evaluates else None

    def compute(matrices: Tensor, weights: Tensor, factors: Tensor, base: Tensor, *tensors: Tensor) -> list[Tensor]:
        outputs, statistics = normalised_sum(
            tensors[:num_maps], matrices, weights, features_NHWC=tensors[num_maps:], factors_BQ=factors,
            bases_NHWC=[base if has_base else None] * num_edges, statistics=given, keep_BON=keep,
        )  # fmt: skip
        return [*outputs, *statistics]

    compare(
        compute,
        normal(num_maps, num_edges, channels, channels, seed=20) / channels**0.5,
        normal(num_edges, num_maps, seed=21),
        normal(num_edges, num_features, seed=22),
        normal(*size, seed=23),
        *maps,
        *features,
    )


def products(channels: int, *, evaluates: bool = False) -> None:
    """The same without the sum: of three maps, each with its own outputs."""
    shape = (3, 2, channels)
    given = Statistics(normal(*shape, seed=5), normal(*shape, seed=6).square() + 0.1) if evaluates else None

    def compute(matrices: Tensor, weights: Tensor, *maps: Tensor) -> list[Tensor]:
        outputs, statistics = normalised_products(maps, matrices, weights, given)
        return [*outputs, *statistics]

    matrices = normal(2, 3, channels, channels, seed=20) / channels**0.5
    maps = [normal(2, 3, 4, 7, channels, seed=k) + k for k in range(3)]
    compare(compute, matrices, normal(2, 3, seed=21), *maps)


def half(channels: int, size: tuple[int, int], stride: int) -> None:
    """Convolutions, the sum of their products, and the products by themselves, under autocast to bfloat16.

    A number of bfloat16 has a last place of 2^-7, in which the interpreter cuts where PyTorch rounds: results, rounded
    once, may be that far apart, and gradients, rounded on the way back once more, twice as far.
    """
    height, width = -(-size[0] // stride), -(-size[1] // stride)

    def compute(x: Tensor, matrices: Tensor, mixture: Tensor, factors: Tensor, base: Tensor, *weights: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            maps = relu_depthwise(x, weights, (1, 2), stride)
            assert all(z.dtype == torch.bfloat16 for z in maps)
            added, of_sum = normalised_sum(
                maps, matrices, mixture, features_NHWC=[base], factors_BQ=factors, bases_NHWC=[base] * 2
            )
            apart, of_products = normalised_products(maps, matrices.transpose(0, 1), mixture, None)
        return [*maps, *added, *of_sum, *apart, *of_products]

    compare(
        compute,
        normal(1, 3, *size, channels, seed=1),
        normal(2, 2, channels, channels, seed=20) / channels**0.5,
        normal(2, 2, seed=21),
        normal(2, 1, seed=22),
        normal(3, height, width, channels, seed=23),
        *(normal(2, channels, kernel, kernel, seed=kernel) / kernel for kernel in (3, 5)),
        tolerances=(2**-7, 2**-6),
    )


def network() -> None:
    """Logits and gradients of all weights of a supernet: one reduction cell, whose edges are of both strides."""
    primitives = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3", "conv_7x1_1x7")
    options = NetworkOptions(nodes=2, cells=1, init_channels=2, primitives=primitives)
    supernet = Supernet(NetworkSize(options, (1, 5, 4), 3), seed=0)
    shape = (len(cell_edges(2)), len(options.primitives))
    images, z = normal(3, 1, 5, 4, seed=1), {name: normal(*shape, seed=2).softmax(-1) for name in CELL_TYPES}
    found = []
    for code in (torch_only(), on_triton()):
        with code:
            logits = supernet(images, z)
            gradients = torch.autograd.grad(logits.square().sum(), list(supernet.parameters()))
            found.append([logits.detach(), *gradients])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-3 * max(plain.abs().max().item(), 1e-3))


CASES: dict[str, Callable[[], None]] = {
    "depthwise 4": partial(depthwise, 4, (5, 7), 1, (3, 5, 3), (1, 1, 2)),
    "depthwise 6 stride 2": partial(depthwise, 6, (5, 6), 2, (5, 3), (2, 1)),
    "depthwise 20 own inputs": partial(depthwise, 20, (3, 4), 2, (3,), (1,)),
    "depthwise 16 of 7": partial(depthwise, 16, (4, 3), 1, (7,), (1,)),
    "depthwise 64": partial(depthwise, 64, (3, 3), 1, (3, 3), (1, 2)),
    "pools 4": partial(pools, 4, (5, 7), 1, ("max_pool_3x3", "avg_pool_3x3")),
    "pools 6 stride 2": partial(pools, 6, (5, 6), 2, ("avg_pool_3x3", "max_pool_3x3")),
    "maximum 33": partial(pools, 33, (4, 4), 2, ("max_pool_3x3",)),
    "average 64": partial(pools, 64, (1, 3), 1, ("avg_pool_3x3",)),
    **{f"product {channels}": partial(product, channels, 2, 1) for channels in (4, 6, 12, 16, 20, 33, 48, 64)},
    "product without bases": partial(product, 8, 3, 0, has_base=False),
    "product with drop path": partial(product, 8, 2, 2, drops=True),
    "product in evaluation": partial(product, 8, 2, 1, evaluates=True),
    "products apart": partial(products, 12),
    "products apart in evaluation": partial(products, 4, evaluates=True),
    "bfloat16": partial(half, 6, (5, 4), 2),
    "network": network,
}


def main() -> None:
    """Run the cases."""
    for name in sys.argv[1:] or CASES:
        CASES[name]()
        print(f"{name}: agrees", flush=True)


if __name__ == "__main__":
    main()
