"""Image data sets: splits that are disjoint, seeded and recorded, and augmentation batched on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from search_core.data.augment import Augmentation, channel_statistics
from search_core.data.dataset_options import DatasetOptions, image_root
from search_core.data.identical import identical_images
from search_core.data.image_folder import read_image_folder
from search_core.data.image_tables import read_table
from search_core.data.own_data import read_function
from search_core.data.readers import RawImages, make_fake, read_cifar, read_digits, read_fashion_mnist
from search_core.data.splits import FolderSplit, Split, TensorSplit, stratified_order
from search_core.errors import DataError, printable, require

__all__ = ["Augmentation", "ImageData", "Split", "load_data"]

TEST_FRACTION = 0.2  # of data sets without an official test set

_AUGMENTATION = {
    "digits": Augmentation(crop_padding=1),  # no flip: a mirrored digit is another sign
    "fashion-mnist": Augmentation(crop_padding=2, flip=True),
    "cifar10": Augmentation(crop_padding=4, flip=True),
    "cifar100": Augmentation(crop_padding=4, flip=True),
    "image-folder": Augmentation(flip=True),  # its random crop is another one, see FolderSplit
}  # others have none: what may be changed without changing the class is for their owners to say
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set, split and ready to be trained on.

    Attributes:
        name: `DatasetOptions.title`.
        train: images that theta (and in single-level search alpha) is trained on.
        validation: images held out of the training set.
        test: official or seeded test images, for the final figure only.
        input_shape: channels, height, width of an image.
        classes: names of the classes.
        augmentation: augmentation of training images: that of the data set, overridden by the options.
        mean: mean of each channel of pixels in [0, 1], over the training split (ImageNet's for `image-folder`).
        std: standard deviation of each channel of pixels in [0, 1], likewise.
        digest: SHA-256 (hex) of images and labels; for `image-folder` of paths and file sizes.
        split_digest: SHA-256 (hex) of the three lists of indices.
        warnings: finds what the user should know, a sentence each: files that are not read, identical images in two
            classes or splits. It reads files, so it is called once a run and not in each process.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    split_digest: str
    warnings: Callable[[], list[str]] = list

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of each split, by name."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def load_data(options: DatasetOptions, device: torch.device) -> ImageData:
    """Read a data set and split it; the splits depend on the options only, not on the device.

    Args:
        options: which images and how to split them.
        device: where batches are made; in-memory data sets are kept there whole.

    Raises:
        DataError: if files are missing or malformed, a split would be empty, a class would have no training image, or
            more images are asked for than exist.
        OptionsError: if the augmentation is too large for the images.
    """
    if options.name == "image-folder":
        return _load_image_folder(options, device)
    return _load_in_memory(options, _read(options), device)


def check_batch_size(batch_size: int, data: ImageData) -> None:
    """Check that the training split has at least one batch.

    Raises:
        DataError: if it has not.
    """
    if len(data.train) < batch_size:
        raise DataError(
            f"`batch_size` must be at most the number of training images {len(data.train)}, got {batch_size}"
        )


def _read(options: DatasetOptions) -> RawImages:
    if options.name == "digits":
        return read_digits()
    if options.name == "fake":
        return make_fake(options.shape, options.classes, options.images)
    if options.name == "fashion-mnist":
        return read_fashion_mnist(None if options.root is None else image_root(options))
    if options.name in ("cifar10", "cifar100"):
        return read_cifar(image_root(options), 10 if options.name == "cifar10" else 100)
    if options.is_function:
        return read_function(options)
    return read_table(options)


def _load_in_memory(options: DatasetOptions, raw: RawImages, device: torch.device) -> ImageData:
    _, channels, height, width = raw.images.shape
    indices = _split(options, raw.labels, raw.sizes, raw.classes)
    mean, std = channel_statistics(raw.images, indices["train"])
    images, labels = torch.from_numpy(raw.images).to(device), torch.from_numpy(raw.labels).to(device)
    return _assemble(
        options,
        indices,
        lambda chosen: TensorSplit(images, labels, chosen, mean, std),
        input_shape=(channels, height, width),
        classes=raw.classes,
        mean=mean,
        std=std,
        digest=raw.digest(),
    )


def _load_image_folder(options: DatasetOptions, device: torch.device) -> ImageData:
    root = image_root(options).absolute()
    folder = read_image_folder(root)
    sizes = {"train": folder.num_train, "test": len(folder.labels) - folder.num_train}
    indices = _split(options, folder.labels, sizes, folder.classes)

    def make_split(chosen: npt.NDArray[np.int64]) -> Split:
        return FolderSplit(
            folder.paths,
            folder.labels,
            chosen,
            image_size=options.image_size,
            workers=options.workers,
            device=device,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )

    return _assemble(
        options,
        indices,
        make_split,
        input_shape=(3, options.image_size, options.image_size),
        classes=folder.classes,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        digest=folder.digest,
        warnings=lambda: [printable(text) for text in (*folder.unread, *identical_images(folder, root, indices))],
    )


def _assemble(
    options: DatasetOptions,
    indices: dict[str, npt.NDArray[np.int64]],
    make_split: Callable[[npt.NDArray[np.int64]], Split],
    *,
    input_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    digest: str,
    warnings: Callable[[], list[str]] = list,
) -> ImageData:
    sha = hashlib.sha256()
    for name, chosen in indices.items():
        sha.update(f"{name} {len(chosen)}\n".encode() + chosen.astype("<i8").tobytes())
    return ImageData(
        name=options.title,
        train=make_split(indices["train"]),
        validation=make_split(indices["validation"]),
        test=make_split(indices["test"]),
        input_shape=input_shape,
        classes=classes,
        augmentation=_augmentation(options, min(input_shape[1:])),
        mean=mean,
        std=std,
        digest=digest,
        split_digest=sha.hexdigest(),
        warnings=warnings,
    )


def _augmentation(options: DatasetOptions, side: int) -> Augmentation:
    """Return the data set's augmentation with what the options override; `side` is the shorter one, in pixels."""
    default = _AUGMENTATION.get(options.name, Augmentation())
    augmentation = Augmentation(
        crop_padding=default.crop_padding if options.crop_padding is None else options.crop_padding,
        flip=default.flip if options.flip is None else options.flip,
        cutout=options.cutout,
        colour_jitter=options.colour_jitter,
    )
    rule = f"must be below the side of the images, {side} pixels, or whole images may vanish"
    require(
        ("crop_padding", augmentation.crop_padding < side, f"{rule}, got {augmentation.crop_padding}"),
        ("cutout", augmentation.cutout < side, f"{rule}, got {augmentation.cutout}"),
    )
    return augmentation


