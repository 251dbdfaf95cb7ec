"""Triton's kernels compiled for GPUs that are not at hand: registers and stack of a thread, shared memory of a program.

Run: `python -m tests.pretended_gpu.compiled [CHANNELS ...]` for a table as in docs/supernet.md. A stack means that
registers were spilled to memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from search_core.kernels.gpu import depthwise, fold, pools, product

ARCHITECTURES = (80, 90)
_NAME = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_FLOATS, _NUMBERS = ("*fp32",) * 4, ("i32",) * 4
#: Types of arguments that are no number; any other `..._ptr` points to float32.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("weights", "outputs", "gradients", "features", "bases", "maps"), _FLOATS),
    **dict.fromkeys(("strides", "edge_strides", "of_edges"), _NUMBERS),
    "keep_ptr": "*u8",
    "places_ptr": "*i8",
    "epsilon": "fp32",
}
_CONVOLUTIONS = {"KERNELS": (3, 5, 3, 5), "DILATIONS": (1, 1, 2, 2), "FIRSTS": (0, 9, 34, 43), "NUM": 4, "STRIDE": 1}
_POOLS = {"NUM": 2, "MAXIMUM": 0, "AVERAGE": 1, "STRIDE": 1}
_SUM = {"MAPS": 4, "FEATURES": 4, "BASES": 4, "NUM": 4, "KEEPS": True, "APART": False, "STEP": product.STEP}


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers of a thread, bytes of its stack, bytes of a program's shared memory."""

    name: str
    architecture: int
    channels: int
    registers: int
    stack: int
    shared: int


def kernels(channels: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """All kernels, each with what is known when it is compiled, for the primitives of the paper."""
    padded = triton.next_power_of_2(channels)
    by_pixel = {"C": channels, "PADDED": padded, "BLOCK": 512 // padded}
    for kernel in (depthwise.forward_kernel, depthwise.backward_kernel, depthwise.weights_kernel):
        yield kernel, by_pixel | _CONVOLUTIONS
    for kernel in (pools.pool_kernel, pools.norm_kernel, pools.gradient_sums_kernel, pools.backward_kernel):
        yield kernel, by_pixel | _POOLS
    by_matrix = {"C": channels, "PADDED": max(16, padded), "BLOCK": 32} | _SUM
    for kernel in (product.sums_kernel, product.reduce_kernel):
        yield kernel, by_matrix | {"BLOCK": 16}
    for kernel in (product.add_kernel, product.maps_kernel):
        yield kernel, by_matrix
    yield product.features_kernel, by_matrix | {"BLOCK": 2048 // by_matrix["PADDED"]}
    for kernel in (fold.fold_kernel, fold.unfold_kernel):
        yield kernel, by_matrix


def usage(kernel: Any, constants: dict[str, Any], architecture: int) -> Usage:
    """Compile a kernel, without a GPU."""
    signature: dict[str, Any] = {}
    known: dict[tuple[int, ...], Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            value = constants[name]
            signature[name] = ("constexpr",) * len(value) if isinstance(value, tuple) else "constexpr"
            items = enumerate(value) if isinstance(value, tuple) else [(None, value)]
            known |= {(position,) if item is None else (position, item): number for item, number in items}
            continue
        kind = _TYPES.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        if isinstance(kind, tuple):  # two pools, four of all else
            kind = kind[: constants.get("NUM", 4)]
        signature[name] = kind
        if str(kind).startswith("*"):
            aligned[(position,)] = [["tt.divisibility", 16]]
        elif isinstance(kind, tuple) and kind[0].startswith("*"):
            aligned |= {(position, item): [["tt.divisibility", 16]] for item in range(len(kind))}
    source = ASTSource(fn=kernel, signature=signature, constexprs=known, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4})
    registers, stack, local = resources(compiled.asm["cubin"])
    module = kernel.fn.__module__.rpartition(".")[2]
    name = f"{module}.{kernel.fn.__name__}"
    return Usage(name, architecture, constants["C"], registers, stack + local, compiled.metadata.shared)


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers, stack and local memory of a kernel, as NVIDIA's tool in Triton's package has them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = _NAME.search(done.stdout)
    assert found is not None, done.stdout
    registers, stack, local = (int(number) for number in found.groups())
    return registers, stack, local


def main() -> None:
    """Print the table."""
    print("| kernel | channels | registers, sm_80 / sm_90 | stack | shared memory, bytes |\n|---|---|---|---|---|")
    for channels in [int(number) for number in sys.argv[1:]] or [16, 64]:
        for kernel, constants in kernels(channels):
            first, second = (usage(kernel, constants, architecture) for architecture in ARCHITECTURES)
            print(
                f"| `{first.name}` | {channels} | {first.registers} / {second.registers} | "
                f"{first.stack} / {second.stack} | {first.shared:,} / {second.shared:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
