"""Kernels that a training step of SNAS would launch on a GPU, counted on a pretended one: nothing here was timed.

Run: `python -m tests.benchmarks.launches [--init-channels 16 --cells 8 --nodes 4 --batch 64 --image 3x32x32] [--json]`.
A step is sampling Z, logits, loss and penalty, one backward pass, clipped SGD of theta and Adam of alpha. Its forms:

- fast: the supernet with Triton's kernels.
- plain: the supernet with PyTorch's operations alone.
- published: every operation of every edge by itself (`tests/search_core/plain_supernet.py`).

Kernels do not depend on batch and image; bytes do. `predicted_ms_graph` is a sum over kernels of the larger of 2.5 us
and their bytes at 3.35 TB/s: a model, no measurement. It and `syncs_per_step` are of the fast form where no other is
named; `bytes_of_*` says which operations move most.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from search_core.space.plan import NetworkOptions
from tests.benchmarks.supernet import Setting, fast_contender, plain_contender
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.launches import Launches, counted, with_triton

#: In the order of the table.
FORMS = ("fast", "plain", "published")


def launches_of(setting: Setting, form: str) -> tuple[Launches, int]:
    """Of one step after a first one, and how often the host waits in it.

    Args:
        setting: on a GPU.
        form: see the module's docstring.
    """
    launches = Launches()
    with pretended_gpu() as gpu, with_triton(launches) if form == "fast" else nullcontext():
        contender = fast_contender(setting)
        if form == "published":
            contender = plain_contender(setting, contender.network, torch.channels_last)
        contender.step()
        gpu.syncs.clear()
        launches.clear()
        with counted(gpu, launches):
            contender.step()
        return launches, gpu.syncs.total()


def measure(setting: Setting) -> dict[str, Any]:
    """All figures of the module's docstring, ready for JSON."""
    result: dict[str, Any] = {}
    for form in FORMS:
        launches, syncs = launches_of(setting, form)
        phases: dict[str, dict[str, int]] = {}
        for (phase, origin), count in launches.kernels.most_common():
            phases.setdefault(phase, {})[origin] = count
        result |= {
            f"launches_{form}": launches.kernels.total(),
            f"bytes_{form}": launches.num_bytes,
            f"predicted_ms_graph{_named(form)}": round(1e3 * launches.graph_s, 2),
            f"syncs_per_step{_named(form)}": syncs,
            f"phases_{form}": phases,
            f"operations_{form}": dict(launches.operations.most_common(20)),
            f"bytes_of_{form}": dict(launches.bytes_of.most_common(20)),
        }
    return result


def _named(form: str) -> str:
    return "" if form == "fast" else f"_{form}"


def table(result: Mapping[str, Any]) -> str:
    """The figures for a reader."""
    lines = [f"{'':12}{'launches':>10}{'GB':>8}{'waits':>7}{'ms in a graph, predicted':>26}"]
    for form in FORMS:
        launches, gigabytes = result[f"launches_{form}"], result[f"bytes_{form}"] / 1e9
        waits, predicted = (result[f"{key}{_named(form)}"] for key in ("syncs_per_step", "predicted_ms_graph"))
        lines.append(f"{form:12}{launches:10,}{gigabytes:8.1f}{waits:7}{predicted:26.1f}")
    for form in FORMS:
        for phase, origins in result[f"phases_{form}"].items():
            parts = ", ".join(f"{origin} {count:,}" for origin, count in origins.items())
            lines.append(f"{form} {phase}: {sum(origins.values()):,} ({parts})")
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in result[f"bytes_of_{form}"].items())
        lines.append(f"{form} GB: {parts}")
    return "\n".join(lines)


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init-channels", type=int, default=16, help="channels of the first cells")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=4, help="intermediate nodes of a cell")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--image", default="3x32x32", help="channels x height x width")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    network = NetworkOptions(nodes=given.nodes, cells=given.cells, init_channels=given.init_channels)
    channels, height, width = (int(size) for size in given.image.split("x"))
    setting = Setting(
        network=network, image=(channels, height, width), batch=given.batch, repeats=1, device=torch.device("cuda")
    )
    result = measure(setting)
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
