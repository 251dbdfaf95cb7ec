"""Splits of a data set that yield normalised batches on the device, in a fixed or in a seeded order.

Shapes: N images of a batch, P images of all splits together (the pool), S images of one split, C channels, H rows,
W columns.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from search_core.data.augment import Augmentation, prepare_batch
from search_core.data.image_file import read_rgb
from search_core.errors import DataError, first_few
from search_core.ranks import ALONE, Ranks


def stratified_order(labels: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Permute so that every prefix holds the classes in their overall proportions, to about one image per class.

    Image r = 0, 1, ... (after a shuffle) of a class of n images gets the rank `(r + 1/2) / n`; images are sorted by
    rank, ties in shuffled order. A class of few images has none near rank 0 or 1, so small prefixes leave it whole.

    Args:
        labels: shape (S,), class of each image.
        generator: source of the shuffle.

    Returns:
        Positions in `labels`, shape (S,).
    """
    shuffled = generator.permutation(len(labels))
    by_class = np.argsort(labels[shuffled], kind="stable")
    counts = np.bincount(labels)
    first_of_class = np.cumsum(counts) - counts
    ranks = np.empty(len(labels))
    ranks[by_class] = (np.arange(len(labels)) - np.repeat(first_of_class, counts) + 0.5) / np.repeat(counts, counts)
    order: npt.NDArray[np.int64] = shuffled[np.argsort(ranks, kind="stable")]
    return order


class _Pass(NamedTuple):
    """What a pass over a split was asked for, as in `Split.batches`."""

    batch_size: int
    generator: torch.Generator | None
    augment: Augmentation | None
    drop_last: bool
    ranks: Ranks


