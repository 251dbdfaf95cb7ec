from __future__ import annotations

import ast
import gzip
import os
import pickle
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from search_core.data import augment, readers, splits
from search_core.data import datasets as data
from search_core.data.augment import Augmentation, channel_statistics, crop_and_flip, erase_squares, prepare_batch
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.data.splits import Split, stratified_order
from search_core.errors import DataError, OptionsError
from search_core.ranks import Ranks

CPU = torch.device("cpu")


def load(name: str, **options: object) -> ImageData:
    return load_data(DatasetOptions(name=name, **options), CPU)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_labels(split: Split) -> torch.Tensor:
    return torch.cat([labels for _, labels in split.batches(100)])


def all_images(split: Split, **arguments: object) -> torch.Tensor:
    return torch.cat([images for images, _ in split.batches(100, **arguments)])  # type: ignore[arg-type]


def pixels(split: Split, dataset: ImageData) -> torch.Tensor:
    """Raw grey levels of a split, recovered from its normalised batches."""
    mean, std = torch.tensor(dataset.mean)[:, None, None], torch.tensor(dataset.std)[:, None, None]
    return ((all_images(split) * std + mean) * 255).round().to(torch.uint8)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_seed": -1}, "`split_seed` must be at least 0, got -1"),
        ({"shape": (3, 32)}, r"`shape` must be positive \(channels, height, width\), got \[3, 32\]"),
        ({"validation_fraction": 1.0}, r"`validation_fraction` must be in \(0, 1\), got 1.0"),
    ],
)
def test_options_reject_values_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        DatasetOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["crop_padding", "cutout"])
def test_augmentation_rejects_negative_pixels(option: str) -> None:
    with pytest.raises(OptionsError, match=f"`{option}` must be at least 0, got -2"):
        Augmentation(**{option: -2})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["crop_padding", "cutout"])
def test_load_rejects_augmentation_as_large_as_the_image(option: str) -> None:
    with pytest.raises(OptionsError, match=f"`{option}` must be below the side of the images, 8 pixels.*got 8"):
        load("digits", **{option: 8})


def test_options_override_augmentation_of_the_data_set() -> None:
    assert load("digits").augmentation == Augmentation(crop_padding=1)
    assert load("digits", crop_padding=0, flip=True, cutout=3).augmentation == Augmentation(flip=True, cutout=3)


# Splits


def test_digits_have_the_shapes_and_values_of_scikit_learn() -> None:
    digits = load("digits")
    assert (digits.name, digits.input_shape, digits.num_classes) == ("digits", (1, 8, 8), 10)
    assert digits.sizes == {"train": 1150, "validation": 288, "test": 359}
    images, labels = next(digits.train.batches(7))
    assert images.shape == (7, 1, 8, 8)
    assert (images.dtype, labels.dtype, labels.shape) == (torch.float32, torch.int64, (7,))
    everything = torch.cat([pixels(split, digits) for split in (digits.train, digits.validation, digits.test)])
    # 0..16 times 255 / 16, to the nearest.
    expected = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert everything.unique().tolist() == expected


def test_splits_are_disjoint_and_complete() -> None:
    digits = load("digits")
    indices = np.concatenate([digits.train.indices, digits.validation.indices, digits.test.indices])
    assert sorted(indices.tolist()) == list(range(1797))


def test_splits_hold_classes_in_their_overall_proportions() -> None:
    digits = load("digits")
    labels = {
        name: Counter(all_labels(split).tolist())
        for name, split in (("train", digits.train), ("validation", digits.validation), ("test", digits.test))
    }
    for digit in range(10):
        total = sum(counts[digit] for counts in labels.values())
        assert abs(labels["test"][digit] - 0.2 * total) <= 1
        assert abs(labels["validation"][digit] - 0.2 * 0.8 * total) <= 1.5
        assert abs(labels["train"][digit] - 0.8 * 0.8 * total) <= 2


def test_stratified_order_prefixes_hold_rare_classes_last_but_surely() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    order = stratified_order(labels, np.random.default_rng(3))
    assert sorted(order.tolist()) == list(range(100))
    for size in range(1, 101):
        counts = np.bincount(labels[order[:size]], minlength=3)
        assert np.all(np.abs(counts - np.array([0.9, 0.09, 0.01]) * size) <= 1)
    assert (labels[order[:40]] != 2).all(), "a class of one image must stay whole in a small held-out prefix"
    assert not np.array_equal(order, stratified_order(labels, np.random.default_rng(4)))


def test_splits_follow_the_seed_and_not_the_global_generators() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state()
    first = load("digits", split_seed=5)
    assert torch.equal(before, torch.get_rng_state())
    np.random.seed(2)  # noqa: NPY002
    again, other = load("digits", split_seed=5), load("digits", split_seed=6)
    assert first.split_digest == again.split_digest != other.split_digest
    assert first.digest == again.digest == other.digest
    assert set(first.test.indices.tolist()) != set(other.test.indices.tolist())
    assert set(first.validation.indices.tolist()) != set(other.validation.indices.tolist())


