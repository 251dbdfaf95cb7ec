from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, RelaxedOneHotCategorical

from search_core.strategies.relaxations import concrete_log_density, concrete_log_sample, entropy, gumbel_noise
from tests.search_core.tiny import seeded

KS = [2, 3, 8]
TEMPERATURES = [0.1, 0.5, 1.0, 2.0]


def log_probabilities(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed)).log_softmax(-1)


def sample(log_p: Tensor, temperature: float, seed: int = 1) -> Tensor:
    return concrete_log_sample(log_p, temperature, gumbel_noise(log_p.shape, seeded(seed), like=log_p))


# Noise


def test_gumbel_noise_has_the_moments_and_the_distribution_of_gumbel() -> None:
    num = 1_000_000
    noise = gumbel_noise(torch.Size([num]), seeded(), like=torch.empty(0, dtype=torch.float64))
    # Mean is Euler's constant, variance pi^2 / 6, excess kurtosis 12 / 5; four standard errors.
    variance = math.pi**2 / 6
    assert abs(noise.mean().item() - 0.5772156649) < 4 * math.sqrt(variance / num)
    assert abs(noise.var().item() - variance) < 4 * variance * math.sqrt((2 + 12 / 5) / num)
    # Kolmogorov-Smirnov against exp(-exp(-x)), at a significance of 0.001.
    cdf = torch.exp(-torch.exp(-noise.sort().values))
    assert (cdf - (torch.arange(num) + 0.5) / num).abs().max() < 1.95 / math.sqrt(num)


def test_gumbel_noise_is_finite_and_of_the_asked_type_and_shape() -> None:
    noise = gumbel_noise(torch.Size([1000, 1000]), seeded(), like=torch.empty(0, dtype=torch.float32))
    assert (noise.dtype, noise.shape) == (torch.float32, (1000, 1000))
    assert noise.isfinite().all()


def test_gumbel_noise_follows_its_generator() -> None:
    shape, like = torch.Size([4, 3]), torch.empty(0)
    assert torch.equal(gumbel_noise(shape, seeded(1), like=like), gumbel_noise(shape, seeded(1), like=like))
    assert not torch.equal(gumbel_noise(shape, seeded(1), like=like), gumbel_noise(shape, seeded(2), like=like))


# Sample


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("num_ops", KS)
def test_sample_equals_the_formula_and_sums_to_1(num_ops: int, temperature: float) -> None:
    log_p = log_probabilities(5, num_ops)
    noise = gumbel_noise(log_p.shape, seeded(1), like=log_p)
    z = concrete_log_sample(log_p, temperature, noise).exp()
    torch.testing.assert_close(z.sum(-1), torch.ones(5, dtype=torch.float64))
    for edge in range(5):
        powers = [math.exp((log_p[edge, op].item() + noise[edge, op].item()) / temperature) for op in range(num_ops)]
        expected = torch.tensor([power / sum(powers) for power in powers], dtype=torch.float64)
        torch.testing.assert_close(z[edge], expected)


def test_sample_of_low_temperature_is_one_hot_at_the_largest_perturbed_probability() -> None:
    log_p = log_probabilities(200, 8)
    noise = gumbel_noise(log_p.shape, seeded(1), like=log_p)
    z = concrete_log_sample(log_p, 1e-7, noise).exp()
    expected = torch.nn.functional.one_hot((log_p + noise).argmax(-1), 8).double()
    # Two of 1600 perturbed values would have to agree to about 1e-6 to be seen here.
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-3)


def test_sample_of_high_temperature_is_uniform() -> None:
    z = sample(log_probabilities(20, 4), 1e6).exp()
    torch.testing.assert_close(z, torch.full_like(z, 0.25), rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_sample_prefers_operations_as_often_as_they_are_probable(temperature: float) -> None:
    num, p = 200_000, torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    choices = sample(p.log().expand(num, 4), temperature).argmax(-1)
    observed = torch.bincount(choices, minlength=4)
    chi_square = ((observed - num * p) ** 2 / (num * p)).sum().item()
    assert chi_square < 16.27  # 0.999 quantile with 3 degrees of freedom


def test_sample_and_its_gradient_stay_finite_at_the_end_of_a_search() -> None:
    """float32, lambda = 0.03 and an architecture that has all but decided."""
    alpha = torch.tensor([[40.0, 0.0, -40.0], [0.0, 0.0, 0.0]], requires_grad=True)
    log_z = sample(alpha.log_softmax(-1), 0.03)
    assert log_z.isfinite().all()
    torch.autograd.backward(log_z.exp().square().sum())
    assert alpha.grad is not None
    assert alpha.grad.isfinite().all()


# Density


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("num_ops", KS)
def test_density_equals_that_of_torch(num_ops: int, temperature: float) -> None:
    log_p = log_probabilities(50, num_ops)
    log_z = sample(log_p, temperature)
    reference = RelaxedOneHotCategorical(
        torch.tensor(temperature, dtype=torch.float64), logits=log_p, validate_args=False
    )
    density = concrete_log_density(log_z, log_p, temperature)
    assert density.shape == (50,)
    # At lambda = 0.1 z comes down to 1e-100 and torch takes its logarithm again: 1e-9 of values up to 1e3.
    torch.testing.assert_close(density, reference.log_prob(log_z.exp()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_density_integrates_to_1(temperature: float) -> None:
    # K = 2, z = sigmoid(t): dz = z (1 - z) dt; the integrand falls at least as exp(-lambda |t|).
    t = torch.linspace(-400, 400, 400_001, dtype=torch.float64)
    log_z = torch.stack([torch.nn.functional.logsigmoid(t), torch.nn.functional.logsigmoid(-t)], -1)
    log_p = torch.tensor([0.3, 0.7], dtype=torch.float64).log().expand_as(log_z)
    density = (concrete_log_density(log_z, log_p, temperature) + log_z.sum(-1)).exp()
    assert torch.trapezoid(density, t).item() == pytest.approx(1, abs=1e-9)


def test_density_is_differentiable_in_the_probabilities() -> None:
    alpha = torch.randn(3, 4, dtype=torch.float64, generator=seeded(), requires_grad=True)
    log_z = sample(alpha.detach().log_softmax(-1), 0.7)
    assert torch.autograd.gradcheck(lambda a: concrete_log_density(log_z, a.log_softmax(-1), 0.7), alpha)


# Entropy


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([1.0, 0.0, 0.0, 0.0], 0.0), ([0.25] * 4, math.log(4)), ([0.5, 0.5, 0.0, 0.0], math.log(2))],
)
def test_entropy_of_known_distributions(probabilities: list[float], expected: float) -> None:
    assert entropy(torch.tensor(probabilities, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-12)


def test_entropy_is_per_edge() -> None:
    p = log_probabilities(2, 5, 8).exp()
    assert entropy(p).shape == (2, 5)
    torch.testing.assert_close(entropy(p), Categorical(p).entropy())