class Split(ABC):
    """Images of one split.

    Args:
        indices: shape (S,), positions of its images in the pool.
        device: where batches are made.
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel, of pixels in [0, 1], above 0.
    """

    def __init__(
        self, indices: npt.NDArray[np.int64], device: torch.device, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.indices = indices
        self.device = device
        self._mean_C = 255 * torch.tensor(mean, dtype=torch.float32, device=device)
        self._std_C = 255 * torch.tensor(std, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    @abstractmethod
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of each image in the order of the split, shape (S,)."""

    def part(self, positions: npt.NDArray[np.int64]) -> Self:
        """The images at some positions of this split, in that order."""
        part = copy.copy(self)
        part.indices = self.indices[positions]
        return part

    def num_batches(self, batch_size: int, drop_last: bool = False) -> int:
        """Number of batches that `batches` yields with the same arguments."""
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        ranks: Ranks = ALONE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each image once.

        Args:
            batch_size: images a batch, at least 1.
            generator: shuffles and augments, on the device of the split; the same state gives the same batches, bit by
                bit. None keeps a fixed order.
            augment: random changes to the images, only with a generator.
            drop_last: leave out the last, smaller batch. Pass True for training: batch norm cannot normalise a batch of
                one image at 1 x 1 resolution, and statistics of a few images are poor.
            ranks: yield this rank's share of every batch only, bit by bit as without. A last batch with fewer images
                than ranks leaves some ranks without. Augmented batches must divide by the number of ranks.

        Returns:
            Pairs of normalised images (N, C, H, W), float32, and labels (N,), int64, on the device.

        Raises:
            ValueError: if the arguments do not fit together, or `drop_last` would leave no batch at all.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        if generator is None and augment is not None:
            raise ValueError(f"`augment` must be None without a `generator`, got {augment}")
        if generator is not None and generator.device.type != self.device.type:
            raise ValueError(f"`generator` must live on {self.device}, got one on {generator.device}")
        if self.num_batches(batch_size, drop_last) == 0:
            raise ValueError(f"`batch_size` must be at most {len(self)}, the images of the split, got {batch_size}")
        if augment is not None and ranks.count > 1 and (batch_size % ranks.count or not drop_last):
            raise ValueError(
                f"`batch_size` must divide by {ranks.count} ranks and `drop_last` be set, got {batch_size}"
            )
        return self._iterate(_Pass(batch_size, generator, augment, drop_last, ranks))

    @abstractmethod
    def _iterate(self, wanted: _Pass) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a pass, which `batches` has checked."""

    def _prepared(self, images: Tensor, wanted: _Pass) -> Tensor:
        return prepare_batch(images, self._mean_C, self._std_C, wanted.augment, wanted.generator, wanted.ranks)

    def _order(self, generator: torch.Generator | None) -> Tensor:
        """Positions within the split in the order of this pass, shape (S,), on the device."""
        if generator is None:
            return torch.arange(len(self), device=self.device)
        return torch.randperm(len(self), generator=generator, device=self.device)


class TensorSplit(Split):
    """A split of images that lie on the device as one tensor, shared by all splits.

    Args:
        images_PCHW: uint8 images of all splits together.
        labels_P: int64 labels on the same device.
        indices: shape (S,), positions of the images of this split.
        mean: as for `Split`.
        std: as for `Split`.
    """

    def __init__(
        self,
        images_PCHW: Tensor,
        labels_P: Tensor,
        indices: npt.NDArray[np.int64],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(indices, images_PCHW.device, mean, std)
        self._images_PCHW, self._labels_P = images_PCHW, labels_P
        self._indices_S = torch.as_tensor(indices, device=self.device)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """As `Split.labels`."""
        labels: npt.NDArray[np.int64] = self._labels_P[self._indices_S].cpu().numpy()
        return labels

    def part(self, positions: npt.NDArray[np.int64]) -> Self:
        """As `Split.part`; the images are shared."""
        part = super().part(positions)
        part._indices_S = torch.as_tensor(part.indices, device=self.device)
        return part

    def _iterate(self, wanted: _Pass) -> Iterator[tuple[Tensor, Tensor]]:
        order_S = self._indices_S[self._order(wanted.generator)]
        for positions_N in order_S.split(wanted.batch_size)[: self.num_batches(wanted.batch_size, wanted.drop_last)]:
            chosen_N = wanted.ranks.share(positions_N)
            if not len(chosen_N):
                continue
            # index_select copies whole images: 12 us for 64 of CIFAR on two CPU cores, against 110 us by indexing.
            images = self._images_PCHW.index_select(0, chosen_N)
            yield self._prepared(images, wanted), self._labels_P.index_select(0, chosen_N)


class DerivedSplit(Split):
    """Another split, of whose batches something is changed as they pass.

    Args:
        split: the images.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.indices, self.device = split.indices, split.device

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """As `Split.labels`."""
        return self._split.labels

    def part(self, positions: npt.NDArray[np.int64]) -> Self:
        """As `Split.part`."""
        part = super().part(positions)
        part._split = self._split.part(positions)
        return part

    @abstractmethod
    def _changed(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """What a pass yields, given what it would yield of the other split."""

    def _iterate(self, wanted: _Pass) -> Iterator[tuple[Tensor, Tensor]]:
        return self._changed(self._split._iterate(wanted))


class FolderSplit(Split):
    """A split of image files, decoded by loader processes; flips, normalisation and cutout run on the device.

    `read_rgb` says what becomes of pixels that are not RGB. Augmented images are random crops of 8 to 100 % of the area
    (Szegedy et al., CVPR 2015), with `colour_jitter` in changed colours (DARTS' recipe for ImageNet), others the centre
    of the image whose shorter side was brought to 256/224 of the size.

    Args:
        paths: one path per image of all splits together.
        labels: shape (P,).
        indices: shape (S,), positions of the images of this split.
        image_size: height and width of the images in a batch, in pixels.
        workers: loader processes; 0 decodes in this process. The batches do not depend on it.
        device: where batches are made.
        mean: as for `Split`.
        std: as for `Split`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int64],
        *,
        image_size: int,
        workers: int,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(indices, device, mean, std)
        self._paths, self._labels = paths, labels
        self._image_size, self._workers = image_size, workers

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """As `Split.labels`."""
        return self._labels[self.indices]

    def _iterate(self, wanted: _Pass) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.indices[self._order(wanted.generator).cpu().numpy()]
        seed = None if wanted.augment is None else self._crop_seed(wanted.generator)
        num_batches = self.num_batches(wanted.batch_size, wanted.drop_last)
        whole = torch.arange(len(order)).split(wanted.batch_size)[:num_batches]
        shares = [wanted.ranks.share(batch) for batch in whole]
        loader = DataLoader(
            _FolderImages(self._paths, self._labels, order, self._image_size, seed, wanted.augment),
            batch_sampler=[share.tolist() for share in shares if len(share)],
            num_workers=min(self._workers, num_batches),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader draws from the global generator to seed its workers
            collate_fn=_collate,
        )
        for item in loader:
            if isinstance(item, Exception):
                raise item
            images, labels = item
            on_device = images.to(self.device, non_blocking=True)
            yield self._prepared(on_device, wanted), labels.to(self.device, non_blocking=True)

    def _crop_seed(self, generator: torch.Generator | None) -> int:
        return int(torch.randint(2**62, (), generator=generator, device=self.device))


class _FolderImages(Dataset[tuple[Tensor, int] | DataError | OSError]):
    """Decodes one image: item i is image `order[i]`, changed at random from its own seed if `seed` is given.

    A seed per item, not per worker, makes the crops independent of the number of workers. A bad image is returned as an
    error, not raised: an error that leaves a loader process would come with that process's traceback in its message,
    and would keep the loader processes alive for seconds.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64],
        image_size: int,
        seed: int | None,
        augment: Augmentation | None,
    ) -> None:
        from torchvision import transforms

        self._paths, self._labels, self._order, self._seed = paths, labels, order, seed
        centre = [transforms.Resize(round(image_size * 256 / 224)), transforms.CenterCrop(image_size)]
        crop = centre if seed is None else [transforms.RandomResizedCrop(image_size)]
        jitters = augment is not None and augment.colour_jitter
        colour = [transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)] if jitters else []
        self._transform: Any = transforms.Compose([*crop, *colour, transforms.PILToTensor()])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[Tensor, int] | DataError | OSError:
        index = self._order[position]
        try:
            image = read_rgb(self._paths[index])
        except (DataError, OSError) as error:
            return error
        # torchvision's crops know only the global generator: lend them a seeded one, and give the old state back.
        with torch.random.fork_rng(devices=[]):
            if self._seed is not None:
                torch.default_generator.manual_seed(self._seed + position)
            return self._transform(image), int(self._labels[index])


def _collate(items: list[tuple[Tensor, int] | DataError | OSError]) -> Any:
    """Stack images and labels, or return one error for all that are among the items."""
    errors = [item for item in items if isinstance(item, Exception)]
    if not errors:
        return default_collate(items)
    passing = next((error for error in errors if not isinstance(error, DataError)), None)
    return passing or DataError(first_few([str(error) for error in errors], "; "))
