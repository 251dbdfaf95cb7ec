"""Neural architecture search with reinforcement learning (Zoph and Le, ICLR 2017).

Shape suffixes: N sequences, S earlier nodes, T edges of both cells, O operations, H units of the LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.cost.constraints import ChildLimits
from search_core.randomness import seeded_weights
from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import EdgeSpace
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.strategies.controller import NEVER, Controller, Rollout, SequenceController, choose, initialise
from search_core.strategies.controller_options import ControllerOptions
from search_core.strategies.multi_trial.chain_controller import ChainController
from search_core.strategies.multi_trial.options import RlNasOptions
from search_core.strategies.multi_trial.policy_proposer import PolicyProposer
from search_core.strategies.policy_gradient import Reinforce


class _Decision(NamedTuple):
    """One edge of N sequences: fields as in `Rollout`, without T."""

    code_N: Tensor
    log_prob_N: Tensor
    entropy_N: Tensor
    probabilities_NO: Tensor


@dataclass
class _Walk:
    """Where an `AnchorController` is: what it reads next, its LSTM's state, what it has decided so far."""

    codes_NT: Tensor | None
    noise: Tensor | None
    read_NH: Tensor
    state: tuple[Tensor, Tensor] | None = None
    decisions: list[_Decision] = field(default_factory=list)


class AnchorController(Controller):
    """An LSTM that emits a cell node by node: first which edges the node has, then an operation for each of them.

    At the anchor of node j the edge from every earlier node i exists with probability
    `sigmoid(v . tanh(W_prev h_i + W_curr h_j))`, where h is the LSTM's state at a node's anchor (Zoph and Le, section
    3.3); the input nodes have an anchor too, which decides nothing. After an anchor the LSTM reads the sum of the
    chosen nodes' h over 1 + their number, as in ENAS' published code, otherwise the embedding of the decision before.

    Only an edge that exists has an operation; in the code the others are `none`. Without `none` among the primitives
    all edges exist, and only operations are chosen.

    Args:
        options: the LSTM and the scale of its logits.
        space: the genotypes.
        seed: seed of the initial parameters.
    """

    def __init__(self, options: ControllerOptions, space: EdgeSpace, *, seed: int) -> None:
        names, hidden = space.primitives, options.hidden
        super().__init__(options, space.num_choices, len(names), noise_width=len(names) + 2)
        self._num_nodes = 1 + max(target for _, target in space.edges)
        self._none = names.index("none") if "none" in names else None
        with seeded_weights(seed):
            self.start = nn.Parameter(torch.empty(len(CELL_TYPES), hidden))  # read until a cell has a decision
            self.lstm = nn.LSTMCell(hidden, hidden)
            self.previous = nn.Linear(hidden, hidden, bias=False)
            self.current = nn.Linear(hidden, hidden, bias=False)
            self.attention = nn.Linear(hidden, 1, bias=False)
            self.embeddings = nn.Parameter(torch.empty(self.num_decisions, self.num_choices, hidden))
            self.weights = nn.Parameter(torch.empty(self.num_decisions, hidden, self.num_choices))
            self.biases = nn.Parameter(torch.empty(self.num_decisions, self.num_choices))
            initialise(self, options.init)

    def _unroll(self, num: int, codes_NT: Tensor | None, noise: Tensor | None) -> Rollout:
        walk = _Walk(codes_NT, noise, self.start[0])
        for start_H in self.start:
            walk.read_NH = start_H.expand(num, -1)
            anchors_NSH = start_H.new_empty(num, 0, self.options.hidden)
            for node in range(self._num_nodes):
                walk.state = self.lstm(walk.read_NH, walk.state)
                assert walk.state is not None
                anchor_NH = walk.state[0]
                if node >= 2:
                    self._decide_node(walk, anchors_NSH, anchor_NH)
                anchors_NSH = torch.cat([anchors_NSH, anchor_NH.unsqueeze(1)], 1)
        codes, log_probs, entropies, probabilities = (
            torch.stack(parts, 1) for parts in zip(*walk.decisions, strict=True)
        )
        return Rollout(codes=codes, log_probs=log_probs, entropies=entropies, probabilities=probabilities)

    def _decide_node(self, walk: _Walk, anchors_NSH: Tensor, anchor_NH: Tensor) -> None:
        """Decide about all edges into a node: which exist, by the states at anchors, then their operations."""
        mixed_NSH = torch.tanh(self.previous(anchors_NSH) + self.current(anchor_NH).unsqueeze(1))
        logits_NS = self.options.scaled(self.attention(mixed_NSH).squeeze(-1))
        exists_NS = self._existing(logits_NS, walk)
        walk.read_NH = (exists_NS.unsqueeze(-1) * anchors_NSH).sum(1) / (1 + exists_NS.sum(1, keepdim=True))
        for logits_N, exists_N in zip(logits_NS.unbind(1), exists_NS.unbind(1), strict=True):
            self._decide_edge(walk, logits_N, exists_N)

    def _existing(self, logits_NS: Tensor, walk: _Walk) -> Tensor:
        """Which edges into the next node exist, bool (N, S)."""
        if self._none is None:
            return torch.ones_like(logits_NS, dtype=torch.bool)
        steps = slice(len(walk.decisions), len(walk.decisions) + logits_NS.shape[1])
        if walk.codes_NT is not None:
            return walk.codes_NT[:, steps] != self._none
        assert walk.noise is not None, "sampling needs noise"
        # The difference of two Gumbel variables is logistic: above -logit with probability sigmoid(logit).
        return logits_NS + walk.noise[:, steps, -2] - walk.noise[:, steps, -1] > 0

    def _decide_edge(self, walk: _Walk, logit_N: Tensor, exists_N: Tensor) -> None:
        """Emit the operation of an edge where it exists; elsewhere the LSTM takes no step."""
        step = len(walk.decisions)
        hidden_NH, cell_NH = self.lstm(walk.read_NH, walk.state)
        logits_NO = self.options.scaled(hidden_NH @ self.weights[step] + self.biases[step])
        if self._none is not None:
            logits_NO = logits_NO.index_fill(1, torch.tensor(self._none), NEVER)
        operation_N = choose(logits_NO, step, walk.codes_NT, walk.noise)
        walk.decisions.append(self._decision(logit_N, exists_N, logits_NO.log_softmax(-1), operation_N))
        assert walk.state is not None
        exists_N1 = exists_N.unsqueeze(1)
        walk.state = (
            torch.where(exists_N1, hidden_NH, walk.state[0]),
            torch.where(exists_N1, cell_NH, walk.state[1]),
        )
        walk.read_NH = torch.where(exists_N1, self.embeddings[step][operation_N], walk.read_NH)

    def _decision(self, logit_N: Tensor, exists_N: Tensor, log_NO: Tensor, operation_N: Tensor) -> _Decision:
        """Join both decisions about an edge; that about the operation counts where the edge exists."""
        log_prob_N = log_NO.gather(1, operation_N.unsqueeze(1)).squeeze(1)
        entropy_N = -(log_NO.exp() * log_NO).sum(1)
        if self._none is None:
            return _Decision(operation_N, log_prob_N, entropy_N, log_NO.exp())
        log_yes_N, log_no_N = functional.logsigmoid(logit_N), functional.logsigmoid(-logit_N)
        none_N = torch.full_like(operation_N, self._none)
        only_none_O = functional.one_hot(torch.tensor(self._none), self.num_choices).to(log_NO)
        return _Decision(
            torch.where(exists_N, operation_N, none_N),
            torch.where(exists_N, log_yes_N + log_prob_N, log_no_N),
            torch.where(exists_N, entropy_N, 0.0) - log_yes_N.exp() * log_yes_N - log_no_N.exp() * log_no_N,
            torch.where(exists_N.unsqueeze(1), log_NO.exp(), only_none_O),
        )


