from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from search_core.training.optimisers import SGD, Adam

#: A search of digits, and what it imported.
_SEARCH = """
import sys
from search_core.data.dataset_options import DatasetOptions
from search_core.search.search import Search
from tests.search_core.tiny import images_of, tiny_options

options = tiny_options(dataset=DatasetOptions(name="digits", train_images=128, validation_images=64))
Search(options, images_of(options.dataset)).run_epoch()
print(*{name.partition(".")[0] if name != "torch._dynamo" else name for name in sys.modules})
"""


@pytest.mark.slow
def test_training_imports_neither_a_compiler_nor_scikit_learn() -> None:
    """They take 6 CPU seconds of every trial."""
    done = subprocess.run([sys.executable, "-c", _SEARCH], capture_output=True, text=True, check=True)
    assert {"torch", "numpy"} <= set(done.stdout.split())
    assert not {"torch._dynamo", "sklearn", "pandas"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 3e-4}),
        (Adam, torch.optim.Adam, {"betas": (0.5, 0.999), "weight_decay": 1e-3}),
    ],
)
def test_steps_are_those_of_pytorch(ours: type, theirs: type, settings: dict[str, object]) -> None:
    found = []
    for kind in (ours, theirs):
        weight = torch.linspace(-1, 1, 8).requires_grad_()
        optimiser = kind([weight], lr=0.1, foreach=True, **settings)
        for step in range(4):
            optimiser.zero_grad()
            (weight**3).sum().backward()
            optimiser.step()
            if step == 1:  # also as a checkpoint brings it back
                state, optimiser = optimiser.state_dict(), kind([weight], lr=0.5, foreach=True, **settings)
                optimiser.load_state_dict(state)
        assert weight.grad is not None
        found.append(weight.detach().clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("settings", [{"momentum": 0.9, "weight_decay": 3e-4}, {"momentum": 0.0, "weight_decay": 0.0}])
def test_a_rate_on_the_device_makes_the_same_steps_but_for_rounding(settings: dict[str, float]) -> None:
    found = []
    for on_device in (False, True):
        weight, unused = torch.linspace(-1, 1, 8, dtype=torch.float64).requires_grad_(), torch.ones(2).requires_grad_()
        optimiser = SGD([weight, unused], lr=0.1, foreach=True, **settings)
        for rate in (0.1, 0.02, 0.3):
            optimiser.zero_grad()
            (weight**3).sum().backward()
            optimiser.param_groups[0]["lr"] = rate
            optimiser.step_by(torch.tensor(rate, dtype=torch.float64)) if on_device else optimiser.step()
        assert unused.tolist() == [1, 1]
        found.append(weight.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
