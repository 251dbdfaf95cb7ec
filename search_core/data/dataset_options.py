"""Which images a search sees: the options of `datasets`, apart from it, as they need no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from search_core.errors import Rule, require
from search_core.plugins import installed, split_reference

BUILT_IN = ("digits", "fashion-mnist", "cifar10", "cifar100", "image-folder", "npz", "parquet", "fake")
#: Data sets of Hugging Face, by what stands behind it.
HUB = "hf:"
#: Entry points of installed packages that give data sets.
GROUP = "snas.datasets"


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which images, and how they are split and augmented.

    Attributes:
        name: `digits`, `fashion-mnist`, `cifar10`, `cifar100`, `image-folder`, `npz`, `parquet`, or `fake`, which is
            random noise for dry runs; `hf:NAME` of Hugging Face; or a function that gives images: `file.py:function`,
            `package.module:function` or a name of the group `snas.datasets`.
        options: what the function is called with, or for `hf:` `datasets.load_dataset`; for `hf:` and `parquet` also
            which columns hold the images (`image`) and labels (`label`).
        root: folder of the files; of `npz` the file, of `parquet` either. A function is called with it if it is given.
            Not used by `digits` (inside scikit-learn), `fake` and `hf:`. Default: `data/<name>` for data sets that have
            a folder, and for `fashion-mnist` then that of the Debian package dataset-fashion-mnist.
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

    name: str = "digits"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
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
            *self._name_rules(),
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

    @property
    def title(self) -> str:
        """The name as people read it: without the folders of a file."""
        found = split_reference(self.name)
        return self.name if found is None else f"{Path(found[0]).name}:{found[1]}"

    @property
    def is_function(self) -> bool:
        """Whether images come from a function of somebody else."""
        return self.name not in BUILT_IN and not self.name.startswith(HUB)

    def _name_rules(self) -> Iterator[Rule]:
        name, is_hub = self.name, self.name.startswith(HUB)
        is_known = not self.is_function or split_reference(name) is not None or name in installed(GROUP)
        near = get_close_matches(name, BUILT_IN, 1)
        yield (
            "name",
            is_known and name != HUB,
            f"must be one of {', '.join((*BUILT_IN, *installed(GROUP)))}, or {HUB}NAME, file.py:function or "
            f"package.module:function, got `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""),
        )
        takes_options = self.is_function or is_hub or name == "parquet"
        rule = f"must be left out for {name}, got {', '.join(map(str, self.options))}"
        yield "options", takes_options or not self.options, rule, "name"
        yield "options.trust_remote_code", "trust_remote_code" not in self.options, "must be left out: it runs code"
        yield "root", not is_hub or self.root is None, f"must be left out for {name}, got {self.root}", "name"
        rule = f"must be given for {name}: its file" + " or folder" * (name == "parquet")
        yield "root", name not in ("npz", "parquet") or self.root is not None, rule, "name"


def absolute_root(options: DatasetOptions) -> DatasetOptions:
    """The same images for a process with another working directory: the folder, given or default, written out."""
    in_package = options.name in ("digits", "fake") or (options.name not in BUILT_IN and options.root is None)
    elsewhere = options.name == "fashion-mnist" and options.root is None and not image_root(options).is_dir()
    return options if in_package or elsewhere else replace(options, root=str(image_root(options).absolute()))


def image_root(options: DatasetOptions) -> Path:
    """Folder of the images, given or default."""
    return Path(options.root or f"data/{options.name}").expanduser()
