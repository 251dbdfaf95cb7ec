"""The children of one multi-trial search: who is to be trained, who is the best, and a report of each epoch.

Children may be trained in this process or each as a trial of its own; proposals and scores pass through here. Ask until
there is None, report the first open child, ask again: in this order a search proposes the same children in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from search_core.cost.constraints import ChildLimits
from search_core.cost.counts import COST_KINDS
from search_core.cost.latency_measure import latency_of_children
from search_core.cost.latency_table import table_for
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import penalty_strength_at
from search_core.data.datasets import ImageData
from search_core.errors import NonFiniteLossError
from search_core.search.child_recipe import child_recipe
from search_core.search.child_training import ChildOrder
from search_core.search.options import SearchOptions
from search_core.search.reports import CellReport, EpochReport, epoch_report
from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.genotype import CellType, Genotype
from search_core.space.plan import NetworkSize
from search_core.strategies.multi_trial.build import build_proposer
from search_core.strategies.multi_trial.curve_regression import CurveLaw
from search_core.strategies.multi_trial.finished_curves import FinishedCurves, known_beforehand
from search_core.strategies.multi_trial.options import MultiTrialOptions
from search_core.strategies.multi_trial.proposer import Proposer
from search_core.strategies.relaxations import entropy

BuildProposer = Callable[[MultiTrialOptions, GenotypeSpace, ChildLimits, int], Proposer]


@dataclass(frozen=True, kw_only=True)
class ChildOutcome:
    """What became of a child.

    Attributes:
        number: of its proposal.
        metrics: of its last epoch (`ChildReport.metrics`); None if its training failed.
        seconds: of all its epochs.
        images: on which it was trained, over all its epochs.
        failure: why it failed; empty otherwise.
        accuracies: on held-out images after each of its epochs, fractions.
    """

    number: int
    metrics: Mapping[str, float] | None
    seconds: float = 0.0
    images: float = 0.0
    failure: str = ""
    accuracies: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """Accuracy on held-out images; NaN if its training failed."""
        return math.nan if self.metrics is None else self.metrics["held_out_accuracy"]

    @classmethod
    def of(cls, number: int, epochs: Sequence[Mapping[str, float]], failure: str = "") -> ChildOutcome:
        """From the metrics of its epochs.

        Args:
            number: of its proposal.
            epochs: metrics of each.
            failure: why it failed, if it did.
        """
        return cls(
            number=number,
            metrics=None if failure else dict(epochs[-1]),
            seconds=math.fsum(metrics["seconds"] for metrics in epochs),
            images=math.fsum(metrics["seconds"] * metrics["images_per_s"] for metrics in epochs),
            failure=failure,
            accuracies=tuple(metrics["held_out_accuracy"] for metrics in epochs),
        )


class ProposedChildren:
    """Ask for children, report what became of them, and take the search's report of each epoch.

    Args:
        options: the search, with a multi-trial strategy.
        data: images of the search; only their shape and number of classes matter.
        build: gives the strategy; default: those that need no Optuna.

    Raises:
        ConstraintsError: if no genotype keeps the hard limits.
        LatencyError: if the latency table cannot be read or lacks a part of the search space.
    """

    def __init__(self, options: SearchOptions, data: ImageData, build: BuildProposer = build_proposer) -> None:
        assert isinstance(options.strategy, MultiTrialOptions)
        self.options, self.strategy = options, options.strategy
        self.space = genotype_space(options.network)
        # Who asks need not be where children are trained, so the table's device is not compared with this one.
        anywhere, cpu = replace(options.latency, same_device=False), torch.device("cpu")
        size = NetworkSize(options.network, data.input_shape, data.num_classes)
        self._latency = latency_of_children(anywhere, table_for(anywhere, size, cpu), size, cpu, is_measured=False)
        self._limits = ChildLimits(options.constraints, size, latency=self._latency)
        self._costs = None if isinstance(self.space, ChainSpace) else CostTable(size)
        self.proposer = build(self.strategy, self.space, self._limits, options.seed)
        self.codes: list[Code] = []
        self.open: dict[int, ChildOrder] = {}  # asked for and not scored, by number
        self._scores: dict[int, float] = {}  # number -> score, in the order in which they were reported
        self._best: ChildOutcome | None = None
        is_learnt = self.strategy.estimate.stop.kind == "regression"
        self._curves = FinishedCurves(self.strategy.estimate) if is_learnt else None
        self._epoch_outcomes: list[ChildOutcome] = []
        self.epoch = 0

    @property
    def num_children(self) -> int:
        """How many children the search has."""
        return self.options.epochs * self.strategy.children

    @property
    def has_more(self) -> bool:
        """Whether children are still to be asked for."""
        return len(self.codes) < self.num_children

    @property
    def is_over(self) -> bool:
        """Whether all children were scored."""
        return len(self._scores) >= self.num_children

    @property
    def best_number(self) -> int | None:
        """The child of the highest score, the first of several; None before the first score."""
        return None if self._best is None else self._best.number

    def needs_weights(self, number: int) -> bool:
        """Whether an open or later child may begin with the weights of this one."""
        if any(order.parent == number for order in self.open.values()):
            return True
        return self.has_more and self.strategy.estimate.inherit and self.proposer.may_be_parent(number)

    def ask(self) -> ChildOrder | None:
        """The next child; None if all were asked for, or an open one must be scored first.

        Raises:
            ConstraintsError: if the strategy finds none within the hard limits.
        """
        proposal = self.proposer.ask() if self.has_more and len(self.open) < self.strategy.at_once else None
        if proposal is None:
            return None
        assert proposal.number == len(self.codes), "proposals are numbered in their order"
        self.codes.append(proposal.code)
        parent = proposal.parent if self.strategy.estimate.inherit else None
        if parent is not None and not math.isfinite(self._scores.get(parent, math.nan)):
            parent = None  # there are no trained weights
        order = ChildOrder(
            number=proposal.number,
            code=proposal.code,
            parent=parent,
            parent_code=None if parent is None else self.codes[parent],
            best=None if self._best is None else self._best.score,
        )
        if self._curves is not None:
            order = replace(order, laws=self._curves.laws(order.number, self._known_beforehand(order)))
        self.open[order.number] = order
        return order

    def tell(self, outcome: ChildOutcome) -> EpochReport | None:
        """Take what became of a child.

        Returns:
            The report of an epoch, if the child was its last.

        Raises:
            NonFiniteLossError: if an epoch ends and no child of the search has been trained to its end: its settings
                are to blame.
        """
        del self.open[outcome.number]
        self.proposer.tell(outcome.number, outcome.score)
        self._scores[outcome.number] = outcome.score
        if self._curves is not None:
            self._curves.ended(outcome.number, outcome.accuracies)
        if outcome.metrics is not None and (self._best is None or outcome.score > self._best.score):
            self._best = outcome
        self._epoch_outcomes.append(outcome)
        if len(self._epoch_outcomes) < self.strategy.children:
            return None
        if self._best is None:
            raise NonFiniteLossError(
                f"a child must be trained to its end, got {len(self._scores)} that failed, the last because: "
                f"{outcome.failure}"
            )
        report = self._report(self._best)
        self.epoch += 1
        self._epoch_outcomes = []
        return report

    def genotype(self) -> Genotype:
        """The best child so far; before the first score what the strategy says."""
        return self.proposer.best() if self._best is None else self.space.decode(self.codes[self._best.number])

    def probabilities(self) -> dict[CellType, Tensor]:
        """Probability (E, O) per cell type of each operation in what is proposed now, CPU."""
        return self.proposer.probabilities()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly; loads with `weights_only=True`."""
        return {
            "proposer": self.proposer.state_dict(),
            "codes": [list(code) for code in self.codes],
            "open": [asdict(order) for order in self.open.values()],
            "told": [[number, score] for number, score in self._scores.items()],
            "best": None if self._best is None else _plain(self._best),
            "epoch_outcomes": [_plain(outcome) for outcome in self._epoch_outcomes],
            "epoch": self.epoch,
            "curves": None if self._curves is None else self._curves.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options; children that are open stay open."""
        self.proposer.load_state_dict(state["proposer"])
        self.codes = [tuple(code) for code in state["codes"]]
        self.open = {
            order["number"]: ChildOrder(**{**order, "laws": tuple(CurveLaw(**law) for law in order.get("laws", ()))})
            for order in state["open"]
        }
        self._scores = dict(state["told"])
        self._best = None if state["best"] is None else ChildOutcome(**state["best"])
        self._epoch_outcomes = [ChildOutcome(**outcome) for outcome in state["epoch_outcomes"]]
        self.epoch = state["epoch"]
        if self._curves is not None:
            self._curves.load_state_dict(state["curves"])

    def _known_beforehand(self, order: ChildOrder) -> list[float]:
        return known_beforehand(
            order.code,
            self.space,
            self._limits.cost(self.space.decode(order.code)),
            child_recipe(self.options, order.number).init_channels,
            None if order.parent is None else self._scores[order.parent],
        )

    def _report(self, best: ChildOutcome) -> EpochReport:
        """The best child so far, and what is proposed now."""
        assert best.metrics is not None
        metrics, genotype, probabilities = best.metrics, self.genotype(), self.probabilities()
        seconds = math.fsum(outcome.seconds for outcome in self._epoch_outcomes)
        images = math.fsum(outcome.images for outcome in self._epoch_outcomes)
        return epoch_report(
            self.options,
            self.epoch,
            genotype,
            {cell_type: _cell_report(probabilities[cell_type]) for cell_type in genotype.cell_types},
            expected_cost=self._expected_cost(probabilities),
            child_cost=self._limits.cost(genotype),
            supernet_val_accuracy=metrics["val_accuracy"],
            child_val_accuracy=metrics["val_accuracy"],
            child_val_accuracy_recalibrated=metrics["val_accuracy_recalibrated"],
            train_loss=metrics["train_loss"],
            train_accuracy=metrics["train_accuracy"],
            train_penalty=0.0,
            eta=penalty_strength_at(self.options.penalty, self.epoch),
            supernet_val_loss=metrics["val_loss"],
            child_val_loss=metrics["val_loss"],
            seconds=seconds,
            images_per_s=images / seconds if seconds else 0.0,
            child_latency_ms=None if self._latency is None else self._latency(genotype),
            children=tuple((self.codes[outcome.number], outcome.score) for outcome in self._epoch_outcomes),
        )

    def _expected_cost(self, probabilities: Mapping[CellType, Tensor]) -> dict[str, float]:
        """Of what is proposed: by operations where these add up, else the mean of the epoch's children."""
        if self._costs is not None:
            return self._costs.expected_of_kinds(probabilities)
        costs = [self._limits.cost(self.space.decode(self.codes[outcome.number])) for outcome in self._epoch_outcomes]
        return {kind: fmean(getattr(cost, kind) for cost in costs) for kind in COST_KINDS}


def _cell_report(probabilities_EO: Tensor) -> CellReport:
    # Log probabilities stand for alpha; a probability of 0 has a finite one, which JSON and pictures can hold.
    alpha_EO = probabilities_EO.clamp_min(torch.finfo(torch.float32).tiny).log()
    return CellReport(
        alpha=tuple(map(tuple, alpha_EO.tolist())),
        probabilities=tuple(map(tuple, probabilities_EO.tolist())),
        entropy=tuple(entropy(probabilities_EO).tolist()),
        credit=(0.0,) * len(probabilities_EO),
        resource_credit=(0.0,) * len(probabilities_EO),
    )


def _plain(outcome: ChildOutcome) -> dict[str, Any]:
    return {**vars(outcome), "metrics": None if outcome.metrics is None else dict(outcome.metrics)}
