"""A child network with more channels and the same function (Net2WiderNet; Chen et al., ICLR 2016, section 2.3).

Shape suffixes: W channels of the wider network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_core.network.blocks import CifarStem, ImageNetStem
from search_core.network.child import Child, ChildCell
from search_core.primitives.modules import FactorizedReduce
from search_core.space.plan import NetworkSize


@dataclass(frozen=True)
class _Copies:
    """Of which channel each channel of the wider network is a copy.

    Attributes:
        of_W: index of the channel.
        share_W: by what the weights that read the copy are multiplied; sums to 1 over the copies of a channel.
    """

    of_W: Tensor
    share_W: Tensor

    @classmethod
    def draw(cls, before: int, after: int, generator: torch.Generator, parts: int = 1) -> _Copies:
        """Every channel, then copies of channels drawn at random, within each of `parts` equal parts."""
        own, wide = before // parts, after // parts
        drawn = [torch.randint(own, (wide - own,), generator=generator) for _ in range(parts)]
        of_W = torch.cat([own * part + torch.cat([torch.arange(own), copied]) for part, copied in enumerate(drawn)])
        # Equal shares would give all copies the same gradients: they would stay copies for ever.
        raw_W = 0.5 + torch.rand(after, generator=generator)
        return cls(of_W, raw_W / torch.zeros(before).index_add(0, of_W, raw_W)[of_W])

    def repeated(self, times: int) -> _Copies:
        """Those of as many nodes side by side."""
        num = int(self.of_W.max()) + 1
        return _Copies(torch.cat([self.of_W + num * node for node in range(times)]), self.share_W.repeat(times))

    def halves(self) -> tuple[_Copies, _Copies]:
        """Those of the two convolutions of a `FactorizedReduce`; the second counts from 0 too."""
        (first, second), shares = self.of_W.chunk(2), self.share_W.chunk(2)
        return _Copies(first, shares[0]), _Copies(second - int(first.max()) - 1, shares[1])


def widen(narrow: Child, size: NetworkSize, generator: torch.Generator) -> Child:
    """The same genotype with more channels and, but for rounding, the same logits in training and in evaluation.

    A new channel is a copy of a channel drawn at random; the weights that read a channel are divided among its copies
    (Net2Net's g). Copies have equal statistics, so batch norms need no other care. All nodes of a cell
    have the same copies, as identities join them. Shares are drawn at random where Net2Net halves them and adds noise:
    so copies are trained apart, and the function is exact.

    Args:
        narrow: with affine batch norms and without an auxiliary head; it is not changed.
        size: that of `narrow` with more channels.
        generator: draws which channels are copied and how their weights are divided, on the CPU.
    """
    assert narrow.auxiliary is None, "children are trained without an auxiliary head"
    wide = Child(narrow.genotype, size).to(next(narrow.parameters()).device)
    with torch.no_grad():
        outputs = _widen_stem(narrow.stem, wide.stem, generator)
        for old, new in zip(narrow.cells, wide.cells, strict=True):
            assert isinstance(old, ChildCell)
            assert isinstance(new, ChildCell)
            own = _Copies.draw(old.plan.channels, new.plan.channels, generator, parts=2)
            _widen(old.inputs.before_previous, new.inputs.before_previous, outputs[0], own)
            _widen(old.inputs.previous, new.inputs.previous, outputs[1], own)
            for operation, wider in zip(old.operations, new.operations, strict=True):
                _widen(operation, wider, own, own)
            outputs = outputs[1], own.repeated(len(old.concat))
        linear, read = narrow.classifier.linear, outputs[1]
        wide.classifier.linear.weight.copy_(linear.weight[:, read.of_W] * read.share_W.to(linear.weight))
        wide.classifier.linear.bias.copy_(linear.bias)
    return wide.train(narrow.training)


def _widen_stem(old: nn.Module, new: nn.Module, generator: torch.Generator) -> tuple[_Copies, _Copies]:
    """The stem, and the copies among the channels of both its outputs."""

    def drawn(norm: nn.Module, wider: nn.Module) -> _Copies:
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(wider, nn.BatchNorm2d)
        return _Copies.draw(norm.num_features, wider.num_features, generator)

    if isinstance(old, CifarStem):
        assert isinstance(new, CifarStem)
        own = drawn(old.norm, new.norm)
        _widen(old, new, _whole(old.conv), own)
        return own, own
    assert isinstance(old, ImageNetStem)
    assert isinstance(new, ImageNetStem)
    first, quarter = drawn(old.quarter[1], new.quarter[1]), drawn(old.quarter[4], new.quarter[4])
    eighth = drawn(old.eighth[2], new.eighth[2])
    _widen(old.quarter[:2], new.quarter[:2], _whole(old.quarter[0]), first)
    _widen(old.quarter[2:], new.quarter[2:], first, quarter)
    _widen(old.eighth, new.eighth, quarter, eighth)
    return quarter, eighth


def _whole(conv: nn.Module) -> _Copies:
    """The channels of the images, of which there are no copies."""
    assert isinstance(conv, nn.Conv2d)
    return _Copies(torch.arange(conv.in_channels), torch.ones(conv.in_channels))


def _widen(old: nn.Module, new: nn.Module, inputs: _Copies, outputs: _Copies) -> None:
    """Fill the weights and statistics of a block that reads `inputs`; all else in it has `outputs`."""
    if isinstance(old, FactorizedReduce):
        for name, part in zip(("conv_even", "conv_odd", "norm"), (*outputs.halves(), outputs), strict=True):
            _widen(old.get_submodule(name), new.get_submodule(name), inputs, part)
        return
    for module, wider in zip(old.modules(), new.modules(), strict=True):
        if isinstance(module, nn.Conv2d):
            weight = module.weight[outputs.of_W]
            if module.groups == 1:
                weight = weight[:, inputs.of_W] * inputs.share_W.to(weight)[:, None, None]
            wider.weight.copy_(weight)  # type: ignore[operator]  # a convolution too
        elif isinstance(module, nn.BatchNorm2d):
            state = {n: value[outputs.of_W] if value.dim() else value for n, value in module.state_dict().items()}
            wider.load_state_dict(state)
