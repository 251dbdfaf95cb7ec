"""The card of an exported child: what it is, how good, what it takes, and how each of its files is used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dashboards.analysis.noise import wilson
from dashboards.formatting import interval_text, shown_metric
from dashboards.pictures.cells import render_cells_svg
from orchestrator.driver.trained import TrainedChild
from orchestrator.tracking.markdown import plain
from search_core.errors import first_few
from search_core.export import ExportedFile
from search_core.space.genotype import Edge, Genotype

_MOST_NAMES = 20
_USE = {
    "python": "from child import child; model = child()",
    "state-dict": 'model.load_state_dict(torch.load("state_dict.pt", weights_only=True))',
    "pt2": 'model = torch.export.load("child.pt2").module()  # a GPU: torch.export.passes.move_to_device_pass',
    "onnx": 'logits, = onnxruntime.InferenceSession("child.onnx").run(None, {"images": images})',
}
_TEXT = """# {name}

{cell}

![the cells](cells.svg)

| | |
|---|---|
| trained | from scratch, run `{run}`, seed {seed}, {epochs} epochs |
| data | {data}: {train:,} training, {validation:,} validation, {test:,} test images; SHA-256 {digest} |
| test accuracy | {accuracy} |
| cost | {params}, {madds}, for one image |
| takes | images ({shape}), float32, {range}; any number at once |
| gives | {classes} logits: {names} |
| augmentation | {augmentation} |
| normalisation | {normalisation} |
| licence | of `child.py` Apache License 2.0, as this project; the weights are yours, within the terms of the data |

Read again after writing and compared on one core, where the child itself takes {child_ms:.2f} ms an image:

| file | largest difference of a logit, of the largest logit | ms an image | |
|---|---|---|---|
{files}
"""


def write_card(child: TrainedChild, files: Sequence[ExportedFile], folder: Path, *, is_normalising: bool) -> Path:
    """Write `card.md` with what it shows, `genotype.json` and `cells.svg`.

    Args:
        child: the trained child.
        files: what was exported of it.
        folder: of these files.
        is_normalising: whether the exported network normalises by itself.

    Returns:
        The card.
    """
    genotype, data, metrics = child.network.genotype, child.data, child.metrics
    (folder / "genotype.json").write_text(genotype.to_json(), encoding="utf-8")
    (folder / "cells.svg").write_text(render_cells_svg(genotype, title=child.name), encoding="utf-8")
    statistics = f"mean {json.dumps(data.mean)}, standard deviation {json.dumps(data.std)} of pixels in [0, 1]"
    text = _TEXT.format(
        name=child.name,
        cell=_cell(genotype),
        run=child.run_id,
        seed=child.params.get("seed", "unknown"),
        epochs=child.params.get("epochs", "unknown"),
        data=data.name,
        **data.sizes,
        digest=data.digest[:16],
        accuracy=_accuracy(metrics.get("test_accuracy"), len(data.test)),
        params=f"{shown_metric('params', metrics.get('params'))} parameters",
        madds=f"{shown_metric('madds', metrics.get('madds'))} multiply-adds",
        shape=", ".join(map(str, ("N", *data.input_shape))),
        range="pixels in [0, 1]" if is_normalising else "normalised",
        classes=data.num_classes,
        names=plain(first_few(data.classes)) if data.num_classes > _MOST_NAMES else plain(", ".join(data.classes)),
        augmentation=", ".join(f"{name} {value}" for name, value in asdict(data.augmentation).items() if value)
        or "none",
        normalisation=f"{'inside' if is_normalising else 'to be done before'}: {statistics}",
        child_ms=files[0].child_ms,
        files="\n".join(
            f"| {file.file.name} | {file.difference:.1e} | {file.latency_ms:.2f} | `{_USE[file.format]}` |"
            for file in files
        ),
    )
    (card := folder / "card.md").write_text(text, encoding="utf-8")
    return card


def _cell(genotype: Genotype) -> str:
    if genotype.layers:
        layers = "; ".join(f"{n} x {h}x{w}" for n, h, w in genotype.layers)
        return f"Chain of layers: {_edges(genotype.normal)}; filters and strides of nodes 2 and on: {layers}."
    return f"Normal cell: {_edges(genotype.normal)}. Reduction cell: {_edges(genotype.reduce)}."


def _edges(edges: Sequence[Edge]) -> str:
    return ", ".join(f"{edge.primitive} {edge.source} → {edge.target}" for edge in edges) or "no edge"


def _accuracy(accuracy: float | None, images: int) -> str:
    """With Wilson's 95 % interval of so many images, seeds apart."""
    if accuracy is None:
        return "unknown"
    return f"{accuracy:.2%}, {interval_text(wilson(accuracy, images))} by the number of images (95 %, Wilson)"
