"""Private interfaces of Ray: how a cluster is found and its token accepted, what is started, ids of actors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from ray._private import ray_constants, services
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

#: Program that asks Ray's global control store at an address for the alive nodes, to be run in a process of its own:
#: Ray's client cannot be given a time limit, ends the process if a token is missing, and keeps the mode of
#: authentication that it saw first.
PROBE = """
import sys
from ray._raylet import GcsClient
for node in GcsClient(address=sys.argv[1]).get_all_node_info().values():
    if node.state == 0:
        print("node", node.node_manager_address)
"""
_AGENT = str(Path(__file__).with_name("ray_agent.py"))
_AGENTS = (ray_constants.PROCESS_TYPE_DASHBOARD_AGENT, ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT)


def started_address() -> str | None:
    """HOST:PORT of the cluster that was started on this machine or that RAY_ADDRESS names; None if there is none."""
    found = services.canonicalize_bootstrap_address("auto")
    return None if found is None else str(found)


def has_token() -> bool:
    """Whether Ray finds a token for a cluster that wants one."""
    AuthenticationTokenLoader.instance().reset_cache()  # a process may connect more than once
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def read_environment() -> None:
    """Have Ray read the mode of authentication from the environment anew; it did so when it was imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def without_sigterm_handler() -> AbstractContextManager[Any]:
    """Inside, Ray sets no handler of SIGTERM."""
    return mock.patch("ray._private.utils.set_sigterm_handler")


@contextmanager
def without_idle_services() -> Iterator[None]:
    """Inside, Ray starts no server of pages, no autoscaler, no reader of logs, and agents that wait to be asked.

    That is more than 4 CPU seconds a node, all unused.
    """

    def nothing(node: Node, **settings: object) -> None:
        """Starts none."""

    python = services._build_python_executable_command_memory_profileable

    def patient(component: str, *settings: Any, **others: Any) -> list[str]:
        return [*python(component, *settings, **others), *([_AGENT] if component in _AGENTS else [])]

    with (
        mock.patch.multiple(Node, start_api_server=nothing, start_monitor=nothing, start_log_monitor=nothing),
        mock.patch.object(services, python.__name__, patient),
    ):
        yield


def without_environments() -> AbstractContextManager[Any]:
    """Inside, Tune asks for no runtime environment of its trials, which would wake an agent.

    It asks for a variable that PyTorch Lightning reads.
    """
    return mock.patch.dict("ray.tune.execution.class_cache.DEFAULT_ENV_VARS", clear=True)


def actor_id(actor: Any) -> str:
    """Id of an actor as Ray's messages have it, hexadecimal."""
    return str(actor._actor_id.hex())
