"""Several processes that train one network together, each on its share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from search_core.errors import require


@dataclass(frozen=True)
class Ranks:
    """This process among those of the default group of `torch.distributed`; alone by default.

    Every rank draws the random numbers of the whole batch from generators in the same state and takes its share. So
    they do not depend on how many ranks there are, and one state of the generators serves all.

    Args:
        rank: of this process, in [0, `count`).
        count: number of processes; more than 1 needs an initialised process group.

    Raises:
        OptionsError: if a value is out of range.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        require(
            ("count", self.count >= 1, f"must be at least 1, got {self.count}"),
            ("rank", 0 <= self.rank < self.count, f"must be in [0, {self.count}), got {self.rank}"),
        )

    def share(self, batch: Tensor) -> Tensor:
        """This rank's images of a whole batch (N, ...), in order: a view; shares differ by at most one image."""
        return batch if self.count == 1 else batch.tensor_split(self.count)[self.rank]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the ranks, the same bits on all of them; every rank must call it."""
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the ranks, as `sum`."""
        return value if self.count == 1 else self.sum(value) / self.count

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their means over the ranks, in one message; integers are left alone."""
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.count == 1 or not floating:
            return
        means = self.mean(torch.cat([tensor.flatten() for tensor in floating]))
        for tensor, mean in zip(floating, means.split([tensor.numel() for tensor in floating]), strict=True):
            tensor.copy_(mean.view_as(tensor))


#: One process that does all the work itself.
ALONE = Ranks()
