from __future__ import annotations

from itertools import islice

import pytest
import torch

from search_core.errors import DataError
from search_core.training.held_out import SearchImages
from tests.search_core.tiny import images_of, seeded


def divided(fraction: float, batch_size: int = 16) -> SearchImages:
    return SearchImages.of(images_of(), fraction, batch_size=batch_size, recalibration_batches=2)


def test_parts_are_disjoint_and_leave_validation_and_test_alone() -> None:
    data, images = images_of(), divided(0.25)
    assert len(images.weights) == 48
    assert len(images.held_out_split) == 16
    parts = [set(split.indices.tolist()) for split in (images.weights, images.held_out_split)]
    assert parts[0] | parts[1] == set(data.train.indices.tolist())
    assert not parts[0] & parts[1]


def test_same_images_are_held_out_in_every_search() -> None:
    assert (divided(0.5).held_out_split.indices == divided(0.5).held_out_split.indices).all()


def test_nothing_is_held_out_without_need() -> None:
    images = divided(0.0)
    assert images.weights is images_of().train
    assert images.held_out is None
    with pytest.raises(AssertionError, match="hold images out"):
        _ = images.held_out_split


def test_batches_of_held_out_images_have_no_end_and_follow_the_generator() -> None:
    images = divided(0.5)
    first, again, other = (
        [labels for _, labels in islice(images.held_out_batches(seeded(seed)), 5)] for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(torch.cat(first[:2]), torch.cat(first[2:4]))  # the next pass has another order


def test_part_of_less_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match=r"at most 6, .* when 0.1 of 64 training images are held out, got 16"):
        divided(0.1)
