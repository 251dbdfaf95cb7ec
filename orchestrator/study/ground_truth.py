"""The ground truth of a study: its jobs, and the table that their journals make.

The journals are the table: one record for each genotype and seed. A resumed study trains what is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from orchestrator.files.journal import Journal
from orchestrator.files.layout import StudyFolder
from orchestrator.jobs import TruthJob
from orchestrator.study_file.spec import StudySpec
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space

#: Genotypes that one worker trains: few enough to share the work out evenly, many enough to start few workers.
_GENOTYPES_A_PART = 8


@dataclass(frozen=True)
class TruthTable:
    """What every genotype of the space reaches when it is trained from scratch.

    Attributes:
        accuracies: validation accuracy of each training, a fraction, by genotype in the order of `GenotypeSpace.all`.
        madds: multiply-adds of each child, likewise.
        params: parameters of each child, likewise.
        diverged: trainings of each genotype that diverged, whose accuracy counts as 0; those without are left out.
    """

    accuracies: dict[Code, list[float]]
    madds: dict[Code, float]
    params: dict[Code, float]
    diverged: dict[Code, int]

    @property
    def means(self) -> dict[Code, float]:
        """Mean over the seeds."""
        return {code: mean(values) for code, values in self.accuracies.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, a row per genotype."""
        rows = [
            {
                "code": list(code),
                "val_accuracy": values,
                "madds": self.madds[code],
                "params": self.params[code],
                "diverged": self.diverged.get(code, 0),
            }
            for code, values in self.accuracies.items()
        ]
        return {"genotypes": rows}


def truth_jobs(spec: StudySpec, folder: StudyFolder) -> list[TruthJob]:
    """The parts of the work; none without `ground_truth`."""
    if spec.ground_truth is None:
        return []
    codes = list(genotype_space(spec.search.network).all())
    parts = [codes[start : start + _GENOTYPES_A_PART] for start in range(0, len(codes), _GENOTYPES_A_PART)]
    return [
        TruthJob(
            label=(label := f"{number * _GENOTYPES_A_PART:05d}"),
            checkpoints=folder.checkpoints(spec, "truth", label),
            epochs=len(part) * spec.ground_truth.seeds,
            codes=tuple(part),
            network=spec.search.network,
            options=spec.ground_truth,
            dataset=spec.search.dataset,
            seed=spec.seed,
        )
        for number, part in enumerate(parts)
    ]


def read_truth(spec: StudySpec, folder: StudyFolder) -> TruthTable | None:
    """The whole table; None without `ground_truth`, or as long as a training is missing."""
    if spec.ground_truth is None:
        return None
    table = TruthTable({}, {}, {}, {})
    for job in truth_jobs(spec, folder):
        journal = Journal(folder.journal("truth", job.label))
        if len(journal.epochs) < job.epochs:
            return None
        for record in journal.epochs:
            code, metrics = tuple(record["code"]), record["metrics"]
            table.accuracies.setdefault(code, []).append(metrics["val_accuracy"])
            if record.get("diverged"):
                table.diverged[code] = table.diverged.get(code, 0) + 1
            table.madds[code], table.params[code] = metrics["madds"], metrics["params"]
    return table


def write_table(table: TruthTable, file: Path) -> None:
    """Keep the table as one file for readers; whole or not at all."""
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(table.to_dict()), encoding="utf-8")
    draft.replace(file)
