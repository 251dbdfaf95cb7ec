"""One search: epochs of a strategy on a data set, each ending in a report; resumable bit for bit on CPU."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor

from search_core.cost.constraints import ChildLimits
from search_core.cost.latency_measure import latency_of_children
from search_core.cost.latency_table import table_for
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import penalty_strength_at
from search_core.cost.penalty_target import EtaSteering, WholeCost
from search_core.data.datasets import ImageData, check_batch_size
from search_core.errors import NonFiniteLossError, OptionsError, StateError, require
from search_core.network.supernet import Supernet
from search_core.randomness import check_states, generator_states, make_generators, restore_generators
from search_core.resumable import Resumable
from search_core.search.options import FORK_SECTIONS, SearchOptions, defining
from search_core.search.reports import CellReport, EpochReport, epoch_report
from search_core.search.temperature import temperature_at
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, CellType, Genotype
from search_core.space.plan import NetworkSize
from search_core.strategies.base import EpochSettings, SearchContext, StepResult, Strategy
from search_core.strategies.relaxations import entropy
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.options import WeightSharingOptions
from search_core.training.evaluation import evaluate
from search_core.training.held_out import SearchImages


class Search(Resumable[EpochReport]):
    """One search: iterate over it for one report per epoch.

    Args:
        options: everything that defines the search.
        data: the images, on `device`, loaded with `options.dataset`.
        device: where the search runs.

    Raises:
        DataError: if the training split, or a part of it that the strategy holds out, has less than one batch.
        ConstraintsError: if no genotype keeps the hard limits.
        LatencyError: if the latency table cannot be used.
        OptionsError: if a CUDA graph or bfloat16 is asked for on another device, or if the strategy is
            multi-trial, which `child_search.ChildSearch` runs; or if no child can meet `penalty.target`.
    """

    state_format = 3

    def __init__(self, options: SearchOptions, data: ImageData, device: torch.device | str = "cpu") -> None:
        strategy = options.strategy
        if not isinstance(strategy, WeightSharingOptions):
            message = f"must be one that shares weights, got {strategy.kind}: `make_search` takes multi-trial ones too"
            raise OptionsError((("strategy.kind", message),))
        check_batch_size(options.batch_size, data)
        self.options, self.data = options, data
        self.epoch = 0
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        require(
            ("cuda_graph", on_gpu or options.cuda_graph is not True, f"needs a CUDA device, got true on {device}"),
            ("precision", on_gpu or options.precision == "float32", f"must be float32 on {self._device}"),
        )
        self._context = build_context(options, data, self._device)
        self.strategy: Strategy = build_strategy(strategy, self._context)
        self._steering = build_steering(options, self._context)
        self._generators = make_generators(options.seed, ("data", "architecture", "validation"), self._device)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.options.epochs

    def run_epoch(self) -> EpochReport:
        """Train and validate one epoch.

        Raises:
            NonFiniteLossError: if the training loss is not finite; the search must not be continued then.
        """
        start = time.perf_counter()
        self.strategy.begin_epoch(self._settings(), self._generators["architecture"])
        totals, num_images = self._train()
        train_seconds = time.perf_counter() - start
        self.strategy.end_epoch(self._generators["architecture"])
        report = self._report(totals, num_images, start, train_seconds)
        if self._steering is not None:
            self._steering.update(self.strategy.probabilities(), report.genotype, self._settings().progress)
        self.epoch += 1
        return report

    def scores(self) -> list[float]:
        """What the strategy thinks of every genotype of the search space, in the order of `GenotypeSpace.all`.

        Raises:
            StateError: before the last epoch; asking would change the randomness of the next one.
        """
        if self.epoch < self.options.epochs:
            raise StateError(f"scores are for a search that is over: {self.epoch} of {self.options.epochs} epochs done")
        codes = list(genotype_space(self.options.network).all())
        return self.strategy.scores(codes, self._generators["validation"])

    def genotype(self) -> Genotype:
        """The architecture that the strategy would choose now."""
        return self.strategy.genotype()

    def probabilities(self) -> dict[CellType, Tensor]:
        """Probability (E, O) per cell type of every operation, detached."""
        return self.strategy.probabilities()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit after this epoch; loads with `weights_only=True`."""
        steering = {} if self._steering is None else {"eta_steering": self._steering.state_dict()}
        return {
            **self.stamp(),
            **steering,
            "epoch": self.epoch,
            "strategy": copy.deepcopy(self.strategy.state_dict()),  # training continues in place
            "generators": generator_states(self._generators),
        }

    def fork_from(self, state: dict[str, Any]) -> None:
        """Resume from the state of a search that had another penalty or temperature, or other limits, until then.

        Several strengths of the penalty can so share their first epochs, in which the supernet's weights are formed,
        and a strategy that chooses after training can choose under several limits from one supernet (SPOS section 3.3).

        Raises:
            StateError: as `load_state_dict`, if the search differs in more than that.
        """
        self._resume(state, FORK_SECTIONS)

    def _take(self, state: dict[str, Any]) -> None:
        check_states(self._generators, state["generators"])
        self.strategy.load_state_dict(copy.deepcopy(state["strategy"]))
        restore_generators(self._generators, state["generators"])
        if self._steering is not None and "eta_steering" in state:  # a search that it forks from may have none
            self._steering.load_state_dict(state["eta_steering"])
        self.epoch = state["epoch"]

    def definition(self) -> dict[str, Any]:
        """Options and images; where files lie, who reads them and what is computed twice does not matter."""
        plain = defining(self.options)
        del plain["network"]["recompute"], plain["cuda_graph"]
        table = self._context.costs.latency
        plain["latency"]["table"] = None if table is None else table.digest
        return {**plain, "data": [self.data.digest, self.data.split_digest]}

    def _settings(self) -> EpochSettings:
        theta, last = self.options.theta, self.options.epochs - 1
        cosine = (1 + math.cos(math.pi * self.epoch / self.options.epochs)) / 2
        return EpochSettings(
            temperature=temperature_at(self.options.temperature, self.epoch, self.options.epochs),
            eta=penalty_strength_at(self.options.penalty, self.epoch) if self._steering is None else self._steering.eta,
            theta_lr=theta.lr_min + (theta.lr - theta.lr_min) * cosine,
            progress=self.epoch / last if last else 1.0,
            is_last=self.epoch == last,
        )

    def _train(self) -> tuple[StepResult, int]:
        """Means of loss and penalty over the epoch's steps and the number of correct images; number of images."""
        steps, num_images = [], 0
        batches = self._context.images.training_batches(self._generators["data"])
        for images, labels in batches:
            steps.append(self.strategy.step(images, labels, self._generators["architecture"]))
            num_images += len(labels)
        totals = StepResult(
            loss=torch.stack([step.loss for step in steps]).mean(),
            penalty=torch.stack([step.penalty for step in steps]).mean(),
            correct=torch.stack([step.correct for step in steps]).sum(),
        )
        if not (math.isfinite(totals.loss.item()) and math.isfinite(totals.penalty.item())):
            raise NonFiniteLossError(
                f"the training loss must stay finite, got loss {totals.loss.item()} and penalty "
                f"{totals.penalty.item()} in epoch {self.epoch + 1}; a lower theta.lr or penalty.strength may help"
            )
        return totals, num_images

    def _report(self, totals: StepResult, num_images: int, start: float, train_seconds: float) -> EpochReport:
        strategy, validation = self.strategy, self.data.validation
        genotype = strategy.genotype()
        strategy.supernet.eval()
        supernet = evaluate(
            lambda images: strategy.predict(images, self._generators["validation"]),
            validation,
            self.options.batch_size,  # one architecture sample per batch, as in training
        )
        if math.isnan(supernet.loss):  # the last step broke the weights; the loss before it was still finite
            raise NonFiniteLossError(f"the validation loss must be a number, got NaN in epoch {self.epoch + 1}")
        child = strategy.child()
        inherited = evaluate(child, validation)
        self._context.images.recalibrate(child, self._generators["validation"])
        recalibrated = evaluate(child, validation)
        return epoch_report(
            self.options,
            self.epoch,
            genotype,
            _cell_reports(strategy),
            expected_cost=self._context.costs.expected_of_kinds(strategy.probabilities()),
            child_cost=strategy.child_cost(self._context.limits),
            eta=self._settings().eta,
            supernet_val_accuracy=supernet.accuracy,
            child_val_accuracy=inherited.accuracy,
            child_val_accuracy_recalibrated=recalibrated.accuracy,
            supernet_val_accuracy_recalibrated=(
                self._recalibrated_supernet(supernet.accuracy) if self._settings().is_last else None
            ),
            train_loss=totals.loss.item(),
            train_accuracy=totals.correct.item() / num_images,
            train_penalty=totals.penalty.item(),
            supernet_val_loss=supernet.loss,
            child_val_loss=inherited.loss,
            seconds=time.perf_counter() - start,
            images_per_s=num_images / train_seconds,
            child_latency_ms=None if self._context.limits.latency is None else self._context.limits.latency(genotype),
            pruned_kl=strategy.pruned_kl(),
            choices=strategy.choices(),
        )

    def _recalibrated_supernet(self, accuracy: float) -> float:
        """Validation accuracy of a copy of the supernet with statistics recomputed, like a child's, in float32.

        `accuracy`, that of the supernet as it is, where the strategy normalises by the batch itself. The generator is a
        copy too: what is drawn after the last epoch, as for `scores`, does not depend on this figure.
        """
        generator = self._generators["validation"].clone_state()
        if self.strategy.weights_of_pass(generator) is None:
            return accuracy
        supernet = copy.deepcopy(self.strategy.supernet)

        def forward(images: Tensor) -> Tensor:
            logits: Tensor = supernet(images, self.strategy.weights_of_pass(generator))
            return logits

        self._context.images.recalibrate(supernet, generator, forward)
        return evaluate(forward, self.data.validation, self.options.batch_size).accuracy


