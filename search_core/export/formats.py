"""The files of an exported child: written, read again, and held against the child itself."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_core.errors import ExportError
from search_core.export.source import child_source
from search_core.network.chain import ChildNetwork
from search_core.network.child import Child
from search_core.space.choices import Bits

#: Format -> its file.
FORMATS = {"python": "child.py", "state-dict": "state_dict.pt", "pt2": "child.pt2", "onnx": "child.onnx"}
_OPSET, _REPEATS, _CLOSE = 18, 20, 1e-5


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and read again.

    Attributes:
        format: a key of `FORMATS`.
        file: what was written.
        difference: largest difference of a logit from the child's over all images, as a share of the largest logit.
        latency_ms: median time of one image on one core of this machine.
        child_ms: likewise of the child itself.
    """

    format: str
    file: Path
    difference: float
    latency_ms: float
    child_ms: float


def export_child(
    network: ChildNetwork,
    folder: Path,
    images: Tensor,
    *,
    title: str,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    classes: Sequence[str] = (),
    formats: Collection[str] = tuple(FORMATS),
) -> list[ExportedFile]:
    """Write a trained child to a folder in several formats, read each again and compare its logits.

    Args:
        network: the child, on the CPU; left in evaluation mode. An auxiliary head is left out.
        folder: of the files; made if it is missing. `child.py` and `state_dict.pt` are always written: the others
            are made of them.
        images: (N, C, H, W), N at least 2, normalised, as the child takes them.
        title: what it is, one line without quotes.
        mean: of each channel of pixels in [0, 1], which the exported network then takes. Empty: it takes what the child
            does.
        std: standard deviation, likewise.
        classes: names of the logits, for `child.py`.
        formats: keys of `FORMATS`.

    Returns:
        The files of `formats`, in the order of `FORMATS`.

    Raises:
        ExportError: if ONNX is wanted and not installed, if the child has few bits, or if a file gives other logits
            than the child by more than 1e-5 of the largest.
    """
    if "onnx" in formats and (missing := missing_for_onnx()):
        raise ExportError(f"ONNX cannot be written: {missing}")
    if isinstance(network, Child) and any(bits != Bits() for bits in network.bits):
        raise ExportError("a child that leaves must have full precision, got few bits: their rounding is simulated")
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / file for name, file in FORMATS.items()}
    files["python"].write_text(child_source(network, title, mean, std, classes), encoding="utf-8")
    torch.save(without_auxiliary(network.state_dict()), files["state-dict"])
    mean_C, std_C = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    taken = images * std_C + mean_C if mean else images
    module, batch = _from_source(files), {"images": {0: torch.export.Dim("batch")}}
    if "pt2" in formats:
        torch.export.save(torch.export.export(module, (taken[:2],), dynamic_shapes=batch), files["pt2"])
    if "onnx" in formats:
        _write_onnx(module, taken[:2], batch, files["onnx"])

    network.eval()
    with torch.no_grad():
        expected = network(images)
    child_ms, found = _latency_ms(network, images[:1]), []
    for name in (name for name in FORMATS if name in formats):
        forward = _READERS[name](files)
        with torch.no_grad():
            difference = ((forward(taken) - expected).abs().max() / expected.abs().max()).item()
        if not difference <= _CLOSE:
            message = f"must give the child's logits to {_CLOSE:g} of the largest, got {difference:.3g}"
            raise ExportError(f"{files[name]} {message}")
        found.append(ExportedFile(name, files[name], difference, _latency_ms(forward, taken[:1]), child_ms))
    return found


def without_auxiliary(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a child without those of its auxiliary head, which is for its training only."""
    return {name: value for name, value in state.items() if not name.startswith("auxiliary.")}


def missing_for_onnx() -> str:
    """What to install so that ONNX can be written and run; empty if all is there."""
    names = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"it needs {', '.join(names)}: pip install 'snas-orchestrator[onnx]'" if names else ""


def _from_source(files: dict[str, Path]) -> nn.Module:
    names: dict[str, Any] = {"__name__": "exported_child"}  # not imported: that would leave compiled files behind
    exec(compile(files["python"].read_text(encoding="utf-8"), files["python"], "exec", dont_inherit=True), names)
    network: nn.Module = names["child"]()
    network.load_state_dict(torch.load(files["state-dict"], weights_only=True))
    return network.eval()


def _from_pt2(files: dict[str, Path]) -> Callable[[Tensor], Tensor]:
    return torch.export.load(files["pt2"]).module()


def _from_onnx(files: dict[str, Path]) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(files["onnx"], options, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)

    return forward


_READERS: dict[str, Callable[[dict[str, Path]], Callable[[Tensor], Tensor]]] = {
    "python": _from_source,
    "state-dict": _from_source,
    "pt2": _from_pt2,
    "onnx": _from_onnx,
}


def _write_onnx(module: nn.Module, example: Tensor, batch: dict[str, Any], file: Path) -> None:
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=batch,
            verbose=False,
        )
    program.save(file, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say to their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _latency_ms(forward: Callable[[Tensor], Tensor], image: Tensor) -> float:
    """Median time of a pass on one core."""
    times, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(_REPEATS + 3):  # libraries set themselves up in their first calls
                begin = time.perf_counter()
                forward(image)
                times.append(1000 * (time.perf_counter() - begin))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[3:])
