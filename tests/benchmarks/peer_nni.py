"""NNI's GumbelDARTS supernet of the DARTS space, one timed step a line; started by `tests.benchmarks.peers`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from nni.nas.evaluator.pytorch import ClassificationModule
from nni.nas.hub.pytorch import DARTS
from nni.nas.strategy import GumbelDARTS

from tests.benchmarks.peer_server import CLASSES, GRAD_CLIP, make_parser, serve, single_pass_step

_STEP = (
    "single pass: one forward, one backward, SGD of theta and Adam of alpha on one batch; NNI's own training step does "
    "two passes on two batches. Its pools have no batch norm, and every cell draws its own Gumbel noise"
)


def make_step(options: argparse.Namespace) -> tuple[Callable[[], None], str]:
    """The supernet as `GumbelDARTS` makes it, without the Lightning trainer, and its step in words."""
    strategy = GumbelDARTS(gradient_clip_val=GRAD_CLIP)
    space = DARTS(width=options.init_channels, num_cells=options.cells, dataset="cifar")
    module = ClassificationModule(num_classes=CLASSES)
    module.set_model(strategy.mutate_model(space))
    search = strategy.configure_oneshot_module(module).to(options.device)
    search.train()
    alpha = {id(parameter) for parameter in search.arch_parameters()}
    theta = [parameter for parameter in search.parameters() if id(parameter) not in alpha]
    step = single_pass_step(
        search,
        theta,
        search.configure_architecture_optimizers(),
        batch_size=options.batch,
        device=options.device,
    )
    return step, _STEP


if __name__ == "__main__":
    serve(make_step, make_parser().parse_args(), ("nni", "pytorch-lightning"))
