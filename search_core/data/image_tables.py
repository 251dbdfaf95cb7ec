"""Tables of images in formats that others write: NumPy archives, Parquet files, data sets of Hugging Face.

Each becomes what a function of a user's would return, and is checked as that is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_core.data.dataset_options import HUB, DatasetOptions, image_root
from search_core.data.image_file import read_rgb
from search_core.data.own_data import checked
from search_core.data.readers import RawImages
from search_core.errors import DataError, first_few, is_permanent

#: Our splits by the names that others give them: MedMNIST's, Keras' (`x_train`) and those of Hugging Face.
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_COLUMNS = ("image", "label")


def read_table(options: DatasetOptions) -> RawImages:
    """Read the data set `npz`, `parquet` or `hf:NAME`.

    Raises:
        DataError: if a file or package is missing, or what is there breaks a rule.
        OSError: if disk or network failed.
    """
    if options.name.startswith(HUB):
        return checked(_read_hub(options.name.removeprefix(HUB), dict(options.options)), options.name)
    path = image_root(options).absolute()
    return checked(_read_npz(path) if options.name == "npz" else _read_parquet(path, options.options), str(path))


def _read_npz(path: Path) -> dict[str, Any]:
    """Arrays `train_images` and `train_labels`, or `x_train` and `y_train`; likewise for other splits."""
    arrays = _opened(path, "NumPy archive (.npz) of plain arrays", _npz_arrays)
    found: dict[str, Any] = {}
    for theirs, ours in _SPLITS.items():
        for images, labels in ((f"{theirs}_images", f"{theirs}_labels"), (f"x_{theirs}", f"y_{theirs}")):
            if images in arrays and labels in arrays:
                found[ours] = (arrays[images], arrays[labels])
    if "train" not in found:
        raise DataError(
            f"{path} must hold train_images and train_labels, or x_train and y_train, got {first_few(list(arrays))}"
        )
    return found | ({"classes": arrays["classes"]} if "classes" in arrays else {})


def _npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:  # a pickle may run any code
        return dict(archive)


def _read_parquet(path: Path, columns: Mapping[str, Any]) -> dict[str, Any]:
    """A file, all of which is for training, or a folder of files whose names begin with their split."""
    import pyarrow

    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
        stem = "train" if file == path else next(iter(file.name.replace(".", "-").split("-")))
        if stem not in _SPLITS:
            raise DataError(f"{file}: its name must begin with one of {', '.join(_SPLITS)}, as in train-00000.parquet")
        found.setdefault(_SPLITS[stem], []).append(file)
    if not found:
        raise DataError(f"{path} must be a Parquet file, or a folder with train-*.parquet, got neither")
    tables = {
        split: pyarrow.concat_tables([_opened(file, "Parquet file", _parquet_table) for file in files])
        for split, files in found.items()
    }
    schema = next(iter(tables.values())).schema
    names = _class_names(schema.metadata or {})
    image, label = _chosen_columns(
        str(path),
        columns,
        [name for name, kind in zip(schema.names, schema.types, strict=True) if _holds_files(kind)],
        [*names] or [name for name, kind in zip(schema.names, schema.types, strict=True) if _holds_labels(kind)],
    )
    rows = {split: (table[image].to_pylist(), table[label].to_pylist()) for split, table in tables.items()}
    return _decoded_rows(rows, names.get(label), str(path))


def _parquet_table(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read()


def _holds_files(kind: Any) -> bool:
    """Whether values are bytes of image files, perhaps as Hugging Face keeps them: `{bytes, path}`."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _holds_labels(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_string(kind))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the classes by column, where Hugging Face's `datasets` wrote the file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _read_hub(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A data set of Hugging Face, from its hub, its cache or a folder of files."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{HUB}{name} needs the package datasets (`pip install datasets`), got: {error}") from error
    columns = {key: options.pop(key) for key in _COLUMNS if key in options}
    try:
        parts = datasets.load_dataset(name, **options)
    except Exception as error:  # of many classes, those of its file systems among them
        raise DataError(f"{HUB}{name} must be a data set that loads, got {type(error).__name__}: {error}") from error
    if not isinstance(parts, Mapping):
        raise DataError(f"{HUB}{name} must have all its splits, got one: leave out the option `split`")
    known = {_SPLITS[split]: part for split, part in parts.items() if split in _SPLITS}
    if "train" not in known:
        raise DataError(f"{HUB}{name} must have the split train, got {', '.join(parts)}")
    features = known["train"].features
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    image, label = _chosen_columns(
        f"{HUB}{name}", columns, *([column for column in kinds if kinds[column] == kind] for kind in _FEATURES)
    )
    rows = {}
    for split, part in known.items():
        table = part.cast_column(image, datasets.Image(decode=False))
        rows[split] = (table[image], table[label])
    return _decoded_rows(rows, getattr(features[label], "names", None), f"{HUB}{name}")


