"""Small texts that come with Python."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from pydoc_data import topics

import torch

from search_core.recurrent.model import LanguageModel
from search_core.recurrent.options import (
    RecurrentRetrainOptions,
    RecurrentSearchOptions,
    RetrainDropoutOptions,
    TextOptions,
)
from search_core.recurrent.text import TextData, load_text

UNMASKED = RetrainDropoutOptions(words=0.0, embedding=0.0, input=0.0, hidden=0.0, output=0.0)


@cache
def topics_text() -> str:
    """What `help()` says of Python's topics."""
    return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def write_text(folder: Path, train: int = 600, others: int = 120) -> Path:
    """A text in the layout of Penn Treebank, of so many characters."""
    folder.mkdir(parents=True, exist_ok=True)
    text = topics_text()
    parts = {"train": text[:train], "valid": text[train : train + others], "test": text[train + others :][:others]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text(part, encoding="utf-8")
    return folder


def small_text(folder: Path, train: int = 600, others: int = 120) -> TextData:
    """The same, loaded by characters."""
    return load_text(TextOptions(folder=str(write_text(folder, train, others)), level="char"))


def carrying(model: LanguageModel) -> None:
    """Make the initial weights so large that what is said depends on words of long ago."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(30)


def tiny_search(**changes: object) -> RecurrentSearchOptions:
    """A search of a fraction of a second an epoch."""
    settings = {"hidden": 6, "nodes": 2, "epochs": 3, "batch_size": 10, "bptt": 8, **changes}
    return RecurrentSearchOptions(**settings)  # type: ignore[arg-type]


def tiny_retrain(**changes: object) -> RecurrentRetrainOptions:
    """Likewise a retraining."""
    settings = {"hidden": 6, "epochs": 3, "batch_size": 10, "bptt": 8, "average_after": 1, **changes}
    return RecurrentRetrainOptions(**settings)  # type: ignore[arg-type]
