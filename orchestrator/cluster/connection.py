"""Connect to a Ray cluster, or start one on this machine, with every failure reported within seconds."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from orchestrator.adapters.ray_internals import (
    PROBE,
    has_token,
    read_environment,
    started_address,
    without_idle_services,
)
from orchestrator.errors import OrchestratorError
from orchestrator.stop_signals import kept_while_ray_starts
from search_core.plugins import trust_all, trusted

#: What a driver takes to the nodes of a cluster.
PACKAGES = ("search_core", "orchestrator", "dashboards")
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # an idle process for every core, which no trial takes
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journals are the record of a trial
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it ends an experiment as if it were done; Ctrl-C must reach the driver
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # its size, and so its time, grows with the number of trials
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_MODE = "RAY_AUTH_MODE"
_KNOCK_S = 10
_PROBE_S = 15
_TOKEN_ADVICE = (
    "take the token of the head node (`ray get-auth-token` prints it there) and set RAY_AUTH_TOKEN, or "
    "RAY_AUTH_TOKEN_PATH to a file that holds it, or write it to ~/.ray/auth_token"
)


@dataclass(frozen=True)
class _Answer:
    """How the control store at an address answers, and the addresses of its alive nodes."""

    kind: Literal["ray", "unauthenticated", "no token", "not ray"]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Node:
    """An alive node of the cluster.

    Attributes:
        id: Ray's id, hexadecimal.
        ip: address inside the cluster.
        hostname: name of the machine.
        resources: what Ray may hand out there; `memory` in bytes.
        is_head: whether the cluster's control store runs there.
    """

    id: str
    ip: str
    hostname: str
    resources: dict[str, float]
    is_head: bool

    @property
    def label(self) -> str:
        """What a message calls the node; several nodes of one machine differ in the id."""
        return f"{self.ip} ({self.hostname}, {self.id[:6]})"

    @property
    def cpu(self) -> float:
        """CPU cores."""
        return self.resources.get("CPU", 0.0)

    @property
    def gpu(self) -> float:
        """GPUs."""
        return self.resources.get("GPU", 0.0)

    @property
    def memory_gb(self) -> float:
        """Memory that Ray gives to tasks, in GB (10^9 bytes)."""
        return self.resources.get("memory", 0.0) / 1e9

    @property
    def gpu_type(self) -> str:
        """Type of the node's GPUs as Ray found it, such as `H100`; `GPU` if it does not know it, empty without any."""
        if not self.gpu:
            return ""
        kinds = [name.partition(":")[2] for name in self.resources if name.startswith("accelerator_type:")]
        return min(kinds, default="GPU")


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine; Ray's own output is kept off the terminal.

    Workers trust what this process does, with the same contents of files, before they read any job.

    Args:
        address: `auto` or `HOST:PORT` of a running cluster; None starts one on this machine.

    Raises:
        OrchestratorError: if no Ray cluster answers there, or it does not accept the token.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for noisy in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # a worker's traceback: its reason is in the journal
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        settings |= {"address": "local", "include_dashboard": False, "object_store_memory": 200 * 1024**2}
    else:
        root = Path(__file__).parents[2]
        settings["runtime_env"] = {"py_modules": [str(root / package) for package in PACKAGES]}
    if sources := trusted():

        def trust_sources() -> None:
            trust_all(sources)

        settings.setdefault("runtime_env", {})["worker_process_setup_hook"] = trust_sources
    before = os.environ.get(_MODE)
    try:
        if address is not None:
            settings["address"] = _reach(address)
        with kept_while_ray_starts(), without_idle_services():
            ray.init(**settings)
    except KeyboardInterrupt:
        _shut_down()
        raise
    except Exception as error:  # of no class of its own if a node does not start in time
        _set_mode(before)
        raise OrchestratorError(f"the Ray cluster at {address or 'this machine'} must answer, got: {error}") from error
    try:
        yield
    finally:
        _shut_down()
        _set_mode(before)


def _shut_down() -> None:
    """Leave the cluster without a thread that lets go of one of Ray's objects meanwhile: Ray ends the process then.

    Tune leaves many in reference cycles, and Python collects them in whatever thread makes it due, such as MLflow's.
    """
    is_automatic = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        ray.shutdown()
    finally:
        if is_automatic:
            gc.enable()


def nodes() -> list[Node]:
    """The alive nodes of the connected cluster, the head first, then by address."""
    alive = [entry for entry in ray.nodes() if entry["Alive"]]  # type: ignore[no-untyped-call]
    found = [
        Node(
            id=entry["NodeID"],
            ip=entry["NodeManagerAddress"],
            hostname=entry["NodeManagerHostname"],
            resources=entry["Resources"],
            is_head="node:__internal_head__" in entry["Resources"],
        )
        for entry in alive
    ]
    return sorted(found, key=lambda node: (not node.is_head, node.ip, node.id))


