"""Studies of SNAS searches on Ray Tune, explored by Optuna, tracked in MLflow.

The public names are imported when they are first asked for: the dashboard needs neither Ray nor
PyTorch, which take seconds and hundreds of megabytes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import *  # noqa: F403
    from orchestrator.api import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name == "__all__" or not name.startswith("_"):
        import orchestrator.api as api  # `from orchestrator import api` would ask here again

        if name in ("__all__", *api.__all__):
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
