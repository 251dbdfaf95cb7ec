"""SNAS and DARTS over a recurrent cell: what each node reads, and by which activation.

Shape suffixes: E pairs of node and state, by node and then state; O activations; T time steps, B columns, H values.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from search_core.recurrent.model import LanguageModel
from search_core.recurrent.options import RecurrentSearchOptions
from search_core.recurrent.text import Window, windows
from search_core.recurrent.training import slowness, window_loss
from search_core.space.recurrent import ACTIVATIONS, RecurrentGenotype, RecurrentNode
from search_core.strategies.relaxations import concrete_log_sample, entropy, gumbel_noise
from search_core.strategies.weight_sharing.darts import unrolled_gradient
from search_core.strategies.weight_sharing.options import DartsOptions
from search_core.training.optimisers import SGD, Adam


class RecurrentStrategy(ABC):
    """Theta trained by SGD, alpha by Adam; each node of the child has the state and activation of the largest weight.

    Args:
        model: with seeded weights, on its device.
        options: of the search.
        held_out_LB: text for alpha in columns; None if the strategy asks for none.
        seed: of the initial alpha.
        generator: of the dropout, on the same device.
    """

    #: Columns of alpha before those of `ACTIVATIONS`: one for `none`, or nothing.
    num_none: int

    def __init__(
        self,
        model: LanguageModel,
        options: RecurrentSearchOptions,
        held_out_LB: Tensor | None,
        seed: int,
        generator: torch.Generator,
    ) -> None:
        self.model, self._options, self._held_out_LB, self._dropout = model, options, held_out_LB, generator
        pairs, device = options.nodes * (options.nodes + 1) // 2, model.bias.device
        shape = pairs, self.num_none + len(ACTIVATIONS)
        initial = 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self.alpha, alpha = nn.Parameter(initial.to(device)), options.alpha
        self._theta = SGD(model.parameters(), options.lr, weight_decay=options.weight_decay, foreach=True)
        self._alpha = Adam([self.alpha], alpha.lr, betas=alpha.betas, weight_decay=alpha.weight_decay, foreach=True)
        self.temperature = 1.0

    def begin_epoch(self, temperature: float) -> None:
        """Take over the temperature of this epoch; held-out text is read from its beginning."""
        self.temperature = temperature

    @abstractmethod
    def step(self, window: Window, hidden_BH: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Train theta and alpha on one window.

        Args:
            window: of the training text.
            hidden_BH: the state before it, without gradient.
            generator: source of architecture samples.

        Returns:
            The loss (nats a word) and the state after the window, both without gradient.
        """

    @abstractmethod
    def weights_of_pass(self, generator: torch.Generator) -> Tensor:
        """Weights Z (E, O) with which a window is validated."""

    @abstractmethod
    def probabilities(self) -> Tensor:
        """Probability (E, O) of each pair and activation under alpha, with its gradient."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy in nats of all that is drawn or mixed, a scalar."""

    def genotype(self) -> RecurrentGenotype:
        """The most probable state and activation of every node; `none` cannot win (DARTS section 2.4)."""
        nodes = []
        for rows_SO in self.by_node(self.probabilities().detach()):
            source, activation = divmod(int(rows_SO.flatten().argmax()), len(ACTIVATIONS))
            nodes.append(RecurrentNode(ACTIVATIONS[activation], source))
        return RecurrentGenotype(tuple(nodes), tuple(range(1, len(nodes) + 1)))

    def by_node(self, rows_E: Tensor) -> tuple[Tensor, ...]:
        """Rows (E, ...) of all nodes apart: 1 row for the first, 2 for the second, and so on."""
        rows: tuple[Tensor, ...] = rows_E.split(list(range(1, self._options.nodes + 1)))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to resume bit for bit after an epoch."""
        return copy.deepcopy(
            {
                "theta": self.model.state_dict(),
                "alpha": self.alpha.detach(),
                "theta_optimiser": self._theta.state_dict(),
                "alpha_optimiser": self._alpha.state_dict(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an equal strategy."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["theta"])
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
        self._theta.load_state_dict(state["theta_optimiser"])
        self._alpha.load_state_dict(state["alpha_optimiser"])

    def _backward(self, window: Window, hidden_BH: Tensor, z_EO: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the training loss, dropout and slowness included; returns as `step`."""
        masks = self.model.masks(hidden_BH.shape[0], self._options.dropout, self._dropout)
        loss, outputs = window_loss(self.model, window, hidden_BH, z_EO, masks)
        self._theta.zero_grad()
        (loss + self._options.slowness * slowness(outputs)).backward()
        return loss.detach(), outputs[-1].detach()

    def _step_theta(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self._options.grad_clip, foreach=True)
        self._theta.step()

    def _step_alpha(self) -> None:
        if self._options.alpha.grad_clip is not None:
            nn.utils.clip_grad_norm_([self.alpha], self._options.alpha.grad_clip, foreach=True)
        self._alpha.step()


