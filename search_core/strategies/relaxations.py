"""The concrete distribution in log space (Maddison et al., ICLR 2017; Jang et al., ICLR 2017; SNAS section 3.1).

Shape suffixes: E edges (any leading shape works), O operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def gumbel_noise(shape: torch.Size, generator: torch.Generator, *, like: Tensor) -> Tensor:
    """Standard Gumbel noise -log(-log U) with U ~ Uniform(0, 1), of the device and type of `like`.

    -log U is drawn as a standard exponential variable, which is never 0 or infinite.
    """
    exponential = torch.empty(shape, dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return -exponential.log()


def concrete_log_sample(log_probabilities_EO: Tensor, temperature: float | Tensor, noise_EO: Tensor) -> Tensor:
    """Logarithm of a concrete sample: log Z = log_softmax((log p + G) / lambda) (SNAS equation 6).

    Differentiable in the probabilities; `exp` of it is the sample Z, whose entries sum to 1 over operations.

    Args:
        log_probabilities_EO: log p, shape (..., O).
        temperature: lambda, above 0; a scalar if a tensor.
        noise_EO: Gumbel noise G of the same shape.
    """
    return functional.log_softmax((log_probabilities_EO + noise_EO) / temperature, dim=-1)


def concrete_log_density(log_z_EO: Tensor, log_probabilities_EO: Tensor, temperature: float | Tensor) -> Tensor:
    """Log density of the concrete distribution at z (Maddison et al., equation 10), K operations:

    `log (K-1)! + (K-1) log lambda + sum_k (log p_k - (lambda+1) log z_k) - K log sum_k p_k z_k^(-lambda)`.

    Args:
        log_z_EO: log z, shape (..., O).
        log_probabilities_EO: log p, shape (..., O).
        temperature: lambda, above 0; a scalar if a tensor.

    Returns:
        Log densities of shape (...).
    """
    num_operations = log_z_EO.shape[-1]
    log_temperature = temperature.log() if isinstance(temperature, Tensor) else math.log(temperature)
    constant = math.lgamma(num_operations) + (num_operations - 1) * log_temperature
    sums_E = (log_probabilities_EO - (temperature + 1) * log_z_EO).sum(-1)
    return constant + sums_E - num_operations * torch.logsumexp(log_probabilities_EO - temperature * log_z_EO, dim=-1)


def entropy(probabilities_EO: Tensor) -> Tensor:
    """Entropy in nats of each edge's categorical distribution, shape (...); 0 log 0 counts as 0."""
    per_operation: Tensor = torch.special.entr(probabilities_EO)
    return per_operation.sum(-1)
