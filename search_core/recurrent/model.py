"""A language model of one recurrent cell, whose weights are those of the searchable cell and of all its children.

Each node has one product for all that it may read (DARTS appendix A.1.2), so an architecture decides how states flow
through the weights, not which there are. Shape suffixes: T time steps, B columns, H values of a state, V words, S
states so far, E pairs of node and state, O activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.randomness import seeded_weights
from search_core.recurrent.options import DropoutOptions
from search_core.space.recurrent import ACTIVATIONS, RecurrentGenotype

#: Weights are drawn uniformly up to this (the authors' code).
_INITIAL = 0.04

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda h: h,
}

#: What a cell computes: weights Z (E, O) of a searchable cell, its rows by node and then state, or a genotype.
Architecture = Tensor | RecurrentGenotype


@dataclass(frozen=True)
class Masks:
    """Variational dropout of one window, each a tensor to multiply with, or 1 where nothing is dropped.

    Attributes:
        words: (V, 1).
        embedding: (B, H).
        input: (B, H).
        hidden: (B, H).
        output: (B, H).
    """

    words: Tensor | float = 1.0
    embedding: Tensor | float = 1.0
    input: Tensor | float = 1.0
    hidden: Tensor | float = 1.0
    output: Tensor | float = 1.0


#: No dropout.
UNMASKED = Masks()


class LanguageModel(nn.Module):
    """Embedding, recurrent cell, and a decoder that shares the embedding's weights.

    Args:
        vocabulary: V.
        hidden: H.
        nodes: of the cell.
        batch_norm: normalise every state over the columns, without parameters, and always by the columns at hand: with
            running statistics a state that no activation bounds grows from step to step.
        seed: of the initial weights.
    """

    def __init__(self, vocabulary: int, hidden: int, nodes: int, *, batch_norm: bool = False, seed: int = 0) -> None:
        super().__init__()
        with seeded_weights(seed):
            self.embedding = _uniform(vocabulary, hidden)
            self.first = _uniform(2 * hidden, 2 * hidden)
            self.products = nn.ParameterList(_uniform(hidden, 2 * hidden) for _ in range(nodes))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self._batch_norm = batch_norm

    def start(self, batch: int) -> Tensor:
        """The hidden state (B, H) before the first word: zeros."""
        return self.embedding.new_zeros(batch, self.embedding.shape[1])

    def masks(self, batch: int, dropout: DropoutOptions, generator: torch.Generator) -> Masks:
        """Draw the dropout of one window.

        Args:
            batch: B.
            dropout: probabilities.
            generator: source of the masks, on the model's device.
        """
        vocabulary, hidden = self.embedding.shape

        def draw(probability: float, *shape: int) -> Tensor | float:
            if probability == 0:
                return 1.0
            kept = self.embedding.new_empty(shape).bernoulli_(1 - probability, generator=generator)
            return kept / (1 - probability)

        values = {name: draw(p, batch, hidden) for name, p in vars(dropout).items() if name != "words"}
        return Masks(words=draw(dropout.words, vocabulary, 1), **values)

    def forward(
        self, words_TB: Tensor, hidden_BH: Tensor, architecture: Architecture, masks: Masks = UNMASKED
    ) -> tuple[Tensor, Tensor]:
        """Logits (T, B, V) of the next words, and the cell's outputs (T, B, H), of which the last is the new state.

        Args:
            words_TB: int64.
            hidden_BH: the state before the first of them.
            architecture: of the cell.
            masks: dropout; default: none.
        """
        hidden = hidden_BH.shape[1]
        x_TBH = functional.embedding(words_TB, self.embedding * masks.words) * masks.embedding * masks.input
        outputs = []
        for from_input in (x_TBH @ self.first[:hidden]).unbind():
            hidden_BH = self._cell(from_input, hidden_BH, architecture, masks.hidden)
            outputs.append(hidden_BH)
        outputs_TBH = torch.stack(outputs)
        return functional.linear(outputs_TBH * masks.output, self.embedding, self.bias), outputs_TBH

    def _cell(self, from_input: Tensor, hidden_BH: Tensor, architecture: Architecture, mask: Tensor | float) -> Tensor:
        """One time step: the mean of the nodes that the architecture sends to the output.

        A node of a searchable cell is `sum_j,k Z_jk (s_j + c_j (f_k(h_j) - s_j))`, its highways over all before it.
        """
        product = from_input + (hidden_BH * mask) @ self.first[hidden_BH.shape[1] :]
        states = [self._normalised(_highway(hidden_BH, product, torch.tanh))]
        if isinstance(architecture, RecurrentGenotype):
            for (name, source), weights in zip(architecture.recurrent, self.products, strict=True):
                product = (states[source] * mask) @ weights
                states.append(self._normalised(_highway(states[source], product, _FUNCTIONS[name])))
            return torch.stack([states[node] for node in architecture.concat]).mean(0)
        row = 0
        for weights in self.products:
            z_SO = architecture[row : row + len(states)]
            row += len(states)
            states_SBH = torch.stack(states)
            gate, h = ((states_SBH * mask) @ weights).chunk(2, -1)
            gate = gate.sigmoid()
            active = sum(
                z_S[:, None, None] * _FUNCTIONS[name](h) for z_S, name in zip(z_SO.unbind(1), ACTIVATIONS, strict=True)
            )
            mixed = z_SO.sum(1)[:, None, None] * (1 - gate) * states_SBH + gate * active
            states.append(self._normalised(mixed.sum(0)))
        return torch.stack(states[1:]).mean(0)

    def _normalised(self, state_BH: Tensor) -> Tensor:
        return functional.batch_norm(state_BH, None, None, training=True) if self._batch_norm else state_BH


def _highway(state_BH: Tensor, product: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`s + sigmoid(c) (f(h) - s)` with c and h the halves of a product (DARTS section 3.1.2)."""
    gate, h = product.chunk(2, -1)
    return state_BH + gate.sigmoid() * (function(h) - state_BH)


def _uniform(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, columns).uniform_(-_INITIAL, _INITIAL))
