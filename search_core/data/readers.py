"""Files of each data set -> arrays; every bad file is a `DataError` that names it."""

from __future__ import annotations

import gzip
import hashlib
import math
import pickle
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from search_core.errors import DataError, is_permanent

DEBIAN_FASHION_MNIST = Path(
    "/usr/share/datasets/fashion-mnist"
)  # where the Debian package dataset-fashion-mnist puts it

_IDX_IMAGES, _IDX_LABELS = 0x0803, 0x0801  # unsigned bytes in 3 dimensions and in 1
_FASHION_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR_FILES: dict[int, tuple[str, tuple[str, ...], str, str]] = {
    10: ("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "labels"),
    100: ("cifar-100-python", ("train",), "test", "fine_labels"),
}


@dataclass(frozen=True, eq=False)
class RawImages:
    """A data set as arrays.

    Attributes:
        images: shape (N, C, H, W), grey levels in [0, 255]: uint8, or float32 for those that no bytes can hold.
        labels: shape (N,), in [0, number of classes).
        sizes: number of images of each split that the data set has, `train` and perhaps `validation` and `test`; the
            images are in this order.
        classes: names of the classes.
    """

    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    sizes: Mapping[str, int]
    classes: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 (hex) of images and labels, with their shapes."""
        sha = hashlib.sha256()
        for array in (self.images, self.labels.astype("<i8")):
            sha.update(repr(array.shape).encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def _numbered(num_classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(num_classes)))


def read_digits() -> RawImages:
    """Read scikit-learn's 1,797 handwritten digits of 8 x 8 pixels from its file; importing it takes 2 CPU seconds.

    Raises:
        DataError: if scikit-learn is not installed, or its file cannot be read.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("data set `digits` needs scikit-learn (`pip install scikit-learn`), got: it is not installed")
    content = _read_bytes(Path(package.origin).parent / "datasets/data/digits.csv.gz").decode()
    rows = np.loadtxt(content.splitlines(), delimiter=",", dtype=np.int64)
    # Grey levels are 0..16; 255 / 16 = 15.9375 spreads them over a byte, so that all in-memory sets are alike.
    images = np.rint(rows[:, :64] * 15.9375).astype(np.uint8).reshape(-1, 1, 8, 8)
    return RawImages(images, rows[:, 64], {"train": len(rows)}, _numbered(10))


def make_fake(shape: tuple[int, int, int], num_classes: int, num_images: int) -> RawImages:
    """Make seeded noise, the same at every call; class sizes differ by at most one.

    Args:
        shape: channels, height, width.
        num_classes: number of classes.
        num_images: number of images, all splits together.
    """
    images = np.random.default_rng(0).integers(0, 256, (num_images, *shape), dtype=np.uint8)
    labels = np.arange(num_images) % num_classes
    return RawImages(images, labels, {"train": num_images}, _numbered(num_classes))


def read_fashion_mnist(root: Path | None) -> RawImages:
    """Read the four idx files of Fashion-MNIST, gzipped or not, where they lie.

    Args:
        root: folder with the files, or with torchvision's `FashionMNIST/raw` in it. None: `data/fashion-mnist`, then
            the folder of the Debian package.

    Raises:
        DataError: if files are missing, truncated or malformed, or do not fit together.
    """
    folder = _fashion_folder(root)
    images, labels = [], []
    for images_stem, labels_stem in (_FASHION_STEMS[:2], _FASHION_STEMS[2:]):
        images_path, labels_path = _idx_path(folder, images_stem), _idx_path(folder, labels_stem)
        images.append(_read_idx(images_path, _IDX_IMAGES))
        labels.append(_read_idx(labels_path, _IDX_LABELS).astype(np.int64))
        if images[-1].shape[1:] != (28, 28):
            raise DataError(f"{images_path} must hold images of 28 x 28 pixels, got {images[-1].shape[1:]}")
        _check_labels(labels_path, labels[-1], len(images[-1]), 10)
    sizes = {"train": len(images[0]), "test": len(images[1])}
    return RawImages(np.concatenate(images)[:, None], np.concatenate(labels), sizes, _numbered(10))


def _fashion_folder(root: Path | None) -> Path:
    """Return the first candidate folder that holds any of the files, so that a missing one is named within it."""
    roots = [root] if root else [Path("data/fashion-mnist"), DEBIAN_FASHION_MNIST]
    folders = [folder for base in roots for folder in (base, base / "FashionMNIST" / "raw")]
    for folder in folders:
        if any((folder / f"{stem}{suffix}").exists() for stem in _FASHION_STEMS for suffix in ("", ".gz")):
            return folder
    raise DataError(
        f"Fashion-MNIST not found: expected {', '.join(_FASHION_STEMS)} (each plain or .gz) in one of "
        f"{', '.join(str(folder.absolute()) for folder in folders)}; "
        "`apt-get install dataset-fashion-mnist` brings them, or set `dataset.root` to their folder"
    )


def _idx_path(folder: Path, stem: str) -> Path:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.exists():
            return path
    raise DataError(
        f"{(folder / stem).absolute()}[.gz] is missing: Fashion-MNIST needs all of {', '.join(_FASHION_STEMS)}; "
        "copy it there or set `dataset.root` to a complete folder"
    )


def _read_idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    """Read one idx file of unsigned bytes (http://yann.lecun.com/exdb/mnist: big-endian magic, sizes, data)."""
    path = path.absolute()
    content = _read_bytes(path)
    header = 4 + 4 * (magic & 0xFF)
    if len(content) < header:
        raise DataError(f"{path} is truncated: its header must be {header} bytes, got a file of {len(content)}")
    found, *shape = struct.unpack(f">{header // 4}I", content[:header])
    if found != magic:
        raise DataError(f"{path} is not the idx file expected here: its magic number must be {magic}, got {found}")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} is truncated or overlong: its header {shape} promises {math.prod(shape)} bytes of data, "
            f"got {len(content) - header}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        if not is_permanent(error):
            raise
        raise DataError(f"{path} must be a readable{' gzip' * (path.suffix == '.gz')} file, got: {error}") from error


