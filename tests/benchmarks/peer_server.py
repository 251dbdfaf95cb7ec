"""The peer's end of the line to `tests.benchmarks.peers`: one timed step for every line that arrives on stdin.

It runs with the peer's own Python and torch: no imports from this project, and nothing newer than Python 3.9.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

CLASSES = 10
GRAD_CLIP = 5.0


def make_parser() -> argparse.ArgumentParser:
    """Arguments of every peer."""
    parser = argparse.ArgumentParser()
    for name in ("--init-channels", "--cells", "--batch", "--threads"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--device", required=True)
    return parser


def single_pass_step(
    forward: Callable[[Tensor], Tensor],
    theta: Sequence[Tensor],
    alpha_optimiser: torch.optim.Optimizer,
    *,
    batch_size: int,
    device: str,
) -> Callable[[], None]:
    """One step on a fixed batch of random images: forward, loss, one backward, SGD for theta, Adam for alpha.

    Args:
        forward: logits (N, classes) of images (N, 3, 32, 32).
        theta: operation weights; SGD with the settings of the DARTS and SNAS authors.
        alpha_optimiser: optimiser of the architecture parameters.
        batch_size: number of images N.
        device: where the supernet lies.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(CLASSES, (batch_size,), generator=generator).to(device)
    theta_optimiser = torch.optim.SGD(theta, 0.025, momentum=0.9, weight_decay=3e-4)

    def step() -> None:
        theta_optimiser.zero_grad()
        alpha_optimiser.zero_grad()
        nn.functional.cross_entropy(forward(images), labels).backward()
        nn.utils.clip_grad_norm_(theta, GRAD_CLIP)
        theta_optimiser.step()
        alpha_optimiser.step()

    return step


def serve(
    make_step: Callable[[argparse.Namespace], tuple[Callable[[], None], str]],
    options: argparse.Namespace,
    packages: Iterable[str] = (),
) -> None:
    """Say what the peer is once a first step has run, then answer each line on stdin with the seconds of one step.

    Args:
        make_step: builds the supernet; gives its step and the step in words.
        options: what `make_parser` read.
        packages: names of installed packages whose versions matter, besides torch.
    """
    # Libraries print what they like: stdout is for the answers alone, everything else goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    step, words = make_step(options)
    step()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions.update({name: importlib.metadata.version(name) for name in packages})
    print(json.dumps({"step": words, "versions": versions}), file=answers, flush=True)
    for _ in sys.stdin:
        print(_seconds(step, options.device), file=answers, flush=True)


def _seconds(step: Callable[[], None], device: str) -> float:
    _synchronise(device)
    begin = time.perf_counter()
    step()
    _synchronise(device)
    return time.perf_counter() - begin


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
