"""Validation of a network, and recomputed batch norm statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.data.datasets import Split
from search_core.network.search_cell import SearchCell
from search_core.ranks import ALONE, Ranks

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy (nats) and accuracy (fraction in [0, 1]) over a split."""

    loss: float
    accuracy: float


def evaluate(
    network: Callable[[Tensor], Tensor], split: Split, batch_size: int = _EVALUATION_BATCH, *, ranks: Ranks = ALONE
) -> Evaluation:
    """Loss and accuracy of `network` over a split, in fixed order, without augmentation.

    Args:
        network: maps images (N, C, H, W) to logits (N, classes); a module must already be in evaluation mode.
        split: the images.
        batch_size: images a forward pass, of all ranks together.
        ranks: who shares the work; all get the figures of the whole split, and all must call it.
    """
    losses, corrects = [], []
    with torch.no_grad():
        for images, labels in split.batches(batch_size, ranks=ranks):
            logits = network(images)
            losses.append(functional.cross_entropy(logits, labels, reduction="sum"))
            corrects.append((logits.argmax(1) == labels).sum())
    loss, correct = ranks.sum(torch.stack(losses).sum()), ranks.sum(torch.stack(corrects).sum())
    return Evaluation(loss.item() / len(split), correct.item() / len(split))


def recalibrate(
    network: nn.Module,
    split: Split,
    *,
    batch_size: int,
    num_batches: int,
    generator: torch.Generator,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Recompute all batch norm statistics of `network` as plain averages over training batches, in place.

    A child is narrower than the supernet that it comes from, so inherited statistics do not fit it (SPOS section 3.4).
    Those of the supernet itself lag behind its weights and samples. The network is left in evaluation mode.

    Args:
        network: the network; its weights do not change.
        split: training images, read without augmentation.
        batch_size: images a forward pass.
        num_batches: number of batches, fewer if the split is smaller.
        generator: draws which images, on the split's device.
        forward: a pass of images through `network`, for a supernet, which needs an architecture too.
    """
    forward = network if forward is None else forward
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | SearchCell)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
    network.train()
    drop_last = len(split) >= batch_size  # a single image has no batch statistics
    with torch.no_grad():
        batches = islice(split.batches(batch_size, generator=generator, drop_last=drop_last), num_batches)
        for number, (images, _) in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = (
                    1 / number
                )  # None does the same, but reads a counter on the GPU, which the host waits for
            forward(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
