"""What trains epoch by epoch, and resumes after any of them: reports, and states that say whose they are."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from search_core.errors import StateError, is_out_of_gpu_memory

Report = TypeVar("Report")


class Resumable(ABC, Generic[Report]):
    """Iterate over it for one report per epoch; an equal object resumes from its state bit for bit.

    Attributes:
        state_format: number of the format of its states; None if they have none.
        definition_key: where a state has the definition of the object that gave it.
    """

    state_format: ClassVar[int | None] = None
    definition_key: ClassVar[str] = "options"

    def __iter__(self) -> Iterator[Report]:
        """Run the remaining epochs.

        Yields:
            The report of each epoch.

        Raises:
            NonFiniteLossError: as `run_epoch` does.
        """
        while not self.is_over:
            yield self.run_epoch()

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether there is no epoch left."""

    @abstractmethod
    def run_epoch(self) -> Report:
        """Run the next epoch."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is needed to resume after this epoch, with `stamp`; loads with `weights_only=True`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where the object that gave `state` stopped.

        Raises:
            StateError: if the state has another format, is not whole, or comes from an object that is not equal or from
                another kind of device. Then this object is as it was.
        """
        self._resume(state)

    def _resume(self, state: dict[str, Any], but: Collection[str] = ()) -> None:
        """As `load_state_dict`, where keys of the definition may differ."""
        self.check_stamp(state, but)
        before = self.state_dict()
        try:
            self._take(state)
        except Exception as error:
            self._take(before)
            if isinstance(error, StateError) or is_out_of_gpu_memory(error):
                raise
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise StateError(f"the state must be whole and fit this object, got {words[:300]}") from error

    @abstractmethod
    def _take(self, state: dict[str, Any]) -> None:
        """Take over a state of an equal object, and leave it as it is; if that raises, what is half done is undone."""

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """Plain data of options, images and seeds: the same in objects that may load each other's states."""

    def stamp(self) -> dict[str, Any]:
        """The part of a state that says what gave it."""
        definition = {self.definition_key: json.dumps(self.definition(), sort_keys=True)}
        return definition if self.state_format is None else {"format": self.state_format, **definition}

    def check_stamp(self, state: Mapping[str, Any], but: Collection[str] = ()) -> None:
        """Check that a state belongs to an object that is equal to this one.

        Args:
            state: as `state_dict` gave it.
            but: keys of the definition that may differ.

        Raises:
            StateError: naming the format, or the keys that differ.
        """
        if state.get("format") != self.state_format:
            raise StateError(f"the state's format must be {self.state_format}, got {state.get('format')!r}")
        if self.definition_key not in state:
            raise StateError(f"the state must say what gave it, in `{self.definition_key}`, got none")
        mine, theirs = (json.loads(stamp[self.definition_key]) for stamp in (self.stamp(), state))
        differing = [key for key in mine if mine[key] != theirs.get(key) and key not in but]
        if differing or mine.keys() != theirs.keys():
            raise StateError(f"the state must come from equal options and data; they differ in {', '.join(differing)}")
