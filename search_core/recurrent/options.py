"""Options of searches and retrainings of recurrent cells, apart from them, as they need no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from search_core.errors import Rule, literal_rules, require
from search_core.primitives.counting import Cost
from search_core.search.temperature import TemperatureOptions
from search_core.strategies.optimiser_options import AlphaOptions
from search_core.strategies.weight_sharing.options import DartsOptions, SnasOptions


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Which text.

    Attributes:
        folder: has `train.txt`, `valid.txt` and `test.txt` in UTF-8, as Penn Treebank and WikiText are laid out.
        level: what is predicted: `word` (between blanks, with one for the end of a line) or `char`.

    Raises:
        OptionsError: if a value is out of range.
    """

    folder: str
    level: Literal["word", "char"] = "word"

    def __post_init__(self) -> None:
        require(*literal_rules(self))


@dataclass(frozen=True, kw_only=True)
class DropoutOptions:
    """Probabilities of being dropped, each in [0, 1); a mask is drawn once a window and kept over its time steps.

    Attributes:
        words: of a whole word's embedding.
        embedding: of an embedded value.
        input: of a value where it enters the cell.
        hidden: of a value of a state where a node reads it.
        output: of an output value before the decoder.

    Raises:
        OptionsError: if a value is out of range.
    """

    words: float = 0.0
    embedding: float = 0.2
    input: float = 0.75
    hidden: float = 0.25
    output: float = 0.75

    def __post_init__(self) -> None:
        require(*((name, 0 <= value < 1, f"must be in [0, 1), got {value}") for name, value in vars(self).items()))


@dataclass(frozen=True, kw_only=True)
class LanguageOptions:
    """What a search and a retraining have in common: a language model of one recurrent layer, and its training by SGD.

    Attributes:
        hidden: values of an embedding and of a state, at least 1; embedding and decoder are one matrix.
        dropout: variational dropout.
        slowness: weight of the mean square change of the output from step to step (the authors' `beta`), 0 or above.
        epochs: passes over the training text, at least 1.
        batch_size: columns in which the text is read side by side, at least 2.
        bptt: time steps through which a gradient flows, at least 1; the hidden state is carried on without it.
        lr: learning rate of theta, above 0.
        weight_decay: 0 or above.
        grad_clip: maximal norm of theta's gradient, above 0.

    Raises:
        OptionsError: if a value is out of range, in all subclasses.
    """

    hidden: int = 300
    dropout: DropoutOptions = field(default_factory=DropoutOptions)
    slowness: float = 1.0e-3
    epochs: int = 50
    batch_size: int = 256
    bptt: int = 35
    lr: float = 20.0
    weight_decay: float = 5.0e-7
    grad_clip: float = 0.25

    def __post_init__(self) -> None:
        require(*self._rules())

    def _rules(self) -> Iterator[Rule]:
        yield from literal_rules(self)
        for name, low in (("hidden", 1), ("epochs", 1), ("batch_size", 2), ("bptt", 1), ("slowness", 0)):
            yield name, getattr(self, name) >= low, f"must be at least {low}, got {getattr(self, name)}"
        yield "lr", self.lr > 0 and math.isfinite(self.lr), f"must be a finite number above 0, got {self.lr}"
        yield "weight_decay", self.weight_decay >= 0, f"must be at least 0, got {self.weight_decay}"
        yield "grad_clip", self.grad_clip > 0, f"must be above 0, got {self.grad_clip}"


@dataclass(frozen=True, kw_only=True)
class RecurrentAlphaOptions(AlphaOptions):
    """Adam for alpha, as in DARTS' search of recurrent cells (appendix A.1.2)."""

    lr: float = 3.0e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class RecurrentSearchOptions(LanguageOptions):
    """Search of a recurrent cell; defaults are those of DARTS on Penn Treebank (appendix A.1.2).

    Attributes:
        nodes: nodes of the cell, at least 1.
        batch_norm: normalise states over the columns, also in the child that shares the weights; a retraining does not.
        strategy: `snas` or `darts`; of `snas` only the kind, for the other settings are of image networks.
        temperature: schedule of the concrete distribution's temperature, for `snas`.
        alpha: optimiser of the architecture parameters.

    Raises:
        OptionsError: if a value is out of range.
    """

    nodes: int = 8
    batch_norm: bool = True
    # Read by pydantic, which study files are validated with.
    strategy: SnasOptions | DartsOptions = field(default_factory=SnasOptions, metadata={"discriminator": "kind"})
    temperature: TemperatureOptions = field(default_factory=TemperatureOptions)
    alpha: RecurrentAlphaOptions = field(default_factory=RecurrentAlphaOptions)

    def _rules(self) -> Iterator[Rule]:
        yield from super()._rules()
        yield "nodes", self.nodes >= 1, f"must be at least 1, got {self.nodes}"
        if self.strategy.kind == "snas":
            for name, value in vars(SnasOptions()).items():
                given = getattr(self.strategy, name)
                yield f"strategy.{name}", given == value, f"must be {value} with a recurrent cell, got {given}"


@dataclass(frozen=True, kw_only=True)
class RetrainDropoutOptions(DropoutOptions):
    """Dropout of a retraining (DARTS appendix A.2.2)."""

    words: float = 0.1


@dataclass(frozen=True, kw_only=True)
class RecurrentRetrainOptions(LanguageOptions):
    """Training of a recurrent cell from scratch; defaults are DARTS' on Penn Treebank (appendix A.2.2).

    Attributes:
        average_after: epochs, at least 1: SGD turns into its average (ASGD) once the validation loss is above the best
            of all epochs before the newest N, where this is N.

    Raises:
        OptionsError: if a value is out of range.
    """

    hidden: int = 850
    dropout: RetrainDropoutOptions = field(default_factory=RetrainDropoutOptions)
    epochs: int = 8000
    batch_size: int = 64
    weight_decay: float = 8.0e-7
    average_after: int = 5

    def _rules(self) -> Iterator[Rule]:
        yield from super()._rules()
        yield "average_after", self.average_after >= 1, f"must be at least 1, got {self.average_after}"


def language_model_cost(vocabulary: int, hidden: int, nodes: int) -> Cost:
    """Parameters of a language model, and multiply-adds and memory accesses of one column's time step.

    Whatever the cell chooses, each node has one product: so all cells of the same number of nodes cost the same, and
    there is no resource penalty here. Multiply-adds are those of products; memory accesses are the values that each
    product reads and writes.

    Args:
        vocabulary: number of words V.
        hidden: H.
        nodes: N. Embedding and decoder share V H weights, beside V biases; state 0 has 2H x 2H and a node H x 2H.
    """
    decoder, state, node = vocabulary * hidden, 4 * hidden**2, 2 * hidden**2
    madds = decoder + state + nodes * node
    return Cost(madds + vocabulary, madds, madds + (hidden + vocabulary) + 4 * hidden + nodes * 3 * hidden)
