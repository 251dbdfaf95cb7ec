"""A search of a recurrent cell on a text: one report per epoch, resumable bit for bit on CPU."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from search_core.randomness import check_states, generator_states, make_generators, restore_generators
from search_core.recurrent.model import Architecture, LanguageModel
from search_core.recurrent.options import RecurrentSearchOptions
from search_core.recurrent.strategies import STRATEGIES
from search_core.recurrent.text import TextData, columns, windows
from search_core.recurrent.training import finite, perplexity, text_loss
from search_core.resumable import Resumable
from search_core.search.temperature import temperature_at
from search_core.space.recurrent import RecurrentGenotype


@dataclass(frozen=True, kw_only=True)
class RecurrentReport:
    """State of a search after one epoch. Perplexities are exp of nats a word, or a character.

    Attributes:
        epoch: 0-based.
        train_perplexity: of the searchable cell over the epoch, dropout included.
        supernet_val_perplexity: of the searchable cell on the validation text: DARTS' mixture, or a sample a window.
        child_val_perplexity: of the derived cell with the weights of the searchable one.
        entropy: nats, summed over all that alpha decides.
        temperature: of the concrete distribution.
        seconds: wall time of the epoch, validation included.
        words_per_s: training words per second of training time.
        genotype: the derived cell.
        probabilities: of each pair of node and state (rows, by node) under each of `ACTIVATIONS`.
    """

    epoch: int
    train_perplexity: float
    supernet_val_perplexity: float
    child_val_perplexity: float
    entropy: float
    temperature: float
    seconds: float
    words_per_s: float
    genotype: RecurrentGenotype
    probabilities: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `epoch`, `metrics`, `genotype`, `probabilities`."""
        others = ("epoch", "genotype", "probabilities")
        metrics = {name: value for name, value in vars(self).items() if name not in others}
        genotype, probabilities = self.genotype.to_dict(), [list(row) for row in self.probabilities]
        return {"epoch": self.epoch, "metrics": metrics, "genotype": genotype, "probabilities": probabilities}


class RecurrentSearch(Resumable[RecurrentReport]):
    """One search: iterate over it for one report per epoch.

    Args:
        options: everything that defines the search.
        data: the text, on `device`.
        device: where the search runs.
        seed: of initial weights, dropout and architecture samples.

    Raises:
        DataError: if a part of the text is too short for the columns.
    """

    state_format = 1

    def __init__(
        self, options: RecurrentSearchOptions, data: TextData, device: torch.device | str = "cpu", *, seed: int = 0
    ) -> None:
        self.options, self.data, self.seed, self.epoch = options, data, seed, 0
        # Both parts stay whole text; alpha has the later one.
        border = round(len(data.train) * (1 - options.strategy.held_out_fraction))
        self._train_LB = columns(data.train[:border], options.batch_size)
        held_out = data.train[border:]
        held_out_LB = columns(held_out, options.batch_size) if options.strategy.held_out_fraction else None
        self._generators = make_generators(seed, ("dropout", "architecture", "validation"), torch.device(device))
        model = LanguageModel(
            len(data.vocabulary), options.hidden, options.nodes, batch_norm=options.batch_norm, seed=seed
        )
        self.strategy = STRATEGIES[options.strategy.kind](
            model.to(device), options, held_out_LB, seed, self._generators["dropout"]
        )

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.options.epochs

    def run_epoch(self) -> RecurrentReport:
        """Train and validate one epoch.

        Raises:
            NonFiniteLossError: if a loss is not finite; the search must not be continued then.
        """
        start, strategy, options = time.perf_counter(), self.strategy, self.options
        temperature = temperature_at(options.temperature, self.epoch, options.epochs)
        strategy.begin_epoch(temperature)
        hidden_BH, losses = strategy.model.start(options.batch_size), []
        for window in windows(self._train_LB, options.bptt):
            loss, hidden_BH = strategy.step(window, hidden_BH, self._generators["architecture"])
            losses.append(loss * len(window[0]))
        num_steps = len(self._train_LB) - 1
        train_loss = finite(
            torch.stack(losses).sum().item() / num_steps, f"the training loss of epoch {self.epoch + 1}"
        )
        train_seconds = time.perf_counter() - start
        genotype = strategy.genotype()
        report = RecurrentReport(
            epoch=self.epoch,
            train_perplexity=perplexity(train_loss),
            supernet_val_perplexity=self._val_perplexity(None),
            child_val_perplexity=self._val_perplexity(genotype),
            entropy=strategy.entropy().item(),
            temperature=temperature,
            seconds=time.perf_counter() - start,
            words_per_s=num_steps * options.batch_size / train_seconds,
            genotype=genotype,
            probabilities=tuple(map(tuple, strategy.probabilities().tolist())),
        )
        self.epoch += 1
        return report

    def genotype(self) -> RecurrentGenotype:
        """The cell that the strategy would choose now."""
        return self.strategy.genotype()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit after this epoch; loads with `weights_only=True`."""
        return {
            **self.stamp(),
            "epoch": self.epoch,
            "strategy": self.strategy.state_dict(),
            "generators": generator_states(self._generators),
        }

    def _take(self, state: dict[str, Any]) -> None:
        check_states(self._generators, state["generators"])
        self.strategy.load_state_dict(state["strategy"])
        restore_generators(self._generators, state["generators"])
        self.epoch = state["epoch"]

    def definition(self) -> dict[str, Any]:
        """Options, seed and text."""
        return {"options": asdict(self.options), "seed": self.seed, "data": self.data.digest}

    def _val_perplexity(self, genotype: RecurrentGenotype | None) -> float:
        """Of the genotype, or of the searchable cell; in as many columns as batch norm has in training."""

        def architecture() -> Architecture:
            return self.strategy.weights_of_pass(self._generators["validation"]) if genotype is None else genotype

        loss = text_loss(self.strategy.model, self.data.valid, self.options.batch_size, self.options.bptt, architecture)
        return perplexity(loss)
