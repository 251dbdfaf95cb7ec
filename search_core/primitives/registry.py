"""Candidate operations by name: the built-in ones and those of plug-ins.

An operation of an installed package has the name of its entry point in the group `snas.primitives`; one of a module or
a file is `my_package.ops:GhostConv` or `ghost.py:GhostConv`, without the folders of the file, so that a genotype says
the same on every machine. The last two are found only in sources that this process trusts (`search_core.plugins`): a
name alone, as in a genotype from elsewhere, never runs code.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from pathlib import PurePath

from search_core.errors import GenotypeError
from search_core.plugins import installed, is_file, load_plugin, module_name, split_reference, trusted
from search_core.primitives.base import Primitive
from search_core.primitives.builtin import BUILT_IN, KNOWN_PRIMITIVES
from search_core.primitives.own import OwnPrimitive

GROUP = "snas.primitives"
_NAME = re.compile(r"\w[\w.\-]*(:[A-Za-z_]\w*)?")


def find(name: str) -> Primitive:
    """The operation of this name; one of a plug-in is imported the first time.

    Raises:
        GenotypeError: if there is none here; the message says what to install or to pass.
        PluginError: if it cannot be loaded or is not a class as `OwnPrimitive` wants it.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    reference = split_reference(name)
    if reference is None:
        if name not in installed(GROUP):
            raise GenotypeError(_unknown(name))
        return _loaded(name, name, "")
    found = [source for source in trusted() if reference[0] in (source, PurePath(source).name)]
    if not found:
        raise GenotypeError(_unknown(name))
    source = found[-1]  # a study's copy of a file comes after the file
    return _loaded(short_name(name), f"{source}:{reference[1]}", module_name(source))


def short_name(reference: str) -> str:
    """How genotypes name an operation: a file's reference without its folders; any other name as it is."""
    found = split_reference(reference)
    if found is None or not is_file(found[0]):
        return reference
    return f"{PurePath(found[0]).name}:{found[1]}"


def is_name(name: str) -> bool:
    """Whether a text may name an operation, here or elsewhere."""
    return _NAME.fullmatch(name) is not None


def may_exist(name: str) -> bool:
    """Whether an operation of this name is built in, installed, or of a module or a file; nothing is imported."""
    return name in BUILT_IN or (":" in name and is_name(name)) or name in installed(GROUP)


@cache
def _loaded(name: str, reference: str, content: str) -> Primitive:
    """`content` is the module's name, which follows from the content of a file."""
    return OwnPrimitive(name, load_plugin(reference, GROUP))


def _unknown(name: str) -> str:
    if reference := split_reference(name):
        where = "the path of" if is_file(reference[0]) else "the module of"
        what = "is of a plug-in that nobody named here"
        return f"the primitive {name} {what}: pass `--plugin {name}`, with {where} its class"
    close = get_close_matches(name, KNOWN_PRIMITIVES, 1)
    hint = f", did you mean {close[0]}?" if close else ""
    return (
        f"the primitive must be one of {', '.join(KNOWN_PRIMITIVES)}, or of a plug-in, got {name!r}{hint} (of a "
        f"package: install the one that has {name} in the group {GROUP})"
    )
