"""Look of the operations: colour, dashes and short name, and how probability shows in them; without matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from search_core.primitives.base import Style
from search_core.primitives.builtin import BUILT_IN
from search_core.space.chain import kernel_size

Colour = tuple[float, float, float]

_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


#: Of this project's operations. Colours of activations are Tol's, as are those of rare operations.
STYLES: dict[str, Style] = {
    **{name: primitive.style for name, primitive in BUILT_IN.items() if primitive.style is not None},
    "tanh": Style("tanh", "#4477AA"),
    "relu": Style("relu", "#EE6677", (6, 2)),
    "sigmoid": Style("sigmoid", "#228833", (9, 2, 2, 2)),
    "identity": Style("identity", "#AA3377"),
}
#: For operations of plug-ins: colours that no other has, with that of a terminal, and dashes.
_FREE = tuple(
    (colour, dashes, terminal)
    for dashes in ((15.0, 2.0, 4.0, 2.0), (4.0, 1.6), (8.0, 1.6, 4.0, 1.6))
    for colour, terminal in (
        ("#117733", "bright_green"), ("#AA4499", "bright_red"), ("#999933", "bright_yellow"),
        ("#661100", "bright_black"), ("#44AA99", "bright_cyan"), ("#6699CC", "bright_white"),
    )
)  # fmt: skip
_LONGEST_LABEL = 12


#: Of convolutions in chains of layers: colours by the height of the kernel, dashes by its width.
_HEIGHTS = ("#545E68", "#0072B2", "#56B4E9", "#332288", "#009E73", "#882255")
_WIDTHS: tuple[tuple[float, ...], ...] = ((3, 1.6), (), (12, 2), (9, 2, 2, 2))


def styles_of(names: Iterable[str]) -> dict[str, Style]:
    """Looks of operations, `none` left out: first this project's in their order, then of chains, then of plug-ins.

    A plug-in's has a free look that follows from its name, or the next one if another of `names` has it. So its code,
    which may not be here, is not needed, and it looks the same in every picture of a study.
    """
    wanted = set(names) - {"none"}
    styles = {name: style for name, style in STYLES.items() if name in wanted}
    sizes = {name: size for name in sorted(wanted) if (size := kernel_size(name)) is not None}
    for name, (height, width) in sizes.items():
        colour, dashes = _HEIGHTS[height // 2 % len(_HEIGHTS)], _WIDTHS[width // 2 % len(_WIDTHS)]
        styles[name] = Style(f"{height}x{width}", colour, dashes)
    taken: set[int] = set()
    for name in sorted(wanted - set(styles)):
        place = crc32(name.encode()) % len(_FREE)
        while place in taken and len(taken) < len(_FREE):
            place = (place + 1) % len(_FREE)
        taken.add(place)
        colour, dashes, terminal = _FREE[place]
        label = name.rpartition(":")[2]
        label = label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
        styles[name] = Style(label, colour, dashes, terminal)
    return styles


def edge_width(probability: float) -> float:
    """Line width in points of an edge whose operation has this probability."""
    return 0.8 + 1.6 * probability


def edge_colour(style: Style, probability: float) -> Colour:
    """Colour of an edge, paler when less probable; a tint, because transparent dashes would show what lies below."""
    return _mixed(rgb(style.colour), _WHITE, 0.62 * (1 - probability))


def label_colour(style: Style, probability: float) -> Colour:
    """Colour of an edge's name; darker than the edge, because small letters need more contrast than lines."""
    return _mixed(_mixed(rgb(style.colour), _BLACK, 0.4), _WHITE, 0.3 * (1 - probability))


def readable_colour(colour: str, background: str, contrast: float) -> str:
    """The colour itself, or the least tint (on dark) or shade (on light) of it that stands out enough.

    Args:
        colour: `#RRGGBB`.
        background: `#RRGGBB`.
        contrast: ratio by WCAG 2 that is wanted, 1 to 21; what black or white does not reach is not reached.

    Returns:
        `#rrggbb`.
    """
    ground = rgb(background)
    end = _WHITE if _luminance(ground) < 0.18 else _BLACK  # at 0.18 black and white stand out alike
    for step in range(101):
        mixed = _mixed(rgb(colour), end, step / 100)
        text = "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)
        if contrast_ratio(text, background) >= contrast:
            break
    return text


def contrast_ratio(first: str, second: str) -> float:
    """Contrast of two colours `#RRGGBB` by WCAG 2: from 1 (equal) to 21 (black and white)."""
    low, high = sorted(_luminance(rgb(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> Colour:
    """Red, green and blue of `#RRGGBB`, each in [0, 1]."""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def _luminance(colour: Colour) -> float:
    """Relative luminance by WCAG 2, in [0, 1]."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * own + share * mixed for own, mixed in zip(colour, other, strict=True))
    return red, green, blue
