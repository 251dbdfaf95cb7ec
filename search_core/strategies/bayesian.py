"""Options of Bayesian optimisation over genotypes; what proposes lives where Optuna does, in the orchestrator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from search_core.constraints import ChildLimits
from search_core.errors import OptionsError, require
from search_core.genotype_space import GenotypeSpace
from search_core.strategies.over_trials import OverTrialsOptions, Proposer


@dataclass(frozen=True, kw_only=True)
class BayesianOptions(OverTrialsOptions):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) over one categorical choice per edge.

    Attributes:
        kind: names this strategy.
        startup: scores before there is a model, at least 1; children proposed until then are drawn uniformly.
        candidates: draws from the model of good children, of which the likeliest to improve is proposed, at least 1.

    Raises:
        OptionsError: if a value is out of range.
    """

    summary: ClassVar = "a Parzen estimator (TPE) of the operations of good children; each child trained for itself"
    paper: ClassVar = "Bergstra et al., NeurIPS 2011"

    kind: Literal["bayesian"] = "bayesian"
    startup: int = 10
    candidates: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            ("startup", self.startup >= 1, f"must be at least 1, got {self.startup}"),
            ("candidates", self.candidates >= 1, f"must be at least 1, got {self.candidates}"),
        )

    def build(self, space: GenotypeSpace, limits: ChildLimits, *, children: int, seed: int) -> Proposer:
        """Refused: `orchestrator.bayesian.build_proposer` builds it, which `make_search` takes as `build`.

        Raises:
            OptionsError: always.
        """
        message = "needs Optuna, which search_core does without: give `make_search` the orchestrator's `build_proposer`"
        raise OptionsError((("strategy.kind", message),))
