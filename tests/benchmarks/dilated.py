"""Time of a search step with the sub-image form of dilated stride-2 convolutions, over the plain form; CPU seconds.

Run: `python -m tests.benchmarks.dilated [--json]`. Both forms are interleaved in one process on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from search_core.cell import NetworkOptions
from search_core.data import DatasetOptions, load_data
from search_core.primitives import DilatedDepthwise
from search_core.search import Search, SearchOptions


def _plain(self: DilatedDepthwise, x: Tensor) -> Tensor:
    return functional.conv2d(
        x, self.weight, stride=self.outer_stride, padding=self.padding, dilation=2, groups=self.groups
    )


def measure(repeats: int) -> dict[str, object]:
    """Median CPU seconds of both forms and the median of their pairwise ratios."""
    torch.set_num_threads(1)
    options = SearchOptions(
        dataset=DatasetOptions(name="digits"), network=NetworkOptions(nodes=3, cells=3, init_channels=8)
    )
    search = Search(options, load_data(options.dataset, torch.device("cpu")))
    generator = torch.Generator().manual_seed(0)
    images, labels = next(iter(search.data.train.batches(64, generator=generator)))

    def step() -> float:
        begin = time.process_time()
        search.strategy.step(images, labels, generator)
        return time.process_time() - begin

    step()
    sub_image, plain = [], []
    for _ in range(repeats):
        sub_image.append(step())
        with mock.patch.object(DilatedDepthwise, "forward", _plain):
            plain.append(step())
    return {
        "time_ratio": statistics.median(fast / slow for fast, slow in zip(sub_image, plain, strict=True)),
        "sub_image_s": statistics.median(sub_image),
        "plain_s": statistics.median(plain),
        "repeats": repeats,
        "torch": torch.__version__,
    }


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
