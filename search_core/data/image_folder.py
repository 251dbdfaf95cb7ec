"""What of a folder counts as classes and images; all that is wrong with it is one `DataError`."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_core.errors import DataError, first_few, is_permanent

#: What operating systems and tools leave in folders, in lower case; so do names that begin with a dot.
_LEFTOVERS = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "$recycle.bin",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
}


#: In Tiny ImageNet's `val`, where it takes the place of class folders.
_ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True, eq=False)
class ImagePaths:
    """An image folder, images not yet read.

    Attributes:
        paths: one path per image, training images first.
        sizes: shape (N,), bytes of each file.
        labels: shape (N,), position of the class in `classes`.
        num_train: number of training images.
        classes: sorted names of the class folders.
        digest: SHA-256 (hex) of the sorted relative paths and file sizes.
        unread: what is there but was not read, a sentence each.
    """

    paths: tuple[str, ...]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    num_train: int
    classes: tuple[str, ...]
    digest: str
    unread: tuple[str, ...]


def read_image_folder(root: Path) -> ImagePaths:
    """List an image folder in ImageNet's layout: `train/<class>/*.jpg` and `val/<class>/*.jpg`.

    Or in that of Tiny ImageNet, where `val/images` holds all images and `val/val_annotations.txt` their classes.

    As torchvision's `ImageFolder`: every folder in `train` is a class; its images are the files in it and in the
    folders within, with an ending that torchvision knows, in any case. Other than there, names that begin with a dot
    are passed over, as is what systems leave behind (`Thumbs.db`), and each folder is read once: links to files and to
    folders outside are followed, but none that leads to images that are counted already.

    Args:
        root: folder that holds `train` and `val`.

    Raises:
        DataError: if a folder is missing, empty, unreadable or reached twice, the two have other classes, a file is
            empty or not a file, or torchvision is not installed.
        OSError: if disk or network failed.
    """
    root = root.absolute()
    parts = [str(root / "train"), str(root / "val")]
    for part in parts:
        if not os.path.isdir(part):
            raise DataError(
                f"{part} is missing: `image-folder` expects train/<class>/*.jpg and val/<class>/*.jpg in {root}; "
                "create it or set `dataset.root`"
            )
    listing = _Listing()
    beside = [name for name in listing.folders(str(root)) if name not in ("train", "val")]
    train, val = (listing.classes(part) for part in parts)
    faults = listing.folder_faults or _faults_of_classes(root, train, val)
    if faults := [*faults, *listing.file_faults]:
        raise DataError(first_few(faults, "; "))
    paths = [path for part in (train, val) for images in part.values() for path in images]
    labels = [label for part in (train, val) for label, images in enumerate(part.values()) for _ in images]
    return ImagePaths(
        tuple(paths),
        np.array([listing.sizes[path] for path in paths], np.int64),
        np.array(labels, np.int64),
        sum(map(len, train.values())),
        tuple(train),
        _digest(root, listing.sizes),
        tuple(listing.unread(root, beside)),
    )


def _faults_of_classes(root: Path, train: dict[str, list[str]], val: dict[str, list[str]]) -> list[str]:
    faults = []
    if differing := train.keys() ^ val.keys():
        sides = (("train", train.keys() - val), ("val", val.keys() - train))
        only = ", ".join(f"only {part} has {first_few(sorted(names))}" for part, names in sides if names)
        folded = {unicodedata.normalize("NFC", name).casefold() for name in differing}
        hint = " (some differ only in case or in how accents are encoded)" if len(folded) < len(differing) else ""
        faults.append(f"{root}: train and val must have the same class folders, {only}{hint}")
    parts = (("train", train), ("val", val))
    if empty := [f"{part}/{name}" for part, classes in parts for name in classes if not classes[name]]:
        faults.append(
            f"{root}: each class folder of train and val must hold images, got: none in {first_few(empty)} "
            f"(images are files that end in {', '.join(_endings())})"
        )
    if len(train) < 2:
        faults.append(f"{root / 'train'} must hold at least 2 class folders, got {list(train)}")
    return faults


def _endings() -> tuple[str, ...]:
    try:
        from torchvision.datasets.folder import IMG_EXTENSIONS
    except ImportError as error:
        raise DataError(f"data set `image-folder` needs torchvision, got: {error}") from error
    return tuple(IMG_EXTENSIONS)


class _Listing:
    """Reads folders and gathers what is wrong with them.

    Attributes:
        sizes: bytes of each image that was found, by path.
        folder_faults: what is wrong with folders, which were then not read, a sentence each.
        file_faults: what is wrong with images.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.folder_faults: list[str] = []
        self.file_faults: list[str] = []
        self._endings = _endings()
        self._outside: list[str] = []  # images in no class folder
        self._others: list[str] = []  # files in class folders that are no images
        self._seen: dict[str, str] = {}  # real path of each folder that was read or holds one that was -> that folder

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder; images beside them are remembered as unread."""
        names = []
        for entry in self._entries(folder):
            if self._is_folder(entry):
                names.append(entry.name)
            elif entry.name.lower().endswith(self._endings):
                self._outside.append(entry.path)
        return sorted(names)

    def classes(self, part: str) -> dict[str, list[str]]:
        """Images of each class in `train` or `val`."""
        annotations = os.path.join(part, _ANNOTATIONS)
        if os.path.isfile(annotations):
            return self._annotated(annotations, self._images(os.path.join(part, "images")))
        return {name: self._images(os.path.join(part, name)) for name in self.folders(part)}

    def unread(self, root: Path, beside: Sequence[str]) -> list[str]:
        """What was found and not read, a sentence each."""
        said = [f"{root}: only train and val are read, not {first_few(beside)}"] if beside else []
        for paths, reason in (
            (self._outside, "images outside class folders"),
            (self._others, f"files that do not end in {', '.join(self._endings)}"),
        ):
            if paths:
                names = first_few([os.path.relpath(path, root) for path in sorted(paths)])
                said.append(f"{root}: not read, as {reason}: {len(paths)}, such as {names}")
        return said

    def _annotated(self, annotations: str, images: list[str]) -> dict[str, list[str]]:
        """Images by the class that a table of (file, class, box) gives each, one a line."""
        try:
            lines = Path(annotations).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except OSError as error:
            self.file_faults.append(_fault(annotations, "a readable table", error))
            return {}
        class_of = dict(line.split("\t")[:2] for line in lines if line.count("\t"))
        if unknown := [os.path.basename(path) for path in images if os.path.basename(path) not in class_of]:
            self.file_faults.append(
                f"{annotations} must name the class of every image, got none of {first_few(unknown)}"
            )
        if absent := sorted(class_of.keys() - {os.path.basename(path) for path in images}):
            self.file_faults.append(f"{annotations} must name images that are there, got {first_few(absent)}")
        classes: dict[str, list[str]] = {name: [] for name in sorted(set(class_of.values()))}
        for path in images:
            if name := class_of.get(os.path.basename(path)):
                classes[name].append(path)
        return classes

    def _images(self, folder: str) -> list[str]:
        """Images in a folder and those within, in the order of torchvision's `ImageFolder`."""
        found, todo = [], [folder]
        while todo:
            for entry in self._entries(todo.pop()):
                if self._is_folder(entry):
                    todo.append(entry.path)
                elif entry.name.lower().endswith(self._endings):
                    self._measure(entry)
                    found.append(entry.path)
                else:
                    self._others.append(entry.path)
        return sorted(found, key=os.path.split)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """What a folder holds, but for leftovers; nothing if it is at fault."""
        real = os.path.realpath(folder)
        if real in self._seen:
            self.folder_faults.append(
                f"{folder} leads to {real}, which is or holds the folder {self._seen[real]}: its images would count "
                "twice, so remove one of the two"
            )
            return []
        while real not in self._seen:
            self._seen[real] = folder
            real = os.path.dirname(real)
        try:
            with os.scandir(folder) as entries:
                return [entry for entry in entries if not _is_leftover(entry.name)]
        except OSError as error:
            self.folder_faults.append(_fault(folder, "a readable folder", error))
            return []

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError as error:
            self.file_faults.append(_fault(entry.path, "a file or folder", error))
            return False

    def _measure(self, image: os.DirEntry[str]) -> None:
        self.sizes[image.path] = 0
        try:
            status = image.stat()
        except OSError as error:
            self.file_faults.append(_fault(image.path, "a readable image file", error))
            return
        self.sizes[image.path] = status.st_size
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            self.file_faults.append(f"{image.path} must be a regular file, got a device, pipe or socket")
        elif status.st_size == 0:
            self.file_faults.append(f"{image.path} must be an image that can be decoded, got: a file of 0 bytes")


def _fault(path: str, rule: str, error: OSError) -> str:
    if not is_permanent(error):
        raise error
    return f"{path} must be {rule}, got: {error.strerror}"


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFTOVERS


def _digest(root: Path, sizes: dict[str, int]) -> str:
    """SHA-256 (hex) of sorted relative paths and sizes: reading every image of ImageNet would take many minutes."""
    sha = hashlib.sha256()
    start = len(os.path.join(root, ""))
    # By parts, not by characters: `ant/1.jpg` comes before `ant-2/1.jpg`, as in the digests of studies so far.
    for path in sorted(sizes, key=lambda path: path[start:].split(os.sep)):
        sha.update(os.fsencode(path[start:].replace(os.sep, "/")) + f"\0{sizes[path]}\n".encode())
    return sha.hexdigest()
