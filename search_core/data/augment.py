"""Augmentation and normalisation of a whole batch on the device, without a Python loop over its images.

Shapes: N images of a batch, P images of all splits together, S images of one split, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from search_core.errors import require
from search_core.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        crop_padding: pixels of zero padding on every side before a random crop of the original size; 0 for no crop.
        flip: mirror an image left to right with probability 1/2.
        cutout: side in pixels of the square that is erased; 0 for none.
        colour_jitter: change the colours of image files, see `FolderSplit`.

    Raises:
        OptionsError: if a number of pixels is negative.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    colour_jitter: bool = False

    def __post_init__(self) -> None:
        require(
            ("crop_padding", self.crop_padding >= 0, f"must be at least 0, got {self.crop_padding}"),
            ("cutout", self.cutout >= 0, f"must be at least 0, got {self.cutout}"),
        )


def prepare_batch(
    images_NCHW: Tensor,
    mean_C: Tensor,
    std_C: Tensor,
    augment: Augmentation | None = None,
    generator: torch.Generator | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Crop and flip raw pixels, normalise, then erase squares.

    The padding is black because it comes before normalisation; the erased square has the mean colour because cutout
    comes after it. This is the order of the published recipes (DARTS `_data_transforms_cifar10`).

    Args:
        images_NCHW: uint8 images.
        mean_C: mean of each channel, in grey levels 0..255.
        std_C: standard deviation of each channel, in grey levels, above 0.
        augment: what to change at random; None for nothing.
        generator: source of all random numbers, on the device of the images; needed with `augment`.
        ranks: whose equal share of a batch the images are; the random numbers are those of the whole batch.

    Returns:
        Normalised float32 images of the same shape.
    """
    if augment is None:
        return normalise(images_NCHW, mean_C, std_C)
    num_images, _, height, width = images_NCHW.shape
    device = images_NCHW.device

    def draw(end: int) -> Tensor:
        return ranks.share(torch.randint(end, (num_images * ranks.count,), generator=generator, device=device))

    if augment.crop_padding or augment.flip:
        top_N, left_N = draw(2 * augment.crop_padding + 1), draw(2 * augment.crop_padding + 1)
        flip_N = draw(2).bool() if augment.flip else torch.zeros(num_images, dtype=torch.bool, device=device)
        images_NCHW = crop_and_flip(images_NCHW, augment.crop_padding, top_N, left_N, flip_N)
    batch_NCHW = normalise(images_NCHW, mean_C, std_C)
    if augment.cutout:
        batch_NCHW = erase_squares(batch_NCHW, augment.cutout, draw(height), draw(width))
    return batch_NCHW


def normalise(images_NCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """Return `(image - mean) / std` per channel as float32; arguments as for `prepare_batch`."""
    return images_NCHW.float().sub_(mean_C[:, None, None]).div_(std_C[:, None, None])


def crop_and_flip(images_NCHW: Tensor, padding: int, top_N: Tensor, left_N: Tensor, flip_N: Tensor) -> Tensor:
    """Pad with zeros, crop back to the original size at the given offsets, then mirror some images.

    Args:
        images_NCHW: images of any type.
        padding: pixels added on every side.
        top_N: first row of each crop in the padded image, in [0, 2 `padding`].
        left_N: first column of each crop, in [0, 2 `padding`].
        flip_N: which crops to mirror left to right.

    Returns:
        Images of the same shape and type.
    """
    num_images, _, height, width = images_NCHW.shape
    padded = functional.pad(images_NCHW, (padding, padding, padding, padding))
    # Every possible crop, as a view without copies: (N, C, 2 padding + 1, 2 padding + 1, H, W). One is taken per image.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    images_NCHW = crops[torch.arange(num_images, device=images_NCHW.device), :, top_N, left_N]
    return torch.where(flip_N[:, None, None, None], images_NCHW.flip(-1), images_NCHW)


def erase_squares(images_NCHW: Tensor, side: int, row_N: Tensor, column_N: Tensor) -> Tensor:
    """Set one square of each image to 0, clipped at the borders (DeVries and Taylor, arXiv:1708.04552, section 3).

    The square covers rows `row - side // 2` to `row - side // 2 + side - 1`, columns likewise. For an even side this is
    the published code; for an odd side that code erases a square of `side - 1`.

    Args:
        images_NCHW: normalised images, so that 0 is the mean colour.
        side: side of the square in pixels.
        row_N: row of each centre, in [0, H).
        column_N: column of each centre, in [0, W).

    Returns:
        Images of the same shape.
    """
    height, width = images_NCHW.shape[-2:]
    inside_NH = _covered(height, side, row_N)
    inside_NW = _covered(width, side, column_N)
    return images_NCHW.masked_fill((inside_NH[:, :, None] & inside_NW[:, None, :])[:, None], 0.0)


def _covered(length: int, side: int, centre_N: Tensor) -> Tensor:
    """Which of `length` positions lie within `side` positions around each centre; shape (N, `length`)."""
    offset = torch.arange(length, device=centre_N.device) - (centre_N[:, None] - side // 2)
    return (offset >= 0) & (offset < side)


def channel_statistics(
    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32], indices: npt.NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the given images, for pixels in [0, 1].

    Those of bytes come from exact counts of the 256 grey levels, so that they do not depend on device or order of
    summation.

    Args:
        images: shape (P, C, H, W), grey levels in [0, 255].
        indices: shape (S,), the images to count.

    Returns:
        Means and standard deviations, C each; the latter at least one grey level, so that one can divide by them.
    """
    if images.dtype != np.uint8:
        return _statistics_of_floats(images, indices)
    channels = images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(indices), 1024):  # in parts, because counting widens bytes to 64 bits
        part = images[indices[start : start + 1024]]
        counts += np.stack([np.bincount(part[:, channel].ravel(), minlength=256) for channel in range(channels)])
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)).clip(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _statistics_of_floats(
    images: npt.NDArray[Any], indices: npt.NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    def average(of: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Of a function of the pixels over all images, by channel."""
        means = [of(images[index].astype(np.float64) / 255).mean(axis=(1, 2)) for index in np.sort(indices)]
        found: npt.NDArray[np.float64] = np.mean(means, axis=0)
        return found

    mean = average(lambda pixels: pixels)
    std = np.sqrt(average(lambda pixels: (pixels - mean[:, None, None]) ** 2)).clip(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
