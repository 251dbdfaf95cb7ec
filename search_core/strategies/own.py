"""Strategies of plug-ins: `strategy: {kind: own, name: "hill.py:HillClimbing", options: {...}}`."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from search_core.errors import OptionsError, PluginError
from search_core.plugins import load_plugin
from search_core.strategies.multi_trial.options import OwnMultiTrialOptions
from search_core.strategies.weight_sharing.options import OWN_GROUP, OwnOptions

Built = TypeVar("Built")


def own_strategy(options: OwnOptions | OwnMultiTrialOptions, family: type[Built], *given: Any) -> Built:
    """The strategy at the beginning of a search.

    Args:
        options: name the class and what it is called with, after `given`.
        family: the class must be one of these.
        given: what strategies of this family are built from.

    Raises:
        PluginError: if it cannot be loaded or is no such class.
        OptionsError: if it does not take these options.
    """
    made = load_plugin(options.name, OWN_GROUP)
    if not (isinstance(made, type) and issubclass(made, family)):
        raise PluginError(
            f"the strategy {options.name} must be a class of {family.__module__}.{family.__name__} with kind "
            f"{options.kind}, got {made!r:.80}"
        )
    try:
        inspect.signature(made).bind(*given, **options.options)
    except TypeError as error:
        raise OptionsError((("strategy.options", f"must be those of {made.__name__}: {error}"),)) from error
    return made(*given, **options.options)
