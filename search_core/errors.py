"""What callers of search_core may catch, by meaning."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

#: Name of an option, whether its rule holds, "must be ..., got ...", and the other options that the rule depends on.
Rule = tuple[str, bool, str, *tuple[str, ...]]


class OptionsError(ValueError):
    """Options break one or more rules; all broken rules are in `faults`.

    Attributes:
        faults: pairs of (name of the option, rule and value that broke it).
        needs: for each of them the other options that the rule depends on; none if it is about the option alone.
    """

    def __init__(self, faults: tuple[tuple[str, str], ...], needs: tuple[tuple[str, ...], ...] = ()) -> None:
        self.faults, self.needs = faults, needs or ((),) * len(faults)
        super().__init__("; ".join(f"`{name}` {message}" for name, message in faults))


class DataError(ValueError):
    """A data set is missing, incomplete or malformed; the message names the path and what was expected.

    It will be so at every attempt. What the machine does to a good file (see `is_permanent`) stays an `OSError`.

    Args:
        message: the rule, then the value; kept as `printable`, for it quotes names of files.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class GenotypeError(ValueError):
    """A genotype is malformed; the message names the edge or key and the rule."""


class StateError(ValueError):
    """A state dict does not belong to this search (other options, another format)."""


class ConstraintsError(ValueError):
    """No genotype was found that keeps the hard limits; they are too tight for the search space."""


class LatencyError(ValueError):
    """A latency table cannot be read, lacks a part of the search space, or belongs to another device."""


class PluginError(ValueError):
    """Code that a study file or `--plugin` names is not there, may not be run, or fails."""


class ExportError(ValueError):
    """A format that cannot be written here, or a file that does not compute what its child does."""


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite; continuing would waste the budget."""


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU has no memory left, which may come from PyTorch, CUDA or a library of CUDA.

    They are `torch.OutOfMemoryError` of the allocator, `torch.AcceleratorError` and other runtime errors with CUDA's
    words (such as of `cudaGraphInstantiate`, or handed on by NCCL), and `..._STATUS_ALLOC_FAILED` of cuBLAS and cuDNN,
    which make their workspaces themselves.
    """
    import torch  # not above: study files are checked without it

    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    of_cuda = "cuda" in text and "out of memory" in text
    return isinstance(error, RuntimeError) and (of_cuda or "_status_alloc_failed" in text)


def printable(text: str) -> str:
    """Text that every terminal, journal and database takes: what is not printable is written as an escape.

    Names of files may hold bytes that are not UTF-8 (in Python lone surrogates, here `\\xe9`), line ends, control
    characters, and marks that turn the direction of writing.
    """
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that `os.fsdecode` could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def first_few(items: Sequence[str], separator: str = ", ") -> str:
    """The first five items, and how many more there are."""
    rest = len(items) - 5
    return separator.join(items[:5]) + (f"{separator}and {rest} more" if rest > 0 else "")


_LASTING = {
    None,  # raised by a decoder, not by the operating system
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


def is_permanent(error: Exception) -> bool:
    """Whether another attempt to read the file must fail too: it is missing, closed to us or malformed.

    Faults of disks and networks are not, such as a file server that is away.
    """
    return not isinstance(error, OSError) or error.errno in _LASTING


def literal_rules(options: object) -> tuple[Rule, ...]:
    """Rules for `require`: every `Literal` field of an options class holds one of its values."""
    rules = []
    kind: Any = type(options)  # mypy does not know that classes have a hash
    for name, allowed in _literal_fields(kind).items():
        value = getattr(options, name)
        rules.append((name, value in allowed, f"must be one of {', '.join(map(str, allowed))}, got {value!r}"))
    return tuple(rules)


@cache
def _literal_fields(options: type) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(options).items()
    return {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}


def require(*rules: Rule) -> None:
    """Check all rules of an options class at once.

    Raises:
        OptionsError: with every rule that does not hold.
    """
    broken = [rule for rule in rules if not rule[1]]
    if broken:
        raise OptionsError(
            tuple((name, message) for name, _, message, *_ in broken), tuple(rule[3:] for rule in broken)
        )
