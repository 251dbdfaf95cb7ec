"""The network of a chain of layers with skip connections (Zoph and Le, ICLR 2017, sections 3.3 and 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.network.blocks import Classifier
from search_core.network.child import Child
from search_core.randomness import seeded_weights
from search_core.ranks import ALONE, Ranks
from search_core.space.chain_plan import plan_chain
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkSize


class ChainLayer(nn.Module):
    """Convolution, batch norm and ReLU."""

    def __init__(self, channels_in: int, filters: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(channels_in, filters, kernel, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(filters)

    def forward(self, nodes: Sequence[Tensor]) -> Tensor:
        """Of (N, channels, H, W) each, see `joined`, to (N, filters, *size_out)."""
        return functional.relu(self.norm(self.conv(joined(nodes))))


class Chain(nn.Module):
    """Network of a genotype with layers: the layers, a global average pool and one linear layer.

    Args:
        genotype: the architecture.
        size: images and classes.
        seed: seed of the initial weights.
    """

    def __init__(self, genotype: Genotype, size: NetworkSize, *, seed: int = 0) -> None:
        super().__init__()
        self.genotype, self.plan = genotype, plan_chain(genotype, size)
        with seeded_weights(seed):
            self.layers = nn.ModuleList(
                ChainLayer(plan.channels_in, plan.filters, plan.kernel, plan.stride) for plan in self.plan.layers
            )
            self.classifier = Classifier(self.plan.out_channels, size.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        nodes = {0: images.contiguous(memory_format=torch.channels_last)}
        for node, (layer, plan) in enumerate(zip(self.layers, self.plan.layers, strict=True), start=2):
            nodes[node] = layer([nodes[source] for source in plan.sources])
        logits: Tensor = self.classifier(joined([nodes[node] for node in self.plan.concat]))
        return logits

    def forward_with_auxiliary(
        self,
        images: Tensor,
        drop_path_prob: float = 0.0,
        generator: torch.Generator | None = None,
        ranks: Ranks = ALONE,
    ) -> tuple[Tensor, None]:
        """As `Child.forward_with_auxiliary`; a chain has neither paths to drop nor a second classifier."""
        assert drop_path_prob == 0, "`chain_rules` are checked before"
        return self.forward(images), None


#: The network of a genotype.
ChildNetwork = Child | Chain


def joined(nodes: Sequence[Tensor]) -> Tensor:
    """Concatenation (N, sum of channels, H, W) along the channels; smaller ones get zeros below and to the right.

    (Section 3.3: "we pad the small layers with zeros so that the concatenated layers have the same sizes".)
    """
    height, width = (max(node.shape[axis] for node in nodes) for axis in (2, 3))
    padded = [functional.pad(node, (0, width - node.shape[3], 0, height - node.shape[2])) for node in nodes]
    return torch.cat(padded, 1)
