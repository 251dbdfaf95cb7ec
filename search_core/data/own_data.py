"""Images of somebody else's function or table: checked against the rules of docs/own-data.md, and brought to arrays.

Shapes: N images of a split, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from search_core.data.dataset_options import GROUP, DatasetOptions, image_root
from search_core.data.readers import RawImages, describe
from search_core.errors import DataError, PluginError, first_few, is_permanent
from search_core.plugins import failure, load_plugin, split_reference

#: Splits in the order of the pool.
SPLITS = ("train", "validation", "test")
_MOST_CHANNELS = 16  # more are taken for rows or columns
_LEVELS = 255


def read_function(options: DatasetOptions) -> RawImages:
    """Call the function that `DatasetOptions.name` names, and check what it returns.

    Raises:
        DataError: if the function is not there or not trusted, fails, or returns something that breaks a rule.
        OSError: if disk or network failed inside it.
    """
    try:
        load = load_plugin(options.name, GROUP)
    except PluginError as error:
        raise DataError(str(error)) from error
    if not callable(load):
        raise DataError(f"{options.title} must be a function, got {describe(load)}")
    root = {} if options.root is None else {"root": str(image_root(options))}
    try:
        given = load(**root, **options.options)
    except Exception as error:  # somebody else's code may raise anything
        if not is_permanent(error):
            raise
        source, _ = split_reference(options.name) or (load.__module__, "")
        raise DataError(f"{options.title} must return images, got {failure(error, source)}") from error
    return checked(given, options.title)


def checked(given: object, source: str) -> RawImages:
    """A data set as arrays.

    Args:
        given: mapping with `train` and perhaps `validation` and `test`, each `(images, labels)` or a torch data set,
            and perhaps `classes`, names. Images are uint8 of (N, H, W) or (N, H, W, C), or float in [0, 1] of
            (N, C, H, W); labels whole numbers of (N,).
        source: what messages call the data set.

    Returns:
        Images of bytes, also where floats are whole grey levels; float32 in [0, 255] where they are not.

    Raises:
        DataError: if a rule is broken; it names the data set, the split, the rule and the value.
    """
    if not isinstance(given, Mapping):
        raise DataError(f"{source} must return a mapping with the key `train`, got {describe(given)}")
    if unknown := [str(key) for key in given if key not in (*SPLITS, "classes")]:
        raise DataError(f"{source}: keys must be train, validation, test and classes, got {first_few(unknown)}")
    if given.get("train") is None:
        raise DataError(f"{source}: `train` must be given, got {', '.join(map(str, given)) or 'an empty mapping'}")
    classes = None if given.get("classes") is None else _checked_classes(given["classes"], source)
    splits = {name: _checked_split(given[name], f"{source}, {name}") for name in SPLITS if given.get(name) is not None}
    shape = splits["train"][0].shape[1:]
    for name, (images, _) in splits.items():
        if images.shape[1:] != shape:
            raise DataError(
                f"{source}: images of all splits must have the same channels, height and width, got "
                f"{list(shape)} in train and {list(images.shape[1:])} in {name}"
            )
    num_classes = int(splits["train"][1].max()) + 1 if classes is None else len(classes)
    if num_classes < 2:
        raise DataError(f"{source}, train: labels must be of at least 2 classes, got only 0")
    for name, (_, labels) in splits.items():
        if labels.max() >= num_classes:
            rule = "the number of classes" if classes else "as in train"
            raise DataError(f"{source}, {name}: labels must be below {num_classes}, {rule}, got {labels.max()}")
    return RawImages(
        np.concatenate([images for images, _ in splits.values()]),
        np.concatenate([labels for _, labels in splits.values()]),
        {name: len(labels) for name, (_, labels) in splits.items()},
        classes or tuple(map(str, range(num_classes))),
    )


def _checked_classes(given: Any, source: str) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise DataError(f"{source}: `classes` must be a list of names, got {describe(given)}")
    names = [str(name) for name in given]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"{source}: `classes` must be at least 2 different names, got {first_few(names)}")
    return tuple(names)


def _checked_split(given: Any, place: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Images (N, C, H, W) as grey levels, and labels (N,)."""
    if isinstance(given, tuple | list) and len(given) == 2:
        images, labels = given
    elif hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, tuple | list | Mapping):
        images, labels = _of_dataset(given, place)
    else:
        raise DataError(f"{place}: must be (images, labels) or a torch data set, got {describe(given)}")
    levels = _grey_levels(_as_array(images), place)
    return levels, _checked_labels(_as_array(labels), len(levels), place)