def check_resources(cpu: float, gpu: float, memory_gb: float | None = None) -> None:
    """Refuse a trial that no node of the cluster can hold: Ray would wait forever.

    Args:
        cpu: CPU cores of one trial.
        gpu: GPUs of one trial.
        memory_gb: memory that is reserved for it, in GB (10^9 bytes); None for no reservation.

    Raises:
        OrchestratorError: naming what is asked for and what the nodes have.
    """
    found, memory = nodes(), memory_gb or 0.0
    if not any(node.cpu >= cpu and node.gpu >= gpu and node.memory_gb >= memory for node in found):
        reserved = f", memory_gb {memory_gb:g}" if memory_gb else ""
        have = "; ".join(f"{node.cpu:g} cpu, {node.gpu:g} gpu, {node.memory_gb:.1f} GB" for node in found)
        raise OrchestratorError(
            f"`resources` must fit on one node of the cluster, got cpu {cpu:g}, gpu {gpu:g}{reserved} "
            f"where the nodes have: {have}"
        )


def _reach(address: str) -> str:
    """Find the cluster and the mode of authentication that it wants; the mode is set for this process.

    Returns:
        Its HOST:PORT.

    Raises:
        OSError: if nothing listens there.
        ValueError: if it is not HOST:PORT, or `auto` finds nothing.
        RuntimeError: if what listens is not Ray, or the token is missing or wrong.
    """
    place = _resolved(address)
    _knock(place)
    mode = os.environ.get(_MODE)
    answer = _probe(place, mode)
    if answer.kind == "unauthenticated" and mode is None and has_token():
        # Ray itself takes a token only if the mode is set, so that a user with the right token is turned away.
        mode = "token"
        answer = _probe(place, mode)
    if answer.kind == "ray":
        if not any(_is_here(ip) for ip in answer.nodes):
            raise RuntimeError(
                f"this machine is none of its nodes ({', '.join(answer.nodes)}): run the command on one of them, or "
                f"join without giving it work: `ray start --address {place} --num-cpus 0`"
            )
        _set_mode(mode)
        return place
    if answer.kind == "not ray":
        raise RuntimeError(
            f"something listens there but does not answer as Ray's control store within {_PROBE_S} s; it must be the "
            "port of `ray start --head --port` (6379 by default), not that of the dashboard or of Ray clients"
        )
    if mode not in (None, "token"):
        raise RuntimeError(f"the cluster wants a token, and {_MODE} is {mode}: unset it, and {_TOKEN_ADVICE}")
    if answer.kind == "no token" or not has_token():
        raise RuntimeError(f"the cluster wants a token and there is none here: {_TOKEN_ADVICE}")
    raise RuntimeError(f"the cluster has another token than {_token_place()}: {_TOKEN_ADVICE}")


def _resolved(address: str) -> str:
    if address == "auto":
        if (found := started_address()) is None:
            raise ValueError("no cluster was started on this machine and RAY_ADDRESS is not set: give HOST:PORT")
        return found
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit() and "/" not in host):
        raise ValueError(f"an address must be `auto` or HOST:PORT, got {address!r}")
    return address


def _knock(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself would try for many minutes.

    Raises:
        OSError: if nothing listens there.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _probe(address: str, mode: str | None) -> _Answer:
    """How the control store at an address answers to a client with this mode of authentication."""
    environment = {**os.environ, **({} if mode is None else {_MODE: mode})}
    command = [sys.executable, "-c", PROBE, address]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        return _Answer("not ray")
    if done.returncode == 0:
        lines = [line.split() for line in done.stdout.splitlines()]
        return _Answer("ray", tuple(words[1] for words in lines if words[:1] == ["node"]))
    if "couldn't find an authentication token" in done.stderr:
        return _Answer("no token")
    return _Answer("unauthenticated" if "AuthenticationError" in done.stderr else "not ray")


def _is_here(ip: str) -> bool:
    """Whether an address is one of this machine's: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def _token_place() -> str:
    """Where Ray took the token from; never the token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the one in RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"the one in {path} (RAY_AUTH_TOKEN_PATH)"
    return "the one in ~/.ray/auth_token"


def _set_mode(mode: str | None) -> None:
    """Set or unset the mode of authentication, also in the settings that Ray read when it was imported."""
    if os.environ.get(_MODE) == mode:
        return
    if mode is None:
        del os.environ[_MODE]
    else:
        os.environ[_MODE] = mode
    read_environment()
