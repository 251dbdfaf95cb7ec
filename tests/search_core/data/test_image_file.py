"""Image files of every kind that Pillow reads: right pixels, or a message that names the file."""

from __future__ import annotations

import errno
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from search_core.data import image_file
from search_core.data.image_file import read_rgb
from search_core.errors import DataError

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def decoded(path: Path) -> list[Any]:
    image = read_rgb(str(path))
    assert image.mode == "RGB"
    return np.asarray(image).tolist()  # type: ignore[no-any-return]


def saved(folder: Path, image: Image.Image, suffix: str = "png", **options: Any) -> Path:
    path = folder / f"image.{suffix}"
    image.save(path, **options)
    return path


def grey16(*values: int) -> Image.Image:
    return Image.fromarray(np.array([values], np.uint16))


def png(depth: int, colour_type: int, row: bytes, transparent: bytes = b"", size: tuple[int, int] = (2, 1)) -> bytes:
    """A PNG file of one row, of depths and chunks that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + key + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def tiff(
    folder: Path, values: np.ndarray[Any, Any], bits: int, *, photometric: int = 1, sample_format: int = 1
) -> Path:
    """A grey TIFF file of one row, with tags that Pillow does not write."""
    data = values.tobytes()
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    path = folder / "image.tif"
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    )
    return path


# Depths


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [
        (1, b"\x40", [0, 255]),
        (2, b"\x60", [85, 170]),
        (4, b"\x3c", [51, 204]),
        (8, b"\x03\xfc", [3, 252]),
        (16, struct.pack(">2H", 0x03FF, 0xFC00), [3, 252]),
    ],
)
def test_grey_png_of_every_depth_is_spread_over_a_byte(
    tmp_path: Path, depth: int, row: bytes, expected: list[int]
) -> None:
    (tmp_path / "a.png").write_bytes(png(depth, 0, row))
    assert decoded(tmp_path / "a.png") == [[[value] * 3 for value in expected]]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_keeps_its_levels(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, grey16(0, 255, 256, 0x8000, 0xFFFF), suffix)
    assert decoded(path) == [[[value] * 3 for value in (0, 0, 1, 128, 255)]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_grey_tiff_of_either_byte_order(tmp_path: Path, mode: str) -> None:
    order = ">u2" if mode.endswith("B") else "<u2"
    image = Image.frombytes(mode, (3, 1), np.array([0, 0x1234, 0xFFFF], order).tobytes())
    path = saved(tmp_path, image, "tif")
    assert Image.open(path).mode == mode
    assert decoded(path) == [[[0] * 3, [0x12] * 3, [255] * 3]]


def test_16_bit_colour_keeps_the_same_levels_as_grey(tmp_path: Path) -> None:
    row = struct.pack(">6H", 0, 0x12FF, 0xFFFF, 0x8000, 0x7FFF, 255)
    (tmp_path / "a.png").write_bytes(png(16, 2, row))
    assert decoded(tmp_path / "a.png") == [[[0, 0x12, 255], [128, 127, 0]]]


@pytest.mark.parametrize(("top", "values"), [(65535, (0x1234, 0xFFFF)), (1023, (512, 1023)), (100, (50, 100))])
def test_pgm_is_scaled_by_its_stated_maximum(tmp_path: Path, top: int, values: tuple[int, int]) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 1 %d\n" % top + struct.pack(">2H" if top > 255 else "2B", *values))
    first = values[0] / top * 255
    assert abs(decoded(path)[0][0][0] - first) <= 1
    assert decoded(path)[0][1] == [255] * 3


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: saved(folder, Image.new("I", (2, 1), 70000), "tif"),
        lambda folder: saved(folder, Image.new("F", (2, 1), 0.5), "tif"),
        lambda folder: tiff(folder, np.array([1, 2], "<i2"), 16, sample_format=2),
        lambda folder: tiff(folder, np.array([1, 2], "<i1"), 8, sample_format=2),
        lambda folder: tiff(folder, np.array([1, 2], "<u2"), 16, photometric=0),
        lambda folder: tiff(folder, np.array([1, 2, 3], "<u1"), 12),
    ],
    ids=["32-bit", "float", "signed 16-bit", "signed 8-bit", "white is zero", "12-bit"],
)
def test_values_whose_range_is_not_known_are_refused(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match=f"^{path} must hold .*, got a TIFF file of .*: .*save it as"):
        read_rgb(str(path))


def test_float_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5))
    with pytest.raises(DataError, match=f"^{path} must hold 8-bit .* got a PPM file of mode F"):
        read_rgb(str(path))


# Colours

COLOUR = (200, 90, 30)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_colours_are_those_of_the_picture_in_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    if (mode, suffix) == ("CMYK", "png"):
        suffix = "jpg"
    path = saved(tmp_path, Image.new("RGB", (8, 8), COLOUR).convert(mode), suffix)
    # Quantised to a palette, 52 away at most from a colour of the web palette; else 2 by rounding and compression.
    np.testing.assert_allclose(decoded(path)[4][4], COLOUR, atol=26 if mode == "P" else 2)


def test_lab_and_ycbcr_tiff_become_the_picture_they_show(tmp_path: Path) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = Image.new("RGB", (4, 4), COLOUR)
    in_lab = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    assert in_lab is not None
    for image in (in_lab, picture.convert("YCbCr")):
        path = saved(tmp_path, image, "tif")
        assert Image.open(path).mode == image.mode
        np.testing.assert_allclose(decoded(path)[1][1], COLOUR, atol=3)  # 8 bits of L, a and b are coarse


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_grey_picture_is_the_same_in_every_mode(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 255], [255, 0]], np.uint8)
    path = saved(tmp_path, Image.fromarray(values).convert(mode))
    assert Image.open(path).mode == mode
    assert decoded(path) == [[list(BLACK), list(WHITE)], [list(WHITE), list(BLACK)]]


# Transparency


@pytest.mark.parametrize("hidden", [0, 90, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparent_pixels_are_white_whatever_they_hide(tmp_path: Path, mode: str, hidden: int) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 255), (hidden, hidden, hidden, 0), (0, 0, 0, 51)])
    path = saved(tmp_path, image.convert(mode), "tif")
    assert Image.open(path).mode == mode
    assert decoded(path) == [[[0] * 3, [255] * 3, [204] * 3]]  # 51 of 255: a fifth black on white


@pytest.mark.parametrize("suffix", ["png", "gif"])
@pytest.mark.parametrize("transparent", [1, b"\xff\x00"])
def test_transparent_entry_of_a_palette_is_white(tmp_path: Path, suffix: str, transparent: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 90, 30])
    image.putdata([0, 1])
    if suffix == "gif":
        transparent = 1  # a GIF has no half transparency
    path = saved(tmp_path, image, suffix, transparency=transparent)
    assert decoded(path) == [[list(BLACK), list(WHITE)]]


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "transparent", "opaque"),
    [
        (1, 0, b"\x40", struct.pack(">H", 1), 0),
        (2, 0, b"\x60", struct.pack(">H", 2), 85),
        (4, 0, b"\x3c", struct.pack(">H", 12), 51),
        (8, 0, b"\x03\x07", struct.pack(">H", 7), 3),
        (16, 0, struct.pack(">2H", 0x0300, 0x1234), struct.pack(">H", 0x1234), 3),
        (8, 2, b"\x03\x03\x03\x07\x08\x09", struct.pack(">3H", 7, 8, 9), 3),
        (
            16,
            2,
            struct.pack(">6H", *[0x0300] * 3, 0x1234, 0x5678, 0x9ABC),
            struct.pack(">3H", 0x1234, 0x5678, 0x9ABC),
            3,
        ),
    ],
)
def test_colour_that_a_png_declares_transparent_is_white_at_every_depth(
    tmp_path: Path, depth: int, colour_type: int, row: bytes, transparent: bytes, opaque: int
) -> None:
    (tmp_path / "a.png").write_bytes(png(depth, colour_type, row, transparent))
    assert decoded(tmp_path / "a.png") == [[[opaque] * 3, [255] * 3]]


def test_16_bit_grey_and_alpha_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(16, 4, struct.pack(">4H", 0x1234, 0xFFFF, 0x5678, 0)))
    assert decoded(tmp_path / "a.png") == [[[0x12] * 3, [255] * 3]]


# Orientation and frames


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_the_camera_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    # Which corner of the stored picture is the upper left one of the scene, (row, column), for orientations 1 to 8.
    row, column = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (1, 0), (1, 1), (0, 1)][orientation - 1]
    stored = np.zeros((32, 16, 3), np.uint8)
    stored[16 * row : 16 * row + 16, 8 * column : 8 * column + 8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored)
    lossless = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    path = saved(tmp_path, image, suffix, exif=exif, **lossless)
    upright = np.asarray(read_rgb(str(path)))
    assert upright.shape[:2] == ((32, 16) if orientation < 5 else (16, 32))
    quarters = upright.reshape(2, upright.shape[0] // 2, 2, upright.shape[1] // 2, 3).mean(axis=(1, 3, 4))
    assert (quarters.round(-1) > 128).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (BLACK, WHITE, COLOUR)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path, frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(path), "n_frames", 1) == 3
    assert decoded(path) == [[list(BLACK)] * 4] * 4


# Faults


def test_truncated_file_of_every_format_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "tif", "webp", "bmp", "ppm"):
        path = saved(tmp_path, Image.fromarray(noise), suffix)
        content = path.read_bytes()
        for length in (0, 1, 10, len(content) // 2, len(content) - 100):
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match=f"^{path} must be an image that can be decoded, got: .+"):
                read_rgb(str(path))


def test_file_without_pixels_or_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for content in (b"hello", b"<svg/>", png(8, 0, b"", size=(0, 1)), png(8, 0, b"", size=(1, 0)), b"P5 0 0 255\n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"^{path} must be an image that can be decoded, got: .+"):
            read_rgb(str(path))


def test_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 0, b"", size=(60000, 60000)))
    with pytest.raises(DataError, match=f"^{path} must be .*3600000000 pixels.*bomb"):
        read_rgb(str(path))
    path = saved(tmp_path, Image.new("L", (1, 1001)))
    with pytest.raises(DataError, match=f"^{path} must be at most 1000 times as long as wide, got 1 x 1001 pixels"):
        read_rgb(str(path))


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, OSError), (errno.ESTALE, OSError), (errno.EACCES, DataError)])
def test_fault_of_the_machine_is_not_one_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    path = saved(tmp_path, grey16(1, 2))

    def fail(*_: object) -> None:
        raise OSError(number, "no luck", str(path))

    monkeypatch.setattr(image_file, "_to_rgb", fail)
    with pytest.raises(kind, match="no luck") as caught:
        read_rgb(str(path))
    assert type(caught.value) is (DataError if kind is DataError else type(OSError(number, "")))


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.png").mkdir()
    for name in ("a.png", "b.png"):
        with pytest.raises(DataError, match=f"^{tmp_path / name} must be an image"):
            read_rgb(str(tmp_path / name))


def test_format_is_that_of_the_content(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), WHITE).save(buffer, "PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert decoded(tmp_path / "a.jpg") == [[list(WHITE)]]
