"""The picture of the README: the cells of a real search, which change smoothly from epoch to epoch.

python -m tests.dashboards.evolving_cell history.parquet docs/images/evolving_cell.gif

The history is among the artifacts of the search's MLflow run. That of the README is of

snas search studies/quickstart.yaml --set epochs=24 --set penalty.strength=0.003 --set temperature.end=0.03
    --set network.nodes=4 --set alpha.lr=0.02
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dashboards.history import History, read_history
from dashboards.pictures.cells import render_cells
from search_core.space.genotype import Genotype

_STEPS = 3  # frames from an epoch to the next
_FRAME_MS, _END_MS = 150, 2500
_COLOURS = 128


def frames(history: History) -> Iterator[np.ndarray]:
    """Pictures (height, width, 3): probabilities go from those of an epoch to the next one's in equal steps."""
    last = len(history.epochs) - 1
    for step in range(last * _STEPS + 1):
        time, share = divmod(step, _STEPS)
        share /= _STEPS
        after = min(time + 1, last)
        mixed = {
            kind: (1 - share) * cell.probabilities[time] + share * cell.probabilities[after]
            for kind, cell in history.cells.items()
        }
        metrics = {name: values[time] for name, values in history.metrics.items()}
        yield render_cells(
            Genotype.from_json(history.genotypes[time if share < 0.5 else after]),
            probabilities={kind: rows.tolist() for kind, rows in mixed.items()},
            primitives=history.primitives,
            title=f"epoch {history.epochs[time]} of {history.epochs[-1]}: temperature {metrics['temperature']:.2f}, "
            f"entropy {metrics['entropy_total']:.1f} nats",
        )


def write(history: History, file: Path) -> None:
    """Write the frames as an endless GIF with one palette, which is made of the last and the first frame."""
    pictures = [Image.fromarray(frame) for frame in frames(history)]
    ends = Image.fromarray(np.concatenate([np.asarray(pictures[place]) for place in (-1, 0)]))
    palette = ends.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [_FRAME_MS] * len(rest) + [_END_MS]
    first.save(file, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("history", type=Path, help="history.parquet of a search")
    parser.add_argument("file", type=Path, help="where the picture goes")
    words = parser.parse_args()
    write(read_history(words.history.read_bytes(), str(words.history)), words.file)
    print(f"{words.file}  {words.file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
