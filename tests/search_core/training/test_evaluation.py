from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.training.evaluation import evaluate, recalibrate
from tests.search_core.tiny import TINY_NETWORK, TINY_SIZE, images_of, random_choices, seeded


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)
    )


@pytest.mark.parametrize("batch_size", [5, 16, 100])
def test_evaluate_equals_one_pass_over_all_images(batch_size: int) -> None:
    split, model = images_of().validation, network().eval()
    ((images, labels),) = split.batches(100)
    with torch.no_grad():
        logits = model(images)
    evaluation = evaluate(model, split, batch_size)
    assert evaluation.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert evaluation.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_recalibrate_averages_the_statistics_of_training_batches() -> None:
    split, model = images_of().train, network()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.full((3,), 100.0)
    before = [parameter.clone() for parameter in model.parameters()]
    recalibrate(model, split, batch_size=20, num_batches=2, generator=seeded(3))
    batches = [model[0](images).detach() for images, _ in split.batches(20, generator=seeded(3), drop_last=True)][:2]
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.1
    assert not model.training
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_recalibrate_averages_the_statistics_of_a_supernet_under_its_samples() -> None:
    """Those of each batch come from a copy that follows batches alone: momentum 1."""
    split, supernet = images_of().train, Supernet(TINY_SIZE, seed=0)
    samples = [random_choices(TINY_NETWORK, seeded(seed)) for seed in range(2)]
    z = {number: {name: hot.float() for name, hot in sample.items()} for number, sample in enumerate(samples)}
    single = []
    for number, (images, _) in enumerate([*split.batches(20, generator=seeded(3), drop_last=True)][:2]):
        alone = copy.deepcopy(supernet).train()
        for module in alone.modules():
            if isinstance(module, nn.BatchNorm2d | SearchCell):
                module.momentum = 1.0
        alone(images, z[number])
        single.append(dict(alone.named_buffers()))
    passes = iter(z.values())
    recalibrate(
        supernet,
        split,
        batch_size=20,
        num_batches=2,
        generator=seeded(3),
        forward=lambda images: supernet(images, next(passes)),
    )
    running = {name: buffer for name, buffer in supernet.named_buffers() if ".running_" in name}
    assert len(running) == 30
    for name, buffer in running.items():
        torch.testing.assert_close(buffer, (single[0][name] + single[1][name]) / 2)
    assert {module.momentum for module in supernet.modules() if isinstance(module, SearchCell)} == {0.1}


def test_recalibrate_takes_what_a_small_split_has() -> None:
    model = network()
    recalibrate(model, images_of().train, batch_size=1000, num_batches=50, generator=seeded())
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked == 1
