"""Seeded randomness: initial weights, and one generator a stream, whose states go into checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from search_core.errors import StateError


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Draw the initial weights of modules made inside from `seed`, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed every GPU too
        yield


def make_generators(seed: int, streams: Sequence[str], device: torch.device) -> dict[str, torch.Generator]:
    """One generator per named stream on `device`, independent of each other and of those of other seeds.

    Sums of seed and position would not do: stream 1 of seed 0 would be stream 0 of seed 1.
    """
    return {
        name: torch.Generator(device).manual_seed(int(np.random.SeedSequence([seed, position]).generate_state(1)[0]))
        for position, name in enumerate(streams)
    }


def generator_states(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """State of each generator by its stream."""
    return {name: generator.get_state() for name, generator in generators.items()}


def check_states(generators: Mapping[str, torch.Generator], states: Mapping[str, Tensor]) -> None:
    """Check that `restore_generators` can take these states.

    Raises:
        StateError: if they come from another kind of device, whose random numbers are others.
    """
    for name, generator in generators.items():
        if len(states[name]) != len(generator.get_state()):
            here = generator.device.type
            there = "the CPU" if here == "cuda" else "a GPU"
            raise StateError(
                f"the state must come from a run on {here}, as its random numbers do, got one from {there}"
            )


def restore_generators(generators: Mapping[str, torch.Generator], states: Mapping[str, Tensor]) -> None:
    """Resume each stream where `generator_states` found it."""
    for name, generator in generators.items():
        generator.set_state(states[name].cpu())
