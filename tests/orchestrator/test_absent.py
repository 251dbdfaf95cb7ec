"""A package that is there seems not to be, for a moment."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from orchestrator.absent import absent


def test_package_is_absent_inside_and_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with absent("colorsys"), pytest.raises(ImportError):
        import_module("colorsys")
    assert import_module("colorsys").__name__ == "colorsys"


def test_package_that_was_imported_before_stays() -> None:
    with absent("json"):
        assert import_module("json") is sys.modules["json"]