def test_validation_fraction_leaves_the_test_split_alone() -> None:
    small, large = load("digits", validation_fraction=0.1), load("digits", validation_fraction=0.5)
    assert np.array_equal(small.test.indices, large.test.indices)
    assert len(small.validation) == 144
    assert len(large.validation) == 719
    assert small.split_digest != large.split_digest


def test_limits_keep_the_first_images_and_leave_other_splits_alone() -> None:
    full = load("digits")
    limited = load("digits", train_images=20, validation_images=11, test_images=12)
    assert limited.sizes == {"train": 20, "validation": 11, "test": 12}
    for name in ("train", "validation", "test"):
        kept, whole = getattr(limited, name).indices, getattr(full, name).indices
        assert np.array_equal(kept, whole[: len(kept)])


@pytest.mark.parametrize("seed", range(5))
def test_train_images_as_many_as_classes_hold_every_class(seed: int) -> None:
    assert sorted(all_labels(load("digits", train_images=10, split_seed=seed).train).tolist()) == list(range(10))
    # 53 of 160 go to validation: the cut falls within a round of the ten classes.
    fake = load("fake", images=200, validation_fraction=0.33, train_images=10, split_seed=seed)
    assert sorted(all_labels(fake.train).tolist()) == list(range(10))


@pytest.mark.parametrize(("split", "available"), [("train", 1150), ("validation", 288), ("test", 359)])
def test_limits_beyond_the_split_are_refused(split: str, available: int) -> None:
    message = f"`{split}_images` must be at most {available}, the size of the {split} split of `digits`, got 5000"
    with pytest.raises(DataError, match=message):
        load("digits", **{f"{split}_images": 5000})


def test_empty_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"the validation split of `fake` must hold at least one image.*0\.01"):
        load("fake", images=20, validation_fraction=0.01)
    with pytest.raises(DataError, match="the train split of `fake` must hold at least one image"):
        load("fake", images=20, validation_fraction=0.99)


def test_a_class_without_training_image_is_refused() -> None:
    message = r"every class of `digits` must have .* got none for 4 of 10 \(\d, \d, \d, \d\) among 6 images"
    with pytest.raises(DataError, match=message):
        load("digits", train_images=6)


def test_fake_images_are_seeded_and_shaped() -> None:
    options = {"shape": (2, 5, 6), "classes": 3, "images": 60}
    fake, again = load("fake", **options), load("fake", **options)
    assert (fake.input_shape, fake.num_classes) == ((2, 5, 6), 3)
    assert fake.sizes == {"train": 38, "validation": 10, "test": 12}
    assert fake.digest == again.digest != load("fake", **options | {"images": 61}).digest
    assert torch.equal(all_images(fake.test), all_images(again.test))


# Batches


def test_batches_without_generator_keep_the_order() -> None:
    train = load("digits").train
    assert torch.equal(all_images(train), all_images(train))
    whole = torch.cat([images for images, _ in train.batches(33)])
    assert torch.equal(whole, all_images(train))


def test_batches_with_generator_shuffle_each_image_once() -> None:
    digits = load("digits")
    plain = next(iter(digits.train.batches(2000)))
    shuffled = next(iter(digits.train.batches(2000, generator=seeded())))
    assert not torch.equal(plain[1], shuffled[1])

    def key(batch: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[bytes, int]]:
        return sorted((image.numpy().tobytes(), int(label)) for image, label in zip(*batch, strict=True))

    assert key(plain) == key(shuffled)


def test_batches_repeat_with_the_state_of_the_generator() -> None:
    train = load("digits").train
    everything = Augmentation(crop_padding=2, flip=True, cutout=3)
    generator = seeded(7)
    state = generator.get_state()
    global_state = torch.get_rng_state()
    first = list(train.batches(64, generator=generator, augment=everything))
    second = list(train.batches(64, generator=generator, augment=everything))
    assert torch.equal(global_state, torch.get_rng_state())
    generator.set_state(state)
    again = list(train.batches(64, generator=generator, augment=everything))
    for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
    assert not torch.equal(first[0][0], second[0][0])


