"""How the children of a multi-trial search are trained."""

from __future__ import annotations

from search_core.search.options import SearchOptions
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.training.retrain_options import RetrainOptions


def child_recipe(estimate: EstimateOptions, search: SearchOptions) -> RetrainOptions:
    """The training of a child; what the estimate leaves open is that of the search."""
    network, theta = search.network, search.theta
    return RetrainOptions(
        epochs=estimate.epochs,
        batch_size=estimate.batch_size or search.batch_size,
        cells=estimate.cells or network.cells,
        init_channels=estimate.init_channels or network.init_channels,
        stem=network.stem,
        lr=estimate.lr or theta.lr,
        momentum=theta.momentum,
        weight_decay=theta.weight_decay,
        grad_clip=theta.grad_clip,
        auxiliary_weight=0.0,
        drop_path=estimate.drop_path,
        cutout=search.dataset.cutout,
    )
