"""Studies of SNAS searches on Ray Tune, explored by Optuna, tracked in MLflow."""

from orchestrator.config import StudySpec, load_retrain, load_search, load_study, parse_study
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.runs import Runs
from orchestrator.study import Study, StudyInterrupted

__all__ = [
    "ConfigError",
    "OrchestratorError",
    "Runs",
    "Study",
    "StudyInterrupted",
    "StudySpec",
    "load_retrain",
    "load_search",
    "load_study",
    "parse_study",
]
