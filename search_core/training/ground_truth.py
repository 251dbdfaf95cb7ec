"""Every genotype of a small search space trained from scratch: what strategies are judged by.

As NAS-Bench-101 (Ying et al., ICML 2019) and NAS-Bench-201 (Dong and Yang, ICLR 2020) do for larger spaces.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from search_core.data.datasets import ImageData
from search_core.errors import NonFiniteLossError
from search_core.resumable import Resumable
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkOptions
from search_core.training.ground_truth_options import GroundTruthOptions
from search_core.training.retrain import Retrain


@dataclass(frozen=True)
class TruthReport:
    """One genotype trained once.

    Attributes:
        epoch: 0-based position in the part of the work.
        code: the genotype, see `GenotypeSpace`.
        seed: of the training.
        val_accuracy: on the validation split after the last epoch, a fraction; 0 if the training diverged.
        params: of the child.
        madds: multiply-adds of the child, one image.
        seconds: wall time.
        diverged: whether a loss became NaN or infinite, so that there is no trained network.
    """

    epoch: int
    code: Code
    seed: int
    val_accuracy: float
    params: int
    madds: int
    seconds: float
    diverged: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `epoch`, `code`, `seed` and `metrics`, and `diverged` if it did."""
        metrics = {name: float(getattr(self, name)) for name in ("val_accuracy", "params", "madds", "seconds")}
        diverged = {"diverged": True} if self.diverged else {}
        return {"epoch": self.epoch, "code": list(self.code), "seed": self.seed, "metrics": metrics, **diverged}


class GroundTruth(Resumable[TruthReport]):
    """A part of the table: genotypes trained one after the other, each from its own seed.

    Args:
        codes: the genotypes of this part.
        network: the search space and the size of the children.
        options: how they are trained.
        data: the images, on `device`; the test split is not looked at.
        device: where the trainings run.
        seed: of the first training of each genotype.

    Raises:
        DataError: if the training split has less than one batch.
    """

    state_format = 1

    def __init__(
        self,
        codes: Sequence[Code],
        network: NetworkOptions,
        options: GroundTruthOptions,
        data: ImageData,
        device: torch.device | str = "cpu",
        *,
        seed: int = 0,
    ) -> None:
        self._pairs = [(code, seed + offset) for code in codes for offset in range(options.seeds)]
        self._space, self._network, self._options = genotype_space(network), network, options
        self._data, self._device = data, torch.device(device)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def is_over(self) -> bool:
        """Whether the part is done."""
        return self.epoch >= len(self)

    def run_epoch(self) -> TruthReport:
        """Train the next genotype; a training that diverges is reported as such, for the table to be whole."""
        start = time.perf_counter()
        code, seed = self._pairs[self.epoch]
        recipe = self._options.recipe(self._network)
        retrain = Retrain(self._space.decode(code), recipe, self._data, self._device, seed=seed)
        try:
            *_, last = retrain
            accuracy = last.val_accuracy
        except NonFiniteLossError:
            accuracy = None
        cost = retrain.cost()
        report = TruthReport(
            epoch=self.epoch,
            code=code,
            seed=seed,
            val_accuracy=0.0 if accuracy is None else accuracy,
            params=cost.params,
            madds=cost.madds,
            seconds=time.perf_counter() - start,
            diverged=accuracy is None,
        )
        self.epoch += 1
        return report

    def state_dict(self) -> dict[str, Any]:
        """How far the part is; trainings are whole between reports."""
        return {**self.stamp(), "epoch": self.epoch}

    def _take(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]

    def definition(self) -> dict[str, Any]:
        """Genotypes, their network, how they are trained, and the images."""
        return {
            "options": asdict(self._options),
            "network": {
                name: value
                for name, value in asdict(self._network).items()
                if (name, value) != ("space", "darts") and (name != "chain" or self._network.space == "nas_chain")
            },
            "pairs": self._pairs,
            "data": [self._data.digest, self._data.split_digest],
        }
