"""Channels and image sizes of a chain of layers, before any weight exists (Zoph and Le, ICLR 2017, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from search_core.primitives.counting import Size
from search_core.space.chain import kernel_size
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkSize


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Place of one layer in a chain. Sizes are (height, width) in pixels.

    Attributes:
        sources: nodes whose outputs it reads, concatenated along the channels.
        channels_in: of them all.
        filters: channels of its output.
        kernel: height and width of the filters.
        stride: over rows and columns.
        size_in: the largest height and width of what it reads; smaller ones have zeros around their end.
        size_out: of its output.
    """

    sources: tuple[int, ...]
    channels_in: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    size_in: Size
    size_out: Size


@dataclass(frozen=True, kw_only=True)
class ChainPlan:
    """A whole chain.

    Attributes:
        size: images and classes; `size.network` says nothing of a chain.
        layers: first to last.
        concat: nodes that the classifier reads, concatenated likewise.
        out_channels: of them all.
    """

    size: NetworkSize
    layers: tuple[LayerPlan, ...]
    concat: tuple[int, ...]
    out_channels: int


def plan_chain(genotype: Genotype, size: NetworkSize) -> ChainPlan:
    """Plan of the network of a genotype with layers.

    A convolution of stride s over n rows gives n / s of them, rounded up.
    """
    channels, sizes = {0: size.input_shape[0]}, {0: size.input_shape[1:]}
    layers = []
    for node, layer in enumerate(genotype.layers, start=2):
        own = [edge for edge in genotype.normal if edge.target == node]
        sources = tuple(edge.source for edge in own)
        kernel = kernel_size(own[0].primitive)
        assert kernel is not None
        stride = (layer.stride_height, layer.stride_width)
        height, width = (max(sizes[source][axis] for source in sources) for axis in (0, 1))
        channels[node], sizes[node] = layer.filters, (-(-height // stride[0]), -(-width // stride[1]))
        layers.append(
            LayerPlan(
                sources=sources,
                channels_in=sum(channels[source] for source in sources),
                filters=layer.filters,
                kernel=kernel,
                stride=stride,
                size_in=(height, width),
                size_out=sizes[node],
            )
        )
    concat = genotype.normal_concat
    return ChainPlan(size=size, layers=tuple(layers), concat=concat, out_channels=sum(channels[n] for n in concat))
