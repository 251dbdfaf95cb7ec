"""Folders as people have them: what counts as a class and an image, and what is reported about the rest."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from search_core.data import identical
from search_core.data.datasets import DatasetOptions, ImageData, load_data
from search_core.data.image_folder import read_image_folder
from search_core.errors import DataError, first_few, printable
from tests.search_core.image_folders import CLASSES, NAMES, write_folder, write_image

CPU = torch.device("cpu")


def load(root: Path, **options: object) -> ImageData:
    settings = {"image_size": 4, "workers": 0} | options
    return load_data(DatasetOptions(name="image-folder", root=str(root), **settings), CPU)  # type: ignore[arg-type]


def names_of(root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in read_image_folder(root).paths]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


# What is read


def tiny_imagenet(root: Path) -> Path:
    """Six training and two validation images a class, as `tiny-imagenet-200` has them."""
    lines = []
    (root / "val" / "images").mkdir(parents=True)
    for number, name in enumerate(("n01443537", "n01629819")):
        (root / "train" / name / "images").mkdir(parents=True)
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t3\t3\n")
        for i in range(6):
            write_image(root / "train" / name / "images" / f"{name}_{i}.JPEG", 10 * number + i)
        for i in (number, number + 2):
            write_image(root / "val" / "images" / f"val_{i}.JPEG", 100 + i)
            lines.append(f"val_{i}.JPEG\t{name}\t0\t1\t2\t3\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    return root


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    folder = read_image_folder(root)
    assert folder.classes == ("n01443537", "n01629819")
    assert folder.num_train == 12
    of_val = {
        os.path.basename(path): int(label) for path, label in zip(folder.paths[12:], folder.labels[12:], strict=True)
    }
    assert of_val == {"val_0.JPEG": 0, "val_2.JPEG": 0, "val_1.JPEG": 1, "val_3.JPEG": 1}
    data = load(root, validation_fraction=0.2)
    assert (len(data.train), len(data.validation), len(data.test), data.num_classes) == (10, 2, 4, 2)


def test_tiny_imagenet_whose_table_and_images_differ_is_refused(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    (root / "val" / "images" / "val_0.JPEG").rename(root / "val" / "images" / "other.JPEG")
    with pytest.raises(DataError, match=r"name the class of every image, got none of other\.JPEG") as caught:
        read_image_folder(root)
    assert "must name images that are there, got val_0.JPEG" in str(caught.value)


def test_images_and_their_order_are_those_of_torchvision(root: Path) -> None:
    for name in (
        "ant/z/9.PNG",
        "ant/a b/1.Jpeg",
        "ant/10.png",
        "ant/a/b/c/0.webp",
        "ant-2/1.png",
        "Bee/1.png",
        "ant/é.png",
    ):
        for part in ("train", "val"):
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    folder = read_image_folder(root)
    train, val = ImageFolder(str(root / "train")), ImageFolder(str(root / "val"))
    assert list(zip(folder.paths, folder.labels.tolist(), strict=True)) == train.samples + val.samples
    assert list(folder.classes) == train.classes
    assert folder.num_train == len(train)


def test_digest_is_that_of_studies_so_far(root: Path) -> None:
    """Parts of a path are compared, not characters: `ant-2` comes after `ant/...`."""
    for part in ("train", "val"):
        (root / part / "ant-2").mkdir()
        (root / part / "ant-2/1.png").write_bytes(b"1234567")
    folder = read_image_folder(root)
    text = "".join(
        f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n" for path in sorted(map(Path, folder.paths))
    )
    assert folder.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/0.png",
        "ant/.ipynb_checkpoints/0-checkpoint.png",
        "ant/._0.png",
        "ant/.hidden.png",
        "__MACOSX/ant/1.png",
        "ant/@eaDir/0.png/THUMB.jpg",
        "ant/Thumbs.db",
        "ant/desktop.ini",
        ".DS_Store",
        "ant/.DS_Store",
        "lost+found/1.png",
        "System Volume Information/1.png",
    ],
)
@pytest.mark.parametrize("parts", [("train", "val"), ("train",)])
def test_what_systems_and_tools_leave_behind_is_passed_over(root: Path, name: str, parts: tuple[str, ...]) -> None:
    before = read_image_folder(root)
    for part in parts:
        (root / part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / part / "bee/0.png", root / part / name)
    after = read_image_folder(root)
    assert (after.paths, after.digest, after.classes, after.unread) == (before.paths, before.digest, CLASSES, ())


def test_what_is_not_read_is_said(root: Path) -> None:
    (root / "test/ant").mkdir(parents=True)
    shutil.copy(root / "train/ant/0.png", root / "train/stray.png")
    for i in range(7):
        (root / f"train/ant/{i}.gif").write_bytes(b"x")
    (root / "README.txt").write_text("ours")
    beside, stray, other = load(root).warnings()
    assert beside == f"{root}: only train and val are read, not test"
    assert stray == f"{root}: not read, as images outside class folders: 1, such as train/stray.png"
    assert other.startswith(f"{root}: not read, as files that do not end in .jpg, .jpeg, .png")
    assert other.endswith(
        ": 7, such as train/ant/0.gif, train/ant/1.gif, train/ant/2.gif, train/ant/3.gif, train/ant/4.gif, and 2 more"
    )


def test_links_to_images_and_to_folders_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "train/bee", tmp_path / "elsewhere")
    (root / "train/bee").symlink_to(tmp_path / "elsewhere")
    shutil.move(root / "val", tmp_path / "held out")
    (root / "val").symlink_to(tmp_path / "held out")
    (tmp_path / "x").write_bytes((root / "train/ant/0.png").read_bytes() + b"\0")
    (root / "train/ant/x.png").symlink_to(tmp_path / "x")
    assert len(read_image_folder(root).paths) == 2 * 10 + 2 * 2 + 1


# What is refused


LINKS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "sibling class": ("train/cow", lambda root: root / "train/ant"),
    "own class": ("train/ant/more", lambda root: root / "train/ant"),
    "train": ("train/ant/more", lambda root: root / "train"),
    "root": ("train/ant/more", lambda root: root),
    "above the root": ("train/ant/more", lambda root: root.parent),
    "everything": ("train/ant/more", lambda _: Path("/")),
    "other split": ("val/ant/more", lambda root: root / "train/bee"),
    "within another class": ("train/bee/more", lambda root: root / "train/ant/nested"),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("relative", [False, True])
def test_folder_that_is_reached_twice_is_refused_with_both_paths(root: Path, kind: str, relative: bool) -> None:
    (root / "train/ant/nested").mkdir()
    link, target = LINKS[kind]
    aim = target(root)
    (root / link).symlink_to(os.path.relpath(aim, (root / link).parent) if relative else aim)
    with pytest.raises(
        DataError, match=rf"^{root}/\S+ leads to \S+, which is or holds the folder {root.parent}\S*: "
    ) as error:
        read_image_folder(root)
    assert "class folders" not in str(error.value), "what was not read must not count as missing"


def test_train_and_val_must_be_two_folders(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")
    with pytest.raises(
        DataError, match=f"^{root}/val leads to {root}/train, which is or holds the folder {root}/train"
    ):
        read_image_folder(root)


def test_folders_that_links_outside_share_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pool/inner").mkdir(parents=True)
    write_image(tmp_path / "pool/inner/1.png", 99)
    (root / "train/ant/x").symlink_to(tmp_path / "pool/inner")
    (root / "train/bee/y").symlink_to(tmp_path / "pool")
    with pytest.raises(
        DataError, match=f"{root}/train/bee/y leads to {tmp_path}/pool, .* holds the folder {root}/train/ant/x"
    ):
        read_image_folder(root)


def test_links_in_a_circle_and_links_to_nothing_are_named(root: Path) -> None:
    (root / "train/ant/a.png").symlink_to("b.png")
    (root / "train/ant/b.png").symlink_to("a.png")
    (root / "val/bee/c.png").symlink_to("nothing")
    with pytest.raises(DataError) as error:
        read_image_folder(root)
    for name in ("train/ant/a.png", "train/ant/b.png", "val/bee/c.png"):
        assert f"{root}/{name} must be a" in str(error.value)


def test_empty_files_and_pipes_are_found_before_anything_begins_all_at_once(root: Path) -> None:
    os.mkfifo(root / "train/ant/pipe.png")
    for i in range(9):
        (root / f"train/bee/{i}.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load(root)
    message = str(error.value)
    assert f"{root}/train/ant/pipe.png must be a regular file" in message
    assert message.count("must be an image that can be decoded, got: a file of 0 bytes") == 4
    assert message.endswith("; and 5 more")


def test_classes_that_differ_are_said_by_side_with_empty_ones(root: Path) -> None:
    (root / "train/cow").mkdir()
    (root / "train/cow/.hidden.png").write_bytes(b"x")
    (root / "val/Ant").mkdir()
    (root / "val/Ant/1.txt").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        read_image_folder(root)
    assert "same class folders, only train has cow, only val has Ant;" in str(error.value)
    assert "each class folder of train and val must hold images, got: none in train/cow, val/Ant (" in str(error.value)


@pytest.mark.parametrize(("mine", "theirs"), [("caf\u00e9", "cafe\u0301"), ("Cow", "cow")])
def test_classes_that_look_alike_are_distinguished(root: Path, mine: str, theirs: str) -> None:
    for part, name in (("train", mine), ("val", theirs)):
        (root / part / name).mkdir()
        write_image(root / part / name / "1.png", 77)
    with pytest.raises(DataError, match="some differ only in case or in how accents are encoded"):
        read_image_folder(root)


@pytest.mark.parametrize(("number", "kind"), [(errno.EACCES, DataError), (errno.EIO, OSError)])
def test_folder_that_cannot_be_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    scandir = os.scandir

    def fail(folder: str) -> object:
        if folder.endswith("train/bee"):
            raise OSError(number, os.strerror(number), folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(kind) as error:
        read_image_folder(root)
    if kind is DataError:
        assert str(error.value) == f"{root}/train/bee must be a readable folder, got: Permission denied"


@pytest.mark.parametrize("workers", [0, 2])
def test_all_bad_images_of_a_batch_are_named(root: Path, workers: int) -> None:
    for path in sorted((root / "train").glob("*/[0-6].png")):
        path.write_bytes(b"no image")
    train = load(root, workers=workers).train
    with pytest.raises(DataError, match=r"^.*train/(ant|bee)/\d\.png must be an image.*; and \d+ more$") as error:
        list(train.batches(len(train)))
    assert str(error.value).count("must be an image") == 5


# Identical images


def test_identical_images_in_two_classes_and_in_two_splits_are_said(root: Path) -> None:
    assert load(root).warnings() == []
    shutil.copy(root / "train/ant/0.png", root / "train/bee/copy.png")
    shutil.copy(root / "train/ant/1.png", root / "val/ant/copy.png")
    (root / "val/bee/link.png").symlink_to(root / "train/bee/1.png")
    in_classes, in_splits = load(root, validation_fraction=0.05).warnings()
    assert in_classes.startswith("identical images in more than one class: 1, such as train/ant/0.png (")
    assert in_splits.startswith("identical images in more than one split: 2, such as ")
    for mine, theirs in (("ant/1.png", "ant/copy.png"), ("bee/1.png", "bee/link.png")):
        assert re.search(rf"train/{mine} \((train|validation)\) = val/{theirs} \(test\)", in_splits)


def test_copies_on_both_sides_of_the_validation_split_are_said(root: Path) -> None:
    for i in range(10):
        shutil.copy(root / "train/ant/0.png", root / f"train/ant/copy-{i}.png")
    (said,) = load(root, validation_fraction=0.5).warnings()
    assert said.startswith("identical images in more than one split: 1, such as train/ant/")
    assert said.count(" = ") == said.count("(train)") == said.count("(validation)") == 1


def test_copies_within_a_class_and_split_or_left_out_are_no_fault(root: Path) -> None:
    shutil.copy(root / "val/ant/0.png", root / "val/ant/copy.png")
    assert load(root).warnings() == []
    for i in range(5):
        shutil.copy(root / "train/ant/0.png", root / f"val/bee/copy-{i}.png")
    assert load(root, train_images=2, validation_images=1, test_images=1).warnings() == []


def test_search_for_identical_images_reads_only_so_much_and_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identical, "_READ_BYTES", 0)
    (said,) = load(root).warnings()
    assert said == "not searched for identical images, as together they are too large: 24 files"


def test_images_of_sizes_of_their_own_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, path in enumerate(sorted(root.glob("*/*/*.png"))):
        with path.open("ab") as file:
            file.write(b"\0" * i)
    data = load(root)
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("read"))
    assert data.warnings() == []


# Names


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_any_bytes_work_for_classes_and_images(root: Path, kind: str) -> None:
    name = NAMES[kind]
    for part in (b"train", b"val"):
        folder = os.path.join(os.fsencode(root), part, name)
        os.mkdir(folder)
        for i in range(3):
            write_image(os.path.join(folder, name + b"%d.png" % i), 50 + i)
    data = load(root)
    assert data.num_classes == 3
    assert len(data.digest) == 64
    assert sum(len(labels) for split in (data.train, data.validation, data.test) for _, labels in split.batches(4)) > 0
    for said in data.warnings():
        assert said.isprintable()
        said.encode()


@pytest.mark.parametrize("kind", NAMES)
def test_messages_about_names_of_any_bytes_are_printable(root: Path, kind: str) -> None:
    folder = os.path.join(os.fsencode(root), b"train", NAMES[kind])
    os.mkdir(folder)
    with open(os.path.join(folder, NAMES[kind] + b".png"), "wb"):
        pass
    with pytest.raises(DataError) as error:
        load(root)
    message = str(error.value)
    assert message.isprintable()
    assert message.encode()
    if kind == "not UTF-8":
        assert rf"{root}/train/caf\xe9/caf\xe9.png must be an image" in message
        assert r"only train has caf\xe9" in message


def test_digest_distinguishes_names_that_differ_in_bytes_only(tmp_path: Path) -> None:
    digests = set()
    for number, name in enumerate((b"\xe9", b"\xea", "é".encode())):
        root = write_folder(tmp_path / str(number))
        write_image(os.path.join(os.fsencode(root), b"train/ant", name + b".png"), 7)
        digests.add(load(root).digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\udce9", r"caf\xe9"),
        ("a\nb\t", r"a\nb\t"),
        ("\x1b[0m", r"\x1b[0m"),
        ("é 蜂 🐝", "é 蜂 🐝"),
        ("\u202e", r"\u202e"),
    ],
)
def test_printable_escapes_what_terminals_and_stores_refuse(text: str, shown: str) -> None:
    assert printable(text) == shown == printable(shown)


def test_first_few_counts_the_rest() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(list("abcdefg"), "; ") == "a; b; c; d; e; and 2 more"
