"""SNAS: operation weights and architecture distribution in one back-propagation (Xie et al., ICLR 2019).

Shape suffixes: L cells of one type, E edges, O operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.cell import NetworkOptions, cell_edges
from search_core.cost import CostTable
from search_core.cuda_graph import GraphedStep
from search_core.errors import literal_rules, require
from search_core.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.relaxations import concrete_log_density, concrete_log_sample, gumbel_noise
from search_core.schedules import PenaltyOptions
from search_core.strategies.base import EpochSettings, StepResult, Strategy
from search_core.strategies.optimisers import AlphaOptions, ThetaOptions
from search_core.supernet import Supernet

_BASELINE_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class SnasOptions:
    """Stochastic neural architecture search (Xie et al., ICLR 2019).

    Attributes:
        kind: names this strategy.
        sample_per: draw one architecture sample Z per `batch`, shared by all cells of a type, or one per `cell`.
    """

    kind: Literal["snas"] = "snas"
    sample_per: Literal["batch", "cell"] = "batch"

    def __post_init__(self) -> None:
        require(*literal_rules(self))


class Snas(Strategy):
    """Single-level SNAS: `min E_Z[L(theta, Z)] + eta E_Z[C(Z)]` over theta and alpha on the same batch.

    Args:
        supernet: the searchable network, on its device.
        options: how Z is drawn.
        penalty: the resource penalty; its strength comes with every epoch's settings.
        costs: cost table of the same network, on the same device.
        theta: optimiser of the operation weights.
        alpha: optimiser of the architecture parameters.
        seed: seed of the initial alpha.
        cuda_graph: whether to replay steps from a CUDA graph.
        autocast: type in which convolutions and products run, None for that of the weights.
    """

    def __init__(
        self,
        supernet: Supernet,
        options: SnasOptions,
        penalty: PenaltyOptions,
        costs: CostTable,
        *,
        theta: ThetaOptions,
        alpha: AlphaOptions,
        seed: int,
        cuda_graph: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.supernet = supernet
        self._options, self._penalty, self._costs, self._theta = options, penalty, costs, theta
        device = next(supernet.parameters()).device
        self._alpha = initial_alpha(supernet.options, seed, device)
        self._theta_optimiser = torch.optim.SGD(
            supernet.parameters(), theta.lr, momentum=theta.momentum, weight_decay=theta.weight_decay, foreach=True
        )
        self._alpha_optimiser = torch.optim.Adam(
            list(self._alpha.values()),
            alpha.lr,
            betas=alpha.betas,
            weight_decay=alpha.weight_decay,
            foreach=True,
            capturable=cuda_graph,
        )
        self._settings = EpochSettings(temperature=1.0, eta=penalty.strength, theta_lr=theta.lr)
        self._credit_sums = {cell_type: torch.zeros(len(a), device=device) for cell_type, a in self._alpha.items()}
        self._num_steps = 0
        self._baselines: dict[CellType, Tensor] = {}
        self._autocast = autocast
        self._graph = GraphedStep(self._update) if cuda_graph else None

    def begin_epoch(self, settings: EpochSettings) -> None:
        """Take over this epoch's settings and forget the credits of the last one."""
        self._settings = settings
        for group in self._theta_optimiser.param_groups:
            group["lr"] = settings.theta_lr
        for credit in self._credit_sums.values():
            credit.zero_()
        self._num_steps = 0
        if self._graph is not None:
            self._graph.forget()  # learning rate, temperature and eta are part of it
            self._theta_optimiser.zero_grad()  # gradients lie in the memory of the graph
            self._alpha_optimiser.zero_grad()

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        """Update theta and alpha jointly on one batch (SNAS algorithm 1); arguments as in `Strategy.step`."""
        self.supernet.train()
        noise = self._noise(generator)
        update = self._update if self._graph is None else self._graph
        loss, penalty, correct = update(images, labels, *noise.values())
        self._num_steps += 1
        return StepResult(loss=loss, penalty=penalty, correct=correct)

    def _update(self, images: Tensor, labels: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step from given Gumbel noise, on the device from end to end: loss, penalty, correct images."""
        log_z = self._relax(dict(zip(self._alpha, noise, strict=True)))
        z = {cell_type: log.exp() for cell_type, log in log_z.items()}
        # The network gets its own view of Z: the gradient that arrives there is the task loss's alone.
        z_network = {cell_type: sample.view_as(sample) for cell_type, sample in z.items()}
        for sample in z_network.values():
            sample.retain_grad()
        logits = self._logits(images, z_network)
        task_loss = functional.cross_entropy(logits, labels)
        penalty, surrogate = self._penalise(z, log_z)

        self._theta_optimiser.zero_grad()
        self._alpha_optimiser.zero_grad()
        (task_loss + self._settings.eta * surrogate).backward()
        self._add_credits(z_network)
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self._theta.grad_clip, foreach=True)
        self._theta_optimiser.step()
        self._alpha_optimiser.step()
        correct = (logits.detach().argmax(1) == labels).sum()
        return task_loss.detach(), self._settings.eta * penalty.detach(), correct

    def predict(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, classes) under one architecture sample at the current temperature, as in training."""
        with torch.no_grad():
            z = {cell_type: log.exp() for cell_type, log in self._sample(generator).items()}
            return self._logits(images, z)

    def _logits(self, images: Tensor, z: dict[CellType, Tensor]) -> Tensor:
        enabled = self._autocast is not None
        with torch.autocast(images.device.type, self._autocast, enabled=enabled, cache_enabled=self._graph is None):
            logits: Tensor = self.supernet(images, z)
        return logits.to(images.dtype)

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
        steps = max(self._num_steps, 1)
        return {cell_type: credit / steps for cell_type, credit in self._credit_sums.items()}

    def genotype(self) -> Genotype:
        """Most probable operation of every edge, `none` included: there is no top-2 rule (SNAS section 2.1)."""
        return derive_genotype(self.probabilities(), self.supernet.options)

    def state_dict(self) -> dict[str, Any]:
        """Theta, alpha, both optimisers and the score function's baselines."""
        return {
            "theta": self.supernet.state_dict(),
            "alpha": dict(self.alpha()),
            "theta_optimiser": self._theta_optimiser.state_dict(),
            "alpha_optimiser": self._alpha_optimiser.state_dict(),
            "baselines": dict(self._baselines),
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
        self._baselines = {
            cell_type: baseline.to(self._alpha[cell_type].device) for cell_type, baseline in state["baselines"].items()
        }

    def _load_alpha_optimiser(self, state: dict[str, Any]) -> None:
        """The state may come from a search with another `cuda_graph`, which decides where Adam counts its steps."""
        capturable = self._graph is not None
        groups = [{**group, "capturable": capturable} for group in state["param_groups"]]
        self._alpha_optimiser.load_state_dict({**state, "param_groups": groups})
        for alpha, moments in self._alpha_optimiser.state.items():
            moments["step"] = moments["step"].to(alpha.device if capturable else "cpu")

    def _sample(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Log of a concrete sample per cell type, (E, O), or (L, E, O) when drawn per cell."""
        return self._relax(self._noise(generator))

    def _noise(self, generator: torch.Generator) -> dict[CellType, Tensor]:
        """Gumbel noise of one sample, shapes as in `_sample`."""
        noise = {}
        for cell_type, alpha in self._alpha.items():
            leading = (self.supernet.num_cells(cell_type),) if self._options.sample_per == "cell" else ()
            noise[cell_type] = gumbel_noise(torch.Size((*leading, *alpha.shape)), generator, like=alpha.detach())
        return noise

    def _relax(self, noise: dict[CellType, Tensor]) -> dict[CellType, Tensor]:
        return {
            cell_type: concrete_log_sample(
                functional.log_softmax(alpha, dim=-1), self._settings.temperature, noise[cell_type]
            )
            for cell_type, alpha in self._alpha.items()
        }

    def _penalise(self, z: dict[CellType, Tensor], log_z: dict[CellType, Tensor]) -> tuple[Tensor, Tensor]:
        """C(Z) of this sample (or its expectation), and a scalar whose gradient estimates that of E_Z[C(Z)]."""
        if self._penalty.estimator == "expected":
            probabilities = {cell_type: alpha.softmax(-1) for cell_type, alpha in self._alpha.items()}
            expected = self._costs.expected_penalty(self._penalty, probabilities)
            return expected, expected
        shares = self._costs.edge_costs(self._penalty, z)
        penalty = torch.stack([share_LE.sum() for share_LE in shares.values()]).sum()
        if self._penalty.estimator == "reparam":
            return penalty, penalty
        return penalty, torch.stack([self._score(cell_type, shares, log_z) for cell_type in CELL_TYPES]).sum()

    def _score(self, cell_type: CellType, shares: dict[CellType, Tensor], log_z: dict[CellType, Tensor]) -> Tensor:
        """`log q(z) (C - baseline)` summed over edges: the cost decomposes, so each edge has its own reward."""
        sample = log_z[cell_type].detach()
        cost = shares[cell_type].detach()
        cost = cost.sum(0) if sample.dim() == 2 else cost
        log_p = functional.log_softmax(self._alpha[cell_type], dim=-1)
        log_q = concrete_log_density(sample, log_p, self._settings.temperature)
        baseline = self._baselines.setdefault(cell_type, cost.clone())
        score = (log_q * (cost - baseline)).sum()
        baseline.lerp_(cost, 1 - _BASELINE_MOMENTUM)  # in place, so that a CUDA graph finds it again
        return score

    def _add_credits(self, z_network: dict[CellType, Tensor]) -> None:
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
    kept: dict[CellType, tuple[Edge, ...]] = {}
    for cell_type in CELL_TYPES:
        chosen = [options.primitives[index] for index in probabilities[cell_type].argmax(-1).tolist()]
        kept[cell_type] = tuple(
            Edge(primitive, *nodes)
            for primitive, nodes in zip(chosen, cell_edges(options.nodes), strict=True)
            if primitive != "none"
        )
    concat = tuple(range(2, options.nodes + 2))
    return Genotype(kept["normal"], concat, kept["reduce"], concat)
