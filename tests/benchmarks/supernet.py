"""Time of a plain supernet's training step over that of the fast one, bytes saved for backward, launched operations.

Run: `python -m tests.benchmarks.supernet [--init-channels 16 --cells 8 --batch 64 --repeats 5] [--nodes 4]
[--image 3x32x32] [--recompute] [--device cpu|cuda] [--peer nni|PATH] [--json]`. Whole steps are interleaved in one
process (fast, plain in NCHW, plain in channels_last, fast, ...) after one warm-up of each, in which the fast one
compiles its kernels on first use. All three do the same: sample Z, logits, cross entropy plus resource penalty, one
backward pass, clipped SGD step of theta, Adam step of alpha. Ratios are taken pair by pair.

What is counted:

- Saved bytes: what autograd keeps after one forward pass, each storage once, without parameters, buffers and images.
- Launches: torch operations dispatched in one whole step, backward and optimisers included, without views and empty
  allocations, which launch nothing; a Numba kernel over the batch is one more. An operation may launch several CUDA
  kernels, and a replayed CUDA graph is not seen. `dispatched_*` counts views and allocations too: each costs the
  interpreter its microseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import load_data
from search_core.search.options import SearchOptions
from search_core.search.search import build_context
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges
from search_core.strategies.base import EpochSettings
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.options import SnasOptions
from tests.benchmarks.counts import count_operations, saved_bytes
from tests.search_core.plain_supernet import PlainSupernet, copy_weights

NUM_CLASSES = 10
THETA, ALPHA = ThetaOptions(), AlphaOptions()
PENALTY = PenaltyOptions(
    cost="madds", log=False
)  # the penalty that a plain loop writes as one sum: eta * sum of cost * Z
TEMPERATURE = 1.0
PLAIN = ("plain_nchw", "plain_channels_last")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        network: size of all the supernets; `recompute` is the fast one's alone.
        image: channels, height, width.
        batch: images a step.
        repeats: steps of each supernet.
        device: `cpu` or `cuda`.
    """

    network: NetworkOptions
    image: tuple[int, int, int]
    batch: int
    repeats: int
    device: torch.device

    def batch_of_noise(self) -> tuple[Tensor, Tensor]:
        """Images and labels; what they show does not matter to the time of a step."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, *self.image, generator=generator)
        labels = torch.randint(NUM_CLASSES, (self.batch,), generator=generator)
        return images.to(self.device), labels.to(self.device)


@dataclass(frozen=True)
class Contender:
    """One of the supernets that are compared: its training step, and the network and images by themselves."""

    step: Callable[[], object]
    network: nn.Module
    images: Tensor


def fast_contender(setting: Setting) -> Contender:
    """The supernet of a search, stepped by the strategy as `search_core.search.search` does."""
    device = setting.device
    images, labels = setting.batch_of_noise()
    data = load_data(DatasetOptions(name="fake", shape=setting.image, classes=NUM_CLASSES), device)
    options = SearchOptions(network=setting.network, penalty=PENALTY, theta=THETA, alpha=ALPHA, cuda_graph=False)
    context = build_context(options, data, device)
    strategy, generator = build_strategy(SnasOptions(), context), torch.Generator(device).manual_seed(0)
    strategy.begin_epoch(EpochSettings(temperature=TEMPERATURE, eta=PENALTY.eta, theta_lr=THETA.lr), generator)
    return Contender(lambda: strategy.step(images, labels, generator), strategy.supernet, images)


def plain_contender(setting: Setting, fast: nn.Module, memory_format: torch.memory_format) -> Contender:
    """The published supernet with the fast one's weights and the published loop, one backward pass a step."""
    network, (images, labels) = setting.network, setting.batch_of_noise()
    images = images.contiguous(memory_format=memory_format)
    supernet = PlainSupernet(
        nodes=network.nodes,
        cells=network.cells,
        init_channels=network.init_channels,
        primitives=network.primitives,
        stem=network.stem,
        input_channels=setting.image[0],
        num_classes=NUM_CLASSES,
    ).to(setting.device)
    copy_weights(fast, supernet)
    supernet.to(memory_format=memory_format)
    return Contender(plain_step(setting, supernet, images, labels), supernet, images)


