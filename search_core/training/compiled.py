"""A training pass through PyTorch's compiler, or as it is where the compiler cannot."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.errors import is_out_of_gpu_memory

#: Logits of both classifiers for images, a drop path probability and the source of its randomness.
TrainingPass = Callable[[Tensor, float, torch.Generator], tuple[Tensor, Tensor | None]]


def compiled(
    network: nn.Module, images: Tensor, labels: Tensor, drop_paths: Sequence[float], generator: torch.Generator
) -> TrainingPass:
    """A training pass compiled and tried on a batch; the pass as it is, and a warning, if that fails.

    It may fail for want of a C compiler on this machine. Weights, statistics and the generator are left as they are.

    Args:
        network: the pass, a module in training mode.
        images: of a batch, like those to come.
        labels: of that batch.
        drop_paths: probabilities of drop path to try.
        generator: source of drop path's randomness.

    Raises:
        RuntimeError: `is_out_of_gpu_memory`, if the batch does not fit on the GPU.
    """
    before = copy.deepcopy(dict(network.named_buffers()))
    try:
        passes: TrainingPass = torch.compile(network)
        for probability in drop_paths:
            all_logits = passes(images, probability, generator.clone_state())
            losses = [functional.cross_entropy(logits, labels) for logits in all_logits if logits is not None]
            torch.stack(losses).sum().backward()
    except Exception as error:  # a compiler raises errors of many kinds, its own and those of what it calls
        if is_out_of_gpu_memory(error):
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        warnings.warn(f"training without torch.compile, which failed here: {reason}", stacklevel=2)
        passes = network
    finally:
        network.zero_grad()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
    return passes
