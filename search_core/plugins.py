"""Python of other people: the functions and classes that a study file names, found and loaded.

A reference is `package.module:attribute`, `file.py:attribute` with a path beside the study file, or the name of an
entry point that an installed package declares in a group such as `snas.datasets`.

A store, a cell or a model that names code must not make it run. So modules and files are loaded only after `trust`,
which is called for what a study file or `--plugin` names, and for nothing else. The content of a file is taken then:
whatever becomes of the file later, this process and the workers that are given `trusted()` run the same code.
"""

from __future__ import annotations

import importlib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from search_core.errors import PluginError, is_permanent

_FILE = re.compile(r"(?P<source>[^\n]+\.py):(?P<attribute>[A-Za-z_]\w*)")
_MODULE = re.compile(r"(?P<source>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")

#: Trusted source (absolute path of a file, or name of a module) -> content of the file; None for a module.
_TRUSTED: dict[str, str | None] = {}


def split_reference(text: str) -> tuple[str, str] | None:
    """Source (file or module) and attribute of a reference; None if the text has not the form of one."""
    found = _FILE.fullmatch(text) or _MODULE.fullmatch(text)
    return None if found is None else (found["source"], found["attribute"])


def is_file(source: str) -> bool:
    """Whether a source is a file of Python, not a module."""
    return source.endswith(".py")


def beside(data: Any, folder: Path) -> Any:
    """Plain data whose references to files, at any depth, have absolute paths; relative ones begin in `folder`."""
    if isinstance(data, Mapping):
        return {key: beside(value, folder) for key, value in data.items()}
    if isinstance(data, list):
        return [beside(value, folder) for value in data]
    if not isinstance(data, str) or (found := _FILE.fullmatch(data)) is None:
        return data
    return f"{(folder.absolute() / Path(found['source']).expanduser()).resolve()}:{found['attribute']}"


def named_sources(data: Any) -> dict[str, tuple[str | int, ...]]:
    """Files and modules of all references in plain data -> where each stands first, as keys and indices."""
    sources: dict[str, tuple[str | int, ...]] = {}
    for place, text in _texts(data, ()):
        if (found := split_reference(text)) is not None:
            sources.setdefault(found[0], place)
    return sources


def trust(source: str, content: str | None = None) -> None:
    """Let a source be loaded in this process.

    Args:
        source: absolute path of a file, or name of a module.
        content: text of the file; default: what it holds now.

    Raises:
        PluginError: if the file cannot be read.
    """
    if is_file(source):
        content = _read(source) if content is None else content
        linecache.cache[source] = (len(content), None, content.splitlines(True), source)  # for sources and tracebacks
    _TRUSTED[source] = content
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def trust_all(sources: Mapping[str, str | None]) -> None:
    """`trust` of what `trusted` gave in another process."""
    for source, content in sources.items():
        trust(source, content)


def trusted() -> dict[str, str | None]:
    """All trusted sources, with the contents of files; plain data, for `trust_all`."""
    return dict(_TRUSTED)


def content_of(file: str) -> str:
    """Trusted content of a file.

    Raises:
        PluginError: if it is not trusted.
    """
    _require_trusted(file, file)
    return _TRUSTED[file] or ""


def load_plugin(reference: str, group: str) -> Any:
    """The object that a reference names.

    Args:
        reference: `package.module:attribute`, `file.py:attribute` with an absolute path, or an entry point's name.
        group: of entry points, such as `snas.datasets`.

    Raises:
        PluginError: if there is none, if its source is not trusted, or if importing it fails; with the line.
    """
    found = split_reference(reference)
    if found is None:
        return _load_installed(reference, group)
    source, attribute = found
    _require_trusted(source, reference)
    module = _import(source)
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise PluginError(f"{source} must define `{attribute}`, got only {', '.join(public) or 'nothing'}")
    return getattr(module, attribute)


def installed(group: str) -> list[str]:
    """Sorted names of a group's entry points."""
    return sorted({point.name for point in _points(group)})


def failure(error: BaseException, source: str) -> str:
    """What an error of somebody else's code says, and the last line of `source` that led to it."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename == source:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    module = sys.modules.get(module_name(source))
    file = source if is_file(source) else getattr(module, "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{text} (line {lines[-1]})" if lines else text


def module_name(source: str) -> str:
    """Under which a source is imported; that of a file follows from path and content: the same elsewhere."""
    if not is_file(source):
        return source
    stem = re.sub(r"\W", "_", Path(source).stem)
    digest = sha256(f"{source}\n{_TRUSTED.get(source)}".encode()).hexdigest()
    return f"snas_plugin_{stem}_{digest[:12]}"


def _require_trusted(source: str, reference: str) -> None:
    if source not in _TRUSTED:
        raise PluginError(
            f"{source} must be named by the study file or by --plugin before its code runs, got only `{reference}`"
        )


def _points(group: str) -> EntryPoints:
    """Entry points of a group; the metadata of all packages is read again (30 ms) only after one came or went."""
    return _points_as_of(group, tuple((place, _modified(place)) for place in sys.path))


@lru_cache(maxsize=8)
def _points_as_of(group: str, _: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=group)


def _modified(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


def _load_installed(name: str, group: str) -> Any:
    points = {point.name: point for point in _points(group)}
    if name not in points:
        raise PluginError(
            f"must be package.module:name, file.py:name or an entry point of the group {group} "
            f"({', '.join(sorted(points)) or 'none is installed'}), got `{name}`"
        )
    point: EntryPoint = points[name]
    try:
        return point.load()
    except Exception as error:  # somebody else's code may raise anything
        raise PluginError(
            f"entry point {name} = {point.value} of {group} must load, got {failure(error, '')}"
        ) from error


def _import(source: str) -> ModuleType:
    try:
        return importlib.import_module(module_name(source))
    except Exception as error:  # somebody else's code may raise anything
        is_absent = isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}.")
        advice = "; install its package, or put its folder into PYTHONPATH" if is_absent else ""
        raise PluginError(f"{source} must import without an error, got {failure(error, source)}{advice}") from error


def _read(file: str) -> str:
    try:
        return decode_source(Path(file).read_bytes())
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        if not is_permanent(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise PluginError(f"{file} must be a readable file of Python, got: {reason}") from error


def _texts(data: Any, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, Mapping | list | tuple):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _texts(value, (*place, key))


class _Loader(ExecutionLoader):
    """Runs the trusted content of a file, whatever the file holds by now."""

    def __init__(self, file: str, content: str) -> None:
        self._file, self._content = file, content

    def get_filename(self, fullname: str) -> str:
        return self._file

    def get_source(self, fullname: str) -> str:
        return self._content


class _Finder(MetaPathFinder):
    """Finds trusted files by `module_name`, so that pickles of their objects name a module that imports."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for source, content in _TRUSTED.items():
            if content is not None and module_name(source) == fullname:
                return spec_from_loader(fullname, _Loader(source, content))
        return None