def plain_step(setting: Setting, supernet: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of single-level SNAS as it is usually written."""
    parameters = list(supernet.parameters())
    alpha = {name: weights.requires_grad_() for name, weights in uniform(setting).items()}
    costs = CostTable(NetworkSize(setting.network, setting.image, NUM_CLASSES), setting.device)
    tables = {name: costs.table(PENALTY.cost, name) * 1e-6 for name in CELL_TYPES}  # in millions, as `Snas` counts
    foreach = True if setting.device.type == "cuda" else None  # PyTorch's choice there, which asks for its own tensors
    theta_optimiser = torch.optim.SGD(
        parameters, THETA.lr, momentum=THETA.momentum, weight_decay=THETA.weight_decay, foreach=foreach
    )
    alpha_optimiser = torch.optim.Adam(
        list(alpha.values()), ALPHA.lr, betas=ALPHA.betas, weight_decay=ALPHA.weight_decay, foreach=foreach
    )

    def step() -> None:
        supernet.train()
        z = {name: concrete_sample(weights) for name, weights in alpha.items()}
        penalty = sum((table * z[name]).sum() for name, table in tables.items())
        loss = functional.cross_entropy(supernet(images, z), labels) + PENALTY.eta * penalty
        theta_optimiser.zero_grad()
        alpha_optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, THETA.grad_clip, foreach=foreach)
        theta_optimiser.step()
        alpha_optimiser.step()

    return step


def concrete_sample(alpha_EO: Tensor) -> Tensor:
    """`softmax((log p + Gumbel noise) / temperature)` (SNAS equation 5)."""
    noise = -torch.empty_like(alpha_EO).exponential_().log()
    return ((alpha_EO.log_softmax(-1) + noise) / TEMPERATURE).softmax(-1)


def uniform(setting: Setting) -> dict[str, Tensor]:
    """Equal weights of all operations, (E, O) per cell type."""
    shape = (len(cell_edges(setting.network.nodes)), len(setting.network.primitives))
    return {name: torch.full(shape, 1 / shape[1], device=setting.device) for name in CELL_TYPES}


# Measures


def logits_difference(contenders: Mapping[str, Contender], setting: Setting) -> float:
    """Largest difference of the fast supernet's logits from the plain one's, over the largest of these."""
    with torch.no_grad():
        logits = {name: entry.network(entry.images, uniform(setting)) for name, entry in contenders.items()}
    largest = logits[PLAIN[0]].abs().max()
    return ((logits["fast"] - logits[PLAIN[0]]).abs().max() / largest).item()


def saved(contender: Contender, setting: Setting) -> int:
    """Bytes that one forward pass saves for the backward pass."""
    network, images = contender.network, contender.images
    z = {name: weights.requires_grad_() for name, weights in uniform(setting).items()}
    known = (*network.parameters(), *network.buffers(), images)
    return saved_bytes(lambda: network(images, z), known)


def seconds_of(contender: Contender, device: torch.device) -> float:
    """Time of one step."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    start = time.perf_counter()
    contender.step()
    synchronise()
    return time.perf_counter() - start


def measure(setting: Setting, peer: str | None = None) -> dict[str, Any]:
    """All figures of the module's docstring, ready for JSON."""
    fast = fast_contender(setting)
    formats = (torch.contiguous_format, torch.channels_last)
    plain = (plain_contender(setting, fast.network, memory_format) for memory_format in formats)
    contenders = {"fast": fast, **dict(zip(PLAIN, plain, strict=True))}
    result: dict[str, Any] = {"logits_difference": logits_difference(contenders, setting)}
    for contender in contenders.values():
        contender.step()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(setting.repeats):
        for name, contender in contenders.items():
            times[name].append(seconds_of(contender, setting.device))
    result = summary(times, setting.batch) | result
    result |= counts(fast, contenders[PLAIN[0]], setting)
    if peer is not None:
        result["peer"] = peer_figures(peer, fast, setting)
    return result | circumstances(setting)


def counts(fast: Contender, plain: Contender, setting: Setting) -> dict[str, Any]:
    """Saved bytes and launches of both."""
    fast_saved, plain_saved = saved(fast, setting), saved(plain, setting)
    (fast_launches, fast_dispatched), (plain_launches, plain_dispatched) = (
        count_operations(fast.step),
        count_operations(plain.step),
    )
    return {
        "saved_activation_ratio": fast_saved / plain_saved,
        "saved_mb_fast": fast_saved / 1e6,
        "saved_mb_plain": plain_saved / 1e6,
        "launches_fast": fast_launches,
        "launches_plain": plain_launches,
        "dispatched_fast": fast_dispatched,
        "dispatched_plain": plain_dispatched,
    }


def summary(times: Mapping[str, list[float]], batch: int) -> dict[str, Any]:
    """Medians, ratios pair by pair, and spreads (least, most) of times and ratios."""
    ratios = {
        name.replace("plain", "step_ratio"): [
            slow / fast for slow, fast in zip(times[name], times["fast"], strict=True)
        ]
        for name in PLAIN
    }
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{name: statistics.median(values) for name, values in ratios.items()},
        "seconds": seconds,
        "images_per_s": {name: batch / value for name, value in seconds.items()},
        "spreads": {name: [min(values), max(values)] for name, values in (*times.items(), *ratios.items())},
    }


