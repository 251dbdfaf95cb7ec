"""What a child has chosen beside its genotype: channels and bits of each cell of the stack (SPOS section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from search_core.errors import GenotypeError
from search_core.json_text import TextError, load_json
from search_core.space.plan import FULL_PRECISION, CellPlan

#: More bits than these are not simulated: a float32 has no room for their levels.
MOST_FEW_BITS = 16


class Bits(NamedTuple):
    """Widths of a cell's convolutions, those of its two inputs included; 32 leaves values as they are.

    Attributes:
        weights: of their weights.
        features: of what these are multiplied with.
    """

    weights: int = FULL_PRECISION
    features: int = FULL_PRECISION

    @classmethod
    def of(cls, option: int | tuple[int, int]) -> Bits:
        """Both widths; a single number stands for both."""
        return cls(option, option) if isinstance(option, int) else cls(*option)


@dataclass(frozen=True)
class CellChoices:
    """What a child chose for every cell of its stack, first to last. Stem and classifier have no choice.

    Attributes:
        shares: of the channels that the cell's nodes have without a choice, in (0, 1].
        bits: widths of the cell.
    """

    shares: tuple[float, ...]
    bits: tuple[Bits, ...]

    def channels(self, cells: Sequence[CellPlan]) -> tuple[int, ...]:
        """Channels of the nodes of every cell: the even number nearest to the share, see `even_share`.

        Args:
            cells: of the network without choices, as many.
        """
        return tuple(even_share(cell.channels, share) for cell, share in zip(cells, self.shares, strict=True))

    def stretched(self, num_cells: int) -> CellChoices:
        """The choices of a stack of another number of cells, each of which takes those at its share of the depth."""
        places = [place * len(self.shares) // num_cells for place in range(num_cells)]
        return CellChoices(tuple(self.shares[at] for at in places), tuple(self.bits[at] for at in places))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `shares`, and `bits` as pairs of weights and features."""
        return {"shares": list(self.shares), "bits": [list(bits) for bits in self.bits]}

    @classmethod
    def from_dict(cls, choices: Mapping[str, Any] | None) -> CellChoices | None:
        """Read `to_dict`, or the `choices` of a search's report.

        None if there are none, or if they are of a version whose searches had no `shares`: their children are retrained
        without, as they were then.
        """
        if not choices or "shares" not in choices:
            return None
        return cls(tuple(choices["shares"]), tuple(Bits(weights, features) for weights, features in choices["bits"]))


def load_choices(path: Path) -> CellChoices:
    """Read the `choices.json` of a search.

    Raises:
        GenotypeError: if there is no such file, or if it is malformed; the message names it.
    """
    try:
        choices = CellChoices.from_dict(load_json(path).value)
    except TextError as error:
        raise GenotypeError(error.of(path)) from error
    except OSError as error:
        raise GenotypeError(f"{path} must be a file of choices, got: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError):
        choices = None
    if choices is None or not _are_valid(choices):
        raise GenotypeError(
            f"{path}: must have `shares`, numbers in (0, 1], and as many `bits`, pairs of whole numbers in [1, "
            f"{MOST_FEW_BITS}] or {FULL_PRECISION}"
        )
    return choices


def _are_valid(choices: CellChoices) -> bool:
    widths = [width for pair in choices.bits for width in pair]
    return (
        0 < len(choices.shares) == len(choices.bits)
        and all(isinstance(share, int | float) and 0 < share <= 1 for share in choices.shares)
        and all(type(width) is int and is_width(width) for width in widths)
    )


def is_width(bits: int) -> bool:
    """Whether values may have so many bits."""
    return 1 <= bits <= MOST_FEW_BITS or bits == FULL_PRECISION


def even_share(channels: int, share: float) -> int:
    """Channels of a narrower cell: the even number nearest to a share of them, at least 2, at most all.

    Even, because a factorized reduction makes them in two halves.

    Args:
        channels: of the widest cell, even.
        share: in (0, 1].
    """
    return max(2, 2 * round(share * channels / 2))
