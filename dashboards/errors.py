"""What a reader of the history may meet, by meaning; every message is meant to be read on a page."""

from __future__ import annotations


class DashboardError(Exception):
    """Base of all errors that a page shows in words."""


class StoreAwayError(DashboardError):
    """The store cannot be reached, or does not answer in time."""


class NotFoundError(DashboardError):
    """There is no study, trial or run of this name."""


class StudyNotFoundError(NotFoundError):
    """There is no study of this name; one may begin."""


class BrokenArtifactError(DashboardError):
    """A file of a run is not what it must be, such as a genotype that is not valid."""


class PortTakenError(DashboardError):
    """The port on which pages were to be served is not free."""
