"""How well an estimate of the architecture gradient points: SNAS' against REINFORCE's, both against the exact one.

The objective is J(alpha) = E_z[L(z)] for one-hot z, one operation an edge, drawn from softmax(alpha). Where all z can
be listed its gradient is exact; SNAS estimates it through a concrete sample (SNAS section 2.2), NAS and ENAS by
REINFORCE, the gradient of log q(z) times L(z) above a baseline.

Shape suffixes: E edges of both cells, O operations, G genotypes, S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.strategies.optimiser_options import AlphaOptions
from search_core.strategies.relaxations import concrete_log_density, concrete_log_sample, gumbel_noise
from search_core.training.optimisers import Adam

#: Loss, a scalar, of architecture weights z (E, O); differentiable in z where an estimator asks for it.
LossOf = Callable[[Tensor], Tensor]
#: One estimate (E, O) of the gradient at alpha (E, O).
Estimator = Callable[[Tensor, torch.Generator], Tensor]

_BASELINE_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class GradientQuality:
    """How well an estimator does at one alpha.

    Attributes:
        variance: of one estimate, summed over all entries of alpha.
        relative_variance: that in units of the exact gradient's squared norm.
        cosine: of one estimate with the exact gradient, mean over estimates, in [-1, 1].
        cosine_of_mean: of the mean of all estimates with it: below 1 for want of samples, or by bias.
        losses: J before the first and after each step of descents by this estimator, mean over them, nats.
    """

    variance: float
    relative_variance: float
    cosine: float
    cosine_of_mean: float
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        samples: estimates at one alpha, at least 2.
        runs: descents, at least 1.
        steps: of each descent, 0 or above.
        warm_up: estimates before these that do not count, in which a moving average finds its level, 0 or above.
    """

    samples: int
    runs: int
    steps: int
    warm_up: int = 50


def expected_loss(alpha_EO: Tensor, codes_GE: Tensor, losses_G: Tensor) -> Tensor:
    """J = sum_z p(z) L(z) over all genotypes, a scalar, differentiable in alpha.

    Args:
        alpha_EO: architecture parameters.
        codes_GE: every genotype once, the chosen operation of each edge, int64.
        losses_G: L of each.
    """
    log_p_EO = functional.log_softmax(alpha_EO, dim=-1)
    log_p_G = log_p_EO.gather(1, codes_GE.T).sum(0)
    return (log_p_G.exp() * losses_G).sum()


def exact_gradient(alpha_EO: Tensor, codes_GE: Tensor, losses_G: Tensor) -> Tensor:
    """Gradient (E, O) of J by enumeration; arguments as for `expected_loss`."""
    leaf = alpha_EO.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_loss(leaf, codes_GE, losses_G), leaf)
    return gradient


def reparametrised(loss_of: LossOf, temperature: float) -> Estimator:
    """SNAS' estimator: the gradient of L(Z) through a concrete sample Z at a temperature above 0."""

    def estimate(alpha_EO: Tensor, generator: torch.Generator) -> Tensor:
        leaf = alpha_EO.detach().requires_grad_()
        noise = gumbel_noise(leaf.shape, generator, like=leaf.detach())
        log_z = concrete_log_sample(functional.log_softmax(leaf, dim=-1), temperature, noise)
        (gradient,) = torch.autograd.grad(loss_of(log_z.exp()), leaf)
        return gradient

    return estimate


def score_function(loss_of: LossOf, temperature: float | None = None) -> Estimator:
    """REINFORCE: `grad log q(z) (L(z) - b)` with the moving average b of the losses before, at first L itself.

    Args:
        loss_of: needs no gradient.
        temperature: of the concrete distribution from which z comes, above 0; default: one-hot z from softmax(alpha).
    """
    baseline: list[float] = []

    def estimate(alpha_EO: Tensor, generator: torch.Generator) -> Tensor:
        leaf = alpha_EO.detach().requires_grad_()
        log_p = functional.log_softmax(leaf, dim=-1)
        if temperature is None:
            chosen_E = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
            z, log_q = functional.one_hot(chosen_E.squeeze(1), leaf.shape[1]).to(leaf.dtype), log_p.gather(1, chosen_E)
        else:
            noise = gumbel_noise(leaf.shape, generator, like=leaf.detach())
            log_z = concrete_log_sample(log_p.detach(), temperature, noise)
            z, log_q = log_z.exp(), concrete_log_density(log_z, log_p, temperature)
        with torch.no_grad():
            loss = loss_of(z).item()
        level = baseline.pop() if baseline else loss
        baseline.append(_BASELINE_MOMENTUM * level + (1 - _BASELINE_MOMENTUM) * loss)
        (gradient,) = torch.autograd.grad((loss - level) * log_q.sum(), leaf)
        return gradient

    return estimate


def measure(
    make: Callable[[], Estimator],
    alpha_EO: Tensor,
    codes_GE: Tensor,
    losses_G: Tensor,
    *,
    effort: Effort,
    optimiser: AlphaOptions,
    generator: torch.Generator,
) -> GradientQuality:
    """Hold an estimator against the exact gradient at one alpha, and let it descend from there.

    Args:
        make: a fresh estimator, with a baseline of its own, for the estimates at alpha and for each descent.
        alpha_EO: where.
        codes_GE: as for `expected_loss`.
        losses_G: likewise.
        effort: how much is measured.
        optimiser: Adam's options in the descents.
        generator: source of all samples.
    """
    exact = exact_gradient(alpha_EO, codes_GE, losses_G).flatten()
    estimator = make()
    for _ in range(effort.warm_up):
        estimator(alpha_EO, generator)
    estimates = torch.stack([estimator(alpha_EO, generator).flatten() for _ in range(effort.samples)])
    variance = estimates.var(0).sum().item()
    descents = [
        descent(make(), alpha_EO, codes_GE, losses_G, steps=effort.steps, optimiser=optimiser, generator=generator)
        for _ in range(effort.runs)
    ]
    return GradientQuality(
        variance=variance,
        relative_variance=variance / exact.square().sum().item(),
        cosine=functional.cosine_similarity(estimates, exact.unsqueeze(0)).mean().item(),
        cosine_of_mean=functional.cosine_similarity(estimates.mean(0), exact, dim=0).item(),
        losses=tuple(fmean(losses) for losses in zip(*descents, strict=True)),
    )


def descent(
    estimator: Estimator,
    alpha_EO: Tensor,
    codes_GE: Tensor,
    losses_G: Tensor,
    *,
    steps: int,
    optimiser: AlphaOptions,
    generator: torch.Generator,
) -> list[float]:
    """J before the first step of Adam along the estimates and after each; arguments as for `measure`."""
    alpha = nn.Parameter(alpha_EO.clone())
    adam = Adam([alpha], optimiser.lr, betas=optimiser.betas, weight_decay=optimiser.weight_decay)
    losses = [expected_loss(alpha.detach(), codes_GE, losses_G).item()]
    for _ in range(steps):
        alpha.grad = estimator(alpha.detach(), generator)
        adam.step()
        losses.append(expected_loss(alpha.detach(), codes_GE, losses_G).item())
    return losses
