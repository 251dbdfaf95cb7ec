"""Data sets that come from functions and tables of somebody else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from search_core import plugins
from search_core.data.datasets import DatasetOptions, ImageData, load_data
from search_core.data.own_data import checked
from search_core.errors import DataError, OptionsError

CPU = torch.device("cpu")
DRAWN = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_TRUSTED", {})


def load(name: str, **options: Any) -> ImageData:
    return load_data(DatasetOptions(name=name, **options), CPU)


def from_file(path: Path, text: str, **options: Any) -> ImageData:
    """Images of a function `load` in a trusted file."""
    path.write_text(f"import numpy as np\nimport torch\n{text}")
    plugins.trust(str(path))
    return load(f"{path}:load", **options)


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(np.rint(1000 * rows).T)]


def all_pixels(data: ImageData) -> dict[str, np.ndarray]:
    """Raw pixels of each split in [0, 1], with the label at the end of each row, in the order of `sorted_rows`."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    found = {}
    for name in ("train", "validation", "test"):
        images, labels = map(torch.cat, zip(*getattr(data, name).batches(100), strict=True))
        rows = torch.cat([(images * std + mean).flatten(1), labels[:, None]], dim=1).numpy()
        found[name] = sorted_rows(rows)
    return found


def expected_pixels(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As `all_pixels`, of images (N, H, W, C)."""
    rows = np.concatenate([images.transpose(0, 3, 1, 2).reshape(len(images), -1) / 255, labels[:, None]], axis=1)
    return sorted_rows(rows)


FUNCTION = """
def load(count=60, root=None):
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)[:count]
    return {"train": (images, np.arange(60)[:count] % 3), "classes": ["ant", "bee", "cat"]}
"""


def test_a_function_gives_images_that_are_split_by_the_seed_of_the_study(tmp_path: Path) -> None:
    data = from_file(tmp_path / "mine.py", FUNCTION)
    assert (data.name, data.classes, data.input_shape) == ("mine.py:load", ("ant", "bee", "cat"), (3, 6, 5))
    assert data.sizes == {"train": 38, "validation": 10, "test": 12}
    found = np.concatenate(list(all_pixels(data).values()))
    np.testing.assert_allclose(sorted_rows(found), expected_pixels(DRAWN, LABELS), atol=1e-6)
    assert data.augmentation == type(data.augmentation)()  # only its owner knows what leaves the class as it is
    other = load(data_name := f"{tmp_path}/mine.py:load", split_seed=1)
    assert (other.digest, other.split_digest == data.split_digest) == (data.digest, False)
    assert load(data_name, options={"count": 59}).digest != data.digest


def test_given_splits_are_kept(tmp_path: Path) -> None:
    text = """
def load():
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    labels = np.arange(60) % 3
    parts = {"train": slice(0, 30), "validation": slice(30, 48), "test": slice(48, 60)}
    return {name: (images[part], labels[part]) for name, part in parts.items()}
"""
    found = all_pixels(from_file(tmp_path / "mine.py", text))
    for name, part in {"train": slice(0, 30), "validation": slice(30, 48), "test": slice(48, 60)}.items():
        np.testing.assert_allclose(found[name], expected_pixels(DRAWN[part], LABELS[part]), atol=1e-6)


def test_floats_keep_their_values(tmp_path: Path) -> None:
    text = """
