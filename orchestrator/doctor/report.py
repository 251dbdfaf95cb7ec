"""What an examination of a study says: checks, and findings with what to do about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        check: name of the check.
        place: what it is about: a trial, an MLflow run, a file.
        severity: `error`: the study is not whole; `warning`: it is, or will be without anyone's doing; `info`: to know.
        message: what should be and what is.
        remedy: what to do; empty if there is nothing to do.
    """

    check: str
    place: str
    severity: Severity
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """A check that was made.

    Attributes:
        name: what was looked at.
        looked_at: how many of these.
    """

    name: str
    looked_at: int


@dataclass(frozen=True)
class Report:
    """The result of an examination.

    Attributes:
        study: its name.
        state: `done`, `running` (a driver is at work), `unfinished`, or `unknown` if that cannot be determined.
        checks: in the order in which they were made.
        findings: in the order of the checks, the worst of each first.
    """

    study: str
    state: str
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]

    @property
    def is_whole(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)

    def count(self, severity: Severity, check: str | None = None) -> int:
        """Number of findings of a severity, of one check or of all."""
        return sum(
            finding.severity == severity and (check is None or finding.check == check) for finding in self.findings
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        checks = [
            {**asdict(check), **{f"{severity}s": self.count(severity, check.name) for severity in ("error", "warning")}}
            for check in self.checks
        ]
        findings = [asdict(finding) for finding in self.findings]
        return {
            "study": self.study,
            "state": self.state,
            "is_whole": self.is_whole,
            "checks": checks,
            "findings": findings,
        }


@dataclass
class Notes:
    """Gathers checks and findings while a study is examined."""

    looked_at: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def look(self, check: str, number: int = 1) -> None:
        """Count what a check looks at."""
        self.looked_at[check] += number

    def add(self, check: str, place: str, severity: Severity, message: str, remedy: str = "") -> None:
        """Write a finding down."""
        self.look(check, 0)
        self.findings.append(Finding(check, place, severity, message, remedy))

    def report(self, study: str, state: str) -> Report:
        """All that was gathered."""
        order = list(self.looked_at)
        severities: Sequence[Severity] = ("error", "warning", "info")
        ranked = sorted(self.findings, key=lambda found: (order.index(found.check), severities.index(found.severity)))
        return Report(study, state, tuple(Check(*item) for item in self.looked_at.items()), tuple(ranked))
