"""One child of a multi-trial strategy: trained alone, scored on held-out images; resumable bit for bit on CPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_core.data.datasets import ImageData
from search_core.network.chain import ChildNetwork
from search_core.network.child import Child
from search_core.network.inheritance import inherit_weights, morph
from search_core.resumable import Resumable
from search_core.search.child_recipe import child_recipe
from search_core.search.options import SearchOptions, defining
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.genotype import Genotype
from search_core.strategies.multi_trial.curve_regression import CurveLaw
from search_core.strategies.multi_trial.estimate import estimate_images, resized_images
from search_core.strategies.multi_trial.options import MultiTrialOptions
from search_core.training.evaluation import Evaluation, evaluate, recalibrate
from search_core.training.retrain import Retrain


@dataclass(frozen=True, kw_only=True)
class ChildOrder:
    """A child to be trained.

    Attributes:
        number: of the proposal in its search.
        code: the child.
        parent: number of the proposal whose trained weights it begins with; None for fresh ones.
        parent_code: code of that proposal; None likewise.
        best: highest score of the search when the child was proposed; None if there was none.
        laws: by which its final accuracy is predicted after `estimate.stop.grace` epochs, one more, and so on; none to
            extrapolate.
    """

    number: int
    code: Code
    parent: int | None = None
    parent_code: Code | None = None
    best: float | None = None
    laws: tuple[CurveLaw, ...] = ()

    def definition(self) -> dict[str, Any]:
        """Plain data of all but the laws, which follow from children before and, in the last digits, the machine."""
        plain = asdict(self)
        del plain["laws"]
        return plain


@dataclass(frozen=True, kw_only=True)
class ChildReport:
    """State of a child after an epoch of its training. Accuracies are fractions in [0, 1].

    Attributes:
        epoch: 0-based.
        train_loss: mean cross entropy of the epoch, nats.
        train_accuracy: over the epoch's augmented batches.
        held_out_loss: on the images held out of the training split, nats; with `estimate.recalibrate` under batch norm
            statistics recomputed on training images, which without `estimate.stop` is done in the last epoch only.
        held_out_accuracy: likewise; that of the last epoch is the child's score.
        lr: learning rate of the epoch.
        drop_path: drop path probability of the epoch.
        images_per_s: training images per second of the whole epoch.
        seconds: wall time of the epoch, validation included.
        val_loss: on the validation split after the last epoch, nats; NaN before.
        val_accuracy: likewise.
        val_accuracy_recalibrated: likewise, batch norm statistics recomputed on training images.
        stopped: why this was the last epoch although others were planned; empty otherwise.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    held_out_loss: float
    held_out_accuracy: float
    lr: float
    drop_path: float
    images_per_s: float
    seconds: float
    val_loss: float = math.nan
    val_accuracy: float = math.nan
    val_accuracy_recalibrated: float = math.nan
    stopped: str = ""

    def metrics(self) -> dict[str, float]:
        """All numbers of the report by name that are known, without `epoch`."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("epoch", "stopped")}
        return {name: float(value) for name, value in numbers.items() if not math.isnan(value)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `epoch`, `metrics`, and `stopped` if it was."""
        stopped = {"stopped": self.stopped} if self.stopped else {}
        return {"epoch": self.epoch, "metrics": self.metrics(), **stopped}


