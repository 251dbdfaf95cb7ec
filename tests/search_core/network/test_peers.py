"""The protocol between the benchmark and a published supernet, with checkouts of a few lines; nothing is downloaded."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.peers import measure_peer

_MODEL = """
import torch

class Network(torch.nn.Module):
    def __init__(self, C, num_classes, layers, criterion, *settings):
        super().__init__()
        print("a library that is chatty on stdout")
        self.theta = torch.nn.Linear(3 * 32 * 32, num_classes)
        self.alpha = torch.autograd.Variable(torch.zeros(1, C).cuda(), requires_grad=True)
        self.zero = torch.zeros(1).to(torch.device("cuda"))

    def arch_parameters(self):
        return [self.alpha]

    def forward(self, images):
        return self.theta(images.flatten(1)) * self.alpha.softmax(-1).sum() + self.zero
"""

_SNAS_MODEL = f"""{_MODEL}
class Network(Network):
    def __init__(self, C, num_classes, layers, criterion, args, rank, world_size):
        super().__init__(C, num_classes, layers, criterion)
        given = (args.snas, args.layers, args.drop_path_prob, args.resource_lambda, rank, world_size)
        assert given == (True, layers, 0.0, 1e10, 0, 1), given

    def forward(self, images):
        return super().forward(images), None
"""

_SNAS_SETTINGS = """
import argparse
parser = argparse.ArgumentParser("cifar")
parser.add_argument("--snas", action="store_true", default=False)
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--init_channels", type=int, default=16)
parser.add_argument("--drop_path_prob", type=float, default=0.3)
default_lambda = 1e10
parser.add_argument("--resource_lambda", type=float, default=default_lambda)
raise SystemExit("training starts")
"""


def _checkout(folder: Path, **sources: str) -> Path:
    folder.mkdir(parents=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return folder.parent


def _measure(peer: Path, **changes: Any) -> dict[str, object]:
    sizes = {"init_channels": 4, "cells": 3, "batch": 2, "repeats": 3}
    return measure_peer(str(peer), **{"fast_step": lambda: 0.5, **sizes, **changes})


@pytest.mark.slow
def test_peer_darts_checkout_gives_a_ratio_pair_by_pair(tmp_path: Path) -> None:
    seconds = iter((1.0, 2.0, 4.0))
    result = _measure(_checkout(tmp_path / "cnn", model_search=_MODEL), fast_step=lambda: next(seconds))
    assert result["ran"], result
    least, most = result["spread"]
    assert 0 < least <= result["seconds"] <= most
    assert result["fast_seconds"] == 2.0
    assert result["ratio_spread"][0] <= result["ratio"] <= result["ratio_spread"][1]
    assert least / 4 <= result["ratio"] <= most
    assert result["step"].startswith("single pass")
    assert set(result["versions"]) == {"python", "torch"}


@pytest.mark.slow
def test_peer_snas_checkout_gets_the_defaults_of_its_script(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path / "SNAS", model_search=_SNAS_MODEL, train_search=_SNAS_SETTINGS, dist_util_torch="")
    result = _measure(checkout, repeats=1)
    assert result["ran"], result
    assert result["ratio"] == pytest.approx(statistics.median([result["seconds"] / 0.5]))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Traceback >&2; echo 'ImportError: no wandb' >&2; echo >&2; exit 1", "ImportError: no wandb"),
        ("exit 0", "its process ended with status 0"),
        ("kill -9 $$", "its process was killed: it took more than 1800 s, or the machine is out of memory"),
        ("echo '{}'; read line; echo 'RuntimeError: step' >&2; exit 1", "RuntimeError: step"),
    ],
)
def test_peer_that_ends_early_gives_the_reason(tmp_path: Path, script: str, reason: str) -> None:
    checkout = _checkout(tmp_path / "src" / "confopt" / "searchspace").parents[1]
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    assert _measure(checkout, environment=tmp_path) == {"peer": str(checkout), "ran": False, "why": reason}


def test_peer_unknown_path_says_what_a_peer_is(tmp_path: Path) -> None:
    result = _measure(tmp_path)
    assert (result["peer"], result["ran"]) == (str(tmp_path), False)
    assert "a peer must be `nni` or a checkout of the DARTS authors' code" in str(result["why"])


def test_peer_without_python_says_so(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path / "cnn", model_search=_MODEL)
    result = _measure(checkout, environment=tmp_path / "nowhere")
    assert "must be a Python, got: No such file" in str(result["why"])