class RlNas(PolicyProposer):
    """Proposes children of a controller that learns by REINFORCE.

    It is an `AnchorController` in the common space and a `ChainController` of chains, which may grow. In the spaces of
    NASNet and ENAS a node has two inputs, each a choice like that of an operation, which a `SequenceController` emits.
    """

    def __init__(self, options: RlNasOptions, space: GenotypeSpace, limits: ChildLimits, seed: int) -> None:
        controller: Controller
        if isinstance(space, ChainSpace):
            controller = ChainController(options.controller, space, seed=seed)
        elif isinstance(space, EdgeSpace):
            controller = AnchorController(options.controller, space, seed=seed)
        else:
            controller = SequenceController(options.controller, space.options, seed=seed)
        self._growth, self._controller = options.growth, controller
        super().__init__(space, limits, Reinforce(controller), batch=options.batch, seed=seed)

    def propose(self) -> tuple[Code, None]:
        """As `PolicyProposer.propose`."""
        self._grow()
        return super().propose()

    def probabilities(self) -> dict[CellType, Tensor]:
        """As `PolicyProposer.probabilities`."""
        self._grow()
        return super().probabilities()

    def _grow(self) -> None:
        """Give the next chain its depth."""
        if isinstance(self._controller, ChainController):
            assert isinstance(self.space, ChainSpace)
            self._controller.depth = self._growth.depth(len(self.codes), self.space.depth)
