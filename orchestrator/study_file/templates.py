"""Study files that come with the package."""

from __future__ import annotations

from importlib import resources
from itertools import dropwhile, takewhile

#: How a study file names its schema (`snas study schema`) to editors; the rest of the line is where it lies.
SCHEMA_LINE = "# yaml-language-server: $schema="


def templates() -> dict[str, str]:
    """Text of every study file that comes with the package, by the name of the template."""
    files = [file for file in resources.files("studies").iterdir() if file.name.endswith(".yaml")]
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
    }


def purpose(text: str) -> str:
    """What a study file is for: the first paragraph of the comment at its head."""
    lines = dropwhile(lambda line: line.startswith(SCHEMA_LINE), text.splitlines())
    head = takewhile(lambda line: line.startswith("# "), lines)
    return " ".join(line.removeprefix("# ") for line in head)