def build_context(options: SearchOptions, data: ImageData, device: torch.device) -> SearchContext:
    """What the weight-sharing strategy that `options.strategy` names is built from, with fresh seeded weights.

    Raises:
        DataError, LatencyError: as `Search`.
    """
    assert isinstance(options.strategy, WeightSharingOptions)
    size = NetworkSize(options.network, data.input_shape, data.num_classes)
    table = table_for(options.latency, size, device)
    costs = CostTable(size, device, latency=table)
    is_measured = options.penalty.cost == "child_latency"
    child_latency = latency_of_children(options.latency, table, size, device, is_measured=is_measured)
    return SearchContext(
        supernet=Supernet(size, seed=options.seed, auxiliary=options.strategy.has_auxiliary).to(device),
        images=SearchImages.of(
            data,
            options.strategy.held_out_fraction,
            batch_size=options.batch_size,
            recalibration_batches=options.recalibration_batches,
        ),
        penalty=options.penalty,
        costs=costs,
        limits=ChildLimits(options.constraints, size, latency=None if table is None else child_latency),
        theta=options.theta,
        alpha=options.alpha,
        seed=options.seed,
        cuda_graph=options.cuda_graph if options.has_graph and device.type == "cuda" else False,
        autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
        child_latency=child_latency,
    )


def build_steering(options: SearchOptions, context: SearchContext) -> EtaSteering | None:
    """What steers eta of a search; None without `penalty.target`.

    Raises:
        OptionsError: if no child can meet the target.
    """
    target = options.penalty.target
    if target is None:
        return None
    whole = WholeCost.of(target, context.costs, context.limits, genotype_space(options.network))
    return EtaSteering(options.penalty.eta, whole)


def _cell_reports(strategy: Strategy) -> dict[CellType, CellReport]:
    alpha, probabilities = strategy.alpha(), strategy.probabilities()
    credits, resource_credits = strategy.credits(), strategy.resource_credits()
    return {
        cell_type: CellReport(
            alpha=_rows(alpha[cell_type]),
            probabilities=_rows(probabilities[cell_type]),
            entropy=tuple(entropy(probabilities[cell_type]).tolist()),
            credit=tuple(credits[cell_type].tolist()),
            resource_credit=tuple(resource_credits[cell_type].tolist()),
        )
        for cell_type in CELL_TYPES
    }


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))
