"""One-shot search: a supernet trained with path dropout, then random children (Bender et al., ICML 2018).

Shape suffixes: E edges, O operations, N images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.errors import require
from search_core.network.child import inherit_child
from search_core.network.supernet import Supernet
from search_core.space.code_space import Code
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.space.plan import NetworkOptions, cell_edges
from search_core.strategies.base import SearchContext, StepResult
from search_core.strategies.weight_sharing.ranked_draws import RankedDraws
from search_core.strategies.weight_sharing.ranked_draws_options import OneShotOptions
from search_core.strategies.weight_sharing.row_sgd import step_used
from search_core.training.held_out import Batch


class OneShot(RankedDraws):
    """Trains all operations at once, some of them dropped; a batch is normalised by its own statistics throughout.

    Raises:
        OptionsError: if a ghost batch would have less than two images.
        ConstraintsError: if no genotype keeps the hard limits.
    """

    def __init__(self, options: OneShotOptions, context: SearchContext) -> None:
        most = context.images.batch_size // 2
        require(
            (
                "ghost_batches",
                options.ghost_batches <= most,
                f"must be at most {most}, half of `batch_size`, got {options.ghost_batches}",
            )
        )
        super().__init__(options, context)
        self._options = options
        self._divergences: list[float] = []
        self._rates_E = drop_rates(options, context.supernet.options).to(self._device)

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Train what is not dropped on a batch; arguments as in `Strategy.step`."""
        self.supernet.train()
        self._theta_optimiser.zero_grad()
        masks: list[dict[CellType, Tensor]] = []
        losses, corrects = [], []
        parts = self._options.ghost_batches
        for ghost, targets in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            masks.append(self.drop(generator))
            logits = self.supernet(ghost, masks[-1])
            loss = functional.cross_entropy(logits, targets) * (len(ghost) / len(images))
            loss.backward()
            losses.append(loss.detach())
            corrects.append((logits.detach().argmax(1) == targets).sum())
        used = {name: torch.stack([mask[name] for mask in masks]).amax(0) > 0 for name in CELL_TYPES}
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self._context.theta.grad_clip, foreach=True)
        step_used(self._theta_optimiser, self.supernet, used)
        total = torch.stack(losses).sum()
        return StepResult(loss=total, penalty=torch.zeros_like(total), correct=torch.stack(corrects).sum())

    def drop(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Path dropout of one ghost batch, (E, O) per cell type: 0 with the rate of the epoch, else 1.

        Each operation of each edge is dropped by itself, the same in all cells of a type.
        """
        rates_E1 = (self._settings.progress * self._rates_E).unsqueeze(1)
        shape = (len(self.space.edges), len(self.space.primitives))
        dtype = rates_E1.dtype
        return {
            name: (torch.rand(shape, generator=generator, device=self._device, dtype=dtype) >= rates_E1).to(dtype)
            for name in CELL_TYPES
        }

    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) of the whole network, nothing dropped, normalised by the statistics of the batch.

        One image has no such statistics: it is normalised by the running ones.
        """
        with torch.no_grad(), _batch_statistics(self.supernet, enabled=len(images) > 1):
            logits: Tensor = self.supernet(images, self._whole())
        return logits

    def pruned_kl(self) -> float | None:
        """Symmetrised divergence of predictions on held-out images, mean over the fresh draws (section 4.2)."""
        fresh = self._divergences[1:]  # the first is the best so far
        return fmean(fresh) if fresh else None

    def scores(self, codes: Sequence[Code], generator: torch.Generator) -> list[float]:
        """What children are ranked by, see `rank_by`: mean over held-out batches, with statistics of each batch."""
        batches = list(self._judging_batches())
        whole = [self.predict(images, generator) for images, _ in batches]
        judged = [self._judge(code, batches, whole) for code in codes]
        self._divergences = [divergence for _, divergence in judged]
        return [-divergence if self._options.rank_by == "kl" else accuracy for accuracy, divergence in judged]

    def _judge(self, code: Code, batches: Sequence[Batch], whole: Sequence[Tensor]) -> tuple[float, float]:
        """Accuracy of a child, and its divergence from the whole network's logits, mean over batches."""
        child = inherit_child(self.supernet, self.space.decode(code)).train()  # a copy: its statistics may move
        with torch.no_grad():
            logits = [child(images) for images, _ in batches]
        divergences = [symmetrised_kl(*pair) for pair in zip(whole, logits, strict=True)]
        correct = [(own.argmax(1) == labels).sum() for own, (_, labels) in zip(logits, batches, strict=True)]
        accuracy = torch.stack(correct).sum().item() / sum(len(labels) for _, labels in batches)
        return accuracy, torch.stack(divergences).mean().item()

    def _judging_batches(self) -> Iterator[Batch]:
        """Whole held-out batches in fixed order, of the size of training, as statistics are those of a batch."""
        images = self._context.images
        return islice(images.held_out_split.batches(images.batch_size, drop_last=True), self._options.batches)

    def _whole(self) -> dict[CellType, Tensor]:
        shape = (len(self.space.edges), len(self.space.primitives))
        return {name: torch.ones(shape, dtype=self._rates_E.dtype, device=self._device) for name in CELL_TYPES}


def drop_rates(options: OneShotOptions, network: NetworkOptions) -> Tensor:
    """Final drop rate `r^(1/k)` (E,) of the operations of every edge, where k paths lead to its node (Bender et al.).

    A node so loses all its inputs with probability r, however many it has.
    """
    paths = len(network.primitives) if options.paths == "operations" else 1  # of an edge
    # Sources 0, ..., target - 1 lead to a node.
    return torch.tensor([options.rate ** (1 / (target * paths)) for _, target in cell_edges(network.nodes)])


def symmetrised_kl(first_NK: Tensor, second_NK: Tensor) -> Tensor:
    """`D(p || q) + D(q || p)` in nats, mean over images, of the predictions of two logits (Bender et al.)."""
    log_p, log_q = functional.log_softmax(first_NK, -1), functional.log_softmax(second_NK, -1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean()


@contextmanager
def _batch_statistics(supernet: Supernet, *, enabled: bool) -> Iterator[None]:
    """Normalise by the statistics of each batch inside and leave running ones alone."""
    was_training = supernet.training
    supernet.train(enabled)
    try:
        with supernet.frozen_statistics():
            yield
    finally:
        supernet.train(was_training)
