"""How a cluster is left; clusters that run are in tests/integration/test_cluster.py."""

from __future__ import annotations

import gc

import pytest

from orchestrator.cluster import connection as cluster


def test_what_is_left_in_cycles_is_let_go_before_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []

    class Left:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            happened.append("let go")

    Left()
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: happened.append(("shutdown", gc.isenabled())))
    cluster._shut_down()
    assert happened == ["let go", ("shutdown", False)]
    assert gc.isenabled()