def _check_labels(path: Path, labels: npt.NDArray[np.int64], num_images: int, num_classes: int) -> None:
    if len(labels) != num_images:
        raise DataError(f"{path.absolute()} must hold one label for each of {num_images} images, got {len(labels)}")
    if not len(labels):
        raise DataError(f"{path.absolute()} must hold at least one label, got none")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise DataError(f"{path.absolute()}: labels must be in [0, {num_classes}), got {wrong}")


def read_cifar(root: Path, num_classes: Literal[10, 100]) -> RawImages:
    """Read the "python version" of CIFAR-10 or CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html).

    Not torchvision's reader: it unpickles with full rights, and it refuses all but the original files, so that the code
    could not be tested without the 170 MB. The digest of the study's data set distinguishes other files.

    Args:
        root: folder of the batch files, or with `cifar-10-batches-py` (`cifar-100-python`) in it.
        num_classes: 10 or 100.

    Raises:
        DataError: if files are missing or malformed.
    """
    subfolder, train_names, test_name, label_key = _CIFAR_FILES[num_classes]
    names = (*train_names, test_name)
    folder = next((f for f in (root / subfolder, root) if any((f / name).exists() for name in names)), None)
    if folder is None:
        raise DataError(
            f"CIFAR-{num_classes} not found: expected the files {', '.join(names)} in {(root / subfolder).absolute()} "
            f"or {root.absolute()}; unpack cifar-{num_classes}-python.tar.gz of "
            "https://www.cs.toronto.edu/~kriz/cifar.html there, or set `dataset.root`"
        )
    batches = [_read_cifar_batch((folder / name).absolute(), label_key, num_classes) for name in names]
    images, labels = zip(*batches, strict=True)
    sizes = {"train": sum(map(len, labels[:-1])), "test": len(labels[-1])}
    return RawImages(np.concatenate(images), np.concatenate(labels), sizes, _numbered(num_classes))


def _read_cifar_batch(
    path: Path, label_key: str, num_classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        with path.open("rb") as file:
            batch = _CifarUnpickler(file, encoding="latin1").load()
    except Exception as error:  # A damaged pickle may raise nearly anything; each means that this file is bad.
        if not is_permanent(error):
            raise
        raise DataError(
            f"{path} must be a batch file of CIFAR's python version, got {type(error).__name__}: {error}; "
            "unpack the archive again or set `dataset.root`"
        ) from error
    data, labels = (batch.get("data"), batch.get(label_key)) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise DataError(f"{path} must hold `data` as bytes of shape (n, 3072), got {describe(data)}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path} must hold `{label_key}` as a list of whole numbers, got {describe(labels)}")
    try:
        label_array = np.array(labels, dtype=np.int64)
    except OverflowError as error:
        raise DataError(f"{path}: labels must be in [0, {num_classes}), got {max(labels, key=abs)}") from error
    _check_labels(path, label_array, len(data), num_classes)
    return data.reshape(-1, 3, 32, 32), label_array


def describe(value: object) -> str:
    """What a value is, for "..., got ..."."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return "nothing" if value is None else f"a {type(value).__name__}"


class _CifarUnpickler(pickle.Unpickler):
    """Unpickles arrays of bytes and plain containers, and nothing else: a pickle from the network may run any code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global of the pickle, without importing the module that it names."""
        allowed: dict[tuple[str, str], Any] = {
            # `numpy.core` as written by the Python 2 numpy of the original files, `numpy._core` by today's.
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _byte_dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into such a file")
        return allowed[module, name]


def _byte_dtype(name: str, *_: object) -> np.dtype[Any]:
    if name != "u1":
        raise pickle.UnpicklingError(f"arrays must hold bytes (u1), got {name}")
    # A copy, as in numpy's own pickles: the pickle then sets its state, which must not reach the shared object.
    return np.dtype("u1", False, True)


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"byte strings must be written as latin1, got {encoding}")
    return text.encode("latin1")
