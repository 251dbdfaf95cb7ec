"""The first ten minutes on a real GPU: what works there, and how fast it is. Prints one JSON object.

Run: `python -m tests.benchmarks.gpu_first_minutes [--parts step gram ...] [--device cuda]`. It needs torch, torchvision
and numpy alone; the tests marked `gpu` run if pytest is there. A part that fails says so in `error`, and the others go
on. The parts, at 16 channels, 8 cells, 4 nodes, batch 64 of 3x32x32:

- machine: the GPU and the versions.
- tests: those marked `gpu`.
- step: milliseconds of training steps one by one and replayed from a CUDA graph, with float32 and bfloat16; SNAS and
  DARTS of second order; how far the losses are apart.
- gram: the product `z' z` of the batch norm's fold, as one `bmm` and with its pixels cut into chunks, with and without
  TF32.
- depthwise: ReLU and all depthwise convolutions of a source, forward and backward, by this package and by cuDNN.
- packing: images/s of 1, 4 and 8 searches that share the GPU, each in a process of its own.
- epoch: a search's epoch on 50,000 images of the shape of CIFAR-10, validation apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import load_data
from search_core.kernels.depthwise import relu_depthwise
from search_core.search.options import SearchOptions
from search_core.search.search import Search, build_context
from search_core.space.plan import NetworkOptions
from search_core.strategies.base import EpochSettings
from search_core.strategies.registry import WeightSharing
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.options import DartsOptions, SnasOptions

_DEPTHWISE = ((3, 1), (5, 1), (3, 2), (5, 2))  # kernel sizes and dilations
_EDGES = 4  # that leave a source
_CHUNKS = 64
_WARM_UP = 6  # steps, in which a graph is recorded too


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        network: of the searches.
        batch: images a step.
        sizes: channels and side of the maps in the three thirds of the network.
        repeats: timed calls of each variant.
        searches: how many share the GPU, one measurement each.
        images: of the epoch, training and validation and test together.
        device: `cuda` or `cpu`.
    """

    network: NetworkOptions
    batch: int
    sizes: tuple[tuple[int, int], ...]
    repeats: int
    searches: tuple[int, ...]
    images: int
    device: str


#: 50,000 images train in the epoch, the others validate and test.
FULL = Setting(
    network=NetworkOptions(nodes=4, cells=8, init_channels=16),
    batch=64,
    sizes=((16, 32), (32, 16), (64, 8)),
    repeats=20,
    searches=(1, 4, 8),
    images=78_125,
    device="cuda",
)


