"""Stochastic neural architecture search in pure PyTorch: no Ray, Optuna, MLflow, files or logging inside.

The public names are imported when they are first asked for: a reader of genotypes needs no PyTorch,
which takes seconds and hundreds of megabytes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_core.api import *  # noqa: F403
    from search_core.api import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name == "__all__" or not name.startswith("_"):
        import search_core.api as api  # `from search_core import api` would ask here again

        if name in ("__all__", *api.__all__):
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
