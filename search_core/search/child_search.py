"""A multi-trial search in one process: children are trained one after another; and which class runs a search."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from search_core.data.datasets import ImageData
from search_core.errors import NonFiniteLossError
from search_core.resumable import Resumable
from search_core.search.child_recipe import child_recipe
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.search.children import BuildProposer, ChildOutcome, ProposedChildren
from search_core.search.options import SearchOptions, defining
from search_core.search.reports import EpochReport
from search_core.search.search import Search
from search_core.space.genotype import CellType, Genotype
from search_core.strategies.multi_trial.build import build_proposer
from search_core.strategies.multi_trial.estimate import estimate_images
from search_core.strategies.multi_trial.options import MultiTrialOptions
from search_core.training.retrain import check_recipe


class ChildSearch(Resumable[EpochReport]):
    """One search whose children are each trained independently: iterate over it for one report per epoch.

    Args:
        options: the search, with a multi-trial strategy.
        data: the images, on `device`, loaded with `options.dataset`.
        device: where children are trained.
        build: gives the strategy; default: those that need no Optuna.

    Raises:
        DataError: if the images to train on are less than a batch.
        ConstraintsError: if no genotype keeps the hard limits.
        OptionsError: if the estimate does not fit the images.
    """

    state_format = 2

    def __init__(
        self,
        options: SearchOptions,
        data: ImageData,
        device: torch.device | str = "cpu",
        build: BuildProposer = build_proposer,
    ) -> None:
        check_estimate(options, data)
        self.options, self.data, self._device = options, data, torch.device(device)
        self.children = ProposedChildren(options, data, build)
        self._weights: dict[int, dict[str, Tensor]] = {}  # of trained children that may become parents, on the CPU

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self.children.epoch

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.options.epochs

    def run_epoch(self) -> EpochReport:
        """Train as many children as an epoch has.

        Raises:
            NonFiniteLossError: if all children failed so far.
            ConstraintsError: if the strategy finds no child within the hard limits.
        """
        report = None
        while report is None:
            while self.children.ask() is not None:
                pass
            assert self.children.open, "a strategy with nothing open proposes a child"
            report = self.children.tell(self._train(self.children.open[min(self.children.open)]))
            self._weights = {n: state for n, state in self._weights.items() if self.children.needs_weights(n)}
        return report

    def genotype(self) -> Genotype:
        """The best child so far."""
        return self.children.genotype()

    def probabilities(self) -> dict[CellType, Tensor]:
        """Probability (E, O) per cell type of each operation in what is proposed now."""
        return self.children.probabilities()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit after this epoch; loads with `weights_only=True`."""
        return {
            **self.stamp(),
            "epoch": self.epoch,
            "children": self.children.state_dict(),
            "weights": dict(self._weights),
        }

    def _take(self, state: dict[str, Any]) -> None:
        self.children.load_state_dict(copy.deepcopy(state["children"]))
        self._weights = dict(state["weights"])

    def _train(self, order: ChildOrder) -> ChildOutcome:
        parent = None if order.parent is None else self._weights[order.parent]
        training = ChildTraining(self.options, self.data, order, self._device, parent=parent)
        epochs: list[dict[str, float]] = []
        try:
            for report in training:
                epochs.append(report.metrics())
        except NonFiniteLossError as error:
            return ChildOutcome.of(order.number, epochs, str(error))
        # Whether it may become a parent is known once it is scored.
        if self._estimate_inherits:
            self._weights[order.number] = {name: value.cpu() for name, value in training.child.state_dict().items()}
        return ChildOutcome.of(order.number, epochs)

    @property
    def _estimate_inherits(self) -> bool:
        assert isinstance(self.options.strategy, MultiTrialOptions)
        return self.options.strategy.estimate.inherit

    def definition(self) -> dict[str, Any]:
        """Options and images; where files lie and who reads them does not matter."""
        return {**defining(self.options), "data": [self.data.digest, self.data.split_digest]}


def check_estimate(options: SearchOptions, data: ImageData) -> None:
    """Check that the estimate of a multi-trial search fits the images.

    Raises:
        DataError: if the images to train on are less than a batch.
        OptionsError: if `resolution` or `cutout` does not fit the images.
    """
    assert isinstance(options.strategy, MultiTrialOptions)
    estimate = options.strategy.estimate
    check_recipe(child_recipe(options), estimate_images(estimate, data))


def make_search(
    options: SearchOptions,
    data: ImageData,
    device: torch.device | str = "cpu",
    build: BuildProposer = build_proposer,
) -> Search | ChildSearch:
    """One search in this process, of whichever family its strategy is.

    Args:
        options: the search.
        data: the images, on `device`, loaded with `options.dataset`.
        device: where it runs.
        build: gives multi-trial strategies.

    Raises:
        DataError, ConstraintsError, OptionsError: as `Search` and `ChildSearch`.
    """
    if isinstance(options.strategy, MultiTrialOptions):
        return ChildSearch(options, data, device, build)
    return Search(options, data, device)