_FEATURES = ("Image", "ClassLabel")


def _chosen_columns(
    source: str, given: Mapping[str, Any], images: Sequence[str], labels: Sequence[str]
) -> tuple[str, str]:
    """The columns of images and labels: those that the options name, else the only ones of their kind."""
    chosen = []
    for key, fitting in zip(_COLUMNS, (images, labels), strict=True):
        named = [str(given[key])] if key in given else list(fitting)
        if len(named) != 1:
            raise DataError(
                f"{source} must have one column of {key}s, got {', '.join(named) or 'none'}: name it, "
                f"`dataset: {{options: {{{key}: COLUMN}}}}`"
            )
        chosen += named
    return chosen[0], chosen[1]


def _decoded_rows(
    rows: Mapping[str, tuple[Iterable[Any], Iterable[Any]]], classes: Sequence[str] | None, source: str
) -> dict[str, Any]:
    """Pixels of encoded images; labels that are text become positions among their sorted names."""
    found: dict[str, Any] = {}
    labels = {split: list(values) for split, (_, values) in rows.items()}
    if classes is None and all(isinstance(label, str) for values in labels.values() for label in values):
        classes = sorted({label for values in labels.values() for label in values})
        numbers = {name: number for number, name in enumerate(classes)}
        labels = {split: [numbers[label] for label in values] for split, values in labels.items()}
    for split, (images, _) in rows.items():
        found[split] = (_decoded(images, f"{source}, {split}"), np.asarray(labels[split]))
    if all((pixels == pixels[..., :1]).all() for pixels, _ in found.values()):  # grey, by one channel
        found = {split: (pixels[..., 0], numbers) for split, (pixels, numbers) in found.items()}
    return found | ({} if classes is None else {"classes": classes})


def _decoded(images: Iterable[Any], place: str) -> npt.NDArray[np.uint8]:
    """RGB images of bytes or `{bytes, path}`, all of one size: (N, H, W, 3)."""
    pixels: list[npt.NDArray[np.uint8]] = []
    for number, image in enumerate(images):
        content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
        if content is None and path is None:
            raise DataError(f"{place}: image {number} must have bytes or a path, got neither")
        pixels.append(np.asarray(read_rgb(f"{place}, image {number}" if content else str(path), content)))
        if pixels[-1].shape != pixels[0].shape:
            first, other = (" x ".join(map(str, found.shape[1::-1])) for found in (pixels[0], pixels[-1]))
            raise DataError(
                f"{place}: images must have one size, got {first} pixels first and {other} as image {number}; resize "
                "them, or unpack them for `image-folder`"
            )
    if not pixels:
        raise DataError(f"{place}: must hold at least one image, got none")
    return np.stack(pixels)


def _opened(path: Path, kind: str, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except Exception as error:  # a damaged file may raise nearly anything
        if not is_permanent(error):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} must be a {kind}, got: {reason}") from error
