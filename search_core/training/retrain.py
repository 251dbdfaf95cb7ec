"""Training a child network from scratch: one report per epoch, resumable bit for bit on CPU."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from search_core.cost.counts import NetworkCost, bit_operations, child_cost
from search_core.data.datasets import ImageData, check_batch_size
from search_core.errors import NonFiniteLossError, StateError, require
from search_core.network.chain import Chain, ChildNetwork
from search_core.network.child import Child
from search_core.randomness import check_states, generator_states, make_generators, restore_generators
from search_core.ranks import ALONE, Ranks
from search_core.resumable import Resumable
from search_core.space.choices import CellChoices
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkOptions, NetworkSize, plan_child
from search_core.training.compiled import TrainingPass, compiled
from search_core.training.evaluation import Evaluation, evaluate
from search_core.training.optimisers import SGD
from search_core.training.retrain_options import RetrainOptions, chain_rules, workers_rules

#: Settings that earlier versions did not have, and the value at which they change nothing.
_LATER = {"precision": "float32", "compile": False}


@dataclass(frozen=True, kw_only=True)
class RetrainReport:
    """State of a retraining after one epoch. Accuracies are fractions in [0, 1].

    Attributes:
        epoch: 0-based.
        train_loss: mean cross entropy of the main classifier over the epoch, nats.
        train_accuracy: over the epoch's augmented batches.
        val_loss: nats.
        val_accuracy: on the validation split.
        lr: learning rate of this epoch.
        drop_path: drop path probability of this epoch.
        seconds: wall time of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    drop_path: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        """All numbers of the report by name, without `epoch`."""
        return {name: float(value) for name, value in vars(self).items() if name != "epoch"}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `epoch` and `metrics`."""
        return {"epoch": self.epoch, "metrics": self.metrics()}


class Retrain(Resumable[RetrainReport]):
    """One training of a child from scratch: iterate over it for one report per epoch, then ask for `test`.

    Args:
        genotype: the architecture.
        options: size and recipe.
        data: the images, on `device`.
        device: where the training runs.
        seed: seed of initial weights, data order, augmentation and drop path.
        choices: channels and bits of its cells, for the child of a search that chose them; those of a search of another
            number of cells are stretched over the depth. Weights are quantised in each pass, as in the search.
        ranks: this process among those that train the child together. `batch_size` stays that of the whole batch; all
            ranks hold the same weights, reports and states, and a state may be resumed with another number of ranks.

    With several ranks the batches, their augmentation and drop path are those of one process, gradients are averaged by
    DistributedDataParallel and reports count all images, so the numbers are those of one process but for rounding. That
    holds on GPUs, where batch norm takes its statistics over the whole batch (SyncBatchNorm). On CPU torch has no such
    norm: every rank normalises its own share, and running statistics are the means over the ranks.

    Raises:
        DataError: if the training split has less than one batch.
        OptionsError: if cutout would erase whole images, the ranks cannot share the training, the recipe has what a
            chain has not, or bfloat16 is asked for on another device than a GPU.
    """

    state_format = 2

    def __init__(
        self,
        genotype: Genotype,
        options: RetrainOptions,
        data: ImageData,
        device: torch.device | str = "cpu",
        *,
        seed: int = 0,
        choices: CellChoices | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        check_recipe(options, data, ranks.count)
        self.genotype, self.options, self.data, self.seed, self.ranks = genotype, options, data, seed, ranks
        self.epoch, self.choices = 0, choices
        device = torch.device(device)
        on_gpu = device.type == "cuda"
        require(("precision", on_gpu or options.precision == "float32", f"must be float32 on {device}"))
        self.child = build_child(genotype, options, data, seed=seed, choices=choices).to(device)
        if on_gpu:  # as images and maps lie, or cuDNN would turn every weight in every pass
            self.child = self.child.to(memory_format=torch.channels_last)
        if ranks.count > 1 and on_gpu:
            self.child = nn.SyncBatchNorm.convert_sync_batchnorm(self.child)
        self._network = _training_network(self.child, ranks, options)
        self._pass: TrainingPass | None = None  # compiled, if it is to be: in the first step
        self._augment = replace(data.augmentation, cutout=options.cutout)
        self._optimiser = SGD(
            self.child.parameters(),
            options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            foreach=True,
        )
        self._generators = make_generators(seed, ("data", "drop_path"), device)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.options.epochs

    def run_epoch(self) -> RetrainReport:
        """Train and validate one epoch.

        Raises:
            NonFiniteLossError: if the training loss is not finite.
        """
        start = time.perf_counter()
        options = self.options
        lr = learning_rate_at(options, self.epoch)
        drop_path = options.drop_path * self.epoch / options.epochs
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        training = self._train(drop_path)
        self.child.eval()
        validation = evaluate(self.child, self.data.validation, ranks=self.ranks)
        if math.isnan(validation.loss):  # the last step broke the weights; the loss before it was still finite
            raise NonFiniteLossError(f"the validation loss must be a number, got NaN in epoch {self.epoch + 1}")
        report = RetrainReport(
            epoch=self.epoch,
            train_loss=training.loss,
            train_accuracy=training.accuracy,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            lr=lr,
            drop_path=drop_path,
            seconds=self._mean(time.perf_counter() - start),
        )
        self.epoch += 1
        return report

    def test(self) -> Evaluation:
        """Loss and accuracy on the test split: the one use of that split, after the last epoch.

        Raises:
            StateError: before the last epoch, when a look at the test split would be a selection on it.
        """
        if self.epoch < self.options.epochs:
            raise StateError(
                f"the test split is for the final figure: {self.epoch} of {self.options.epochs} epochs done"
            )
        self.child.eval()
        return evaluate(self.child, self.data.test, ranks=self.ranks)

    def final_metrics(self) -> dict[str, float]:
        """`test_accuracy` (a fraction), and `params` and `madds` of the child; as `test`, after the last epoch only.

        With choices of channels and bits also `bit_operations`, see `counts.bit_operations`.

        Raises:
            StateError: before the last epoch.
        """
        cost = self.cost()
        metrics = {"test_accuracy": self.test().accuracy, "params": float(cost.params), "madds": float(cost.madds)}
        if isinstance(self.child, Child) and self.choices is not None:
            metrics["bit_operations"] = float(bit_operations(self.genotype, self.child.plan, self.child.bits))
        return metrics

    def cost(self) -> NetworkCost:
        """Exact counts of the child."""
        channels = None if isinstance(self.child, Chain) else [cell.channels for cell in self.child.plan.cells]
        return child_cost(self.genotype, self.child.plan.size, cell_channels=channels)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit after this epoch; loads with `weights_only=True`."""
        return {
            **self.stamp(),
            "epoch": self.epoch,
            "child": copy.deepcopy(self.child.state_dict()),  # training continues in place
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
            "generators": generator_states(self._generators),
        }

    def _take(self, state: dict[str, Any]) -> None:
        check_states(self._generators, state["generators"])
        self.child.load_state_dict(state["child"])
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        restore_generators(self._generators, state["generators"])
        self.epoch = state["epoch"]

    def _train(self, drop_path: float) -> Evaluation:
        options, generator, ranks = self.options, self._generators["drop_path"], self.ranks
        losses, corrects, num_images = [], [], 0
        self.child.train()
        batches = self.data.train.batches(
            options.batch_size, generator=self._generators["data"], augment=self._augment, drop_last=True, ranks=ranks
        )
        for images, labels in batches:
            if self._pass is None:
                self._pass = self._compiled(images, labels) if options.compile else self._network
            logits, auxiliary_logits = self._pass(images, drop_path, generator)
            loss = functional.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
            losses.append(loss.detach())
            corrects.append((logits.detach().argmax(1) == labels).sum())
            num_images += len(labels)
            if auxiliary_logits is not None:
                auxiliary = functional.cross_entropy(auxiliary_logits, labels, label_smoothing=options.label_smoothing)
                loss = loss + options.auxiliary_weight * auxiliary
            self._optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.child.parameters(), options.grad_clip, foreach=True)
            self._optimiser.step()
        ranks.average_(list(self.child.buffers()))
        mean_loss = ranks.mean(torch.stack(losses).mean()).item()
        if not math.isfinite(mean_loss):
            raise NonFiniteLossError(
                f"the training loss must stay finite, got {mean_loss} in epoch {self.epoch + 1}; a lower lr may help"
            )
        return Evaluation(mean_loss, ranks.mean(torch.stack(corrects).sum()).item() / num_images)

    def _compiled(self, images: Tensor, labels: Tensor) -> TrainingPass:
        """The training pass compiled, tried as the first epoch and as later ones run it."""
        probabilities = sorted({0.0, self.options.drop_path})
        return compiled(self._network, images, labels, probabilities, self._generators["drop_path"])

    def _mean(self, value: float) -> float:
        return self.ranks.mean(torch.tensor(value, dtype=torch.float64, device=self.data.train.device)).item()

    def definition(self) -> dict[str, Any]:
        """Genotype, recipe, seed and images; channels and bits if they were chosen."""
        chosen = {} if self.choices is None else {"choices": self.choices.to_dict()}
        options = asdict(self.options)
        return {
            **chosen,
            "options": {name: value for name, value in options.items() if _LATER.get(name, ...) != value},
            "genotype": self.genotype.to_dict(),
            "seed": self.seed,
            "data": [self.data.digest, self.data.split_digest],
        }


