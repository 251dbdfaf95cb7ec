"""The network of a chain: what a layer reads, sizes, and counts held against what PyTorch does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from search_core.cost.counts import child_cost
from search_core.errors import OptionsError
from search_core.network.chain import Chain, joined
from search_core.space.chain import ChainOptions, Layer
from search_core.space.codes import genotype_space
from search_core.space.genotype import Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.training.retrain import build_child
from search_core.training.retrain_options import RetrainOptions
from tests.search_core.tiny import images_of, seeded

#: Layer 1 reads the image and a smaller layer 0, layer 2 the image alone; 1 and 2 are the output.
CHAIN = Genotype(
    normal=(Edge("conv_3x1", 0, 2), Edge("conv_1x5", 0, 3), Edge("conv_1x5", 2, 3), Edge("conv_3x3", 0, 4)),
    normal_concat=(3, 4),
    reduce=(),
    reduce_concat=(),
    layers=(Layer(4, 2, 3), Layer(6), Layer(2, 1, 2)),
)
SIZE = NetworkSize(NetworkOptions(), (3, 7, 9), 5)


def test_smaller_inputs_get_zeros_below_and_to_the_right() -> None:
    large, small = torch.ones(2, 3, 7, 9), torch.ones(2, 4, 4, 3)
    both = joined([small, large])
    assert both.shape == (2, 7, 7, 9)
    assert torch.equal(both[:, 4:], large)
    assert torch.equal(both[:, :4, :4, :3], small)
    assert both[:, :4].sum() == small.sum()


def test_chain_equals_a_plain_loop() -> None:
    """Convolution, batch norm, ReLU; what is read is concatenated in the order of the edges, the output pooled."""
    chain = Chain(CHAIN, SIZE, seed=3)
    images = torch.randn(4, 3, 7, 9, generator=seeded())

    def layer(number: int, x: Tensor, padding: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        state = {name: value.detach() for name, value in chain.layers[number].named_parameters()}
        x = nn.functional.conv2d(x, state["conv.weight"], stride=stride, padding=padding)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return x.clamp_min(0)

    first = layer(0, images, (1, 0), (2, 3))
    assert first.shape == (4, 4, 4, 3)
    padded = torch.zeros(4, 4, 7, 9)
    padded[:, :, :4, :3] = first
    second = layer(1, torch.cat([images, padded], 1), (0, 2), (1, 1))
    third = layer(2, images, (1, 1), (1, 2))
    assert third.shape == (4, 2, 7, 5)
    means = torch.cat([second.mean((2, 3)), third.sum((2, 3)) / (7 * 9)], 1)
    expected = means @ chain.classifier.linear.weight.T + chain.classifier.linear.bias
    torch.testing.assert_close(chain(images), expected)


def test_counts_are_those_of_the_modules() -> None:
    network = NetworkOptions(space="nas_chain", nodes=4, chain=ChainOptions(strides=(1, 2, 3), filters=(2, 5)))
    space, generator = genotype_space(network), seeded()
    for genotype in (CHAIN, *(space.decode(space.sample(generator)) for _ in range(20))):
        chain, found = Chain(genotype, SIZE), []

        def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor, found: list[list[int]] = found) -> None:
            weight = module.get_parameter("weight")
            bias = output.numel() if isinstance(module, nn.Linear) else 0
            macs = weight[0].numel() * output.numel()
            found.append([macs, inputs[0].numel() + output.numel() + weight.numel() + bias])

        for module in chain.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)  # type: ignore[arg-type]
        chain.eval()(torch.randn(1, 3, 7, 9))
        cost = child_cost(genotype, SIZE)
        assert cost.params == sum(parameter.numel() for parameter in chain.parameters())
        assert [cost.madds, cost.memory_access] == [sum(column) for column in zip(*found, strict=True)]
        assert cost.auxiliary_params == 0


def test_seed_decides_the_weights() -> None:
    first, same, other = (Chain(CHAIN, SIZE, seed=seed).layers[0].get_parameter("conv.weight") for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_recipe_of_cells_is_refused() -> None:
    with pytest.raises(OptionsError, match=r"`auxiliary_weight` must be 0 for a chain of layers, got 0.4"):
        build_child(CHAIN, RetrainOptions(drop_path=0.0), images_of(), seed=0)
    with pytest.raises(OptionsError, match=r"`drop_path` must be 0 for a chain of layers, got 0.2"):
        build_child(CHAIN, RetrainOptions(auxiliary_weight=0.0), images_of(), seed=0)
    recipe = RetrainOptions(auxiliary_weight=0.0, drop_path=0.0)
    assert isinstance(build_child(CHAIN, recipe, images_of(), seed=0), Chain)
