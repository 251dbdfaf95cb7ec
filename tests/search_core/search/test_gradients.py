from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from search_core.errors import OptionsError
from search_core.search.gradients import compare_gradients
from search_core.search.options import SearchOptions
from search_core.search.search import Search
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions
from search_core.strategies.gradient_estimates import Effort
from search_core.strategies.weight_sharing.options import EnasOptions
from tests.search_core.tiny import differences, images_of, through_file, tiny_options

#: 2^4 = 16 genotypes.
SMALL = NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=("none", "sep_conv_3x3"))
EFFORT = Effort(samples=2, runs=1, steps=2, warm_up=1)


def trained(options: SearchOptions) -> Search:
    search = Search(options, images_of())
    search.run_epoch()
    return search


def test_rows_are_the_exact_gradient_and_each_estimator() -> None:
    search = trained(tiny_options(network=SMALL))
    rows = compare_gradients(search, temperatures=(1.0, 0.1), effort=EFFORT, images=20)
    assert [(row.name, row.temperature) for row in rows] == [
        ("exact", None),
        ("SNAS", 1.0),
        ("REINFORCE, relaxed", 1.0),
        ("SNAS", 0.1),
        ("REINFORCE, relaxed", 0.1),
        ("REINFORCE", None),
    ]
    exact, *others = (row.quality for row in rows)
    assert exact.variance == 0
    assert all(other.variance > 0 for other in others)
    assert all(len(other.losses) == 3 for other in others)


def test_expected_loss_is_over_all_genotypes_on_the_first_images() -> None:
    search = trained(tiny_options(network=SMALL))
    row, *_ = compare_gradients(search, temperatures=(), effort=EFFORT, images=20)
    images, labels = next(iter(search.data.train.batches(20)))
    p = torch.cat([search.strategy.probabilities()[name] for name in CELL_TYPES])
    total, supernet = 0.0, search.strategy.supernet.train()
    with torch.no_grad():
        for code in genotype_space(SMALL).all():
            z = functional.one_hot(torch.tensor(code), 2).float()
            loss = functional.cross_entropy(supernet(images, dict(zip(CELL_TYPES, z.split(2), strict=True))), labels)
            total += (p.gather(1, torch.tensor(code).unsqueeze(1)).prod() * loss).item()
    assert row.quality.losses[0] == pytest.approx(total, rel=1e-5)


def test_search_goes_on_as_if_nothing_had_been_measured() -> None:
    search = trained(tiny_options(network=SMALL))
    before = through_file(search.state_dict())
    compare_gradients(search, temperatures=(0.5,), effort=EFFORT, images=20)
    assert differences(before, search.state_dict()) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"strategy": EnasOptions(held_out=0.5), "batch_size": 16}, "strategy.kind.*gradients of alpha.*got enas"),
        ({"network": replace(SMALL, nodes=2, primitives=("none", "skip_connect", "sep_conv_3x3"))}, "network.*59,049"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, object], rule: str) -> None:
    search = Search(tiny_options(**{"network": SMALL, **changes}), images_of())
    with pytest.raises(OptionsError, match=rule):
        compare_gradients(search, temperatures=(1.0,), effort=EFFORT, images=20)