class _TrainingForward(nn.Module):
    """The child's training pass as a module: DistributedDataParallel hooks into `forward` only."""

    def __init__(self, child: ChildNetwork, ranks: Ranks, options: RetrainOptions) -> None:
        super().__init__()
        self.child, self.ranks = child, ranks
        self.is_half = options.precision == "bfloat16"

    def forward(
        self, images: Tensor, drop_path_prob: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of both classifiers in the type of the images, as `Child.forward_with_auxiliary`."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.is_half):
            logits, auxiliary = self.child.forward_with_auxiliary(images, drop_path_prob, generator, self.ranks)
        return logits.to(images.dtype), None if auxiliary is None else auxiliary.to(images.dtype)


def _training_network(child: ChildNetwork, ranks: Ranks, options: RetrainOptions) -> nn.Module:
    """The training pass, whose backward averages the gradients over the ranks."""
    network = _TrainingForward(child, ranks, options)
    if ranks.count == 1:
        return network
    # A genotype may leave cell inputs unused. Running statistics are averaged once an epoch: no step reads them.
    return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)


def check_recipe(options: RetrainOptions, data: ImageData, workers: int = 1) -> None:
    """Check that a recipe fits the images and the number of processes that share the batches.

    Raises:
        DataError: if the training split has less than one batch.
        OptionsError: if cutout would erase whole images, or the workers cannot share the training.
    """
    check_batch_size(options.batch_size, data)
    side, fewest = min(data.input_shape[1:]), min(len(data.train), len(data.validation))
    require(
        ("cutout", options.cutout < side, f"must be below the image side {side}, got {options.cutout}"),
        ("workers", workers <= fewest, f"must be at most the {fewest} images of the smallest split, got {workers}"),
        *workers_rules(options, workers),
    )


