"""How Triton's kernels are launched, and whether they can be."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch


@cache
def has_triton() -> bool:
    """Whether Triton is installed and can build its launchers; says once what is missing if not."""
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    if importlib.util.find_spec("triton") is None:
        missing = "the package triton"
    elif not any(shutil.which(compiler) for compiler in compilers if compiler):
        missing = "a C compiler (gcc, clang or $CC)"
    else:
        return True
    warnings.warn(
        f"Triton's kernels need {missing}, which was not found: the supernet computes the same with PyTorch's own "
        "operations, which launch more kernels a step",
        stacklevel=2,
    )
    return False


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of its first argument, a tensor."""
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants)
