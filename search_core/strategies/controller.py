"""Controllers: recurrent networks that emit a genotype decision by decision, and so are distributions over codes.

Shape suffixes: N sequences, T decisions, O choices, H units of the LSTM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_core.randomness import seeded_weights
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import EdgeSpace
from search_core.space.frequencies import frequencies
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.strategies.controller_options import ControllerOptions
from search_core.strategies.relaxations import gumbel_noise

#: Choice of a decision that a shorter sequence does not have.
ABSENT = -1
#: Sequences over which `marginals` averages.
_MARGINAL_SAMPLES = 256
#: Logit of an option that is not there: finite, so that its probability of 0 has an entropy and a gradient of 0.
NEVER = -1e9


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Sequences and what the controller thinks of them, decision by decision.

    Attributes:
        codes: choices (N, T), int64; those that shorter sequences do not have are `ABSENT`.
        log_probs: log probability (N, T) of each choice after those before it.
        entropies: nats (N, T) of each decision after those before it; the mean over sampled sequences of their sum is
            the entropy of the whole distribution.
        probabilities: (N, T, O) of each decision after those before it; the mean over sampled sequences is the
            probability of each choice.
    """

    codes: Tensor
    log_probs: Tensor
    entropies: Tensor
    probabilities: Tensor

    @property
    def log_prob(self) -> Tensor:
        """Of whole sequences, (N,)."""
        return self.log_probs.sum(-1)

    def as_codes(self) -> list[Code]:
        """The sequences as codes."""
        return [tuple(choice for choice in choices if choice != ABSENT) for choices in self.codes.tolist()]


class Controller(nn.Module, ABC):
    """A distribution over codes, on the CPU: a decision costs microseconds, and each child's code is read there anyway.

    Args:
        options: the LSTM and the scale of its logits.
        num_decisions: length of a code, T.
        num_choices: most choices of a decision, O.
        noise_width: Gumbel variables by which a decision is drawn.
    """

    def __init__(self, options: ControllerOptions, num_decisions: int, num_choices: int, *, noise_width: int) -> None:
        super().__init__()
        self.options, self.num_decisions, self.num_choices = options, num_decisions, num_choices
        self._noise_width = noise_width

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator) -> Rollout:
        """Sequences drawn from the distribution.

        Args:
            num: how many, N.
            generator: source of the noise, on any device.
        """
        shape = torch.Size((num, self.num_decisions, self._noise_width))
        noise = gumbel_noise(shape, generator, like=torch.empty(0, device=generator.device))
        return self._unroll(num, None, noise.to(next(self.parameters())))

    def evaluate(self, codes_NT: Tensor) -> Rollout:
        """Given sequences in one batched pass, differentiable in the parameters."""
        return self._unroll(len(codes_NT), codes_NT, None)

    def marginals(self) -> Tensor:
        """Probability (T, O) of each choice: mean of the conditional ones over 256 sequences.

        They are drawn with the same noise in every call, so that equal parameters give equal numbers.
        """
        return self._typical().probabilities.mean(0)

    def shares(self, space: GenotypeSpace) -> dict[CellType, Tensor]:
        """Probability (E, O) of each operation on each edge per cell type, by the same sequences.

        Args:
            space: whose codes the controller emits.
        """
        if isinstance(space, EdgeSpace):  # a choice is an edge
            return dict(zip(CELL_TYPES, self.marginals().split(len(space.edges)), strict=True))
        return frequencies(self._typical().as_codes(), space, torch.device("cpu"))

    def _typical(self) -> Rollout:
        return self.sample(_MARGINAL_SAMPLES, torch.Generator().manual_seed(0))

    @abstractmethod
    def _unroll(self, num: int, codes_NT: Tensor | None, noise: Tensor | None) -> Rollout:
        """Run the network over all decisions, for given codes or, without any, for those that the noise chooses."""


class SequenceController(Controller):
    """LSTM whose input is the embedding of the decision before (NASNet appendix A.1; ENAS section 2.1).

    Every decision has a softmax and an embedding of its own.

    Args:
        options: the LSTM and the scale of its logits.
        num_choices: choices of each of the T decisions; O is the most.
        seed: seed of the initial parameters.
    """

    def __init__(self, options: ControllerOptions, num_choices: Sequence[int], *, seed: int) -> None:
        num_decisions, most = len(num_choices), max(num_choices)
        super().__init__(options, num_decisions, most, noise_width=most)
        self._missing_TO = torch.arange(most) >= torch.tensor(num_choices).unsqueeze(1)
        with seeded_weights(seed):
            self.start = nn.Parameter(torch.empty(options.hidden))
            self.lstm = nn.LSTMCell(options.hidden, options.hidden)
            self.embeddings = nn.Parameter(torch.empty(num_decisions, most, options.hidden))
            self.weights = nn.Parameter(torch.empty(num_decisions, options.hidden, most))
            self.biases = nn.Parameter(torch.empty(num_decisions, most))
            initialise(self, options.init)

    def _unroll(self, num: int, codes_NT: Tensor | None, noise: Tensor | None) -> Rollout:
        input_NH, state = self.start.expand(num, -1), None
        codes, log_probabilities = [], []
        for step in range(self.num_decisions):
            state = self.lstm(input_NH, state)
            logits_NO = self.options.scaled(state[0] @ self.weights[step] + self.biases[step])
            logits_NO = logits_NO.masked_fill(self._missing_TO[step], NEVER)
            codes.append(choose(logits_NO, step, codes_NT, noise))
            log_probabilities.append(logits_NO.log_softmax(-1))
            input_NH = self.embeddings[step][codes[-1]]
        chosen_NT, log_NTO = torch.stack(codes, 1), torch.stack(log_probabilities, 1)
        return Rollout(
            codes=chosen_NT,
            log_probs=log_NTO.gather(-1, chosen_NT.unsqueeze(-1)).squeeze(-1),
            entropies=-(log_NTO.exp() * log_NTO).sum(-1),
            probabilities=log_NTO.exp(),
        )


def initialise(module: nn.Module, bound: float) -> None:
    """Draw all parameters uniformly from [-`bound`, `bound`] (ENAS section 3.1: 0.1), by the global random state."""
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)


def choose(logits_NO: Tensor, step: int, codes_NT: Tensor | None, noise: Tensor | None) -> Tensor:
    """Choice (N,) of one decision: the given one, else the argmax of logits and Gumbel noise, which samples exactly.

    Args:
        logits_NO: of this decision.
        step: its position.
        codes_NT: given sequences; None to sample.
        noise: (N, T, at least O), needed to sample.
    """
    if codes_NT is not None:
        return codes_NT[:, step]
    assert noise is not None, "sampling needs noise"
    return (logits_NO + noise[:, step, : logits_NO.shape[-1]]).argmax(-1)
