"""A study of `snas recurrent` in this process: search of a recurrent cell, then its retraining; both resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from dashboards.pictures.cells import render_recurrent_svg
from orchestrator.driver.single import default_device
from orchestrator.errors import OrchestratorError, RunInterrupted
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.study_file.loading import RecurrentStudy
from orchestrator.study_file.spec import check_name
from orchestrator.study_file.yaml_file import dump_yaml
from search_core.errors import StateError
from search_core.recurrent.retrain import RecurrentRetrain, RecurrentRetrainReport
from search_core.recurrent.search import RecurrentReport, RecurrentSearch
from search_core.recurrent.text import load_text
from search_core.resumable import Resumable
from search_core.space.recurrent import RecurrentGenotype

#: Folder of such runs in that of all runs.
RECURRENT = "recurrent"

Report = TypeVar("Report", RecurrentReport, RecurrentRetrainReport)


def run_recurrent(
    study: RecurrentStudy,
    runs: Runs,
    name: str,
    on_epoch: Callable[[RecurrentReport | RecurrentRetrainReport], None],
    *,
    genotype: RecurrentGenotype | None = None,
) -> tuple[Path, dict[str, float]]:
    """Search a cell and train it from scratch, from where an equal run of the same name stopped.

    Args:
        study: what to do.
        runs: folder of all runs; this one's files lie in `recurrent/<name>`.
        name: of the folder.
        on_epoch: is called with every report that is new.
        genotype: the cell to train, in place of a search.

    Returns:
        The folder with `genotype.json`, `cell.svg`, `study.yaml`, `search.jsonl` and `retrain.jsonl`, and the last
        metrics of the retraining, with `test_perplexity`, `params` and `madds`; none without `retrain`.

    Raises:
        RunInterrupted: if a signal stopped it.
        DataError: if the text cannot be read.
        OrchestratorError: if the name cannot be a folder's, or is that of a run of another study.
        NonFiniteLossError: if a loss is not finite.
    """
    check_name(name)
    device = default_device()
    data = load_text(study.text, device)
    folder = runs.root / RECURRENT / name
    folder.mkdir(parents=True, exist_ok=True)
    if genotype is None:
        search = RecurrentSearch(study.search, data, device, seed=study.seed)
        _Record.of(search, folder, "search").run(search, on_epoch)
        genotype = search.genotype()
    retrain = record = None
    if study.retrain is not None:
        retrain = RecurrentRetrain(genotype, study.retrain, data, device, seed=study.seed)
        record = _Record.of(retrain, folder, "retrain")  # before anything of another study is overwritten
    (folder / "study.yaml").write_text(dump_yaml(study.model_dump()), encoding="utf-8")
    (folder / "genotype.json").write_text(genotype.to_json(), encoding="utf-8")
    (folder / "cell.svg").write_text(render_recurrent_svg(genotype, title=name), encoding="utf-8")
    return folder, {} if retrain is None or record is None else record.run(retrain, on_epoch)


@dataclass(frozen=True)
class _Record:
    """What is kept of a search or retraining, its `phase`."""

    phase: str
    journal: Journal
    checkpoints: CheckpointFolder

    @classmethod
    def of(cls, work: Resumable[Report], folder: Path, phase: str) -> Self:
        """What there is in a folder; `work` resumes from its newest checkpoint.

        Raises:
            OrchestratorError: if it is of other work.
        """
        record = cls(phase, Journal(folder / f"{phase}.jsonl"), CheckpointFolder(folder / "checkpoints" / phase))
        if (found := record.checkpoints.newest_whole()) is not None and found.record is not None:
            try:
                work.load_state_dict(dict(found.state))
            except StateError as error:
                raise OrchestratorError(f"{folder} is of another study, choose another --name: {error}") from error
            record.journal.append_epoch(found.record)
        return record

    def run(self, work: Resumable[Report], on_epoch: Callable[[Report], None]) -> dict[str, float]:
        """Run all epochs that are left, each in checkpoint and journal; gives the metrics of the last.

        Raises:
            RunInterrupted: if a signal stopped it.
            NonFiniteLossError: if a loss is not finite.
        """
        try:
            for report in work:
                entry: dict[str, Any] = report.to_dict()
                if work.is_over and isinstance(work, RecurrentRetrain):
                    entry["metrics"] |= work.final_metrics()
                self.checkpoints.save(report.epoch + 1, work.state_dict(), entry)
                self.journal.append_epoch(entry)
                on_epoch(report)
        except KeyboardInterrupt as error:
            raise RunInterrupted(f"the same command resumes the {self.phase}") from error
        self.journal.finish("complete")
        metrics: dict[str, float] = self.journal.epochs[-1]["metrics"]
        return metrics
