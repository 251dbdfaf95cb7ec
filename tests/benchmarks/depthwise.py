"""Depthwise convolutions of one source: the Numba kernels against torch's, and against the same kernel in C++.

Run: `python -m tests.benchmarks.depthwise [--repeats 15] [--json]`. One thread; variants are interleaved; medians of
ratios pair by pair. The C++ form is compiled with `g++ -O3 -march=native` where there is one, and left out elsewhere.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch
from torch.nn import functional

from search_core.kernels import native_depthwise
from search_core.kernels.backend import kind_of
from search_core.kernels.depthwise import relu_depthwise

_SIZES = ((16, 32), (32, 16), (64, 8))  # channels and side in the three thirds of the network of 16 channels
_IMAGES, _EDGES = 32, 4
_KERNELS, _DILATIONS = (3, 5, 3, 5), (1, 1, 2, 2)

Variant = Callable[[], float]


def seconds(variants: dict[str, Variant], repeats: int) -> dict[str, list[float]]:
    """Times of all variants, interleaved after one run of each."""
    for variant in variants.values():
        variant()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, variant in variants.items():
            times[name].append(variant())
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of slow over fast, pair by pair."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def source_block(channels: int, side: int, *, numba_kernels: bool) -> dict[str, Variant]:
    """All depthwise convolutions that leave a source towards four nodes, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _IMAGES, side, side, channels, generator=generator).requires_grad_()
    weights = [
        torch.randn(_EDGES, channels, kernel, kernel, generator=generator).requires_grad_() for kernel in _KERNELS
    ]

    def run() -> tuple[torch.Tensor, ...]:
        if numba_kernels:
            return relu_depthwise(x, weights, _DILATIONS, 1)
        rectified = x[0].permute(0, 3, 1, 2).relu()  # channels last, torch's fastest layout
        return tuple(
            functional.conv2d(
                rectified, weight[edge].unsqueeze(1), padding=kernel // 2 * dilation, dilation=dilation, groups=channels
            )
            for weight, kernel, dilation in zip(weights, _KERNELS, _DILATIONS, strict=True)
            for edge in range(_EDGES)
        )

    def forward() -> float:
        with torch.no_grad():
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

    def backward() -> float:
        outputs = run()
        gradients = [torch.ones_like(output) for output in outputs]
        start = time.perf_counter()
        torch.autograd.grad(outputs, [x, *weights], gradients)
        return time.perf_counter() - start

    name = "numba" if numba_kernels else "torch"
    return {f"{name} forward": forward, f"{name} backward": backward}


def compile_cpp(folder: Path) -> ctypes.CDLL | None:
    """The C++ kernel, or None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    library = folder / "depthwise.so"
    source = Path(__file__).with_suffix(".cpp")
    subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def languages(library: ctypes.CDLL) -> dict[str, Variant]:
    """One 5x5 convolution of padded images of 16 channels: the tile loops of both languages, nothing else."""
    side, channels = 32, 16
    padded = np.random.default_rng(0).standard_normal((_IMAGES, side + 4, side + 4, channels), np.float32)
    weight = np.random.default_rng(1).standard_normal((25, channels), np.float32)
    outs = {name: np.zeros((_IMAGES, side, side, channels), np.float32) for name in ("numba loop", "cpp loop")}
    like, lanes = kind_of(torch.empty(channels))

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def filter_images(source: int, taps: int, target: int, like: object, lanes: object) -> None:
        for image in range(_IMAGES):
            native_depthwise._filter(
                native_depthwise.pointer(source + image * (side + 4) ** 2 * channels * 4, like),
                0,
                (side + 4) * channels,
                native_depthwise.pointer(taps, like),
                native_depthwise.pointer(target + image * side**2 * channels * 4, like),
                side,
                side,
                channels,
                5,
                1,
                1,
                False,
                lanes,
            )

    def in_numba() -> float:
        start = time.perf_counter()
        filter_images(padded.ctypes.data, weight.ctypes.data, outs["numba loop"].ctypes.data, like, lanes)
        return time.perf_counter() - start

    def in_cpp() -> float:
        addresses = (ctypes.c_void_p(array.ctypes.data) for array in (padded, weight, outs["cpp loop"]))
        start = time.perf_counter()
        library.filter5(*addresses, _IMAGES, side, side, channels)
        return time.perf_counter() - start

    in_numba(), in_cpp()
    np.testing.assert_allclose(outs["numba loop"], outs["cpp loop"], rtol=1e-4, atol=1e-4)
    return {"numba loop": in_numba, "cpp loop": in_cpp}


def measure(repeats: int) -> dict[str, object]:
    """Ratios of torch over Numba per size and direction, and of C++ over Numba."""
    torch.set_num_threads(1)
    result: dict[str, object] = {}
    for channels, side in _SIZES:
        variants = {
            **source_block(channels, side, numba_kernels=True), **source_block(channels, side, numba_kernels=False)
        }  # fmt: skip
        times = seconds(variants, repeats)
        for direction in ("forward", "backward"):
            name = f"torch_over_numba_{direction}_{channels}x{side}x{side}"
            result[name] = ratio(times[f"torch {direction}"], times[f"numba {direction}"])
    with tempfile.TemporaryDirectory() as folder:
        library = compile_cpp(Path(folder))
        if library is None:
            result["cpp_over_numba_forward"] = "not measured: no g++ here"
        else:
            times = seconds(languages(library), repeats)
            result["cpp_over_numba_forward"] = ratio(times["cpp loop"], times["numba loop"])
    versions = {"torch": torch.__version__, "numba": numba.__version__}
    return {**result, "repeats": repeats, "threads": 1, "versions": versions}


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    result = measure(options.repeats)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
