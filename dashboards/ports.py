"""Ports of this machine on which pages are served."""

from __future__ import annotations

import errno
import os
import socket

from dashboards.errors import PortTakenError

_RULES = {
    errno.EADDRINUSE: "must be free",
    errno.EACCES: "must be one that this user may serve (1024 and above, as a rule)",
    errno.EADDRNOTAVAIL: "must be one of this machine",
}


def port_error(host: str, port: int, error: OSError) -> PortTakenError:
    """The message for a user whose port cannot be served."""
    rule = _RULES.get(error.errno or 0, "must be usable")
    return PortTakenError(f"port {port} of {host} {rule}, got: {os.strerror(error.errno or 0)}")


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be served, before a server says so in its own words.

    Raises:
        PortTakenError: if it is taken, not permitted, or of another machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections linger
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise port_error(host, port, error) from error
