"""What callers of search_core may catch, by meaning."""

from __future__ import annotations


class OptionsError(ValueError):
    """Options break one or more rules; all broken rules are in `faults`.

    Attributes:
        faults: pairs of (name of the option, rule and value that broke it).
    """

    def __init__(self, faults: tuple[tuple[str, str], ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"`{name}` {message}" for name, message in faults))


class DataError(ValueError):
    """A data set is missing, incomplete or malformed; the message names the path and what was expected."""


class GenotypeError(ValueError):
    """A genotype is malformed; the message names the edge or key and the rule."""


class StateError(ValueError):
    """A state dict does not belong to this search (other options, another format)."""


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite; continuing would waste the budget."""


def require(*rules: tuple[str, bool, str]) -> None:
    """Check all rules of an options class at once.

    Args:
        *rules: triples (name of the option, whether the rule holds, "must be ..., got ...").

    Raises:
        OptionsError: with every rule that does not hold.
    """
    faults = tuple((name, message) for name, holds, message in rules if not holds)
    if faults:
        raise OptionsError(faults)
