"""Image files of the same bytes in two classes or in two splits."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_core.data.image_folder import ImagePaths

#: How much is read, a file counting at least so much: a few seconds from a local disk.
_READ_BYTES, _LEAST_BYTES = 2**30, 2**14
_EXAMPLES = 3


def identical_images(folder: ImagePaths, root: Path, splits: Mapping[str, npt.NDArray[np.int64]]) -> list[str]:
    """Warnings about images whose copies make the labels contradict each other, or validation look better than it is.

    Only files of equal size can be equal, so no others are read; two links to one file are equal. Copies within one
    class and split are no fault.

    Args:
        folder: the images.
        root: its folder, which is left out of the names.
        splits: positions in `folder.paths` of the images of each split.
    """
    groups, num_unread = _identical(folder, splits)

    def example(items: Sequence[tuple[int, str]]) -> str:
        names = [f"{os.path.relpath(folder.paths[index], root)} ({split})" for index, split in items]
        return " = ".join(names[:_EXAMPLES])

    sides: dict[str, Callable[[tuple[int, str]], object]] = {
        "class": lambda item: folder.labels[item[0]],
        "split": lambda item: item[1],
    }
    said = []
    for what, key in sides.items():
        # The first image of each class or split; dictionaries keep the last that they are given.
        firsts = [list({key(item): item for item in reversed(group)}.values())[::-1] for group in groups]
        if found := [items for items in firsts if len(items) > 1]:
            examples = "; ".join(map(example, found[:_EXAMPLES]))
            said.append(f"identical images in more than one {what}: {len(found)}, such as {examples}")
    if num_unread:
        said.append(f"not searched for identical images, as together they are too large: {num_unread} files")
    return said


def _identical(
    folder: ImagePaths, splits: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[list[list[tuple[int, str]]], int]:
    """Groups of identical images, as (position, split), and how many more might be in one but were not read."""
    by_size = defaultdict(list)
    for split, indices in splits.items():
        for index in indices.tolist():
            by_size[int(folder.sizes[index])].append((index, split))
    by_content = defaultdict(list)
    left, num_unread = _READ_BYTES, 0
    for size, group in sorted(by_size.items()):
        if len({(folder.labels[index], split) for index, split in group}) == 1:
            continue
        left -= max(size, _LEAST_BYTES) * len(group)
        if left < 0:
            num_unread += len(group)
            continue
        for index, split in group:
            try:
                with open(folder.paths[index], "rb") as file:
                    by_content[hashlib.file_digest(file, "sha256").digest()].append((index, split))
            except OSError:
                pass  # reported when the image is used
    return [group for group in by_content.values() if len(group) > 1], num_unread
