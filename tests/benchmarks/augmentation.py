"""Images/s of the augmentation batched on the device, over a usual torch loader of two workers with equal transforms.

Run: `python -m tests.benchmarks.augmentation [--batch 64 --images 8192 --repeats 5] [--json]`. Both shuffle and read
the same seeded random images of CIFAR-10's shape from memory; no transform looks at their content. The loader goes
through PIL image by image like `torchvision.datasets.CIFAR10`, and is at its best: its workers persist and have run an
epoch. The batched form gets one thread, the workers one each. Passes over all images are interleaved; ratios are
taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from search_core.data.augment import Augmentation
from search_core.data.splits import TensorSplit

_MEAN, _STD = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
_AUGMENTATION = Augmentation(crop_padding=4, flip=True, cutout=16)
_WORKERS = 2


class _Cutout:
    """Cutout of one image with a numpy mask, as in DARTS' `utils.Cutout`."""

    def __init__(self, length: int) -> None:
        self._half = length // 2

    def __call__(self, image_CHW: Tensor) -> Tensor:
        height, width = image_CHW.shape[1:]
        row, column = np.random.randint(height), np.random.randint(width)  # noqa: NPY002 - as published
        top, bottom = np.clip((row - self._half, row + self._half), 0, height)
        left, right = np.clip((column - self._half, column + self._half), 0, width)
        mask = np.ones((height, width), np.float32)
        mask[top:bottom, left:right] = 0.0
        image_CHW *= torch.from_numpy(mask)
        return image_CHW


class _MemoryImages(Dataset[tuple[Tensor, int]]):
    """Images in memory that go through PIL one by one, as `torchvision.datasets.CIFAR10` does it."""

    def __init__(self, images_PHWC: npt.NDArray[np.uint8], labels: list[int]) -> None:
        self._images_PHWC, self._labels = images_PHWC, labels
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=_AUGMENTATION.crop_padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(_MEAN, _STD),
                _Cutout(_AUGMENTATION.cutout),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images_PHWC[index])), self._labels[index]


def measure(batch_size: int, num_images: int, repeats: int) -> dict[str, object]:
    """Median images/s of both forms and the median of their pairwise ratios."""
    torch.set_num_threads(1)  # with two, whatever else runs on the machine stalls each of the small operations
    random = np.random.default_rng(0)
    images_PHWC = random.integers(256, size=(num_images, 32, 32, 3), dtype=np.uint8)
    labels_P = random.integers(10, size=num_images)
    split = TensorSplit(
        torch.from_numpy(images_PHWC).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels_P),
        np.arange(num_images),
        _MEAN,
        _STD,
    )
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        _MemoryImages(images_PHWC, labels_P.tolist()),
        batch_size=batch_size,
        shuffle=True,
        num_workers=_WORKERS,
        persistent_workers=True,
    )

    def batched_rate() -> float:
        return _images_per_s(split.batches(batch_size, generator=generator, augment=_AUGMENTATION), num_images)

    def loader_rate() -> float:
        return _images_per_s(loader, num_images)

    batched_rate(), loader_rate()
    pairs = [(batched_rate(), loader_rate()) for _ in range(repeats)]
    figures = {
        "images_per_s_ratio": [fast / slow for fast, slow in pairs],
        "batched": [fast for fast, _ in pairs],
        "loader": [slow for _, slow in pairs],
    }
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "images_per_s_ratio": medians["images_per_s_ratio"],
        "images_per_s": {name: medians[name] for name in ("batched", "loader")},
        "spreads": {name: [min(values), max(values)] for name, values in figures.items()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "options": {"batch": batch_size, "images": num_images, "repeats": repeats, "workers": _WORKERS},
        "threads": torch.get_num_threads(),
    }


def _images_per_s(batches: Iterable[tuple[Tensor, Tensor]], num_images: int) -> float:
    begin = time.perf_counter()
    seen = sum(len(labels) for _, labels in batches)
    seconds = time.perf_counter() - begin
    assert seen == num_images
    return num_images / seconds


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images a batch")
    parser.add_argument("--images", type=int, default=8192, help="images a pass")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of passes")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    result = measure(options.batch, options.images, options.repeats)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
