"""Two machines on one: network namespaces joined by a cable, with folders that the second does not share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HEAD_IP, SECOND_IP = "10.77.0.1", "10.77.0.2"
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
        own_folders: what its processes see as empty folders of their own.
    """

    name: str
    ip: str
    own_folders: tuple[Path, ...] = ()

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

    def end_processes(self) -> None:
        """End what runs on this machine: politely, then by force."""
        for sign, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            end = time.monotonic() + patience_s
            for pid in self._pids():
                _signal(pid, sign)
            while self._pids() and time.monotonic() < end:
                time.sleep(0.1)

    def _pids(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split() if not _is_zombie(int(pid))]


@contextmanager
def two_machines(*own_folders: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them; the second has `own_folders` of its own, the rest is shared."""
    stem = f"snas-{uuid.uuid4().hex[:6]}"
    machines = (Machine(f"{stem}-1", HEAD_IP), Machine(f"{stem}-2", SECOND_IP, own_folders))
    cable = f"{stem}a", f"{stem}b"
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
