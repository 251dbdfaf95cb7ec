"""One image file -> 8-bit RGB. What cannot be brought there without guessing is refused, with the file's name."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from search_core.errors import DataError, is_permanent

if TYPE_CHECKING:
    from PIL.Image import Image

#: A side this much longer than the other would grow without bounds when the shorter one is resized.
MAX_ASPECT = 1000

_BYTES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBA", "RGBa")
_UINT16 = ("I;16", "I;16L", "I;16B", "I;16N")
#: Formats whose grey values of more than 8 bits Pillow spreads over the whole of 16.
_FULL_RANGE = ("PNG", "PPM", "JPEG2000")
#: Pillow brings these pixels to 8 bits, but not the colour that a PNG file declares transparent.
_TRANSPARENT_FACTOR = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}


def read_rgb(path: str, content: bytes | None = None) -> Image:
    """Decode an image file.

    16-bit values lose their lower byte, grey levels become three equal channels, and transparency is laid on white,
    whatever colour hides below it. The picture is turned upright as its EXIF orientation says. Of an animation or a
    file of several pages the first is taken. Colour profiles are not applied.

    Args:
        path: of the file; its content says the format, not its name.
        content: of the file, if it lies elsewhere; `path` is then what messages call it.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        DataError: if the file cannot be decoded or opened, if its values have no stated range (32-bit, signed and
            12-bit ones), or if it is over `MAX_ASPECT` times as long as wide.
        OSError: if disk or network failed, so that another attempt may succeed.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with Pillow.open(path if content is None else io.BytesIO(content)) as image:
            _check(image, path)
            if "transparency" in image.info and image.format == "PNG":
                _scale_transparent(image)
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its words are the path once more
        raise DataError(f"{path} must be an image that can be decoded, got: an unknown format") from error
    except Exception as error:  # Image decoders raise many types; each means that this file is bad.
        if not is_permanent(error):
            raise
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} must be an image that can be decoded, got: {reason}") from error


def _check(image: Image, path: str) -> None:
    if image.mode not in _BYTES and not _is_16_bit(image):
        raise DataError(
            f"{path} must hold 8-bit or unsigned 16-bit values, got a {image.format} file of mode {image.mode} whose "
            "range is not known: scale it and save it as 8-bit or 16-bit PNG"
        )
    if image.format == "TIFF" and 2 in np.atleast_1d(image.tag_v2.get(339, 1)):  # type: ignore[attr-defined]
        raise DataError(f"{path} must hold unsigned values, got a TIFF file of signed ones: save it as unsigned")
    if max(image.size) > MAX_ASPECT * min(image.size):
        size = f"{image.width} x {image.height}"
        raise DataError(f"{path} must be at most {MAX_ASPECT} times as long as wide, got {size} pixels")


def _is_16_bit(image: Image) -> bool:
    """Whether these are grey values over the whole of 0 (black) to 65535."""
    if image.format == "TIFF":
        bits, photometric = (image.tag_v2.get(tag) for tag in (258, 262))  # type: ignore[attr-defined]
        # Pillow leaves 12-bit values as they are, and does not invert those of which 0 is white.
        return image.mode in _UINT16 and bits == (16,) and photometric == 1
    return image.mode in (*_UINT16, "I") and image.format in _FULL_RANGE


def _scale_transparent(image: Image) -> None:
    """Bring the transparent colour of a PNG file to the 8 bits of its pixels, before they are read."""
    factor = _TRANSPARENT_FACTOR.get(image.tile[0][3])  # type: ignore[attr-defined]  # raw mode
    if factor is not None:
        colour = image.info["transparency"]
        image.info["transparency"] = (
            tuple(int(value * factor) for value in colour) if isinstance(colour, tuple) else int(colour * factor)
        )


def _to_rgb(image: Image) -> Image:
    from PIL import Image as Pillow

    if image.mode not in _BYTES:
        values = np.asarray(image)
        grey = Pillow.fromarray((values >> 8).astype(np.uint8))
        if "transparency" in image.info:
            opaque = values != image.info["transparency"]
            grey.putalpha(Pillow.fromarray(opaque.astype(np.uint8) * 255))
        image = grey
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer).convert("RGB")
