"""The images by which children are trained and scored, as the options of multi-trial strategies ask for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.nn import functional

from search_core.data.datasets import ImageData
from search_core.data.splits import DerivedSplit, Split, stratified_order
from search_core.errors import require
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.training.held_out import SearchImages


def estimate_images(options: EstimateOptions, data: ImageData) -> ImageData:
    """The images as a child sees them: `train` without those held out, which are in the place of `validation`.

    Args:
        options: which images, and of what size.
        data: the images of the search; its validation and test splits are not used.

    Raises:
        DataError: if nearly all images, or none, would be held out.
        OptionsError: if `resolution` is above the side of the images.
    """
    parts = SearchImages.of(data, options.held_out, batch_size=2, recalibration_batches=1)
    train = parts.weights
    if options.data_fraction < 1:
        order = stratified_order(train.labels, np.random.default_rng(0))  # the same whatever the seed
        train = train.part(order[: max(1, round(options.data_fraction * len(train)))])
    sha = hashlib.sha256(f"{data.split_digest} {options.resolution}".encode())
    for split in (train, parts.held_out_split):
        sha.update(split.indices.astype("<i8").tobytes())
    return replace(
        resized_images(options, data),
        train=_resized_split(options, train, data),
        validation=_resized_split(options, parts.held_out_split, data),
        split_digest=sha.hexdigest(),
    )


def resized_images(options: EstimateOptions, data: ImageData) -> ImageData:
    """The same splits with images of `resolution`.

    Raises:
        OptionsError: if `resolution` is above the side of the images.
    """
    return replace(
        data,
        train=_resized_split(options, data.train, data),
        validation=_resized_split(options, data.validation, data),
        test=_resized_split(options, data.test, data),
        input_shape=(data.input_shape[0], *_size(options, data)),
    )


def _resized_split(options: EstimateOptions, split: Split, data: ImageData) -> Split:
    return split if options.resolution is None else ResizedSplit(split, _size(options, data))


def _size(options: EstimateOptions, data: ImageData) -> tuple[int, int]:
    _, height, width = data.input_shape
    side = options.resolution
    if side is None:
        return height, width
    shorter = min(height, width)
    require(("resolution", side <= shorter, f"must be at most the images' shorter side {shorter}, got {side}"))
    return round(height * side / shorter), round(width * side / shorter)


class ResizedSplit(DerivedSplit):
    """A split whose images are made smaller by the mean over areas, after they were augmented and normalised.

    Args:
        split: the images.
        size: height and width, in pixels, at most those of the images.
    """

    def __init__(self, split: Split, size: tuple[int, int]) -> None:
        super().__init__(split)
        self._size = size

    def _changed(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            yield functional.interpolate(images, self._size, mode="area"), labels
