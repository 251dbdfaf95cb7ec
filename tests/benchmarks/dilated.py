"""Time of dilated stride-2 convolutions as ordinary ones of a sub-image, over the plain form; CPU seconds.

Run: `python -m tests.benchmarks.dilated [--json]`. Child networks use them in reduction cells. Forward and backward of
32 channels, 32x32 pixels, batch 32, channels last; both forms are interleaved in one process on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional

from search_core.primitives.modules import DilatedDepthwise


def _plain(conv: DilatedDepthwise, x: Tensor) -> Tensor:
    return functional.conv2d(
        x, conv.weight, stride=conv.outer_stride, padding=conv.padding, dilation=2, groups=conv.groups
    )


def measure(repeats: int) -> dict[str, object]:
    """Medians of the pairwise ratios, by kernel size."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 32, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    result: dict[str, object] = {}
    for kernel in (3, 5):
        conv, x = DilatedDepthwise(32, kernel, 2), images.clone().requires_grad_()

        def seconds(*, sub_image: bool, conv: DilatedDepthwise = conv, x: Tensor = x) -> float:
            begin = time.process_time()
            (conv(x) if sub_image else _plain(conv, x)).sum().backward()
            return time.process_time() - begin

        seconds(sub_image=True), seconds(sub_image=False)
        pairs = [(seconds(sub_image=True), seconds(sub_image=False)) for _ in range(repeats)]
        result[f"time_ratio_{kernel}x{kernel}"] = statistics.median(fast / slow for fast, slow in pairs)
    return {**result, "repeats": repeats, "torch": torch.__version__}


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
