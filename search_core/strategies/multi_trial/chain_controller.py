"""The controller of chains of layers (Zoph and Le, ICLR 2017, sections 3.1 to 3.3).

Shape suffixes: N sequences, S earlier layers, T decisions, O options, H units of a layer of the LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.randomness import seeded_weights
from search_core.space.chain_space import ChainSpace
from search_core.strategies.controller import ABSENT, Controller, Rollout, choose, initialise
from search_core.strategies.controller_options import ControllerOptions

_LSTM_LAYERS = 2


@dataclass
class _Walk:
    """Where the controller is: what it reads next, its LSTM's states, what it has decided so far."""

    codes_NT: Tensor | None
    noise: Tensor | None
    read_NH: Tensor
    states: list[tuple[Tensor, Tensor]] | None = None
    decisions: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # choice (N,) and log probabilities (N, O)


class ChainController(Controller):
    """An LSTM of two layers that emits a chain layer by layer: which earlier layers it reads, then its filters.

    Layer i reads each earlier layer j with probability `sigmoid(v . tanh(W_prev h_j + W_curr h_i))`, where h is the
    LSTM's state at the layer's anchor. After an anchor the LSTM reads the sum of the chosen layers' h over 1 + their
    number, as in ENAS' published code, otherwise the embedding of the decision before. Decisions of one kind (height,
    width, strides, number of filters) share a softmax and an embedding in all layers, so that layers which are added
    while the search runs do not begin from nothing.

    Args:
        options: the LSTM and the scale of its logits.
        space: the chains.
        seed: seed of the initial parameters.

    Attributes:
        depth: layers of the chains that it emits, at most those of the space; may be changed at any time.
    """

    def __init__(self, options: ControllerOptions, space: ChainSpace, *, seed: int) -> None:
        most, hidden = max(2, *space.layer_options), options.hidden
        super().__init__(options, space.num_choices, most, noise_width=most)
        self._space, self.depth = space, space.depth
        with seeded_weights(seed):
            self.start = nn.Parameter(torch.empty(hidden))
            self.lstm = nn.ModuleList(nn.LSTMCell(hidden, hidden) for _ in range(_LSTM_LAYERS))
            self.previous = nn.Linear(hidden, hidden, bias=False)
            self.current = nn.Linear(hidden, hidden, bias=False)
            self.attention = nn.Linear(hidden, 1, bias=False)
            self.softmaxes = nn.ModuleList(nn.Linear(hidden, number) for number in space.layer_options)
            self.embeddings = nn.ModuleList(nn.Embedding(number, hidden) for number in space.layer_options)
            initialise(self, options.init)

    def _unroll(self, num: int, codes_NT: Tensor | None, noise: Tensor | None) -> Rollout:
        walk = _Walk(codes_NT, noise, self.start.expand(num, -1))
        anchors_NSH = self.start.new_empty(num, 0, self.options.hidden)
        for _ in range(self.depth if codes_NT is None else self._space.depth_of(codes_NT.shape[1])):
            anchor_NH = self._step(walk)
            chosen_NS = self._decide_inputs(walk, anchors_NSH, anchor_NH)
            walk.read_NH = (chosen_NS.unsqueeze(-1) * anchors_NSH).sum(1) / (1 + chosen_NS.sum(1, keepdim=True))
            anchors_NSH = torch.cat([anchors_NSH, anchor_NH.unsqueeze(1)], 1)
            for softmax, embedding in zip(self.softmaxes, self.embeddings, strict=True):
                choice_N = self._decide(walk, self.options.scaled(softmax(self._step(walk))))
                walk.read_NH = embedding(choice_N)
        chosen_NT, log_NTO = (torch.stack(parts, 1) for parts in zip(*walk.decisions, strict=True))
        codes_NT = chosen_NT if codes_NT is None else codes_NT
        is_there_NT = codes_NT != ABSENT
        return Rollout(
            codes=codes_NT,
            log_probs=log_NTO.gather(-1, chosen_NT.unsqueeze(-1)).squeeze(-1) * is_there_NT,
            entropies=-(log_NTO.exp() * log_NTO.clamp_min(torch.finfo(log_NTO.dtype).min)).sum(-1) * is_there_NT,
            probabilities=log_NTO.exp(),
        )

    def _step(self, walk: _Walk) -> Tensor:
        """One step of the LSTM; the state (N, H) of its last layer."""
        states, x_NH = [], walk.read_NH
        before = [None] * _LSTM_LAYERS if walk.states is None else walk.states
        for cell, state in zip(self.lstm, before, strict=True):
            states.append(cell(x_NH, state))
            x_NH = states[-1][0]
        walk.states = states
        return x_NH

    def _decide_inputs(self, walk: _Walk, anchors_NSH: Tensor, anchor_NH: Tensor) -> Tensor:
        """Which earlier layers the next one reads, by the states at their anchors: 0 or 1, (N, S)."""
        mixed_NSH = torch.tanh(self.previous(anchors_NSH) + self.current(anchor_NH).unsqueeze(1))
        logits_NS = self.options.scaled(self.attention(mixed_NSH).squeeze(-1))
        # A sigmoid is a softmax over this logit and 0.
        pairs = [torch.stack([torch.zeros_like(logit_N), logit_N], 1) for logit_N in logits_NS.unbind(1)]
        chosen = [self._decide(walk, logits_N2) for logits_N2 in pairs]
        return torch.stack(chosen, 1).to(anchors_NSH) if chosen else anchors_NSH.new_zeros(len(anchors_NSH), 0)

    def _decide(self, walk: _Walk, logits_NO: Tensor) -> Tensor:
        """Choose among as many options as there are logits; 0 where the sequence does not have the decision."""
        choice_N = choose(logits_NO, len(walk.decisions), walk.codes_NT, walk.noise).clamp_min(0)
        missing = self.num_choices - logits_NO.shape[1]
        walk.decisions.append((choice_N, functional.pad(logits_NO.log_softmax(-1), (0, missing), value=-torch.inf)))
        return choice_N
