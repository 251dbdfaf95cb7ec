"""What searches and retrainings of language models have in common: the loss of a window, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from search_core.errors import NonFiniteLossError
from search_core.recurrent.model import UNMASKED, Architecture, LanguageModel, Masks
from search_core.recurrent.text import Window, columns, windows


def window_loss(
    model: LanguageModel, window: Window, hidden_BH: Tensor, architecture: Architecture, masks: Masks = UNMASKED
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy (nats a word) of a window, and the cell's outputs (T, B, H); arguments as of the model."""
    words, following = window
    logits, outputs = model(words, hidden_BH, architecture, masks)
    return functional.cross_entropy(logits.flatten(0, 1), following.flatten()), outputs


def slowness(outputs_TBH: Tensor) -> Tensor:
    """Mean square change of the outputs from one time step to the next; 0 for a single one."""
    changes = outputs_TBH[1:] - outputs_TBH[:-1]
    return changes.square().sum() / max(changes.numel(), 1)


def text_loss(
    model: LanguageModel, text: Tensor, number: int, bptt: int, architecture: Callable[[], Architecture]
) -> float:
    """Mean cross entropy (nats a word) over a text, without dropout.

    The hidden state is carried from window to window. The first word of each column is not predicted.

    Args:
        model: is not changed.
        text: (N,).
        number: columns, fewer if the text is short.
        bptt: time steps a window.
        architecture: gives that of each window.

    Raises:
        NonFiniteLossError: if it is not finite.
    """
    columns_TB = columns(text, min(number, len(text) // 2))
    hidden_BH, losses = model.start(columns_TB.shape[1]), []
    with torch.no_grad():
        for window in windows(columns_TB, bptt):
            loss, outputs = window_loss(model, window, hidden_BH, architecture())
            hidden_BH = outputs[-1]
            losses.append(loss * len(window[0]))
    return finite(torch.stack(losses).sum().item() / (len(columns_TB) - 1), "the loss on a text")


def finite(loss: float, name: str) -> float:
    """The loss itself.

    Raises:
        NonFiniteLossError: if it is not finite, under the name given.
    """
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"{name} must stay finite, got {loss}; a lower `lr` may help")
    return loss


def perplexity(loss: float) -> float:
    """exp of a loss in nats a word; losses above 700, whose exp is no float, count as 700."""
    return math.exp(min(loss, 700.0))
