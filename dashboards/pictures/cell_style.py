"""Look of the operations: colour, dashes and short name, and how probability shows in them; without matplotlib."""

from __future__ import annotations

from dataclasses import dataclass

from search_core.space.chain import kernel_size

Colour = tuple[float, float, float]

_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class OperationStyle:
    """Look of one primitive: `label` on its edges, `colour`, `dashes` as on-off lengths in points (empty: solid)."""

    label: str
    colour: str
    dashes: tuple[float, ...] = ()


#: Okabe and Ito's palette, which stays apart under the common colour deficiencies, and Tol's for the rare ones.
STYLES: dict[str, OperationStyle] = {
    "max_pool_3x3": OperationStyle("max 3x3", "#D55E00", (6, 2)),
    "avg_pool_3x3": OperationStyle("avg 3x3", "#E69F00", (3, 1.6)),
    "skip_connect": OperationStyle("skip", "#545E68"),
    "sep_conv_3x3": OperationStyle("sep 3x3", "#0072B2"),
    "sep_conv_5x5": OperationStyle("sep 5x5", "#56B4E9", (12, 2)),
    "dil_conv_3x3": OperationStyle("dil 3x3", "#009E73", (9, 2, 2, 2)),
    "dil_conv_5x5": OperationStyle("dil 5x5", "#CC79A7", (9, 2, 2, 2, 2, 2)),
    "sep_conv_7x7": OperationStyle("sep 7x7", "#332288", (18, 2)),
    "conv_7x1_1x7": OperationStyle("7x1 1x7", "#882255", (12, 2, 2, 2)),
    "tanh": OperationStyle("tanh", "#4477AA"),
    "relu": OperationStyle("relu", "#EE6677", (6, 2)),
    "sigmoid": OperationStyle("sigmoid", "#228833", (9, 2, 2, 2)),
    "identity": OperationStyle("identity", "#AA3377"),
}

#: Of convolutions in chains of layers: colours by the height of the kernel, dashes by its width.
_HEIGHTS = ("#545E68", "#0072B2", "#56B4E9", "#332288", "#009E73", "#882255")
_WIDTHS: tuple[tuple[float, ...], ...] = ((3, 1.6), (), (12, 2), (9, 2, 2, 2))


def style_of(primitive: str) -> OperationStyle | None:
    """Look of an operation, those of chains of layers included; None if it has none."""
    size = kernel_size(primitive)
    if size is None:
        return STYLES.get(primitive)
    height, width = size
    colour, dashes = _HEIGHTS[height // 2 % len(_HEIGHTS)], _WIDTHS[width // 2 % len(_WIDTHS)]
    return OperationStyle(f"{height}x{width}", colour, dashes)


def look(primitive: str) -> OperationStyle:
    """Look of an operation that has one."""
    style = style_of(primitive)
    assert style is not None, primitive
    return style


def edge_width(probability: float) -> float:
    """Line width in points of an edge whose operation has this probability."""
    return 0.8 + 1.6 * probability


def edge_colour(primitive: str, probability: float) -> Colour:
    """Colour of an edge, paler when less probable; a tint, because transparent dashes would show what lies below."""
    return _mixed(rgb(look(primitive).colour), _WHITE, 0.62 * (1 - probability))


def label_colour(primitive: str, probability: float) -> Colour:
    """Colour of an edge's name; darker than the edge, because small letters need more contrast than lines."""
    return _mixed(_mixed(rgb(look(primitive).colour), _BLACK, 0.4), _WHITE, 0.3 * (1 - probability))


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
