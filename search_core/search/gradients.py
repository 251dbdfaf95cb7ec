"""SNAS' gradient of alpha and REINFORCE's on the supernet of a search, against the exact one by enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from search_core.errors import require
from search_core.search.options import SearchOptions
from search_core.search.search import Search
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES
from search_core.strategies.gradient_estimates import (
    Effort,
    Estimator,
    GradientQuality,
    LossOf,
    exact_gradient,
    measure,
    reparametrised,
    score_function,
)

#: Largest space of which every genotype is run.
_MOST_GENOTYPES = 4096


@dataclass(frozen=True, kw_only=True)
class GradientRow:
    """One estimator at one temperature.

    Attributes:
        name: `exact`, `SNAS`, `REINFORCE, relaxed` (the concrete density, same samples as SNAS') or `REINFORCE`
            (one-hot children).
        temperature: lambda of the concrete distribution; None where z is one-hot.
        quality: what was measured.
    """

    name: str
    temperature: float | None
    quality: GradientQuality


def check_comparable(options: SearchOptions) -> None:
    """Check that the gradients of such a search can be compared, before it is run.

    Raises:
        OptionsError: if the strategy has no alpha, or the space has too many genotypes to list.
    """
    kind, size = options.strategy.kind, genotype_space(options.network).size
    require(
        (
            "strategy.kind",
            "alpha" in options.strategy.uses,
            f"must be one with gradients of alpha, such as snas, got {kind}",
        ),
        (
            "network",
            size <= _MOST_GENOTYPES,
            f"must span at most {_MOST_GENOTYPES:,} genotypes, which are all run, got {size:,}",
        ),
    )


def compare_gradients(
    search: Search, *, temperatures: Sequence[float], effort: Effort, images: int
) -> tuple[GradientRow, ...]:
    """Measure the estimators at the search's alpha, on the loss of a fixed set of its training images.

    Theta is fixed, batch norm has the statistics of the images, and running ones stay: L(z) has no noise but that of z.
    So `expected_loss` is exact, and what is compared is the sampling of architectures alone.

    Args:
        search: of a strategy with alpha, trained as far as wanted; it is not changed.
        temperatures: of the concrete distribution, each above 0.
        effort: how much is measured.
        images: the first so many training images, unchanged; at least 2.

    Returns:
        The exact gradient first, then SNAS' and the relaxed REINFORCE's at each temperature, then REINFORCE's.

    Raises:
        OptionsError: as `check_comparable`.
    """
    check_comparable(search.options)
    space = genotype_space(search.options.network)
    loss_of = _loss_on(search, images)
    alpha = torch.cat([search.strategy.alpha()[name] for name in CELL_TYPES])
    codes = torch.tensor(list(space.all()), device=alpha.device)
    one_hot = functional.one_hot(codes, alpha.shape[1]).to(alpha.dtype)
    with torch.no_grad():
        losses = torch.stack([loss_of(z) for z in one_hot])

    places = torch.tensor([alpha.shape[1] ** place for place in reversed(range(len(alpha)))], device=alpha.device)

    def listed(z_EO: Tensor) -> Tensor:
        return losses[(z_EO.argmax(1) * places).sum()]  # genotypes are listed as numbers of base O

    makers: list[tuple[str, float | None, Callable[[], Estimator]]] = [
        ("exact", None, lambda: lambda at, generator: exact_gradient(at, codes, losses))
    ]
    for temperature in temperatures:
        makers.append(("SNAS", temperature, partial(reparametrised, loss_of, temperature)))
        makers.append(("REINFORCE, relaxed", temperature, partial(score_function, loss_of, temperature)))
    makers.append(("REINFORCE", None, partial(score_function, listed)))
    return tuple(
        GradientRow(
            name=name,
            temperature=temperature,
            quality=measure(
                make,
                alpha,
                codes,
                losses,
                effort=effort,
                optimiser=search.options.alpha,
                generator=torch.Generator(alpha.device).manual_seed(search.options.seed),
            ),
        )
        for name, temperature, make in makers
    )


def _loss_on(search: Search, images: int) -> LossOf:
    """Cross entropy on the first training images as a function of z (E, O), rows of the normal cell first."""
    supernet = search.strategy.supernet
    batch, labels = next(iter(search.data.train.batches(images)))

    def loss_of(z_EO: Tensor) -> Tensor:
        halves = z_EO.chunk(len(CELL_TYPES))
        with supernet.frozen_statistics():
            logits = supernet.train()(batch, dict(zip(CELL_TYPES, halves, strict=True)))
        return functional.cross_entropy(logits, labels)

    return loss_of