def peer_figures(peer: str, fast: Contender, setting: Setting) -> dict[str, object]:
    """The same comparison with a published supernet in a process of its own."""
    from tests.benchmarks.peers import measure_peer

    return measure_peer(
        peer,
        fast_step=lambda: seconds_of(fast, setting.device),
        init_channels=setting.network.init_channels,
        cells=setting.network.cells,
        batch=setting.batch,
        repeats=setting.repeats,
        device=setting.device.type,
    )


def circumstances(setting: Setting) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    cuda = setting.device.type == "cuda"
    return {
        "versions": {"python": platform.python_version()}
        | {name: version_of(name) for name in ("torch", "numba", "numpy")},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(setting.device) if cuda else "cpu",
        "options": {
            "init_channels": setting.network.init_channels,
            "cells": setting.network.cells,
            "nodes": setting.network.nodes,
            "primitives": list(setting.network.primitives),
            "recompute": setting.network.recompute,
            "image": list(setting.image),
            "batch": setting.batch,
            "repeats": setting.repeats,
        },
    }


def version_of(package: str) -> str | None:
    """Its version, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Command line


def parsed() -> tuple[Setting, str | None, bool]:
    """The setting, the peer if any, and whether JSON is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init-channels", type=int, default=16, help="channels of the first cells")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=4, help="intermediate nodes of a cell")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--image", default="3x32x32", help="channels x height x width")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each supernet")
    parser.add_argument("--recompute", action="store_true", help="the fast supernet keeps the inputs of its cells only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--peer", help="nni, or a checkout of the DARTS or SNAS authors' code or of ConfigurableOptimizer"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    image = tuple(int(size) for size in given.image.split("x"))
    if len(image) != 3:
        parser.error(f"--image must be channels x height x width, as 3x32x32, got {given.image}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch finds none")
    if given.peer and (given.nodes, image) != (4, (3, 32, 32)):
        parser.error("--peer is for 4 nodes and images of 3x32x32, which published supernets have")
    network = NetworkOptions(
        nodes=given.nodes, cells=given.cells, init_channels=given.init_channels, recompute=given.recompute
    )
    device = torch.device(given.device)
    setting = Setting(network=network, image=image, batch=given.batch, repeats=given.repeats, device=device)
    return setting, given.peer, given.json


def table(result: Mapping[str, Any]) -> str:
    """The main figures for a reader."""
    lines = [f"{'':22}{'median s':>10}{'least':>8}{'most':>8}{'images/s':>10}"]
    for name, seconds in result["seconds"].items():
        least, most = result["spreads"][name]
        lines.append(f"{name:22}{seconds:10.3f}{least:8.3f}{most:8.3f}{result['images_per_s'][name]:10.1f}")
    for name in (name.replace("plain", "step_ratio") for name in PLAIN):
        least, most = result["spreads"][name]
        lines.append(f"{name}: {result[name]:.2f} ({least:.2f} to {most:.2f})")
    lines.append(
        f"saved: {result['saved_mb_fast']:.0f} of {result['saved_mb_plain']:.0f} MB "
        f"({result['saved_activation_ratio']:.3f}); launches: {result['launches_fast']} of {result['launches_plain']}"
    )
    if "peer" in result:
        lines.append(f"peer: {json.dumps(result['peer'])}")
    return "\n".join(lines)


def main() -> None:
    """Print the measurement."""
    setting, peer, as_json = parsed()
    result = measure(setting, peer)
    print(json.dumps(result) if as_json else table(result))


if __name__ == "__main__":
    main()