def machine(setting: Setting) -> dict[str, Any]:
    """What is measured on."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    found["c_compiler"] = next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None)
    found |= {name: importlib.util.find_spec(name) is not None for name in ("triton", "numba", "pytest")}
    if setting.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "total_gb": total / 1e9}
        found["free_gb"] = free / 1e9
    return found


def tests(setting: Setting) -> dict[str, Any]:
    """The tests marked `gpu`, by pytest in a process of its own."""
    if importlib.util.find_spec("pytest") is None:
        return {"left_out": "pytest is not installed"}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/search_core"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return {"exit_code": done.returncode, "summary": done.stdout.splitlines()[-12:]}


def step(setting: Setting) -> dict[str, Any]:
    """Steps one by one and replayed, in both precisions."""
    result: dict[str, Any] = {}
    strategies: dict[str, tuple[WeightSharing, tuple[Literal["float32", "bfloat16"], ...]]] = {
        "snas": (SnasOptions(), ("float32", "bfloat16")),
        "darts": (DartsOptions(), ("float32",)),
    }
    for name, (strategy, precisions) in strategies.items():
        for precision in precisions:
            losses = {}
            for has_graph in (False, True) if setting.device == "cuda" else (False,):
                key = f"{name}_{precision}_{'graph' if has_graph else 'one_by_one'}"
                options = replace(_options(setting, strategy), precision=precision, cuda_graph=has_graph)
                run = _steps(options, setting)
                losses[has_graph] = torch.stack([run() for _ in range(_WARM_UP)])
                result[f"{key}_ms"] = _milliseconds(run, setting)
                result[f"{key}_images_per_s"] = 1e3 * setting.batch / result[f"{key}_ms"]
            if True in losses:
                apart = (losses[True] - losses[False]).abs().max()
                result[f"{name}_{precision}_losses_apart"] = apart.item()
    return result


def gram(setting: Setting) -> dict[str, Any]:
    """`z' z` of maps (edges, pixels, channels) of each size."""
    result: dict[str, Any] = {}
    allowed = torch.backends.cuda.matmul.allow_tf32
    for channels, side in setting.sizes:
        z_EPC = torch.randn(_EDGES, setting.batch * side**2, channels, device=setting.device)
        exact = z_EPC.double().transpose(1, 2) @ z_EPC.double()
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            for chunks in (1, _CHUNKS):
                parts = z_EPC.view(_EDGES * chunks, -1, channels)

                def product(parts: Tensor = parts, chunks: int = chunks) -> Tensor:
                    of_chunks = torch.bmm(parts.transpose(1, 2), parts)
                    return of_chunks.view(_EDGES, chunks, *of_chunks.shape[1:]).sum(1)

                key = f"{channels}x{side}x{side}_{'tf32' if tf32 else 'float32'}_{chunks}_chunks"
                error = (product().double() - exact).abs().max() / exact.abs().max()
                result |= {f"{key}_ms": _milliseconds(product, setting), f"{key}_error": error.item()}
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return result


def depthwise(setting: Setting) -> dict[str, Any]:
    """A source's convolutions by the supernet's kernels, and one by one by PyTorch on relu(x), channels last."""
    result: dict[str, Any] = {}
    for channels, side in setting.sizes:
        x = torch.randn(1, setting.batch, side, side, channels, device=setting.device, requires_grad=True)
        weights = [
            torch.randn(_EDGES, channels, kernel, kernel, device=setting.device, requires_grad=True)
            for kernel, _ in _DEPTHWISE
        ]

        def ours(x: Tensor = x, weights: list[Tensor] = weights) -> list[Tensor]:
            outputs = relu_depthwise(x, weights, [dilation for _, dilation in _DEPTHWISE], 1)
            return list(torch.autograd.grad([output.sum() for output in outputs], [x, *weights]))

        def theirs(x: Tensor = x, weights: list[Tensor] = weights) -> list[Tensor]:
            images, sums = x[0].permute(0, 3, 1, 2).relu(), []
            for weight_BCKK, (kernel, dilation) in zip(weights, _DEPTHWISE, strict=True):
                for weight in weight_BCKK:
                    padding = dilation * (kernel // 2)
                    output = functional.conv2d(
                        images, weight.unsqueeze(1), padding=padding, dilation=dilation, groups=len(weight)
                    )
                    sums.append(output.sum())
            return list(torch.autograd.grad(sums, [x, *weights]))

        key = f"{channels}x{side}x{side}"
        apart = [(a - b).abs().max() / b.abs().max() for a, b in zip(ours(), theirs(), strict=True)]
        result |= {f"{key}_gradients_apart": torch.stack(apart).max().item()}
        result |= {f"{key}_ours_ms": _milliseconds(ours, setting), f"{key}_cudnn_ms": _milliseconds(theirs, setting)}
    return result


def packing(setting: Setting) -> dict[str, Any]:
    """Searches side by side, each of which begins when all are warm."""
    context, result = torch.multiprocessing.get_context("spawn"), {}
    for count in setting.searches:
        rates, barrier = context.SimpleQueue(), context.Barrier(count)
        processes = [context.Process(target=_one_of_many, args=(setting, barrier, rates)) for _ in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        failed = [process.exitcode for process in processes if process.exitcode]
        result[f"{count}_images_per_s"] = f"failed: {failed}" if failed else sum(rates.get() for _ in processes)
    return result


def _one_of_many(setting: Setting, barrier: Any, rates: Any) -> None:
    """Put images/s of one search among others; if one fails, the others do not wait for it."""
    try:
        run = _steps(_options(setting, SnasOptions()), setting)
        for _ in range(_WARM_UP):
            run()
        barrier.wait(timeout=300)
        rates.put(1e3 * setting.batch / _milliseconds(run, setting))
    except BaseException:
        barrier.abort()
        raise


def epoch(setting: Setting) -> dict[str, Any]:
    """The first epoch of a search, and the second, whose graph is there."""
    images = replace(_options(setting, SnasOptions()).dataset, images=setting.images)
    options = replace(_options(setting, SnasOptions()), dataset=images, epochs=2)
    data = load_data(images, torch.device(setting.device))
    search = Search(options, data, setting.device)
    found: dict[str, Any] = {"training_images": len(data.train), "seconds": [], "images_per_s": []}
    for report in search:
        found["seconds"].append(report.seconds)
        found["images_per_s"].append(report.images_per_s)
    return found


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    part.__name__: part for part in (machine, tests, step, gram, depthwise, packing, epoch)
}


def measure(setting: Setting, parts: Sequence[str] = tuple(PARTS)) -> dict[str, Any]:
    """All parts, each with its seconds; what fails says why."""
    result: dict[str, Any] = {}
    for part in parts:
        start = time.perf_counter()
        try:
            found = PARTS[part](setting)
        except Exception as error:  # the GPU is lent for minutes: one part's fault must not cost the others
            found = {"error": f"{type(error).__name__}: {error}"}
        result[part] = {**found, "part_seconds": time.perf_counter() - start}
        print(f"{part}: {result[part]['part_seconds']:.0f} s", file=sys.stderr, flush=True)
    return result


def _options(setting: Setting, strategy: WeightSharing) -> SearchOptions:
    images = DatasetOptions(name="fake", images=max(512, 8 * setting.batch), crop_padding=4, flip=True)
    return SearchOptions(network=setting.network, dataset=images, strategy=strategy, batch_size=setting.batch)


def _steps(options: SearchOptions, setting: Setting) -> Callable[[], Tensor]:
    """A function that makes one training step on a batch and gives its loss."""
    device = torch.device(setting.device)
    data = load_data(options.dataset, device)
    strategy = build_strategy(options.strategy, build_context(options, data, device))
    generator = torch.Generator(device).manual_seed(0)
    strategy.begin_epoch(EpochSettings(temperature=1.0, eta=0.01, theta_lr=0.025), generator)
    images, labels = next(data.train.batches(setting.batch, generator=generator, drop_last=True))
    return lambda: strategy.step(images, labels, generator).loss


def _milliseconds(run: Callable[[], object], setting: Setting) -> float:
    """Mean time of a call, the host's launches included, after one that does not count."""
    synchronise = torch.cuda.synchronize if setting.device == "cuda" else lambda: None
    run()
    synchronise()
    start = time.perf_counter()
    for _ in range(setting.repeats):
        run()
    synchronise()
    return 1e3 * (time.perf_counter() - start) / setting.repeats


def main() -> None:
    """Print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which ones [all]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch can use, got none")
    os.environ.setdefault("PYTHONPATH", os.getcwd())  # of the processes that it starts
    print(json.dumps(measure(replace(FULL, device=given.device), given.parts)))


if __name__ == "__main__":
    main()
