"""Retrained cells: trainings of one cell by one recipe, whose seeds make a spread."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from dashboards.analysis.noise import Estimate, estimate
from dashboards.formatting import MISSING, percent_with_interval, percent_with_spread
from dashboards.records import Retraining, StudyRecord, Trial

_SEED = re.compile(r"-seed\d+$")


@dataclass(frozen=True, kw_only=True)
class RetrainedCell:
    """All retrainings of one cell.

    Attributes:
        name: whose cell it is.
        trial: number of the trial; None for a cell that was named.
        retrainings: by seed.
    """

    name: str
    trial: int | None
    retrainings: Sequence[Retraining]

    @property
    def test_errors(self) -> list[float]:
        """Of the seeds that are complete, fractions."""
        metrics = [retraining.run.metrics for retraining in self.retrainings]
        return [1 - value for values in metrics if math.isfinite(value := values.get("test_accuracy", math.nan))]

    @property
    def mean_error(self) -> float | None:
        """Mean test error over seeds, a fraction."""
        return mean(self.test_errors) if self.test_errors else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds, a fraction; None with fewer than two."""
        return stdev(self.test_errors) if len(self.test_errors) > 1 else None

    def estimate(self, images: int | None) -> Estimate:
        """Test error with its interval, of at least one complete training on so many test images."""
        return estimate(self.test_errors, images)

    @property
    def best(self) -> Retraining:
        """The training with the least test error; the first if none is complete."""
        return min(self.retrainings, key=lambda one: 1 - one.run.metrics.get("test_accuracy", 0.0))

    def metric(self, name: str) -> float | None:
        """A metric of the first retraining that has it, for what all seeds share, such as parameters."""
        return next((r.run.metrics[name] for r in self.retrainings if name in r.run.metrics), None)


def retrained_cells(retrainings: Sequence[Retraining]) -> list[RetrainedCell]:
    """Retrainings grouped by cell and recipe, in their order: only seeds of one recipe make a spread.

    A cell without a trial goes by the label without its seed, and so does any further recipe of a trial's cell.
    """
    groups: dict[tuple[object, ...], list[Retraining]] = {}
    for retraining in retrainings:
        recipe = frozenset((key, value) for key, value in retraining.run.params.items() if key != "seed")
        cell = _SEED.sub("", retraining.run.label) if retraining.trial is None else retraining.trial
        groups.setdefault((cell, recipe), []).append(retraining)
    cells: list[RetrainedCell] = []
    for members in groups.values():
        stem, trial = _SEED.sub("", members[0].run.label.removeprefix("retrain-")), members[0].trial
        name = stem if trial is None else f"trial {trial}"
        if any(known.name == name for known in cells):
            name = f"{name}, {stem}"
        cells.append(RetrainedCell(name=name, trial=trial, retrainings=members))
    return cells


def tests_by_trial(retrainings: Sequence[Retraining]) -> Mapping[int, RetrainedCell]:
    """The retrained cell of each trial, by the recipe that most of them share: only these can be compared."""
    cells = [cell for cell in retrained_cells(retrainings) if cell.trial is not None and cell.test_errors]
    recipes = [_shared_recipe(cell.retrainings[0]) for cell in cells]
    most = Counter(recipes).most_common(1)
    return {
        cell.trial: cell
        for cell, recipe in zip(cells, recipes, strict=True)
        if cell.trial is not None and recipe == most[0][0]
    }


def _shared_recipe(retraining: Retraining) -> frozenset[tuple[str, str]]:
    """Settings of a training that are not those of its cell."""
    own = ("seed", "trial")
    return frozenset(
        (key, text) for key, text in retraining.run.params.items() if key not in own and not key.startswith("choices.")
    )


def tested_cell(study: StudyRecord, trial: Trial) -> RetrainedCell | None:
    """The retrained cell of a trial; None if there is none, or no training of it is complete."""
    return None if trial.number is None else tests_by_trial(study.retrainings).get(trial.number)


def said_test(study: StudyRecord, cell: RetrainedCell | None) -> str:
    """Test error of a retrained cell with its 95 % interval by images and seeds; a dash where there is none."""
    if cell is None or not cell.test_errors:
        return MISSING
    found = cell.estimate(study.images.get("test"))
    return percent_with_interval(found.value, found.interval)


def said_error(cell: RetrainedCell) -> str:
    """Test error with its spread in words."""
    return "not known yet" if cell.mean_error is None else percent_with_spread(cell.mean_error, cell.spread)
