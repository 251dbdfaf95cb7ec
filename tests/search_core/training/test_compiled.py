"""Retraining through `torch.compile`: where the compiler fails, everything is as without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from search_core.errors import OptionsError, StateError
from search_core.space.genotype import PUBLISHED
from search_core.training.retrain import Retrain, check_recipe
from search_core.training.retrain_options import RetrainOptions
from tests.search_core.tiny import differences, images_of, through_file

_TINY = RetrainOptions(epochs=2, batch_size=32, cells=1, init_channels=4, drop_path=0.3, auxiliary_weight=0.0)


def _trained(**changes: Any) -> tuple[list[float], dict[str, Any]]:
    retrain = Retrain(PUBLISHED["SNAS_mild"], replace(_TINY, **changes), images_of(), seed=1)
    losses = [report.train_loss for report in retrain]
    state = {name: value for name, value in retrain.state_dict().items() if name != retrain.definition_key}
    return losses, through_file(state)


def _fails_at_once(network: nn.Module) -> Callable[..., Any]:
    raise RuntimeError("No working C++ compiler found\nand more about it")


def _fails_after_a_pass(network: nn.Module) -> Callable[..., Any]:
    def passes(*arguments: Any) -> Any:
        network(*arguments)  # statistics move
        raise RuntimeError("No working C++ compiler found")

    return passes


@pytest.mark.parametrize("compiler", [_fails_at_once, _fails_after_a_pass])
def test_without_a_compiler_the_numbers_are_those_of_no_compiler(
    compiler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, state = _trained()
    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.warns(UserWarning, match=r"without torch.compile, which failed here: No working C\+\+ compiler found$"):
        found, there = _trained(compile=True)
    assert found == losses
    assert differences(there, state) == []


@pytest.mark.slow
def test_compiled_passes_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by the compiler, with drop path and without, and run by PyTorch: no C++ is made here."""
    losses, _ = _trained()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found, _ = _trained(compile=True)
    torch.testing.assert_close(found, losses, rtol=1e-5, atol=1e-6)


def test_several_workers_do_not_compile() -> None:
    with pytest.raises(OptionsError, match="`compile` must be false with 2 workers"):
        check_recipe(replace(_TINY, compile=True), images_of(), 2)


def test_bfloat16_is_for_gpus() -> None:
    with pytest.raises(OptionsError, match="`precision` must be float32 on cpu"):
        _trained(precision="bfloat16")


def test_a_state_from_before_these_settings_still_fits() -> None:
    retrain, other = (
        Retrain(PUBLISHED["SNAS_mild"], options, images_of()) for options in (_TINY, replace(_TINY, compile=True))
    )
    assert {"precision", "compile"}.isdisjoint(retrain.definition()["options"])
    with pytest.raises(StateError, match="differ in options"):
        other.load_state_dict(retrain.state_dict())
