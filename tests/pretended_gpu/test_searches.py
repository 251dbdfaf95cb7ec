"""Every strategy on the pretended GPU: the numbers of torch's code on the CPU, bit for bit, and no needless wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_core.data.dataset_options import DatasetOptions
from search_core.kernels.backend import torch_only
from search_core.space.genotype import KNOWN_PRIMITIVES
from tests.pretended_gpu.cuda import pretended_gpu
from tests.pretended_gpu.runs import NETWORK, from_file, options_of, record, records, search_on, waits_of_steps
from tests.search_core.image_folders import write_folder
from tests.search_core.strategies.test_strategies import CASES

#: How often the host may wait in a step. A child that is drawn must be known there, once, to launch its operations:
#: DSNAS draws it from what the step before has computed.
_WAITS = {name: 0 if name.startswith(("snas", "darts", "one_shot")) else 1 for name in CASES}

#: The first tier has each strategy once.
_STRATEGIES = [pytest.param(name, marks=[pytest.mark.slow] if "-" in name else []) for name in CASES]


@pytest.mark.slow
@pytest.mark.parametrize("name", _STRATEGIES)
def test_strategy_computes_and_resumes_on_a_gpu_as_on_the_cpu_and_does_not_wait(name: str) -> None:
    """The second epoch is run by another search, from the state of the first one."""
    options = options_of(name)
    with torch_only():
        expected = records(search_on("cpu", options))
    with pretended_gpu() as gpu:
        search, resumed = (search_on("cuda", options) for _ in range(2))
        waits = [waits_of_steps(run, gpu) for run in (search, resumed)]
        first = record(search.run_epoch())
        resumed.load_state_dict(from_file(search.state_dict()))
        second = record(resumed.run_epoch())
    assert [first, second] == expected
    for (step,) in waits:
        assert step.total() <= _WAITS[name], step


def test_image_files_go_up_through_pinned_memory(tmp_path: Path) -> None:
    images = DatasetOptions(name="image-folder", root=str(write_folder(tmp_path)), image_size=8, workers=0)
    options = options_of("snas", dataset=images, batch_size=8, epochs=1)
    with torch_only():
        expected = records(search_on("cpu", options))
    with pretended_gpu() as gpu:
        search = search_on("cuda", options)
        gpu.syncs.clear()
        assert records(search) == expected
    assert not [place for place in gpu.syncs if "pageable" in place and "/data/" in place]


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": 2, "primitives": tuple(KNOWN_PRIMITIVES)},
        pytest.param({"recompute": True}, marks=pytest.mark.slow),
    ],
    ids=["all primitives", "recompute"],
)
def test_snas_computes_on_a_gpu_as_on_the_cpu(changes: dict[str, Any]) -> None:
    """With nodes that get what other nodes send, with all primitives, and with cells that are computed twice."""
    options = options_of("snas", epochs=1, network=replace(NETWORK, **changes))
    with torch_only():
        expected = records(search_on("cpu", options))
    with pretended_gpu():
        assert records(search_on("cuda", options)) == expected
