"""A cost to aim at: the penalty strength eta follows from what the child costs so far.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from search_core.cost.constraints import ChildLimits
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import CostTarget
from search_core.errors import Rule, require
from search_core.space.code_space import GenotypeSpace
from search_core.space.genotype import CELL_TYPES, CellType, Genotype

#: Gains of the sum and of the newest error, per nat; chosen by simulating searches of 100 to 1,600 steps.
_INTEGRAL, _PROPORTIONAL = 2.0, 10.0
#: Most of |arsinh(eta / strength)|, that is 81,000 times `strength`: from further away eta would return too late.
_MOST = 12.0


@dataclass(frozen=True)
class WholeCost:
    """What children cost in the kind of a target: operations, and `fixed`, which no edge decides.

    Attributes:
        target: says which kind.
        costs: of operations.
        of_child: of one child as a whole. In latency `fixed` has no additions, of which each edge counts one.
        fixed: of stem, inputs of cells and classifier.
    """

    target: CostTarget
    costs: CostTable
    of_child: Callable[[Genotype], float]
    fixed: float

    @classmethod
    def of(cls, target: CostTarget, costs: CostTable, limits: ChildLimits, space: GenotypeSpace) -> WholeCost:
        """That of the children of a search; `fixed` is what the child of first operations costs beyond them."""
        predicted = limits.latency

        def of_child(genotype: Genotype) -> float:
            if target.kind != "latency_ms":
                return float(getattr(limits.cost(genotype), target.kind))
            assert predicted is not None, "a target in latency needs a table"
            return predicted(genotype)

        whole = cls(target, costs, of_child, fixed=0.0)
        first = [table_EO[:, 0] for table_EO in whole.tables().values()]
        child = space.decode([0] * sum(map(len, first)))
        return cls(target, costs, of_child, of_child(child) - sum(column.sum().item() for column in first))

    def tables(self) -> dict[CellType, Tensor]:
        """Costs (E, O) per cell type, all cells of a type together."""
        kind = "latency" if self.target.kind == "latency_ms" else self.target.kind
        return {cell_type: self.costs.table(kind, cell_type).sum(0) for cell_type in CELL_TYPES}

    def expected(self, probabilities: Mapping[CellType, Tensor]) -> float:
        """That of a child drawn from `probabilities`, (E, O) per cell type."""
        tables = self.tables()
        return self.fixed + sum((tables[name] * probabilities[name]).sum().item() for name in CELL_TYPES)

    def rule(self) -> Rule:
        """Rule for `require`: the target is one that a child can have."""
        tables, value = self.tables().values(), self.target.value
        least = self.fixed + sum(table_EO.amin(-1).sum().item() for table_EO in tables)
        most = self.fixed + sum(table_EO.amax(-1).sum().item() for table_EO in tables)
        message = f"must be in [{least:,.6g}, {most:,.6g}], what children of this search cost, got {value:,.6g}"
        return f"penalty.target.{self.target.kind}", least <= value <= most, message


class EtaSteering:
    """Steers eta from epoch to epoch so that the child meets a target cost T: a Lagrange multiplier found by ascent.

    `min E_Z[L(theta, Z)]` subject to `cost = T` has the Lagrangian `L + eta (cost - T)`, so that eta grows while the
    child is too expensive and falls, below 0 too, while it is too cheap; LightNAS (Luo et al., DAC 2022) so ascends by
    the error `cost / T - 1`. Here after each epoch, with p from 0 in the first epoch to 1 in the last,

    - the error is `e = (1 - p) log(expected cost / T) + p log(cost of the child / T)`: what ends with the search is the
      child of the most probable operations, which says little while all are as likely;
    - a sum `x` grows by `2 e` and `eta = strength * sinh(x + 10 e)`, with x = arsinh(1) at the start.

    The sinh is mirror ascent by the hypentropy (Ghai, Hazan and Singer, ALT 2020): steps near 0 are those of addition,
    far from it those of multiplication, so that the scale of eta, which follows from loss and `penalty.cost`, need not
    be known. The term of the newest error damps the swing that ascent alone has (Stooke, Achiam and Abbeel, ICML 2020).

    Args:
        strength: eta of the first epoch, above 0.
        cost: what is to meet the target.

    Raises:
        OptionsError: if no child can.
    """

    def __init__(self, strength: float, cost: WholeCost) -> None:
        require(cost.rule())
        self._strength, self._cost = strength, cost
        self._sum = math.asinh(1.0)
        self.eta = strength

    def update(self, probabilities: Mapping[CellType, Tensor], genotype: Genotype, progress: float) -> None:
        """Choose eta of the next epoch.

        Args:
            probabilities: (E, O) per cell type, after this one.
            genotype: of the child that follows from them.
            progress: of this epoch, 0 in the first to 1 in the last.
        """
        expected, child = (
            math.log(max(cost, 1e-9) / self._cost.target.value)
            for cost in (self._cost.expected(probabilities), self._cost.of_child(genotype))
        )
        error = (1 - progress) * expected + progress * child
        self._sum = _within(self._sum + _INTEGRAL * error)
        self.eta = self._strength * math.sinh(_within(self._sum + _PROPORTIONAL * error))

    def state_dict(self) -> dict[str, float]:
        """Sum of errors and eta."""
        return {"sum": self._sum, "eta": self.eta}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over what `state_dict` gave."""
        self._sum, self.eta = state["sum"], state["eta"]


def _within(exponent: float) -> float:
    return min(max(exponent, -_MOST), _MOST)