def test_num_batches_counts_what_batches_yields() -> None:
    train = load("digits", train_images=50).train
    for batch_size in (1, 7, 25, 49, 50):
        for drop_last in (False, True):
            sizes = [len(labels) for _, labels in train.batches(batch_size, drop_last=drop_last)]
            assert len(sizes) == train.num_batches(batch_size, drop_last)
            assert sum(sizes) == (50 // batch_size * batch_size if drop_last else 50)
            assert set(sizes[:-1]) <= {batch_size}


def test_batches_refuse_arguments_that_do_not_fit() -> None:
    train = load("digits", train_images=50).train
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        train.batches(0)
    with pytest.raises(ValueError, match="`augment` must be None without a `generator`, got Augmentation"):
        train.batches(8, augment=Augmentation())
    with pytest.raises(ValueError, match="`batch_size` must be at most 50, the images of the split, got 51"):
        train.batches(51, drop_last=True)


def test_normalisation_comes_from_the_train_split_only() -> None:
    digits = load("digits", train_images=100)
    train, test = all_images(digits.train), all_images(digits.test)
    # float32 sums of 6,400 values of size 1 are good to about 1e-6.
    assert train.mean().item() == pytest.approx(0, abs=1e-5)
    assert train.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(test.mean().item()) > 1e-3
    raw = pixels(digits.train, digits).double() / 255
    assert digits.mean[0] == pytest.approx(raw.mean().item(), abs=1e-12)
    assert digits.std[0] == pytest.approx(raw.std(correction=0).item(), abs=1e-12)


def test_channel_statistics_match_numpy_and_never_divide_by_zero() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2100, 3, 4, 5), dtype=np.uint8)
    images[:, 1] = 77
    chosen = np.arange(0, 2100, 2)
    mean, std = channel_statistics(images, chosen)
    np.testing.assert_allclose(mean, images[chosen].mean(axis=(0, 2, 3)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, [images[chosen, 0].std() / 255, 1 / 255, images[chosen, 2].std() / 255], rtol=1e-12)


# Augmentation


def reference_crop(
    image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], padding: int, top: int, left: int, flip: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return crop[:, :, ::-1] if flip else crop


def test_crop_and_flip_equals_a_loop_over_images() -> None:
    padding, num_images = 3, 200
    images = torch.randint(1, 256, (num_images, 2, 7, 9), generator=seeded(), dtype=torch.uint8)
    top, left = torch.randint(7, (2, num_images), generator=seeded(1)).unbind()
    flip = torch.randint(2, (num_images,), generator=seeded(2)).bool()
    result = crop_and_flip(images, padding, top, left, flip).numpy()
    assert result.dtype == np.uint8
    for i in range(num_images):
        expected = reference_crop(images[i].numpy(), padding, int(top[i]), int(left[i]), bool(flip[i]))
        np.testing.assert_array_equal(result[i], expected)


def test_prepare_batch_crops_pads_and_flips_raw_pixels_before_it_normalises() -> None:
    images = torch.randint(1, 256, (300, 1, 6, 6), generator=seeded(), dtype=torch.uint8)
    mean, std = torch.tensor([100.0]), torch.tensor([50.0])
    result = prepare_batch(images, mean, std, Augmentation(crop_padding=2, flip=True), seeded(3))
    raw = (result * 50 + 100).round().to(torch.uint8)
    found = Counter[tuple[int, int, bool]]()
    for before, after in zip(images.numpy(), raw.numpy(), strict=True):
        offsets = [(top, left, flip) for top in range(5) for left in range(5) for flip in (False, True)]
        matches = [offset for offset in offsets if np.array_equal(after, reference_crop(before, 2, *offset))]
        assert len(matches) == 1
        found.update(matches)
    # Each of 5 offsets in 300 draws: 60 expected, standard deviation 7; flips: 150, standard deviation 9.
    for axis in (0, 1):
        counts = Counter(offset[axis] for offset in found.elements())
        assert set(counts) == set(range(5))
        assert all(30 < count < 90 for count in counts.values())
    assert 110 < sum(offset[2] for offset in found.elements()) < 190


def test_flip_alone_mirrors_whole_images() -> None:
    images = torch.randint(256, (64, 3, 4, 5), generator=seeded(), dtype=torch.uint8)
    mean, std = torch.zeros(3), torch.ones(3)
    result = prepare_batch(images, mean, std, Augmentation(flip=True), seeded(1))
    mirrored = torch.tensor([torch.equal(a, b.float().flip(-1)) for a, b in zip(result, images, strict=True)])
    same = torch.tensor([torch.equal(a, b.float()) for a, b in zip(result, images, strict=True)])
    assert torch.equal(mirrored, ~same)
    assert 15 < int(mirrored.sum()) < 49


def test_augmentation_that_changes_nothing_only_normalises_and_draws_nothing() -> None:
    images = torch.randint(256, (8, 2, 4, 5), generator=seeded(), dtype=torch.uint8)
    mean, std, generator = torch.tensor([10.0, 20.0]), torch.tensor([2.0, 4.0]), seeded(1)
    state = generator.get_state()
    result = prepare_batch(images, mean, std, Augmentation(), generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(result, (images.float() - mean[:, None, None]) / std[:, None, None])


@pytest.mark.parametrize("side", [1, 2, 3, 4, 9, 30])
def test_erase_squares_equals_a_loop_over_pixels(side: int) -> None:
    height, width = 6, 8
    centres = [(row, column) for row in range(height) for column in range(width)]
    images = torch.rand((len(centres), 2, height, width), generator=seeded()) + 1
    rows, columns = torch.tensor(centres).unbind(1)
    result = erase_squares(images, side, rows, columns)
    for i, (row, column) in enumerate(centres):
        expected = images[i].clone()
        for y in range(row - side // 2, row - side // 2 + side):
            for x in range(column - side // 2, column - side // 2 + side):
                if 0 <= y < height and 0 <= x < width:
                    expected[:, y, x] = 0
        assert torch.equal(result[i], expected)


def test_prepare_batch_erases_to_the_mean_after_normalising_with_centres_everywhere() -> None:
    images = torch.full((400, 1, 5, 5), 200, dtype=torch.uint8)
    result = prepare_batch(images, torch.tensor([100.0]), torch.tensor([50.0]), Augmentation(cutout=1), seeded())
    assert set(result.unique().tolist()) == {0.0, 2.0}
    erased = (result == 0).sum(dim=(0, 1))
    assert int(erased.sum()) == 400
    assert (erased > 0).all()  # 16 expected for each centre; none at all has probability 1e-7


# Fashion-MNIST


def idx(magic: int, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes()


def fashion_files() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", 100), ("t10k", 30)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = idx(2051, images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(2049, (np.arange(count) % 10).astype(np.uint8))
    return files


def write_fashion(folder: Path, suffix: str = "", **changes: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in fashion_files().items():
        content = changes.get(name.replace("-", "_"), content)
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx_files(tmp_path: Path, suffix: str, subfolder: str) -> None:
    write_fashion(tmp_path / subfolder, suffix)
    fashion = load("fashion-mnist", root=str(tmp_path))
    assert (fashion.input_shape, fashion.num_classes) == ((1, 28, 28), 10)
    assert fashion.sizes == {"train": 80, "validation": 20, "test": 30}
    assert fashion.augmentation == Augmentation(crop_padding=2, flip=True)
    content = np.frombuffer(fashion_files()["t10k-images-idx3-ubyte"], np.uint8, offset=16).reshape(30, 1, 28, 28)
    # The test split is the official one: its images come after the 100 training images in the pool.
    np.testing.assert_array_equal(pixels(fashion.test, fashion).numpy(), content[fashion.test.indices - 100])
    assert all_labels(fashion.test).tolist() == ((fashion.test.indices - 100) % 10).tolist()


def test_fashion_mnist_digest_distinguishes_one_changed_pixel_or_label(tmp_path: Path) -> None:
    changed = bytearray(fashion_files()["train-images-idx3-ubyte"])
    changed[-1] ^= 1
    relabelled = bytearray(fashion_files()["t10k-labels-idx1-ubyte"])
    relabelled[-1] ^= 1
    first = load("fashion-mnist", root=str(write_fashion(tmp_path / "a")))
    zipped = load("fashion-mnist", root=str(write_fashion(tmp_path / "b", ".gz")))
    other = load("fashion-mnist", root=str(write_fashion(tmp_path / "c", train_images_idx3_ubyte=bytes(changed))))
    assert first.digest == zipped.digest != other.digest
    assert len(first.digest) == len(first.split_digest) == 64
    assert first.split_digest == other.split_digest
    third = load("fashion-mnist", root=str(write_fashion(tmp_path / "d", t10k_labels_idx1_ubyte=bytes(relabelled))))
    assert third.digest not in (first.digest, other.digest)


def test_fashion_mnist_without_root_looks_in_data_then_in_the_debian_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    message = rf"(?s)not found.*{tmp_path}/data/fashion-mnist.*{tmp_path}/debian.*apt-get install dataset-fashion-mnist"
    with pytest.raises(DataError, match=message):
        load("fashion-mnist")
    write_fashion(tmp_path / "debian", ".gz")
    assert load("fashion-mnist").sizes["test"] == 30
    write_fashion(tmp_path / "data/fashion-mnist", t10k_labels_idx1_ubyte=b"")
    with pytest.raises(DataError, match=rf"{tmp_path}/data/fashion-mnist/t10k-labels.* is truncated"):
        load("fashion-mnist")


IMAGES, LABELS = "train_images_idx3_ubyte", "t10k_labels_idx1_ubyte"


@pytest.mark.parametrize(
    ("changed", "content", "message"),
    [
        (IMAGES, idx(2049, np.zeros(100, np.uint8)), "train-images.*magic number must be 2051, got 2049"),
        (LABELS, idx(2051, np.zeros((30, 28, 28), np.uint8)), "t10k-labels.*magic number must be 2049, got 2051"),
        (IMAGES, b"\0\0", "train-images.*is truncated: its header must be 16 bytes, got a file of 2"),
        (IMAGES, fashion_files()["train-images-idx3-ubyte"][:-1], "train-images.*promises 78400 bytes.*got 78399"),
        (IMAGES, fashion_files()["train-images-idx3-ubyte"] + b"x", "train-images.*promises 78400 bytes.*got 78401"),
        (IMAGES, idx(2051, np.zeros((100, 8, 8), np.uint8)), r"train-images.*28 x 28 pixels, got \(8, 8\)"),
        (LABELS, idx(2049, np.zeros(29, np.uint8)), "t10k-labels.*one label for each of 30 images, got 29"),
        (LABELS, idx(2049, np.full(30, 10, np.uint8)), r"t10k-labels.*labels must be in \[0, 10\), got 10"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_names_the_corrupt_file(
    tmp_path: Path, changed: str, content: bytes, message: str, suffix: str
) -> None:
    write_fashion(tmp_path, suffix, **{changed: content})
    with pytest.raises(DataError, match=rf"{tmp_path}/{message}"):
        load("fashion-mnist", root=str(tmp_path))


def test_fashion_mnist_refuses_an_empty_set(tmp_path: Path) -> None:
    images, labels = idx(2051, np.zeros((0, 28, 28), np.uint8)), idx(2049, np.zeros(0, np.uint8))
    write_fashion(tmp_path, t10k_images_idx3_ubyte=images, t10k_labels_idx1_ubyte=labels)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte must hold at least one label, got none"):
        load("fashion-mnist", root=str(tmp_path))


def damage(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    return {
        "cut": content[: len(content) // 2],
        "not gzip": b"hello",
        "empty": b"",
        "flipped": bytes(flipped),
        "bad block": content[:10] + b"\xff" * 40,
    }


@pytest.mark.parametrize("kind", ["cut", "not gzip", "empty", "flipped", "bad block"])
def test_fashion_mnist_names_the_corrupt_gzip_file(tmp_path: Path, kind: str) -> None:
    path = write_fashion(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes())[kind])
    with pytest.raises(DataError, match=rf"{path} (must be a readable gzip file|is truncated)"):
        load("fashion-mnist", root=str(tmp_path))


def test_fashion_mnist_names_the_missing_file(tmp_path: Path) -> None:
    (write_fashion(tmp_path) / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=rf"{tmp_path}/t10k-images-idx3-ubyte\[\.gz\] is missing.*`dataset.root`"):
        load("fashion-mnist", root=str(tmp_path))


def test_fashion_mnist_reports_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    path = write_fashion(tmp_path) / "train-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"{path} must be a readable file"):
        load("fashion-mnist", root=str(tmp_path))


def test_fashion_mnist_of_debian_is_complete(fashion_mnist: None) -> None:
    fashion = load("fashion-mnist", root=str(readers.DEBIAN_FASHION_MNIST), validation_fraction=0.5)
    assert fashion.sizes == {"train": 30000, "validation": 30000, "test": 10000}
    for split, count in ((fashion.train, 3000), (fashion.validation, 3000), (fashion.test, 1000)):
        labels = torch.cat([labels for _, labels in split.batches(5000)])
        assert labels.bincount().tolist() == [count] * 10
    # Mean and deviation of the 60,000 training images are widely published as 0.2860 and 0.3530.
    assert fashion.mean[0] == pytest.approx(0.2860, abs=2e-3)
    assert fashion.std[0] == pytest.approx(0.3530, abs=2e-3)


# CIFAR


def cifar_batch(count: int, classes: int, seed: int) -> dict[str, object]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = [i % classes for i in range(count)]
    key = "labels" if classes == 10 else "fine_labels"
    return {"data": images, key: labels, "batch_label": "a batch", "filenames": [f"{i}.png" for i in range(count)]}


def python2_pickle(batch: dict[str, object], label_key: str) -> bytes:
    """Bytes as Python 2.7 with its numpy wrote them in the original archives (pickle protocol 2, byte strings)."""
    images, labels = batch["data"], batch[label_key]
    assert isinstance(images, np.ndarray)
    assert isinstance(labels, list)
    content = images.tobytes()

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    array = b"".join(
        (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R",
            b"(K\x01" + integer(images.shape[0]) + integer(images.shape[1]) + b"\x86",
            b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
            b"\x89T" + struct.pack("<i", len(content)) + content + b"tb",
        )
    )
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    label_text = text("training batch 1 of 5")
    return b"\x80\x02}(" + (text("data") + array + text(label_key) + listed + text("batch_label") + label_text) + b"u."


def write_cifar10(folder: Path, python2: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = cifar_batch(20, 10, seed=i)
        content = python2_pickle(batch, "labels") if python2 else pickle.dumps(batch, protocol=2)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("python2", [False, True])
@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
def test_cifar10_reads_python_batches(tmp_path: Path, subfolder: str, python2: bool) -> None:
    write_cifar10(tmp_path / subfolder, python2)
    cifar = load("cifar10", root=str(tmp_path), validation_fraction=0.5)
    assert (cifar.input_shape, cifar.num_classes) == ((3, 32, 32), 10)
    assert cifar.sizes == {"train": 50, "validation": 50, "test": 20}
    assert cifar.augmentation == Augmentation(crop_padding=4, flip=True)
    expected = np.concatenate([cifar_batch(20, 10, seed)["data"] for seed in range(6)])
    for split in (cifar.train, cifar.validation, cifar.test):
        np.testing.assert_array_equal(
            pixels(split, cifar).numpy(), expected.reshape(-1, 3, 32, 32)[split.indices], strict=True
        )
        assert all_labels(split).tolist() == (split.indices % 20 % 10).tolist()
    assert cifar.test.indices.min() == 100


def test_cifar100_reads_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 300), ("test", 100)):
        batch = cifar_batch(count, 100, seed=count) | {"coarse_labels": [0] * count}
        (folder / name).write_bytes(python2_pickle(batch, "fine_labels") if name == "train" else pickle.dumps(batch, 2))
    cifar = load("cifar100", root=str(tmp_path), validation_fraction=1 / 3)
    assert cifar.num_classes == 100
    assert cifar.sizes == {"train": 200, "validation": 100, "test": 100}
    assert sorted(all_labels(cifar.test).tolist()) == list(range(100))


@pytest.mark.parametrize(("name", "files"), [("cifar10", "data_batch_1.*test_batch"), ("cifar100", "train, test")])
def test_cifar_names_where_files_were_expected(tmp_path: Path, name: str, files: str) -> None:
    with pytest.raises(DataError, match=rf"{files} in {tmp_path}/cifar-10.* or {tmp_path};.*set `dataset.root`"):
        load(name, root=str(tmp_path))


def test_data_sets_without_root_are_expected_in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"or {tmp_path}/data/cifar10;"):
        load("cifar10")


class Intruder:
    """Pickles as a call of `os.system`."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch intruded",)


GOOD = cifar_batch(20, 10, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(GOOD, 2)[:5000], "must be a batch file of CIFAR's python version, got .*truncated"),
        (b"", "must be a batch file of CIFAR's python version, got EOFError"),
        (b"not a pickle", "must be a batch file of CIFAR's python version, got UnpicklingError"),
        (pickle.dumps({"data": Intruder()}), "got UnpicklingError: (posix|nt).system does not belong"),
        (pickle.dumps(GOOD | {"data": np.zeros((20, 3072))}, 2), r"arrays must hold bytes \(u1\), got f8"),
        (pickle.dumps([1, 2]), r"must hold `data` as bytes of shape \(n, 3072\), got nothing"),
        (pickle.dumps(GOOD | {"data": [1]}, 2), r"must hold `data` as bytes of shape \(n, 3072\), got a list"),
        (pickle.dumps(GOOD | {"data": np.zeros((20, 9), np.uint8)}, 2), r"\(n, 3072\), got uint8 of shape \(20, 9\)"),
        (pickle.dumps({"data": GOOD["data"]}, 2), "must hold `labels` as a list of whole numbers, got nothing"),
        (pickle.dumps(GOOD | {"labels": ["cat"] * 20}, 2), "must hold `labels` as a list of whole numbers, got a list"),
        (pickle.dumps(GOOD | {"labels": [0] * 19}, 2), "must hold one label for each of 20 images, got 19"),
        (pickle.dumps(GOOD | {"labels": [0] * 19 + [10]}, 2), r"labels must be in \[0, 10\), got 10"),
        (pickle.dumps(GOOD | {"labels": [-1] + [0] * 19}, 2), r"labels must be in \[0, 10\), got -1"),
        (pickle.dumps(GOOD | {"labels": [2**70] + [0] * 19}, 2), rf"labels must be in \[0, 10\), got {2**70}"),
    ],
)
def test_cifar_names_the_corrupt_file(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (write_cifar10(tmp_path) / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=rf"{tmp_path}/data_batch_3.*{message}"):
        load("cifar10", root=str(tmp_path))
    assert not (tmp_path / "intruded").exists()


def test_cifar_names_the_missing_batch(tmp_path: Path) -> None:
    (write_cifar10(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(DataError, match=f"{tmp_path}/data_batch_4 must be .* got FileNotFoundError"):
        load("cifar10", root=str(tmp_path))


# Image folders


def write_folder(root: Path, train: int = 10, test: int = 4, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """Write images of one random colour each, so that any crop of one has a known colour, with a bright left half."""
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("val", test)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.broadcast_to(generator.integers(0, 256, 3, dtype=np.uint8), (30, 40, 3)).copy()
                image[:, :20] //= 2
                suffix = "png" if i % 2 else "jpg"
                Image.fromarray(image).save(root / part / name / f"{i}.{suffix}", quality=95)
    return root


def load_folder(root: Path, **options: object) -> ImageData:
    return load("image-folder", root=str(root), **{"image_size": 14, "workers": 0} | options)


def test_image_folder_takes_val_as_test_and_carves_validation_from_train(tmp_path: Path) -> None:
    folder = load_folder(write_folder(tmp_path))
    assert folder.sizes == {"train": 16, "validation": 4, "test": 8}
    assert (folder.input_shape, folder.num_classes) == ((3, 14, 14), 2)
    assert folder.augmentation == Augmentation(flip=True)
    assert sorted(folder.test.indices.tolist()) == list(range(20, 28))
    assert sorted([*folder.train.indices, *folder.validation.indices]) == list(range(20))
    for split, per_class in ((folder.train, 8), (folder.validation, 2), (folder.test, 4)):
        assert all_labels(split).bincount().tolist() == [per_class, per_class]


def test_image_folder_evaluates_the_resized_centre_normalised(tmp_path: Path) -> None:
    from torchvision import transforms

    folder = load_folder(write_folder(tmp_path), validation_fraction=0.5)
    paths = sorted((tmp_path / "val").glob("*/*"))
    transform = transforms.Compose(
        [
            transforms.Resize(16),
            transforms.CenterCrop(14),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    expected = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    # The same arithmetic in other units: differences are float32 rounding of values of size 2.
    torch.testing.assert_close(all_images(folder.test), expected[folder.test.indices - 20], atol=1e-5, rtol=0)


def test_image_folder_shares_are_the_batches_of_one_process(tmp_path: Path) -> None:
    write_folder(tmp_path)
    everything: dict[str, Any] = {"augment": Augmentation(crop_padding=1, flip=True, cutout=5), "drop_last": True}
    train = load_folder(tmp_path, workers=0).train
    whole = list(train.batches(6, generator=seeded(), **everything))
    parts = [list(train.batches(6, generator=seeded(), ranks=Ranks(rank, 2), **everything)) for rank in range(2)]
    assert [len(labels) for _, labels in parts[1]] == [3] * len(whole)
    for number, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[number][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), labels)
    last = len(train) - 1  # batches of that many images: the last one is a single image
    assert [len(list(train.batches(last, ranks=Ranks(rank, 2)))) for rank in range(2)] == [2, 1]


def test_image_folder_batches_repeat_with_the_generator_for_any_number_of_workers(tmp_path: Path) -> None:
    write_folder(tmp_path)
    everything = Augmentation(crop_padding=1, flip=True, cutout=5)
    global_state = torch.get_rng_state()
    runs = []
    for seed, workers in ((1, 0), (1, 0), (1, 2), (2, 0)):
        train = load_folder(tmp_path, workers=workers).train
        batches = list(train.batches(5, generator=seeded(seed), augment=everything, drop_last=True))
        assert [images.shape for images, _ in batches] == [(5, 3, 14, 14)] * 3
        runs.append((torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])))
    assert torch.equal(global_state, torch.get_rng_state())
    for images, labels in runs[1:3]:
        assert torch.equal(images, runs[0][0])
        assert torch.equal(labels, runs[0][1])
    assert not torch.equal(runs[3][0], runs[0][0])


def test_colour_jitter_is_that_of_torchvision_behind_the_same_crop(tmp_path: Path) -> None:
    """Each image has its own seed, whatever the number of loader processes; the crop is drawn first."""
    from torchvision import transforms

    write_folder(tmp_path)
    folder = load_folder(tmp_path, colour_jitter=True)
    assert folder.augmentation == Augmentation(flip=True, colour_jitter=True)
    recipe = transforms.Compose(
        [
            transforms.RandomResizedCrop(14),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    paths = sorted((tmp_path / "train").glob("*/*"))
    generator = seeded(3)
    order = folder.train.indices[torch.randperm(len(folder.train), generator=generator).numpy()]
    seed, expected = int(torch.randint(2**62, (), generator=generator)), []
    with torch.random.fork_rng(devices=[]):
        for position, index in enumerate(order):
            torch.default_generator.manual_seed(seed + position)
            expected.append(recipe(Image.open(paths[index]).convert("RGB")))
    for workers in (0, 2):
        train = load_folder(tmp_path, workers=workers).train
        found = all_images(train, generator=seeded(3), augment=Augmentation(colour_jitter=True))
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


def test_colour_jitter_is_for_image_folders() -> None:
    with pytest.raises(OptionsError, match="`colour_jitter` must be false for digits: it is for image-folder only"):
        DatasetOptions(name="digits", colour_jitter=True)


def test_image_folder_crops_at_random_only_with_augmentation(tmp_path: Path) -> None:
    train = load_folder(write_folder(tmp_path)).train
    generator = seeded()
    plain = {image.numpy().tobytes() for image in all_images(train)}
    shuffled = {image.numpy().tobytes() for image in all_images(train, generator=generator)}
    cropped = [all_images(train, generator=generator, augment=Augmentation()) for _ in range(2)]
    assert plain == shuffled
    assert len({image.numpy().tobytes() for image in torch.cat(cropped)} - plain) > 16


def test_image_folder_crops_differ_between_images_and_between_generators(tmp_path: Path) -> None:
    gradient = np.add.outer(4 * np.arange(30), 3 * np.arange(40)).astype(np.uint8)
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                Image.fromarray(gradient).save(tmp_path / part / name / f"{i}.png")
    train = load_folder(tmp_path).train
    first, second = (all_images(train, generator=seeded(seed), augment=Augmentation()) for seed in (1, 2))
    # All images are alike, so only the crops distinguish them.
    assert len({image.numpy().tobytes() for image in torch.cat([first, second])}) == 2 * len(train)


def test_image_folder_digest_follows_paths_and_sizes(tmp_path: Path) -> None:
    write_folder(tmp_path / "a")
    write_folder(tmp_path / "b")
    first, same = load_folder(tmp_path / "a"), load_folder(tmp_path / "b")
    assert first.digest == same.digest
    with (tmp_path / "b/train/ant/0.jpg").open("ab") as file:
        file.write(b"\0")
    assert load_folder(tmp_path / "b").digest != first.digest
    (tmp_path / "a/val/bee/1.png").rename(tmp_path / "a/val/bee/x.png")
    assert load_folder(tmp_path / "a").digest not in (first.digest, load_folder(tmp_path / "b").digest)


@pytest.mark.parametrize("part", ["train", "val"])
def test_image_folder_names_the_missing_folder(tmp_path: Path, part: str) -> None:
    (write_folder(tmp_path) / part).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{tmp_path}/{part} is missing: .*val/<class>.*`dataset.root`"):
        load_folder(tmp_path)


def test_image_folder_refuses_classes_that_differ_are_empty_or_single(tmp_path: Path) -> None:
    write_folder(tmp_path / "differ")
    (tmp_path / "differ/val/bee").rename(tmp_path / "differ/val/cat")
    with pytest.raises(DataError, match=r"same class folders, only train has bee, only val has cat$"):
        load_folder(tmp_path / "differ")
    (write_folder(tmp_path / "empty") / "train/cow").mkdir()
    with pytest.raises(DataError, match=rf"{tmp_path}/empty: each class folder .* must hold images, got: .*cow"):
        load_folder(tmp_path / "empty")
    with pytest.raises(DataError, match=r"single/train must hold at least 2 class folders, got \['ant'\]"):
        load_folder(write_folder(tmp_path / "single", classes=("ant",)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_image_folder_names_the_image_that_cannot_be_decoded(tmp_path: Path, workers: int, content: bytes) -> None:
    path = write_folder(tmp_path, train=4, test=1) / "val/bee/0.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path} must be an image that can be decoded, got: .+$"):
        all_images(load_folder(tmp_path, workers=workers).test)


# Imports


@pytest.mark.parametrize("module", [augment, data, readers, splits])
def test_import_needs_neither_torchvision_nor_scikit_learn(module: object) -> None:
    source = Path(module.__file__).read_text()  # type: ignore[attr-defined]
    for node in ast.parse(source).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & {"torchvision", "sklearn", "PIL"}


@pytest.mark.gpu
def test_batches_on_cuda_repeat_and_hold_the_same_splits() -> None:
    options = DatasetOptions(name="fake")
    on_cpu, on_cuda = load_data(options, CPU), load_data(options, torch.device("cuda"))
    assert on_cpu.split_digest == on_cuda.split_digest
    # Both compute (x - mean) / std in float32; the last bit of a division may differ.
    torch.testing.assert_close(all_images(on_cuda.test).cpu(), all_images(on_cpu.test), rtol=1e-6, atol=1e-6)
    everything = Augmentation(crop_padding=4, flip=True, cutout=8)
    runs = [
        all_images(on_cuda.train, generator=torch.Generator("cuda").manual_seed(0), augment=everything)
        for _ in range(2)
    ]
    assert runs[0].is_cuda
    assert torch.equal(runs[0], runs[1])
    with pytest.raises(ValueError, match="`generator` must live on cuda"):
        on_cuda.train.batches(8, generator=seeded())
