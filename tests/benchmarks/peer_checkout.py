"""The supernet of a checkout, one timed step a line; started by `tests.benchmarks.peers`, which says of what kind.

The code of the DARTS and the SNAS authors asks for CUDA inside its models. Without a GPU those requests are ignored, so
that the rest of the code runs as it is.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.peer_server import CLASSES, make_parser, serve, single_pass_step

_STEP = "single pass: one forward, one backward, SGD of theta and Adam of alpha on one batch"
_Built = tuple[nn.Module, Sequence[Tensor], Callable[[Tensor], Tensor], str]


def make_step(options: argparse.Namespace) -> tuple[Callable[[], None], str]:
    """The checkout's supernet and its step in words."""
    if options.device == "cpu":
        _ignore_cuda()
    sys.path.insert(0, str(options.checkout))
    model, alpha, forward, words = _BUILDERS[options.kind](options)
    model.train()
    architecture = {id(parameter) for parameter in alpha}
    step = single_pass_step(
        forward,
        [parameter for parameter in model.parameters() if id(parameter) not in architecture],
        torch.optim.Adam(alpha, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
        batch_size=options.batch,
        device=options.device,
    )
    return step, words


def _darts(options: argparse.Namespace) -> _Built:
    from model_search import Network

    model = Network(options.init_channels, CLASSES, options.cells, nn.CrossEntropyLoss()).to(options.device)
    return model, model.arch_parameters(), model, f"{_STEP}; DARTS' own first-order step does two passes on two batches"


def _snas(options: argparse.Namespace) -> _Built:
    from model_search import Network

    settings = _defaults(options.checkout / "train_search.py", ["--snas"])
    settings.init_channels, settings.layers = options.init_channels, options.cells
    settings.drop_path_prob = 0.0
    model = Network(options.init_channels, CLASSES, options.cells, nn.CrossEntropyLoss(), settings, 0, 1)
    model.to(options.device)
    words = (
        f"{_STEP}, no drop path, the task loss only; the forward pass also computes the resource penalties. The "
        "authors' own step does two or three backward passes, for logging"
    )
    return model, model.arch_parameters(), lambda images: model(images)[0], words


def _confopt(options: argparse.Namespace) -> _Built:
    from confopt.searchspace import DARTSSearchSpace

    space = DARTSSearchSpace(C=options.init_channels, layers=options.cells, num_classes=CLASSES)
    words = f"{_STEP}; softmax mixing, ConfigurableOptimizer's default without a sampler"
    return space, space.arch_parameters, lambda images: space(images)[1], words


_BUILDERS: dict[str, Callable[[argparse.Namespace], _Built]] = {"darts": _darts, "snas": _snas, "confopt": _confopt}


def _defaults(script: Path, given: list[str]) -> argparse.Namespace:
    """Command-line defaults of a training script, which cannot be imported because it would start to train.

    Only its module-level calls of `parser.add_argument` and its assignments of constants are run.
    """
    scope: dict[str, Any] = {"parser": argparse.ArgumentParser()}
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        is_constant = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        is_argument = (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "parser.add_argument"
        )
        if is_constant or is_argument:
            exec(compile(ast.Module([node], []), str(script), "exec"), scope)  # the checkout's own code
    return scope["parser"].parse_args(given)


def _ignore_cuda() -> None:
    """Make `.cuda()` and `.to(cuda)` of tensors and modules do nothing."""
    for owner in (torch.Tensor, nn.Module):
        owner.cuda = lambda self, *_, **__: self
        owner.to = _without_cuda(owner.to)


def _without_cuda(convert: Callable[..., Any]) -> Callable[..., Any]:
    def to(self: Any, *targets: Any, **more: Any) -> Any:
        if any(str(target).startswith("cuda") for target in (*targets, *more.values()) if not torch.is_tensor(target)):
            return self
        return convert(self, *targets, **more)

    return to


if __name__ == "__main__":
    parser = make_parser()
    parser.add_argument("--kind", choices=sorted(_BUILDERS), required=True)
    parser.add_argument("--checkout", type=Path, required=True, help="folder that its modules are imported from")
    serve(make_step, parser.parse_args())
