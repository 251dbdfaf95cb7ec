"""Time of a published supernet's step over that of the fast one, interleaved across processes.

A peer lives in a process of its own, with its own Python where it needs other packages: it holds the supernet and runs
one timed step for every line that it gets. So slow and fast steps alternate on one machine, and the idle one does not
compute. `nni` is NNI 3.0 from PyPI in an environment that is made on first use (a network is needed then); a path is a
checkout of the DARTS authors' code, of the SNAS authors' code or of automl/ConfigurableOptimizer. A peer that does not
run gives the reason instead of figures.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

ENVIRONMENT_VARIABLE = "SNAS_PEER_ENVIRONMENT"

#: Imports with Python 3.11 and torch 2.15. NNI uses `pkg_resources`, which later setuptools no longer have.
NNI_REQUIREMENTS = ("nni==3.0", "pytorch-lightning==2.5.6", "torchmetrics==1.9.0", "setuptools<81")

_TIMEOUT_S = 1800  # a peer that hangs must not hang the benchmark
_ROOT = Path(__file__).parents[2]


class PeerError(Exception):
    """A peer does not run; the message says why."""


def measure_peer(
    peer: str,
    *,
    fast_step: Callable[[], float],
    init_channels: int,
    cells: int,
    batch: int,
    repeats: int,
    device: str = "cpu",
    environment: Path | None = None,
) -> dict[str, object]:
    """Compare single-pass steps of a peer's supernet with the fast one's, one by one in turn.

    Args:
        peer: `nni` or the path of a checkout.
        fast_step: runs one fast step, already warm, and returns its seconds.
        init_channels: channels C of the peer's first cells.
        cells: number of its cells.
        batch: images a step, of 3x32x32.
        repeats: pairs of steps.
        device: `cpu` or `cuda`, for the peer.
        environment: folder of the virtual environment that the peer runs in. Default: the environment variable
            `SNAS_PEER_ENVIRONMENT`, else for `nni` a folder in the user's cache, made when it is not there, and for a
            checkout the running Python.

    Returns:
        `peer` and `ran`; with it `seconds` (median), `spread` (least, most), `fast_seconds` (median), `ratio` (median
        of peer / fast, pair by pair), `ratio_spread`, `step` (what a step is), `versions` and `threads`; without it
        `why`.
    """
    folder = environment or _environment_from_variable()
    threads = torch.get_num_threads()
    arguments = ["--init-channels", str(init_channels), "--cells", str(cells), "--batch", str(batch)]
    arguments += ["--threads", str(threads), "--device", device]
    try:
        command = [*_command(peer, folder), *arguments]
        with _started(command, device) as (about, peer_step):
            pairs = [(peer_step(), fast_step()) for _ in range(repeats)]
    except PeerError as error:
        return {"peer": peer, "ran": False, "why": str(error)}
    seconds = [slow for slow, _ in pairs]
    ratios = [slow / fast for slow, fast in pairs]
    return {
        "peer": peer,
        "ran": True,
        "seconds": statistics.median(seconds),
        "spread": [min(seconds), max(seconds)],
        "fast_seconds": statistics.median(fast for _, fast in pairs),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        **about,
        "threads": threads,
    }


def _environment_from_variable() -> Path | None:
    folder = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(folder).expanduser() if folder else None


def _command(peer: str, environment: Path | None) -> list[str]:
    """How to start the peer, without the size of its supernet.

    Raises:
        PeerError: if it cannot be started.
    """
    if peer == "nni":
        folder = environment or _cache() / "nni"
        _install_nni(folder)
        return [str(_python(folder)), "-m", "tests.benchmarks.peer_nni"]
    kind, checkout = _recognise(Path(peer).expanduser())
    python = sys.executable if environment is None else str(_python(environment))
    return [python, "-m", "tests.benchmarks.peer_checkout", "--kind", kind, "--checkout", str(checkout)]


def _recognise(path: Path) -> tuple[str, Path]:
    """Kind of a checkout, by its files, and the folder that its modules are imported from.

    Raises:
        PeerError: if it is none of the known ones.
    """
    for folder in (path, path / "src"):
        if (folder / "confopt" / "searchspace").is_dir():
            return "confopt", folder.absolute()
    for folder in (path, path / "SNAS", path / "cnn"):
        if (folder / "model_search.py").is_file():
            kind = "snas" if (folder / "dist_util_torch.py").is_file() else "darts"
            return kind, folder.absolute()
    raise PeerError(
        "a peer must be `nni` or a checkout of the DARTS authors' code (cnn/model_search.py), of the SNAS authors' "
        "code (SNAS/model_search.py) or of automl/ConfigurableOptimizer (src/confopt/searchspace), got "
        f"{str(path)!r}"
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snas-orchestrator" / "peers"


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _install_nni(folder: Path) -> None:
    """Make NNI's environment, unless it is there; torch comes from the running Python, which saves gigabytes.

    Raises:
        PeerError: if it cannot be made.
    """
    done, requirements = folder / "installed.txt", "\n".join(NNI_REQUIREMENTS)
    if done.is_file() and done.read_text(encoding="utf-8") == requirements:
        return
    print(f"installing {', '.join(NNI_REQUIREMENTS)} in {folder}", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(folder)])
    # Not `--system-site-packages`: from a virtual environment that would give its base Python's packages instead.
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    inherited = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    Path(own, "inherited.pth").write_text("".join(f"{site}\n" for site in inherited), encoding="utf-8")
    _run([str(_python(folder)), "-m", "pip", "install", "--quiet", *NNI_REQUIREMENTS])
    done.write_text(requirements, encoding="utf-8")


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise PeerError(_reason(result.returncode, result.stderr))


@contextmanager
def _started(command: list[str], device: str) -> Iterator[tuple[dict[str, Any], Callable[[], float]]]:
    """A running peer: what it says about itself, and a call that runs one step there and returns its seconds.

    Raises:
        PeerError: if the peer ends before its time.
    """
    variables = dict(os.environ)
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""  # published code takes a GPU that it sees
    with tempfile.TemporaryFile("w+") as errors:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, text=True, cwd=_ROOT, env=variables
            )
        except OSError as error:
            raise PeerError(f"{command[0]} must be a Python, got: {error.strerror}") from error
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        try:
            yield json.loads(_answer(process, errors)), lambda: float(_ask(process, errors))
        finally:
            timer.cancel()
            process.kill()
            process.communicate()


def _ask(process: subprocess.Popen[str], errors: IO[str]) -> str:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the missing answer says why
        print(file=process.stdin, flush=True)
    return _answer(process, errors)


def _answer(process: subprocess.Popen[str], errors: IO[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line:
        return line
    errors.seek(0)
    raise PeerError(_reason(process.wait(), errors.read()))


def _reason(status: int, errors: str) -> str:
    """Why a process ended: the last line of its error, if it had the time to write one."""
    if status == -signal.SIGKILL:
        return f"its process was killed: it took more than {_TIMEOUT_S} s, or the machine is out of memory"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1] if status > 0 and lines else f"its process ended with status {status}"
