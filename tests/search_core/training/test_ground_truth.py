from __future__ import annotations

import dataclasses
import json

import pytest

from search_core.errors import OptionsError, StateError
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkOptions
from search_core.training.ground_truth import GroundTruth, TruthReport
from search_core.training.ground_truth_options import GroundTruthOptions
from search_core.training.retrain import Retrain
from tests.search_core.tiny import images_of, through_file

NETWORK = NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=("none", "skip_connect", "dil_conv_3x3"))
OPTIONS = GroundTruthOptions(seeds=2, epochs=2, batch_size=32, lr=0.1)
CODES = [(0, 1, 2, 2), (2, 2, 1, 1)]


def make(options: GroundTruthOptions = OPTIONS) -> GroundTruth:
    return GroundTruth(CODES, NETWORK, options, images_of(), seed=5)


def run(truth: GroundTruth) -> list[TruthReport]:
    return [truth.run_epoch() for _ in range(len(truth) - truth.epoch)]


def lasting(reports: list[TruthReport]) -> list[TruthReport]:
    return [dataclasses.replace(report, seconds=0.0) for report in reports]


def test_every_genotype_is_trained_with_every_seed_as_a_retraining_is() -> None:
    reports = run(make())
    assert [(report.epoch, report.code, report.seed) for report in reports] == [
        (0, CODES[0], 5), (1, CODES[0], 6), (2, CODES[1], 5), (3, CODES[1], 6)
    ]  # fmt: skip
    alone = Retrain(genotype_space(NETWORK).decode(CODES[1]), OPTIONS.recipe(NETWORK), images_of(), seed=6)
    *_, last = alone
    assert reports[3].val_accuracy == last.val_accuracy
    assert (reports[3].params, reports[3].madds) == (alone.cost().params, alone.cost().madds)


def test_training_that_diverges_is_reported_and_the_share_continues() -> None:
    truth = make(dataclasses.replace(OPTIONS, lr=1e30))
    reports = run(truth)
    assert [report.code for report in reports] == [CODES[0], CODES[0], CODES[1], CODES[1]]
    assert all(report.diverged and report.val_accuracy == 0.0 for report in reports)
    record = json.loads(json.dumps(reports[0].to_dict()))
    assert (record["diverged"], record["metrics"]["val_accuracy"]) == (True, 0.0)
    assert record["metrics"]["params"] == run(make())[0].params
    assert "diverged" not in make().run_epoch().to_dict()


def test_share_resumes_bit_for_bit() -> None:
    whole, first, second = make(), make(), make()
    reports = run(whole)
    before = [first.run_epoch()]
    second.load_state_dict(through_file(first.state_dict()))
    assert lasting(before + run(second)) == lasting(reports)


def test_state_of_another_recipe_is_refused() -> None:
    with pytest.raises(StateError, match="they differ in options"):
        make(dataclasses.replace(OPTIONS, lr=0.2)).load_state_dict(make().state_dict())
    with pytest.raises(StateError, match="format must be 1"):
        make().load_state_dict({})


def test_record_is_json() -> None:
    record = json.loads(json.dumps(make().run_epoch().to_dict()))
    assert record["code"] == list(CODES[0])
    assert set(record["metrics"]) == {"val_accuracy", "params", "madds", "seconds"}


def test_options_out_of_range_are_all_reported() -> None:
    with pytest.raises(OptionsError) as found:
        GroundTruthOptions(seeds=0, epochs=0, batch_size=1, lr=0.0, weight_decay=-1.0)
    assert [name for name, _ in found.value.faults] == ["seeds", "epochs", "batch_size", "lr", "weight_decay"]
