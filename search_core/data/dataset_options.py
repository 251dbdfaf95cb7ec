"""Which images a search sees: the options of `datasets`, apart from it, as they need no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from search_core.errors import literal_rules, require


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which images, and how they are split and augmented.

    Attributes:
        name: the data set. `fake` is random noise for dry runs.
        root: folder of the files; not used by `digits` (inside scikit-learn) and `fake`. Default: `data/<name>`, and
            for `fashion-mnist` then the folder of the Debian package dataset-fashion-mnist.
        validation_fraction: share of the training images held out for validation, in (0, 1).
        split_seed: seed of the validation split (and of the test split where the data set has no official one), 0 or
            above.
        train_images: use only this many training images (first of the seeded permutation, in which the classes take
            turns); default all.
        validation_images: likewise for validation.
        test_images: likewise for test.
        crop_padding: pixels of zero padding for the random crop; default per data set.
        flip: random horizontal flips; default per data set.
        cutout: side of the square that cutout erases during search, in pixels; 0 for none.
        colour_jitter: change brightness, contrast and saturation of `image-folder` training images by up to 0.4 and
            their hue by up to 0.2, as DARTS' recipe for ImageNet does.
        image_size: side to which `image-folder` images are brought, in pixels.
        workers: loader processes of `image-folder`.
        shape: channels, height, width of `fake`.
        classes: number of classes of `fake`.
        images: number of images of `fake`, all splits together.

    Raises:
        OptionsError: if a value is out of range.
    """

    name: Literal["digits", "fashion-mnist", "cifar10", "cifar100", "image-folder", "fake"] = "digits"
    root: str | None = None
    validation_fraction: float = 0.2
    split_seed: int = 0
    train_images: int | None = None
    validation_images: int | None = None
    test_images: int | None = None
    crop_padding: int | None = None
    flip: bool | None = None
    cutout: int = 0
    colour_jitter: bool = False
    image_size: int = 224
    workers: int = 4
    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    images: int = 512

    def __post_init__(self) -> None:
        require(
            *literal_rules(self),
            (
                "validation_fraction",
                0 < self.validation_fraction < 1,
                f"must be in (0, 1), got {self.validation_fraction}",
            ),
            *(
                (name, value is None or value >= 1, f"must be at least 1, got {value}")
                for name, value in (
                    ("train_images", self.train_images),
                    ("validation_images", self.validation_images),
                    ("test_images", self.test_images),
                    ("image_size", self.image_size),
                )
            ),
            ("crop_padding", (self.crop_padding or 0) >= 0, f"must be at least 0, got {self.crop_padding}"),
            ("cutout", self.cutout >= 0, f"must be at least 0, got {self.cutout}"),
            (
                "colour_jitter",
                not self.colour_jitter or self.name == "image-folder",
                f"must be false for {self.name}: it is for image-folder only",
                "name",
            ),
            ("split_seed", self.split_seed >= 0, f"must be at least 0, got {self.split_seed}"),
            ("workers", self.workers >= 0, f"must be at least 0, got {self.workers}"),
            (
                "shape",
                len(self.shape) == 3 and min(self.shape) >= 1,
                f"must be positive (channels, height, width), got {list(self.shape)}",
            ),
            ("classes", self.classes >= 2, f"must be at least 2, got {self.classes}"),
            ("images", self.images >= 10, f"must be at least 10, got {self.images}"),
        )


def absolute_root(options: DatasetOptions) -> DatasetOptions:
    """The same images for a process with another working directory: the folder, given or default, written out."""
    in_package = options.name in ("digits", "fake")
    elsewhere = options.name == "fashion-mnist" and options.root is None and not image_root(options).is_dir()
    return options if in_package or elsewhere else replace(options, root=str(image_root(options).absolute()))


def image_root(options: DatasetOptions) -> Path:
    """Folder of the images, given or default."""
    return Path(options.root or f"data/{options.name}").expanduser()
