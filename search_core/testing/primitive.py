"""The contract of a candidate operation."""

from __future__ import annotations

import copy
from itertools import product

import torch
from torch import Tensor, nn

from search_core.primitives.own import OwnPrimitive
from search_core.randomness import seeded_weights

_SIZES = ((8, 8), (7, 5), (1, 1))
_CHANNELS = (2, 8)


def check_primitive(module_class: type[nn.Module]) -> None:
    """Assert all that searches, children and costs rely on.

    Args:
        module_class: called with channels, stride and affine.

    Raises:
        PluginError: if it is not such a class, or its costs are malformed.
        AssertionError: with the rule that it breaks.
    """
    primitive = OwnPrimitive(module_class.__name__, module_class)
    for channels, stride, affine in product(_CHANNELS, (1, 2), (False, True)):
        with seeded_weights(0):
            modules = [primitive.module(channels, stride, affine) for _ in range(2)]
            other = primitive.module(channels, stride, affine)
        for height, width in _SIZES:
            x = torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(1))
            _check_outputs(primitive, modules, x, (3, channels, -(-height // stride), -(-width // stride)))
            primitive.cost(channels, (height, width), stride, affine)
        _check_state(modules[0], other, affine)


def _check_outputs(
    primitive: OwnPrimitive, modules: list[nn.Module], x: Tensor, shape: tuple[int, int, int, int]
) -> None:
    name, before = primitive.name, x.clone()
    apart, joint = copy.deepcopy(modules), copy.deepcopy(modules)
    outputs = [module(x) for module in apart]
    assert all(output.shape == shape for output in outputs), f"{name} must give {shape}, got {outputs[0].shape}"
    assert torch.equal(x, before), f"{name} must leave its input as it is"
    for output, other in zip(outputs, primitive.outputs(joint, x), strict=True):
        assert torch.allclose(output, other, rtol=1e-4, atol=1e-5), f"{name}.together must give what its modules give"
    for module, twin in zip(apart, joint, strict=True):
        for (key, value), follower in zip(module.state_dict().items(), twin.state_dict().values(), strict=True):
            assert torch.allclose(value, follower, rtol=1e-4, atol=1e-5), f"{name}.together must move {key} likewise"
    for module in modules:
        module.zero_grad()
    leaf = x.clone().requires_grad_()
    torch.stack([module(leaf).square().mean() for module in copy.deepcopy(modules)]).sum().backward()
    assert leaf.grad is not None, f"{name} must have a gradient with respect to its input"
    assert leaf.grad.isfinite().all(), f"the gradient of {name} must be finite"
    channels_last = copy.deepcopy(modules[0])(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(channels_last, outputs[0], rtol=1e-4, atol=1e-5), f"{name} must take channels_last images"


def _check_state(module: nn.Module, other: nn.Module, affine: bool) -> None:
    name = type(module).__name__
    shapes, others = ({key: value.shape for key, value in of.state_dict().items()} for of in (module, other))
    assert shapes == others, f"{name} must have the same state each time, got {shapes} and {others}"
    running = {key.rpartition(".")[0] for key in shapes if key.endswith("running_mean")}
    for path, part in module.named_modules():
        if path in running:
            assert isinstance(part, nn.BatchNorm2d), f"{name}.{path} must be a BatchNorm2d, which is recalibrated"
            assert part.affine == affine, f"{name}.{path} must be affine only if asked, got {part.affine}"
            assert part.momentum is not None, f"{name}.{path} must have a momentum"
