"""How the children of a multi-trial search are trained."""

from __future__ import annotations

from search_core.search.options import SearchOptions
from search_core.strategies.multi_trial.options import MultiTrialOptions
from search_core.training.retrain_options import RetrainOptions


def child_recipe(search: SearchOptions, number: int | None = None) -> RetrainOptions:
    """The training of a child; what the estimate leaves open is that of the search.

    Args:
        search: with a multi-trial strategy.
        number: of the child's proposal; default: the last, which has the most channels.
    """
    assert isinstance(search.strategy, MultiTrialOptions)
    network, theta, estimate = search.network, search.theta, search.strategy.estimate
    channels = estimate.init_channels or network.init_channels
    if estimate.widths:
        num_children = search.epochs * search.strategy.children
        channels = estimate.widths[-1 if number is None else number * len(estimate.widths) // num_children]
    return RetrainOptions(
        epochs=estimate.epochs,
        batch_size=estimate.batch_size or search.batch_size,
        cells=estimate.cells or network.cells,
        init_channels=channels,
        stem=network.stem,
        lr=estimate.lr or theta.lr,
        momentum=theta.momentum,
        weight_decay=theta.weight_decay,
        grad_clip=theta.grad_clip,
        auxiliary_weight=0.0,
        drop_path=estimate.drop_path,
        cutout=search.dataset.cutout,
    )
