"""Cells and courses in a terminal: `dashboards.pictures.cell_text` with colours, and small bars of a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.text import Text

from dashboards.pictures.cell_style import styles_of
from dashboards.pictures.cell_text import cell_lines
from search_core.space.genotype import PRIMITIVES, Genotype

_BARS = "▁▂▃▄▅▆▇█"


def drawn_cells(
    genotype: Mapping[str, Any],
    probabilities: Mapping[Any, Sequence[Sequence[float]]] | None = None,
    primitives: Sequence[str] = PRIMITIVES,
) -> Text:
    """Both cells of a genotype, given as plain data, with colours of the operations."""
    lines = cell_lines(Genotype.from_dict(genotype), probabilities=probabilities, primitives=primitives)
    styles = styles_of(span.primitive for line in lines for span in line if span.primitive is not None)
    colours = {name: style.terminal for name, style in styles.items()}
    drawn = [Text.assemble(*((span.text, colours.get(span.primitive or "", "")) for span in line)) for line in lines]
    for text in drawn:
        text.rstrip()
    return Text("\n").join(drawn)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The course of a metric as a row of bars from its lowest to its highest value.

    Args:
        values: per epoch; of more than `width`, each bar is the mean of its share. Bars without a number are blank.
        width: bars at most.
    """
    num_bars = min(width, len(values))
    borders = [round(index * len(values) / num_bars) for index in range(num_bars + 1)] if num_bars else [0]
    means = [_mean(values[start:end]) for start, end in pairwise(borders)]
    known = [value for value in means if math.isfinite(value)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return "".join(
        " " if not math.isfinite(value) else _BARS[round((value - low) / span * (len(_BARS) - 1)) if span else 0]
        for value in means
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan
