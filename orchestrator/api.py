"""The public names of this package."""

from orchestrator.config import RetrainConfig, StudySpec, load_retrain, load_search, load_study, parse_study
from orchestrator.errors import ConfigError, OrchestratorError, StudyFailed, StudyInterrupted
from orchestrator.progress import ConsoleView, StudyView
from orchestrator.records import RetrainRecord, TrialRecord, front_rows
from orchestrator.runs import Runs
from orchestrator.single import found_cell, run_retrain, run_search
from orchestrator.study import Study

__all__ = [
    "ConfigError",
    "ConsoleView",
    "OrchestratorError",
    "RetrainConfig",
    "RetrainRecord",
    "Runs",
    "Study",
    "StudyFailed",
    "StudyInterrupted",
    "StudySpec",
    "StudyView",
    "TrialRecord",
    "found_cell",
    "front_rows",
    "load_retrain",
    "load_search",
    "load_study",
    "parse_study",
    "run_retrain",
    "run_search",
]
