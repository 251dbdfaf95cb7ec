"""Files of runs that a page can do without: what is wrong with one is shown beside the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dashboards.errors import BrokenArtifactError, StoreAwayError
from dashboards.pages.parts import message
from dashboards.pages.view import Component

Answer = TypeVar("Answer")


def asked(ask: Callable[[], Answer], title: str, said: list[Component]) -> Answer | None:
    """What a store answers about a file; None if the file is broken or cannot be fetched.

    Args:
        ask: the question.
        title: of the message then.
        said: takes the message.
    """
    try:
        return ask()
    except (BrokenArtifactError, StoreAwayError) as error:
        said.append(message(title, str(error), kind="error"))
        return None
