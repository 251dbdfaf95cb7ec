"""Files of Python that a study names lie beside its study file, as copies: a resumed study runs what it began with.

runs/<study>/plugins/my_data.py       named `<runs>/<study>/plugins/my_data.py:load` by runs/<study>/study.yaml
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from search_core.errors import PluginError
from search_core.plugins import content_of, is_file, named_sources, split_reference, trust

COPIES = "plugins"


def with_copies(data: Any, folder: Path) -> Any:
    """Settings that name copies in a folder instead of the files; nothing is written.

    The copies are trusted, with the contents that the files had when they were.

    Args:
        data: plain settings.
        folder: of the study.

    Raises:
        PluginError: if two files have one name.
    """
    copies: dict[str, str] = {}
    for source in filter(is_file, named_sources(data)):
        copy = str(folder / COPIES / Path(source).name)
        if copy in copies.values():
            named = " and ".join(other for other in (*copies, source) if Path(other).name == Path(source).name)
            raise PluginError(f"files of Python must differ in their names, as copies of them are kept, got {named}")
        copies[source] = copy
    for source, copy in copies.items():
        trust(copy, content_of(source))
    return _renamed(data, lambda source, attribute: f"{copies.get(source, source)}:{attribute}")


def write_copies(data: Any) -> None:
    """Write the files that settings name, as `with_copies` gave them, with their trusted contents."""
    for source in filter(is_file, named_sources(data)):
        Path(source).parent.mkdir(parents=True, exist_ok=True)
        Path(source).write_text(content_of(source), encoding="utf-8", newline="")


def copy_digests(data: Any) -> dict[str, str]:
    """Name of each file that settings name -> SHA-256 (hex) of its trusted content."""
    files = filter(is_file, named_sources(data))
    return {Path(file).name: sha256(content_of(file).encode()).hexdigest() for file in files}


def with_digests(data: Any, digests: Mapping[str, str]) -> Any:
    """Settings in which a file is known by its name and content, wherever it lies.

    Args:
        data: plain settings.
        digests: as `copy_digests` gave them.
    """

    def known(source: str, attribute: str) -> str:
        name = Path(source).name
        return f"{name}:{attribute} of contents {digests[name][:12]}" if name in digests else f"{source}:{attribute}"

    return _renamed(data, known)


def _renamed(data: Any, rename: Callable[[str, str], str]) -> Any:
    """Plain data with another text for each reference to a file."""
    if isinstance(data, Mapping):
        return {key: _renamed(value, rename) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_renamed(value, rename) for value in data]
    found = split_reference(data) if isinstance(data, str) else None
    return data if found is None or not is_file(found[0]) else rename(*found)
