"""Image folders of a few pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee")

NAMES = {
    "not UTF-8": b"caf\xe9",
    "newline": b"two\nlines",
    "control": b"bell\x07\x1b[31m",
    "emoji": "👩\u200d🔬🐝".encode(),
    "right to left": "\u202eנמלה".encode(),
    "long": b"a" * 240,
    "quotes": b"'\"`$(x);&",
    "brackets": b"[red]{0}%s",
    "backslash": rb"back\slash",
    "blank": b" ",
}


def write_image(path: str | bytes | Path, seed: int) -> None:
    colour = np.random.default_rng(seed).integers(0, 256, 3, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(colour, (4, 4, 3)).copy()).save(os.fsdecode(path), "PNG")


def write_folder(root: Path, train: int = 10, val: int = 2) -> Path:
    """Every image has a colour of its own."""
    seed = 0
    for part, count in (("train", train), ("val", val)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                write_image(root / part / name / f"{i}.png", seed := seed + 1)
    return root