def learning_rate_at(options: RetrainOptions, epoch: int) -> float:
    """Learning rate of `epoch` (0-based): cosine from `lr` to 0, or `lr * lr_decay^epoch`."""
    if options.lr_schedule == "exponential":
        return options.lr * options.lr_decay**epoch
    return options.lr * (1 + math.cos(math.pi * epoch / options.epochs)) / 2


def build_child(
    genotype: Genotype, options: RetrainOptions, data: ImageData, *, seed: int, choices: CellChoices | None = None
) -> ChildNetwork:
    """The child network at the size of the retraining, with fresh seeded weights; `choices` as for `Retrain`.

    Of a chain of layers the genotype says all: `cells`, `init_channels` and `stem` are those of cells.

    Raises:
        OptionsError: if the recipe has what a chain has not.
    """
    network = NetworkOptions(cells=options.cells, init_channels=options.init_channels, stem=options.stem)
    size = NetworkSize(network, data.input_shape, data.num_classes)
    if genotype.layers:
        require(*chain_rules(options))
        return Chain(genotype, size, seed=seed)
    fitted = None if choices is None else choices.stretched(options.cells)
    return Child(
        genotype,
        size,
        auxiliary=options.auxiliary_weight > 0,
        cell_channels=None if fitted is None else fitted.channels(plan_child(genotype, size).cells),
        bits=None if fitted is None else fitted.bits,
        seed=seed,
    )
