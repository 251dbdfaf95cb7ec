"""What authors of plug-ins can run on theirs, with pytest or without: plain functions that assert."""

from search_core.testing.primitive import check_primitive
from search_core.testing.strategy import check_strategy

__all__ = ["check_primitive", "check_strategy"]
