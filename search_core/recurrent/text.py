"""Text for language models: a folder of three files becomes numbers, read in columns and windows.

Shape suffixes: T time steps, B columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from search_core.errors import DataError
from search_core.json_text import TextError, decoded
from search_core.recurrent.options import TextOptions

_FILES = ("train.txt", "valid.txt", "test.txt")
#: What stands for the end of a line among words.
END_OF_LINE = "<eos>"

#: Inputs (T, B) and what follows each of them (T, B).
Window = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TextData:
    """A text in three parts, as numbers of words or characters (int64).

    Attributes:
        train: (N,).
        valid: likewise.
        test: likewise.
        vocabulary: of all three parts, as with Penn Treebank and WikiText, in the order in which they first appear.
        digest: of the files' contents and the level.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    digest: str


def load_text(options: TextOptions, device: torch.device | str = "cpu") -> TextData:
    """Read the three files.

    Args:
        options: folder and level.
        device: where the numbers are to lie.

    Raises:
        DataError: if a file is missing, no UTF-8 text, or too short for two columns.
    """
    numbers: dict[str, int] = {}
    parts, digest = [], hashlib.sha256(options.level.encode())
    for name in _FILES:
        file = Path(options.folder).expanduser() / name
        try:
            content = file.read_bytes()
            tokens = _tokens(decoded(content), options.level)
        except FileNotFoundError as error:
            raise DataError(f"{file} must be there: a text is a folder with {', '.join(_FILES)}") from error
        except TextError as error:
            raise DataError(error.of(file)) from error
        if len(tokens) < 4:
            raise DataError(f"{file} must have at least 4 {options.level}s, got {len(tokens)}")
        digest.update(hashlib.sha256(content).digest())
        parts.append(torch.tensor([numbers.setdefault(token, len(numbers)) for token in tokens], device=device))
    train, valid, test = parts
    return TextData(train=train, valid=valid, test=test, vocabulary=tuple(numbers), digest=digest.hexdigest())


def _tokens(text: str, level: str) -> list[str]:
    if level == "char":
        return list(text)
    return [word for line in text.splitlines() for word in (*line.split(), END_OF_LINE)]


def columns(text: Tensor, number: int) -> Tensor:
    """A text (N,) side by side: (N // number, number), each column a piece of it; what is left over is cut.

    Raises:
        DataError: if a column would have less than two words.
    """
    length = len(text) // number
    if length < 2:
        raise DataError(f"`batch_size` must be at most {len(text) // 2}, half of the {len(text)} words, got {number}")
    return text[: length * number].view(number, length).t()


def windows(columns_TB: Tensor, bptt: int) -> Iterator[Window]:
    """One pass over the columns, `bptt` time steps at a time, the last window perhaps shorter."""
    for start in range(0, len(columns_TB) - 1, bptt):
        end = min(start + bptt, len(columns_TB) - 1)
        yield columns_TB[start:end], columns_TB[start + 1 : end + 1]