def load():
    images = torch.rand((60, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    return {"train": (images, torch.arange(60) % 3)}
"""
    data = from_file(tmp_path / "mine.py", text)
    images = torch.rand((60, 2, 4, 4), generator=torch.Generator().manual_seed(0)).numpy()
    found = np.concatenate(list(all_pixels(data).values()))
    expected = expected_pixels(255 * images.transpose(0, 2, 3, 1), LABELS)
    np.testing.assert_allclose(sorted_rows(found), expected, atol=1e-6)
    train = images[data.train.indices].astype(np.float64)
    np.testing.assert_allclose(data.mean, train.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std, train.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_torch_data_set_of_tensors_or_pictures_is_the_same_as_arrays() -> None:
    class Pairs(torch.utils.data.Dataset[Any]):
        def __init__(self, change: Callable[[np.ndarray], object]) -> None:
            self.change = change

        def __len__(self) -> int:
            return len(DRAWN)

        def __getitem__(self, index: int) -> tuple[object, int]:
            return self.change(DRAWN[index]), int(LABELS[index])

    expected = checked({"train": (DRAWN, LABELS)}, "mine")
    changes: list[Callable[[np.ndarray], object]] = [
        Image.fromarray,
        lambda image: torch.from_numpy(image).movedim(2, 0),
        lambda image: torch.from_numpy(image).movedim(2, 0).float() / 255,
        lambda image: image,
    ]
    for change in changes:
        found = checked({"train": Pairs(change)}, "mine")
        assert (found.digest(), found.images.dtype) == (expected.digest(), np.uint8)


FLOATS = np.linspace(0, 1, 6 * 48, dtype=np.float32).reshape(6, 3, 4, 4)
SIX = np.arange(6) % 2
BAD: dict[str, tuple[object, str]] = {
    "no mapping": ([DRAWN, LABELS], "mine must return a mapping with the key `train`, got a list"),
    "no train": ({"test": (DRAWN, LABELS)}, "mine: `train` must be given, got test"),
    "other keys": ({"train": 1, "val": 2}, "keys must be train, validation, test and classes, got val"),
    "no pair": ({"train": DRAWN[0][0][0][0]}, r"mine, train: must be \(images, labels\) or a torch data set, got a"),
    "whole numbers": ({"train": (DRAWN.astype(np.int64), LABELS)}, r"got int64 of shape \(60, 6, 5, 3\); divide by"),
    "dimensions": (
        {"train": (FLOATS[0], SIX)},
        r"float in \[0, 1\] of \(N, C, H, W\), got float32 of shape \(3, 4, 4\)",
    ),
    "channels first": (
        {"train": (DRAWN.transpose(0, 3, 1, 2).repeat(8, 3), LABELS)},
        r"at most 16 channels, got uint8 of shape \(60, 3, 6, 40\) and so 40 channels; move the channels last",
    ),
    "channels last": ({"train": (FLOATS.reshape(6, 24, 2, 1), SIX)}, "24 channels; move the channels first"),
    "not finite": ({"train": (np.where(FLOATS == 0, np.nan, FLOATS), SIX)}, "must be finite, got NaN .* in image 0"),
    "to 255": ({"train": (FLOATS * 255, SIX)}, r"got float32 in \[0, 255\]; divide by 255"),
    "normalised": ({"train": (FLOATS - 0.5, SIX)}, r"got float32 in \[-0.5, 0.5\]; undo the normalisation"),
    "none": ({"train": (DRAWN[:0], LABELS[:0])}, "must hold at least one image of at least one pixel"),
    "float labels": ({"train": (DRAWN, LABELS / 1)}, r"labels must be whole numbers of \(N,\), got float64"),
    "too few labels": ({"train": (DRAWN, LABELS[1:])}, "one label for each of 60 images, got 59"),
    "negative": ({"train": (DRAWN, LABELS - 1)}, "labels must be at least 0, got -1"),
    "one class": ({"train": (DRAWN, LABELS * 0)}, "at least 2 classes, got only 0"),
    "beyond the names": (
        {"train": (DRAWN, LABELS), "classes": ["a", "b"]},
        "labels must be below 2, the number of classes, got 2",
    ),
    "beyond train": ({"train": (DRAWN, LABELS), "test": (DRAWN, LABELS + 1)}, "mine, test: labels .* below 3, as in"),
    "same names": ({"train": (DRAWN, LABELS), "classes": "abc"}, "`classes` must be a list of names, got a str"),
    "twice a name": ({"train": (DRAWN, LABELS), "classes": ["a", "b", "a"]}, "different names, got a, b, a"),
    "other size": (
        {"train": (DRAWN, LABELS), "test": (DRAWN[:, 1:], LABELS)},
        r"got \[3, 6, 5\] in train and \[3, 5, 5\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_a_rule_is_refused_with_the_rule(name: str) -> None:
    given, message = BAD[name]
    with pytest.raises(DataError, match=message):
        checked(given, "mine")


def test_a_class_without_an_image_is_refused_by_its_name(tmp_path: Path) -> None:
    text = FUNCTION.replace("% 3", "% 2")
    with pytest.raises(DataError, match=r"every class of `mine.py:load` .* got none for 1 of 3 \(cat\)"):
        from_file(tmp_path / "mine.py", text)


def test_a_function_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine.py:load must return images, got KeyError: 'rows' \(line 5\)"):
        from_file(tmp_path / "mine.py", "\ndef load():\n    return {}['rows']")
    with pytest.raises(DataError, match=r"mine.py:load .* got TypeError: load\(\) got an unexpected keyword .* 'rows'"):
        from_file(tmp_path / "mine.py", FUNCTION, options={"rows": 3})
    assert from_file(tmp_path / "mine.py", FUNCTION, root=str(tmp_path)).num_classes == 3
    with pytest.raises(DataError, match="must be named by the study file or by --plugin before its code runs"):
        load("os:getcwd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "cifra10"},
            "`name` must be one of digits, .*, or hf:NAME, file.py:function .*; did you mean `cifar10`",
        ),
        ({"name": "digits", "options": {"rows": 1}}, "`options` must be left out for digits, got rows"),
        ({"name": "npz"}, "`root` must be given for npz: its file"),
        ({"name": "hf:mnist", "root": "data"}, "`root` must be left out for hf:mnist, got data"),
        ({"name": "hf:mnist", "options": {"trust_remote_code": True}}, "must be left out: it runs code"),
    ],
)
def test_options_that_do_not_fit_the_name_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        DatasetOptions(**options)


@pytest.mark.parametrize(
    "names", [("train_images", "train_labels", "val_images", "val_labels"), ("x_train", "y_train")]
)
def test_npz_archives_of_medmnist_and_keras_are_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays = dict(zip(names, (DRAWN, LABELS[:, None], DRAWN[:9], LABELS[:9, None]), strict=False))
    np.savez(tmp_path / "mine.npz", **arrays)
    data = load("npz", root=str(tmp_path / "mine.npz"))
    assert sum(data.sizes.values()) == 60 + 9 * ("val_images" in names)
    assert data.input_shape == (3, 6, 5)
    np.savez(tmp_path / "mine.npz", images=DRAWN, evil=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"must be a NumPy archive .* of plain arrays, got: Object arrays"):
        load("npz", root=str(tmp_path / "mine.npz"))


def encoded(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(stream := BytesIO(), "PNG")
    return stream.getvalue()


def write_hub_files(folder: Path, images: np.ndarray = DRAWN) -> None:
    """Files as Hugging Face's hub keeps data sets of images."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", kind), ("label", pyarrow.int64()), ("id", pyarrow.int64())])
    schema = schema.with_metadata(
        {"huggingface": json.dumps({"info": {"features": features | {"id": {"dtype": "int64", "_type": "Value"}}}})}
    )
    folder.mkdir(exist_ok=True)
    for name, part in (
        ("train-00000-of-00002", slice(0, 20)),
        ("train-00001-of-00002", slice(20, 45)),
        ("test-00000-of-00001", slice(45, 60)),
    ):
        rows = [{"bytes": encoded(image), "path": None} for image in images[part]]
        columns = [rows, LABELS[part], np.arange(60)[part]]
        parquet.write_table(pyarrow.table(columns, schema=schema), folder / f"{name}.parquet")


def test_parquet_files_of_encoded_images_are_read_with_their_class_names(tmp_path: Path) -> None:
    write_hub_files(tmp_path / "hub")
    data = load("parquet", root=str(tmp_path / "hub"))
    assert (data.classes, data.sizes) == (("ant", "bee", "cat"), {"train": 36, "validation": 9, "test": 15})
    np.testing.assert_allclose(all_pixels(data)["test"], expected_pixels(DRAWN[45:], LABELS[45:]), atol=1e-6)
    grey = DRAWN[..., :1].repeat(3, axis=3)
    write_hub_files(tmp_path / "hub", grey)
    assert load("parquet", root=str(tmp_path / "hub")).input_shape == (1, 6, 5)


def test_parquet_files_without_metadata_name_classes_by_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    columns = {"png": [encoded(image) for image in DRAWN], "sort": [f"sort {label}" for label in LABELS], "n": LABELS}
    parquet.write_table(pyarrow.table(columns), file)
    with pytest.raises(
        DataError, match=r"must have one column of labels, got sort, n: name it, `dataset: \{options: \{label"
    ):
        load("parquet", root=str(file))
    assert load("parquet", root=str(file), options={"label": "sort"}).classes == ("sort 0", "sort 1", "sort 2")
    columns["png"][7] = encoded(DRAWN[7][1:])
    parquet.write_table(pyarrow.table(columns), file)
    with pytest.raises(DataError, match="must have one size, got 5 x 6 pixels first and 5 x 5 as image 7"):
        load("parquet", root=str(file), options={"label": "n"})


@pytest.mark.slow  # the package takes seconds to import
def test_hugging_face_data_sets_are_read_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub_files(tmp_path / "hub")
    same = load("parquet", root=str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = load(f"hf:{tmp_path}/hub", options={"cache_dir": str(tmp_path / "cache")})
    assert (data.classes, data.digest, data.split_digest) == (same.classes, same.digest, same.split_digest)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"hf:mnist needs the package datasets \(`pip install datasets`\)"):
        load("hf:mnist")
