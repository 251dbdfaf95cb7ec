"""Program in place of both agents of a Ray node: each imports for a CPU second what a study hardly ever asks.

The agent of the dashboard is not asked where none is. The agent of runtime environments becomes Ray's own as soon as
a worker has such an environment. Until then nothing but Python is imported here.
"""

import os
import runpy
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

_PORT = "--runtime-env-agent-port="
_PATIENCE_S = 1.0  # between two looks at whether the node is still there


def main() -> None:
    """Do what an agent must, given Ray's program of it and the options of that, until its node has ended."""
    del sys.argv[0]
    options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
    raylet = os.getppid()
    if "runtime-env-agent-port" in options:
        _wait_to_be_asked(options, raylet)
    else:
        for service in ("metrics_agent", "metrics_export", "dashboard_agent_listen"):
            _say_port(options, service, -1)  # as Ray's own says that it has no such service
        while os.getppid() == raylet:
            time.sleep(_PATIENCE_S)


def _wait_to_be_asked(options: dict[str, str], raylet: int) -> None:
    place = options["node-ip-address"], int(options["runtime-env-agent-port"] or 0)
    family = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0][0]
    with socket.create_server(place, family=family) as listening:
        _say_port(options, "runtime_env_agent", listening.getsockname()[1])
        while os.getppid() == raylet:
            if select.select([listening], [], [], _PATIENCE_S)[0]:
                _become_real(listening)


def _become_real(listening: socket.socket) -> None:
    """Run Ray's own program, which answers who has asked: the socket at which they wait is there when it binds one."""
    port = listening.getsockname()[1]

    class Given(socket.socket):
        def bind(self, address: Any) -> None:
            if address[1] == port:
                os.dup2(listening.fileno(), self.fileno())
            else:
                super().bind(address)

    socket.socket = Given  # type: ignore[misc]
    sys.argv = [word for word in sys.argv if not word.startswith(_PORT)] + [f"{_PORT}{port}"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _say_port(options: dict[str, str], service: str, port: int) -> None:
    """Write the file in which the node looks for a port, at once."""
    file = Path(options["session-dir"], f"{service}_port_{options['node-id']}")
    (written := file.with_suffix(".written")).write_text(str(port))
    written.replace(file)


if __name__ == "__main__":
    main()
