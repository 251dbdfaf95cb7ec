"""Retraining as a GPU does it: maps and weights with the channels last, convolutions in bfloat16 if asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from search_core.space.genotype import PUBLISHED
from search_core.training.retrain import Retrain
from search_core.training.retrain_options import RetrainOptions
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.runs import data_on, options_of

_RECIPE = RetrainOptions(epochs=1, batch_size=8, cells=1, init_channels=4, drop_path=0.0)


def test_bfloat16_is_in_the_convolutions_of_training_alone() -> None:
    losses = {}
    with pretended_gpu():
        for precision in ("float32", "bfloat16"):
            recipe = replace(_RECIPE, precision=precision)
            retrain = Retrain(PUBLISHED["SNAS_mild"], recipe, data_on("cuda", options_of("snas")), "cuda")
            seen: set[tuple[bool, torch.dtype]] = set()

            def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, seen: set = seen) -> None:  # type: ignore[type-arg]
                seen.add((module.training, output.dtype))

            for module in retrain.child.modules():
                if isinstance(module, nn.Conv2d):
                    assert module.weight.is_contiguous(memory_format=torch.channels_last)
                    module.register_forward_hook(look)
            losses[precision] = retrain.run_epoch().train_loss
            assert seen == {(True, getattr(torch, precision)), (False, torch.float32)}
            state = retrain.state_dict()["child"].values()
            assert {tensor.dtype for tensor in state} == {torch.float32, torch.int64}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]
