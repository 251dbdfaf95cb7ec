"""Training a recurrent cell from scratch: one report per epoch, then the test text; resumable bit for bit on CPU."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_core.errors import StateError
from search_core.randomness import check_states, generator_states, make_generators, restore_generators
from search_core.recurrent.model import LanguageModel
from search_core.recurrent.options import RecurrentRetrainOptions, language_model_cost
from search_core.recurrent.text import TextData, columns, windows
from search_core.recurrent.training import (
    finite,
    perplexity,
    slowness,
    text_loss,
    window_loss,
)
from search_core.resumable import Resumable
from search_core.space.recurrent import RecurrentGenotype
from search_core.training.optimisers import SGD

#: Columns in which texts are read when nothing is trained (the authors' code).
_VALIDATION_COLUMNS, _TEST_COLUMNS = 10, 1


@dataclass(frozen=True, kw_only=True)
class RecurrentRetrainReport:
    """State of a retraining after one epoch. Perplexities are exp of nats a word, or a character.

    Attributes:
        epoch: 0-based.
        train_perplexity: over the epoch, dropout included.
        val_perplexity: on the validation text, of the averaged weights if there are any.
        best_val_perplexity: the lowest so far; its weights are those that `RecurrentRetrain.test` takes.
        averaged_steps: steps over which weights are averaged; 0 before.
        seconds: wall time of the epoch, validation included.
    """

    epoch: int
    train_perplexity: float
    val_perplexity: float
    best_val_perplexity: float
    averaged_steps: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `epoch` and `metrics`."""
        return {"epoch": self.epoch, "metrics": {name: v for name, v in vars(self).items() if name != "epoch"}}


class RecurrentRetrain(Resumable[RecurrentRetrainReport]):
    """One training of a cell from scratch: iterate over it for one report per epoch, then ask for `final_metrics`.

    SGD whose weights are averaged once the validation loss no longer falls (Merity et al., ICLR 2018, section 5), as
    DARTS trains (appendix A.2.2).

    Args:
        genotype: the cell.
        options: size and recipe.
        data: the text, on `device`.
        device: where the training runs.
        seed: of initial weights and dropout.

    Raises:
        DataError: if the training text is too short for the columns.
    """

    state_format = 1

    def __init__(
        self,
        genotype: RecurrentGenotype,
        options: RecurrentRetrainOptions,
        data: TextData,
        device: torch.device | str = "cpu",
        *,
        seed: int = 0,
    ) -> None:
        self.genotype, self.options, self.data, self.seed, self.epoch = genotype, options, data, seed, 0
        self._train_LB = columns(data.train, options.batch_size)
        nodes = len(genotype.recurrent)
        self.model = LanguageModel(len(data.vocabulary), options.hidden, nodes, seed=seed).to(device)
        self._optimiser = SGD(self.model.parameters(), options.lr, weight_decay=options.weight_decay, foreach=True)
        self._generators = make_generators(seed, ("dropout",), torch.device(device))
        self._val_losses: list[float] = []
        self._average: dict[str, Tensor] = {}
        self._averaged_steps = 0
        self._best: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.options.epochs

    def run_epoch(self) -> RecurrentRetrainReport:
        """Train and validate one epoch.

        Raises:
            NonFiniteLossError: if a loss is not finite.
        """
        start = time.perf_counter()
        train_loss = self._train()
        weights = copy.deepcopy(self._average or self.model.state_dict())
        loss = self._loss(weights, self.data.valid, _VALIDATION_COLUMNS)
        before, patience = self._val_losses, self.options.average_after
        if loss < min(before, default=math.inf):
            self._best = weights
        if not self._average and loss > min(before[:-patience], default=math.inf):
            self._average = weights
        self._val_losses = [*before, loss]
        report = RecurrentRetrainReport(
            epoch=self.epoch,
            train_perplexity=perplexity(train_loss),
            val_perplexity=perplexity(loss),
            best_val_perplexity=perplexity(min(self._val_losses)),
            averaged_steps=self._averaged_steps,
            seconds=time.perf_counter() - start,
        )
        self.epoch += 1
        return report

    def final_metrics(self) -> dict[str, float]:
        """`test_perplexity` of the weights of the best epoch, and `params` and `madds` (a word) of the model.

        Raises:
            StateError: before the last epoch, when a look at the test text would be a selection on it.
        """
        if not self.is_over:
            raise StateError(
                f"the test text is for the final figure: {self.epoch} of {self.options.epochs} epochs done"
            )
        loss = self._loss(self._best, self.data.test, _TEST_COLUMNS)
        cost = language_model_cost(len(self.data.vocabulary), self.options.hidden, len(self.genotype.recurrent))
        return {"test_perplexity": perplexity(loss), "params": float(cost.params), "madds": float(cost.madds)}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit after this epoch; loads with `weights_only=True`."""
        return {
            **self.stamp(),
            "epoch": self.epoch,
            "model": copy.deepcopy(self.model.state_dict()),  # training continues in place
            "average": copy.deepcopy(self._average),
            "averaged_steps": self._averaged_steps,
            "best": self._best,
            "val_losses": self._val_losses,
            "generators": generator_states(self._generators),
        }

    def _take(self, state: dict[str, Any]) -> None:
        check_states(self._generators, state["generators"])
        self.model.load_state_dict(state["model"])
        device = self.model.bias.device
        self._average, self._best = (
            {key: value.to(device, copy=True) for key, value in state[name].items()} for name in ("average", "best")
        )
        self._averaged_steps, self._val_losses = state["averaged_steps"], list(state["val_losses"])
        restore_generators(self._generators, state["generators"])
        self.epoch = state["epoch"]

    def definition(self) -> dict[str, Any]:
        """Cell, recipe, seed and text."""
        return {
            "options": asdict(self.options),
            "genotype": self.genotype.to_dict(),
            "seed": self.seed,
            "data": self.data.digest,
        }

    def _train(self) -> float:
        """One pass over the training text; the mean loss."""
        model, options, losses = self.model, self.options, []
        hidden_BH = model.start(options.batch_size)
        for window in windows(self._train_LB, options.bptt):
            masks = model.masks(options.batch_size, options.dropout, self._generators["dropout"])
            loss, outputs = window_loss(model, window, hidden_BH, self.genotype, masks)
            hidden_BH = outputs[-1].detach()
            losses.append(loss.detach() * len(window[0]))
            self._optimiser.zero_grad()
            (loss + options.slowness * slowness(outputs)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip, foreach=True)
            self._optimiser.step()
            if self._average:
                self._averaged_steps += 1
                for name, weight in model.state_dict().items():
                    self._average[name].lerp_(weight, 1 / self._averaged_steps)
        total = torch.stack(losses).sum().item()
        return finite(total / (len(self._train_LB) - 1), f"the training loss of epoch {self.epoch + 1}")

    def _loss(self, weights: dict[str, Tensor], text: Tensor, number: int) -> float:
        """Loss on a text of the model with other weights; its own are as before afterwards."""
        own = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(weights)
        loss = text_loss(self.model, text, number, self.options.bptt, lambda: self.genotype)
        self.model.load_state_dict(own)
        return loss