class ChildTraining(Resumable[ChildReport]):
    """Trains one child: iterate over it for one report per epoch.

    The validation split is looked at once, after the last epoch, for what the search reports; the score of the child
    comes from images held out of the training split.

    Args:
        options: the search, with a multi-trial strategy.
        data: the images of the search, on `device`.
        order: the child.
        device: where it is trained.
        parent: state dict of the trained parent's network, for `order.parent`; None begins with fresh weights.

    Raises:
        DataError: if the images to train on are less than a batch.
        OptionsError: if the estimate does not fit the images.
    """

    definition_key = "order"

    def __init__(
        self,
        options: SearchOptions,
        data: ImageData,
        order: ChildOrder,
        device: torch.device | str = "cpu",
        *,
        parent: Mapping[str, Tensor] | None = None,
    ) -> None:
        assert isinstance(options.strategy, MultiTrialOptions)
        self.options, self.order, self._estimate = options, order, options.strategy.estimate
        space = genotype_space(options.network)
        seed = int(np.random.SeedSequence([options.seed, order.number]).generate_state(1)[0])
        images = estimate_images(self._estimate, data)
        self._validation = resized_images(self._estimate, data).validation
        recipe = child_recipe(options, order.number)
        self._training = Retrain(space.decode(order.code), recipe, images, device, seed=seed)
        self._seed, self._device = seed, torch.device(device)
        self._accuracies: list[float] = []
        self._is_stopped = False
        if parent is not None:
            assert order.parent_code is not None
            self._begin_with(space.decode(order.parent_code), parent)

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self._training.epoch

    @property
    def is_over(self) -> bool:
        """Whether it has had its epochs, or was stopped."""
        return self._is_stopped or self._is_last

    @property
    def child(self) -> ChildNetwork:
        """The network."""
        return self._training.child

    def run_epoch(self) -> ChildReport:
        """Train one epoch and measure the accuracy on held-out images; after the last, also on the validation split.

        Raises:
            NonFiniteLossError: if the training loss is not finite.
        """
        start = time.perf_counter()
        trained = self._training.run_epoch()
        is_judged = self._estimate.recalibrate and self._estimate.stop.kind != "none"  # by its whole curve
        other = self._recalibrated() if is_judged or self._is_last else None
        held_out = Evaluation(trained.val_loss, trained.val_accuracy)
        if other is not None and self._estimate.recalibrate:
            held_out = evaluate(other, self._training.data.validation)
        self._accuracies.append(held_out.accuracy)
        stopped = ""
        order = self.order
        if self._estimate.stop.is_hopeless(self._accuracies, self._estimate.epochs, order.best, order.laws):
            self._is_stopped = True
            stopped = f"its curve would stay below the best score {order.best:.4f}"
        validation = self._validate(other or self._recalibrated()) if self.is_over else {}
        batch_size = self._training.options.batch_size
        num_images = batch_size * self._training.data.train.num_batches(batch_size, drop_last=True)
        return ChildReport(
            epoch=trained.epoch,
            train_loss=trained.train_loss,
            train_accuracy=trained.train_accuracy,
            held_out_loss=held_out.loss,
            held_out_accuracy=held_out.accuracy,
            lr=trained.lr,
            drop_path=trained.drop_path,
            images_per_s=num_images / trained.seconds,
            seconds=time.perf_counter() - start,
            **validation,
            stopped=stopped,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit after this epoch; loads with `weights_only=True`."""
        return {
            **self.stamp(),
            "epoch": self.epoch,
            "training": self._training.state_dict(),
            "accuracies": list(self._accuracies),
            "is_stopped": self._is_stopped,
        }

    def _take(self, state: dict[str, Any]) -> None:
        self._training.load_state_dict(state["training"])
        self._accuracies, self._is_stopped = list(state["accuracies"]), state["is_stopped"]

    def _begin_with(self, genotype: Genotype, parent: Mapping[str, Tensor]) -> None:
        assert isinstance(self.child, Child), "a chain inherits no weights"
        if not self._estimate.morphism:
            inherit_weights(self.child, genotype, parent)
            return
        assert self.order.parent is not None
        # Streams 0 and 1 are those of the training, 2 that of recomputed statistics.
        seed = int(np.random.SeedSequence([self._seed, 3]).generate_state(1)[0])
        channels = child_recipe(self.options, self.order.parent).init_channels
        morph(self.child, genotype, parent, channels, torch.Generator().manual_seed(seed))

    @property
    def _is_last(self) -> bool:
        return self.epoch >= self._estimate.epochs

    def _validate(self, recalibrated: ChildNetwork) -> dict[str, float]:
        inherited = evaluate(self.child, self._validation)
        return {
            "val_loss": inherited.loss,
            "val_accuracy": inherited.accuracy,
            "val_accuracy_recalibrated": evaluate(recalibrated, self._validation).accuracy,
        }

    def _recalibrated(self) -> ChildNetwork:
        """A copy with batch norm statistics of the images that it is trained on."""
        # Streams 0 and 1 are those of the training; one more for each epoch needs no state.
        seed = int(np.random.SeedSequence([self._seed, 2, self.epoch]).generate_state(1)[0])
        child = copy.deepcopy(self.child)
        recalibrate(
            child,
            self._training.data.train,
            batch_size=self._training.options.batch_size,
            num_batches=self.options.recalibration_batches,
            generator=torch.Generator(self._device).manual_seed(seed),
        )
        return child

    def definition(self) -> dict[str, Any]:
        """Whose child it is, and what its score depends on."""
        scoring = {
            "stop": defining(self.options)["strategy"]["estimate"]["stop"],
            "recalibrate": self._estimate.recalibrate,
            "recalibration_batches": self.options.recalibration_batches,
        }
        return {**self.order.definition(), **scoring}
