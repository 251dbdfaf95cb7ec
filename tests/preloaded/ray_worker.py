"""What Ray starts in place of its own `setup_worker.py`: asks for a worker that is forked, and ends.

It imports as little as it can.
"""

import json
import os
import socket
import sys

_NAMES = ("--serialized-runtime-env-context", "--language")


def main() -> None:
    """Ask for the worker that the command line describes."""
    words = [word for word in sys.argv[1:] if not word.startswith(_NAMES)]
    contexts = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith(_NAMES[0])]
    variables = json.loads(contexts[0]).get("env_vars", {}) if contexts else {}
    asked = {"words": words, "environment": {**os.environ, **variables}, "folder": os.getcwd(), "is_waited_for": False}
    address = os.environ["SNAS_TESTS_WORKERS"]  # a file, or a name that only this namespace of networks knows
    place = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address if address[0] == "/" else f"\0{address}")
        socket.send_fds(connection, [json.dumps(asked).encode()], [1, 2, *place])
        connection.recv(100)


main()
