"""Two machines on one: network namespaces joined by a cable, with folders that the second does not share."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.preloaded.processes import server_variables

HEAD_IP, SECOND_IP = "10.77.0.1", "10.77.0.2"
RAY_ADDRESS = f"{HEAD_IP}:6379"
_RAY = Path(sys.executable).with_name("ray")
_RAY_START = Path(__file__).parents[1] / "preloaded" / "ray_start.py"
_OBJECT_STORE, _START_S, _LOSS_S = 100_000_000, 90.0, 180.0  # bytes, seconds, seconds
#: Returns when the alive nodes of the cluster are those with the given addresses, and each once.
_WAIT_FOR_NODES = """
import sys, time
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
while True:
    found = [node.node_manager_address for node in client.get_all_node_info().values() if node.state == 0]
    if sorted(found) == sorted(sys.argv[2:]):
        break
    time.sleep(0.2)
"""
#: Covers the folders before `--` with empty ones of this machine; mounts made under `ip netns exec` are its own.
_WITH_OWN_FOLDERS = (
    'while [ "$1" != -- ]; do mount -t tmpfs -o size=1g snas "$1" || exit 1; shift; done; shift; exec "$@"'
)


@cache
def why_not() -> str:
    """Why this machine cannot have namespaces; empty if it can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"snas-probe-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    mounts = ["ip", "netns", "exec", name, "mount", "-t", "tmpfs", "snas", "/mnt"]
    done = subprocess.run(mounts, capture_output=True, text=True)
    _run("ip", "netns", "delete", name)
    return f"mounts are not permitted: {done.stderr.strip()}" if done.returncode else ""


@dataclass(frozen=True)
class Machine:
    """A network namespace that stands for a machine.

    Attributes:
        name: of the namespace.
        ip: its address.
        cable: its end of the cable to the other machine.
        own_folders: what its processes see as empty folders of their own.
    """

    name: str
    ip: str
    cable: str
    own_folders: tuple[Path, ...] = ()

    @property
    def namespaces(self) -> list[Path]:
        """Of a machine without folders of its own, those that a ready process takes."""
        assert not self.own_folders, "mounts have no name"
        return [Path("/run/netns") / self.name]

    def command(self, *words: object) -> list[str]:
        """The command line that runs a command on this machine."""
        inside = ["sh", "-c", _WITH_OWN_FOLDERS, "sh", *self.own_folders, "--", *words]
        return ["ip", "netns", "exec", self.name, *map(str, inside)]

    def start(
        self, words: Sequence[object], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on this machine; it ends with the machine at the latest."""
        with log.open("wb") as out:
            return subprocess.Popen(
                self.command(*words), env={**os.environ, **(environment or {})}, stdout=out, stderr=subprocess.STDOUT
            )

    def start_ray_head(self, folder: Path, num_cpus: int = 1) -> None:
        """Start Ray's head, at `RAY_ADDRESS`, with its log and its folder `ray` in a folder."""
        words = ["--head", "--port", RAY_ADDRESS.partition(":")[2], "--temp-dir", folder / "ray"]
        self._start_ray([*words, "--include-dashboard=false"], folder / "first.log", num_cpus)

    def join_ray(self, folder: Path, environment: Mapping[str, str] | None = None, num_cpus: int = 1) -> None:
        """Start a node of the cluster at `RAY_ADDRESS`, with its log in a folder.

        With an environment of its own it starts as a user does, for what is read when Python starts.
        """
        self._start_ray(["--address", RAY_ADDRESS], folder / "second.log", num_cpus, environment)

    def _start_ray(
        self, words: Sequence[object], log: Path, num_cpus: int, environment: Mapping[str, str] | None = None
    ) -> None:
        program = [sys.executable, _RAY_START] if environment is None else [_RAY, "start"]
        options = ["--node-ip-address", self.ip, "--object-store-memory", _OBJECT_STORE, "--num-cpus", num_cpus]
        words = [*program, "--block", "--disable-usage-stats", *words, *options]
        self.start(words, log, {"RAY_AUTH_MODE": "disabled", **(environment or server_variables())})
        deadline = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def wait_for_nodes(self, *machines: Machine) -> None:
        """Wait until the cluster at `RAY_ADDRESS`, to which this machine has a way, has one node on each of these."""
        command = self.command(
            sys.executable, "-c", _WAIT_FOR_NODES, RAY_ADDRESS, *(machine.ip for machine in machines)
        )
        subprocess.run(command, env={**os.environ, "RAY_AUTH_MODE": "disabled"}, check=True, timeout=_LOSS_S)

    def cut_off(self) -> None:
        """Cut the cable to the other machine: nothing arrives any more, and nobody is notified."""
        _run("ip", "-n", self.name, "link", "set", self.cable, "down")

    def end_processes(self) -> None:
        """End what runs on this machine: politely, then by force."""
        for sign, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            end = time.monotonic() + patience_s
            for pid in self.pids():
                _signal(pid, sign)
            while self.pids() and time.monotonic() < end:
                time.sleep(0.1)

    def pids(self) -> list[int]:
        """The processes that run on this machine."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split() if not _is_zombie(int(pid))]


@contextmanager
def two_machines(*own_folders: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them; the second has `own_folders` of its own, the rest is shared."""
    stem = f"snas-{uuid.uuid4().hex[:6]}"
    cable = f"{stem}a", f"{stem}b"
    machines = (Machine(f"{stem}-1", HEAD_IP, cable[0]), Machine(f"{stem}-2", SECOND_IP, cable[1], own_folders))
    try:
        for machine in machines:
            _run("ip", "netns", "add", machine.name)
            _run("ip", "-n", machine.name, "link", "set", "lo", "up")
        _run("ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for machine, end in zip(machines, cable, strict=True):
            _run("ip", "link", "set", end, "netns", machine.name)
            _run("ip", "-n", machine.name, "address", "add", f"{machine.ip}/24", "dev", end)
            _run("ip", "-n", machine.name, "link", "set", end, "up")
        yield machines
    finally:
        for machine in machines:
            machine.end_processes()
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True)  # its end of the cable too
        subprocess.run(["ip", "link", "delete", cable[0]], capture_output=True)  # where it was never moved


@contextmanager
def joined_to_this(machine: Machine) -> Iterator[str]:
    """A cable from a machine to this one, where servers may run; yields this one's address on it."""
    stem = f"snas-{uuid.uuid4().hex[:6]}"
    here, there = f"{stem}a", f"{stem}b"
    subnet = f"10.78.{secrets.randbelow(256)}"  # other tests may have cables to this machine, too
    try:
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        _run("ip", "address", "add", f"{subnet}.1/24", "dev", here)
        _run("ip", "link", "set", here, "up")
        _run("ip", "link", "set", there, "netns", machine.name)
        _run("ip", "-n", machine.name, "address", "add", f"{subnet}.2/24", "dev", there)
        _run("ip", "-n", machine.name, "link", "set", there, "up")
        yield f"{subnet}.1"
    finally:
        subprocess.run(["ip", "link", "delete", here], capture_output=True)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _signal(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