class RecurrentSnas(RecurrentStrategy):
    """Each node draws one state and activation from a concrete distribution; one back-propagation for all.

    The search of SNAS (Xie et al., ICLR 2019, sections 2.1 and 2.2) in the space of DARTS' recurrent cells, where a
    node reads one state: its distribution is over all pairs, not one an edge, and so has no `none`.
    """

    num_none = 0

    def step(self, window: Window, hidden_BH: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Update theta and alpha jointly on one window, with one sample."""
        self._alpha.zero_grad()
        results = self._backward(window, hidden_BH, self.weights_of_pass(generator))
        self._step_theta()
        self._step_alpha()
        return results

    def weights_of_pass(self, generator: torch.Generator) -> Tensor:
        """One sample at the temperature of this epoch."""
        noise = self.by_node(gumbel_noise(self.alpha.shape, generator, like=self.alpha.detach()))
        return torch.cat(
            [
                concrete_log_sample(alpha.flatten().log_softmax(0), self.temperature, g.flatten()).exp().view_as(alpha)
                for alpha, g in zip(self.by_node(self.alpha), noise, strict=True)
            ]
        )

    def probabilities(self) -> Tensor:
        """Softmax of alpha over all pairs of a node."""
        return torch.cat([alpha.flatten().softmax(0).view_as(alpha) for alpha in self.by_node(self.alpha)])

    def entropy(self) -> Tensor:
        """Of the nodes' distributions."""
        return torch.stack([entropy(rows.flatten()) for rows in self.by_node(self.probabilities().detach())]).sum()


class RecurrentDarts(RecurrentStrategy):
    """Each node mixes all states under all activations; alpha is trained on held-out text (Liu et al., ICLR 2019).

    A pair's softmax is over `none` and the activations, as in DARTS' code: `none` takes of a state without giving.
    """

    num_none = 1
    _held_out_BH: Tensor

    def begin_epoch(self, temperature: float) -> None:
        """Take over the temperature, which has no effect here; held-out text is read from its beginning."""
        super().begin_epoch(temperature)
        self._windows = self._held_out_windows()

    def step(self, window: Window, hidden_BH: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Update alpha on the next held-out window, then theta (DARTS algorithm 1)."""
        self.alpha.grad = self._hypergradient(window, hidden_BH)
        self._step_alpha()
        results = self._backward(window, hidden_BH, self.weights_of_pass(generator))
        self._step_theta()
        return results

    def weights_of_pass(self, generator: torch.Generator) -> Tensor:
        """The mixture; nothing is drawn."""
        return self.probabilities().detach()

    def probabilities(self) -> Tensor:
        """Softmax of alpha over each pair's activations and `none`, which is left out."""
        return self.alpha.softmax(-1)[:, self.num_none :]

    def entropy(self) -> Tensor:
        """Of the pairs' mixtures, `none` included."""
        return entropy(self.alpha.detach().softmax(-1)).sum()

    def _hypergradient(self, window: Window, hidden_BH: Tensor) -> Tensor:
        """Gradient of the held-out loss for alpha, of the order that the options name.

        The dropout of a window is one in all its evaluations, so that a finite difference does not measure dropout.
        """
        options, batch = self._options, hidden_BH.shape[0]
        assert isinstance(options.strategy, DartsOptions)
        held_out, masks = next(self._windows), self.model.masks(batch, options.dropout, self._dropout)

        def held_out_loss() -> Tensor:
            loss, outputs = window_loss(self.model, held_out, self._held_out_BH, self.probabilities(), masks)
            self._held_out_BH = outputs[-1].detach()
            return loss

        if options.strategy.order == "first":
            return torch.autograd.grad(held_out_loss(), self.alpha)[0]
        training_masks = self.model.masks(batch, options.dropout, self._dropout)

        def training_loss() -> Tensor:
            return window_loss(self.model, window, hidden_BH, self.probabilities(), training_masks)[0]

        theta = list(self.model.parameters())
        return unrolled_gradient(theta, [self.alpha], training_loss, held_out_loss, options.lr, options.grad_clip)[0]

    def _held_out_windows(self) -> Iterator[Window]:
        """Windows of held-out text without end; the hidden state starts anew with the text."""
        assert self._held_out_LB is not None, "the search gives it for this strategy"
        while True:
            self._held_out_BH = self.model.start(self._held_out_LB.shape[1])
            yield from windows(self._held_out_LB, self._options.bptt)


#: Strategy by the kind that a study file names.
STRATEGIES: dict[str, type[RecurrentStrategy]] = {"snas": RecurrentSnas, "darts": RecurrentDarts}