def _split(
    options: DatasetOptions, labels: npt.NDArray[np.int64], sizes: Mapping[str, int], classes: tuple[str, ...]
) -> dict[str, npt.NDArray[np.int64]]:
    """Split the pool into train, validation and test, disjoint and stratified.

    The test split is drawn first and from its own random stream, so that no option of the others moves it.

    Args:
        options: fraction, seed and limits.
        labels: shape (P,), classes of all images.
        sizes: as `RawImages.sizes`; splits that it lacks are taken from `train`.
        classes: names of the classes, for messages.

    Returns:
        Indices into the pool for "train", "validation" and "test".
    """

    def ordered(indices: npt.NDArray[np.int64], stream: int) -> npt.NDArray[np.int64]:
        generator = np.random.default_rng([stream, options.split_seed])
        return indices[stratified_order(labels[indices], generator)]

    ends = np.cumsum(list(sizes.values()))
    given = {name: np.arange(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
    rest = given["train"]
    if "test" in given:
        test = ordered(given["test"], 0)
    else:
        shuffled, num_test = ordered(rest, 0), round(TEST_FRACTION * len(rest))
        test, rest = shuffled[:num_test], shuffled[num_test:]
    if "validation" in given:
        validation = ordered(given["validation"], 1)
    else:
        shuffled, num_validation = ordered(rest, 1), round(options.validation_fraction * len(rest))
        validation, rest = shuffled[:num_validation], shuffled[num_validation:]
    # Ordered once more, so that the classes also take turns in the first `train_images` of them.
    train = ordered(rest, 2)
    indices = {"train": train, "validation": validation, "test": test}
    limited = {name: _limited(options, name, chosen) for name, chosen in indices.items()}
    _check_classes(options, labels[limited["train"]], classes)
    return limited


def _limited(options: DatasetOptions, split: str, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the first `<split>_images` of the indices."""
    if not len(indices):
        raise DataError(
            f"the {split} split of `{options.title}` must hold at least one image, got none with "
            f"`validation_fraction` {options.validation_fraction}; change the fraction or use more images"
        )
    limit: int | None = getattr(options, f"{split}_images")
    if limit is not None and limit > len(indices):
        raise DataError(
            f"`{split}_images` must be at most {len(indices)}, the size of the {split} split of `{options.title}`, "
            f"got {limit}"
        )
    return indices[:limit]


def _check_classes(options: DatasetOptions, labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> None:
    missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(missing):
        names = ", ".join(classes[label] for label in missing[:10])
        raise DataError(
            f"every class of `{options.title}` must have at least one image in the train split, got none for "
            f"{len(missing)} of {len(classes)} ({names}) among {len(labels)} images; raise `train_images`, lower "
            "`validation_fraction` or add images"
        )