def _of_dataset(dataset: Any, place: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """All images of a torch data set, in memory; tensors have channels first, pictures and arrays last."""
    images, labels = [], []
    for index in range(len(dataset)):
        try:
            image, label = dataset[index]
        except Exception as error:  # somebody else's code may raise anything
            if not is_permanent(error):
                raise
            raise DataError(f"{place}: item {index} must be (image, label), got {failure(error, '')}") from error
        is_bytes = isinstance(image, Tensor) and not image.is_floating_point() and image.ndim == 3
        images.append(_as_array(image.movedim(0, 2) if is_bytes else image))
        labels.append(_as_array(label))
        if (images[-1].shape, images[-1].dtype) != (images[0].shape, images[0].dtype):
            raise DataError(
                f"{place}: images must have one size and type, got {describe(images[0])} first and "
                f"{describe(images[-1])} as item {index}; resize them in the data set's transform"
            )
    if not images:
        raise DataError(f"{place}: must hold at least one image, got none")
    return np.stack(images), np.stack(labels)


def _as_array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _grey_levels(images: npt.NDArray[Any], place: str) -> npt.NDArray[Any]:
    """Check images and bring them to (N, C, H, W): bytes, or float32 in [0, 255]."""
    rule = f"{place}: images must be uint8 of (N, H, W) or (N, H, W, C), or float in [0, 1] of (N, C, H, W)"
    is_float = np.issubdtype(images.dtype, np.floating)
    if not is_float and images.dtype != np.uint8:
        raise DataError(f"{rule}, got {describe(images)}; divide by the largest possible value, as float32")
    if images.ndim != 4 and (is_float or images.ndim != 3):
        raise DataError(f"{rule}, got {describe(images)}")
    if 0 in images.shape:
        raise DataError(f"{place}: must hold at least one image of at least one pixel, got {describe(images)}")
    channels = 1 if images.ndim == 3 else images.shape[1 if is_float else 3]
    if channels > _MOST_CHANNELS:
        where = "first, `images.transpose(0, 3, 1, 2)`" if is_float else "last, `images.transpose(0, 2, 3, 1)`"
        raise DataError(
            f"{rule}, with at most {_MOST_CHANNELS} channels, got {describe(images)} and so {channels} channels; move "
            f"the channels {where}"
        )
    if not is_float:
        last: npt.NDArray[Any] = images.reshape(*images.shape[:3], channels)
        return np.ascontiguousarray(last.transpose(0, 3, 1, 2))
    if not np.isfinite(images).all():
        first = int(np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))[0])
        raise DataError(f"{place}: images must be finite, got NaN or infinity in image {first}")
    if images.min() < 0 or images.max() > 1:
        advice = "; divide by 255" if images.min() >= 0 and 1 < images.max() <= _LEVELS else ""
        advice = advice or "; undo the normalisation, which the search does by itself"
        raise DataError(f"{rule}, got {images.dtype} in [{images.min():.4g}, {images.max():.4g}]{advice}")
    levels: npt.NDArray[np.float32] = images.astype(np.float32) * np.float32(_LEVELS)
    whole = np.rint(levels)
    return whole.astype(np.uint8) if np.abs(levels - whole).max() < 1e-3 else levels


def _checked_labels(labels: npt.NDArray[Any], num_images: int, place: str) -> npt.NDArray[np.int64]:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(f"{place}: labels must be whole numbers of (N,), got {describe(labels)}")
    if len(labels) != num_images:
        raise DataError(f"{place}: there must be one label for each of {num_images} images, got {len(labels)}")
    if labels.min() < 0:
        raise DataError(f"{place}: labels must be at least 0, got {labels.min()}")
    return labels.astype(np.int64)
