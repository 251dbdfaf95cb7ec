"""The public names of this package."""

from orchestrator.driver.progress import ConsoleView, StudyView
from orchestrator.driver.single import found_cell, run_retrain, run_search
from orchestrator.driver.start import run_study
from orchestrator.errors import ConfigError, OrchestratorError, StudyFailed, StudyInterrupted, StudyPaused
from orchestrator.files.layout import Runs
from orchestrator.study.records import RetrainRecord, TrialRecord, front_rows
from orchestrator.study.study import Study
from orchestrator.study_file.loading import RetrainConfig, load_retrain, load_search, load_study, parse_study
from orchestrator.study_file.spec import StudySpec

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
    "StudyPaused",
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
    "run_study",
]
