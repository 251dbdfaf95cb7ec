"""What strategies with architecture parameters alpha and gradients for them have in common.

Shape suffixes: L cells of one type, E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, CellType, Genotype
from search_core.space.plan import NetworkOptions, cell_edges
from search_core.strategies.base import EpochSettings, SearchContext, Strategy
from search_core.strategies.weight_sharing.cuda_graph import GraphedStep
from search_core.training.optimisers import SGD, Adam


class DifferentiableStrategy(Strategy):
    """Theta trained by SGD, alpha by Adam; the child is the most probable operation of every edge.

    Args:
        context: what the strategy is built from.
    """

    def __init__(self, context: SearchContext) -> None:
        self.supernet, self._context, self._has_graph = context.supernet, context, context.cuda_graph is not False
        device = next(self.supernet.parameters()).device
        self._graph: GraphedStep | None = None  # of a subclass whose step can be one
        self._places: dict[str, Tensor] = {}  # of `_number`
        self._alpha = initial_alpha(self.supernet.options, context.seed, device)
        theta, alpha = context.theta, context.alpha
        self._theta_optimiser = SGD(
            self.supernet.parameters(), theta.lr, momentum=theta.momentum, weight_decay=theta.weight_decay, foreach=True
        )
        self._alpha_optimiser = Adam(
            list(self._alpha.values()),
            alpha.lr,
            betas=alpha.betas,
            weight_decay=alpha.weight_decay,
            foreach=True,
            capturable=self._has_graph,
        )
        self._take(EpochSettings(temperature=1.0, eta=context.penalty.eta, theta_lr=theta.lr))
        self._credit_sums, self._resource_sums = (
            {cell_type: torch.zeros(len(a), device=device) for cell_type, a in self._alpha.items()} for _ in range(2)
        )
        self._num_steps = 0

    def begin_epoch(self, settings: EpochSettings, generator: torch.Generator) -> None:
        """Take over this epoch's settings and forget the credits of the last one."""
        self._take(settings)
        for credit_E in (*self._credit_sums.values(), *self._resource_sums.values()):
            credit_E.zero_()
        self._num_steps = 0

    def alpha(self) -> dict[CellType, Tensor]:
        """Architecture parameters (E, O) per cell type, detached."""
        return {cell_type: alpha.detach() for cell_type, alpha in self._alpha.items()}

    def probabilities(self) -> dict[CellType, Tensor]:
        """`softmax(alpha)`, (E, O) per cell type."""
        return {cell_type: alpha.softmax(-1) for cell_type, alpha in self.alpha().items()}

    def credits(self) -> dict[CellType, Tensor]:
        """Mean credit (E,) per edge and step since `begin_epoch` (SNAS section 2.3); 0 before the first step.

        The reward of an edge is `R_ij = -(dL/dx_j) . (sum_k Z_ij^k O_ij^k(x_i))`. Since x_j is linear in Z, this is
        `-sum_k Z_ij^k dL/dZ_ij^k`, so it costs nothing beyond the gradient of Z; cells of one type are summed.
        """
        return self._per_step(self._credit_sums)

    def resource_credits(self) -> dict[CellType, Tensor]:
        """Mean resource credit (E,) per edge and step since `begin_epoch` (SNAS section 2.4); 0 before the first step.

        `-eta C_ij(Z)` with the edge's part C_ij of C(Z) (`CostTable.edge_costs`), or of its expectation where the
        estimator takes that; nats, as credits are. Cells of one type are summed, so both cell types together give minus
        the penalty of the loss. A whole child's latency has no parts: every edge is charged all of it.
        """
        return self._per_step(self._resource_sums)

    def genotype(self) -> Genotype:
        """Most probable operation of every edge, `none` included: there is no top-2 rule (SNAS section 2.1)."""
        return derive_genotype(self.probabilities(), self.supernet.options)

    def state_dict(self) -> dict[str, Any]:
        """Theta, alpha and both optimisers."""
        return {
            "theta": self.supernet.state_dict(),
            "alpha": dict(self.alpha()),
            "theta_optimiser": self._theta_optimiser.state_dict(),
            "alpha_optimiser": self._alpha_optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        self.supernet.load_state_dict(state["theta"])
        with torch.no_grad():
            for cell_type, alpha in self._alpha.items():
                alpha.copy_(state["alpha"][cell_type])
        self._theta_optimiser.load_state_dict(state["theta_optimiser"])
        self._load_alpha_optimiser(state["alpha_optimiser"])
        if self._graph is not None:
            self._graph.start_over()

    def _take(self, settings: EpochSettings) -> None:
        self._settings = settings
        for group in self._theta_optimiser.param_groups:
            group["lr"] = settings.theta_lr
        self._temperature = self._number("temperature", settings.temperature)
        self._eta = self._number("eta", settings.eta)
        self._theta_lr = self._number("theta_lr", settings.theta_lr)

    def _number(self, name: str, value: float) -> float | Tensor:
        """What a step computes with: for a CUDA graph, recorded once, a tensor whose place stays and is filled here."""
        if not self._has_graph:
            return value
        alpha = self._alpha["normal"]
        place = self._places.setdefault(name, torch.zeros((), dtype=alpha.dtype, device=alpha.device))
        return place.fill_(value)

    def _step_theta(self) -> None:
        """One step of SGD on clipped gradients."""
        self._clip_theta()
        if isinstance(self._theta_lr, Tensor):
            self._theta_optimiser.step_by(self._theta_lr)
        else:
            self._theta_optimiser.step()

    def _load_alpha_optimiser(self, state: dict[str, Any]) -> None:
        """The state may come from a search with another `cuda_graph`, which decides where Adam counts its steps."""
        capturable = self._has_graph
        groups = [{**group, "capturable": capturable} for group in state["param_groups"]]
        self._alpha_optimiser.load_state_dict({**state, "param_groups": groups})
        for alpha, moments in self._alpha_optimiser.state.items():
            moments["step"] = moments["step"].to(alpha.device if capturable else "cpu")

    def _logits(self, images: Tensor, z: Mapping[CellType, Tensor]) -> Tensor:
        return self._both_logits(images, z)[0]

    def _both_logits(
        self,
        images: Tensor,
        z: Mapping[CellType, Tensor],
        drop_path: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `Supernet.forward_with_auxiliary`, in the type that the context asks for."""
        autocast = self._context.autocast
        with torch.autocast(
            images.device.type, autocast, enabled=autocast is not None, cache_enabled=not self._has_graph
        ):
            logits, auxiliary = self.supernet.forward_with_auxiliary(images, z, drop_path, generator)
        return logits.to(images.dtype), None if auxiliary is None else auxiliary.to(images.dtype)

    def _clip_theta(self) -> None:
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self._context.theta.grad_clip, foreach=True)

    def _step_alpha(self) -> None:
        if self._context.alpha.grad_clip is not None:
            nn.utils.clip_grad_norm_(list(self._alpha.values()), self._context.alpha.grad_clip, foreach=True)
        self._alpha_optimiser.step()

    def _per_step(self, sums: Mapping[CellType, Tensor]) -> dict[CellType, Tensor]:
        return {cell_type: sum_E / max(self._num_steps, 1) for cell_type, sum_E in sums.items()}

    def _charge(self, edge_costs: Mapping[CellType, Tensor]) -> None:
        """Add a step's resource credits: what edges (L, E) per cell type have of C(Z)."""
        for cell_type, cost_LE in edge_costs.items():
            self._resource_sums[cell_type] -= self._eta * cost_LE.detach().sum(0)

    def _add_credits(self, z_network: Mapping[CellType, Tensor]) -> None:
        """Add those of one backward pass; the network's Z must keep its gradient."""
        for cell_type, sample in z_network.items():
            if sample.grad is not None:  # None when the stack has no cell of this type
                credit = -(sample.detach() * sample.grad).sum(-1)
                self._credit_sums[cell_type] += credit.sum(0) if credit.dim() == 2 else credit


def initial_alpha(options: NetworkOptions, seed: int, device: torch.device) -> dict[CellType, nn.Parameter]:
    """Architecture parameters near the uniform distribution: 1e-3 times standard normal, (E, O) per cell type."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(cell_edges(options.nodes)), len(options.primitives))
    return {
        cell_type: nn.Parameter((1e-3 * torch.randn(shape, generator=generator)).to(device)) for cell_type in CELL_TYPES
    }


def derive_genotype(probabilities: dict[CellType, Tensor], options: NetworkOptions) -> Genotype:
    """Genotype of the most probable operation of every edge; edges whose best is `none` disappear.

    Args:
        probabilities: (E, O) per cell type.
        options: the searchable network that they belong to.
    """
    space = genotype_space(options)
    return space.decode([choice for name in CELL_TYPES for choice in probabilities[name].argmax(-1).tolist()])
