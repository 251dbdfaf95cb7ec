"""How the report of `snas study doctor` is printed."""

from __future__ import annotations

from rich.text import Text

from orchestrator.cli.common import make_table, stdout
from orchestrator.doctor import Check, Finding, Report

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_MAX_SHOWN = 20


def print_report(report: Report) -> None:
    """One line per check, then what was found and what to do."""
    table = make_table(f"study {report.study}: {report.state}")
    table.add_column("check")
    table.add_column("looked at", justify="right")
    table.add_column("result")
    for check in report.checks:
        table.add_row(check.name, f"{check.looked_at:,}", _result(report, check))
    stdout.print(table)
    for check in report.checks:
        found = [finding for finding in report.findings if finding.check == check.name]
        for finding in found[:_MAX_SHOWN]:
            _print_finding(finding)
        if len(found) > _MAX_SHOWN:
            stdout.print(f"{check.name}: {len(found) - _MAX_SHOWN} more; --json lists all", style="dim")
    errors = report.count("error")
    verdict = "the study is whole" if report.is_whole else f"the study is not whole: {_counted(errors, 'error')}"
    if report.is_whole and report.state == "running":
        verdict += " so far"
    stdout.print(verdict, style="bold green" if report.is_whole else "bold red")


def _result(report: Report, check: Check) -> Text:
    errors, warnings = report.count("error", check.name), report.count("warning", check.name)
    if errors:
        more = f", {_counted(warnings, 'warning')}" if warnings else ""
        return Text(f"{_counted(errors, 'error')}{more}", style=_STYLES["error"])
    if warnings:
        return Text(_counted(warnings, "warning"), style=_STYLES["warning"])
    return Text("ok", style="green") if check.looked_at else Text("nothing to look at", style="dim")


def _print_finding(finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.severity:7} ", _STYLES[finding.severity]), (finding.place, "bold"), f": {finding.message}"
    )
    stdout.print(line, soft_wrap=True)
    if finding.remedy:
        stdout.print(Text(f"        {finding.remedy}", style="dim"), soft_wrap=True)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
