"""How well the final accuracy of a child is predicted from the beginning of its curve: extrapolation and regression.

Run: `python -m tests.benchmarks.learning_curves [--children 40] [--epochs 8] [--curves FILE] [--json]`. Children of a
random search on digits (two nodes, three cells, four channels) are trained whole; FILE keeps their curves, a JSON line
each, and those that it has already are not trained again. Per prefix: the mean absolute error in points, and the rank
correlation (Spearman) with the final accuracy, of the last accuracy seen as it is, of the power law
(`predicted_accuracy`) and of the regression (`CurveLaw`), once without what is known beforehand (curve alone). The
regression is made of all other children (leave one out), or as in a search of those before (in order, where all figures
are of the children after the first `startup`). At last, what either stop would have saved of the same search.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.stats import spearmanr

from search_core.cost.constraints import ChildLimits, Constraints
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import load_data
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.search.options import SearchOptions
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.multi_trial.curve_regression import fit_law
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.finished_curves import FinishedCurves, known_beforehand
from search_core.strategies.multi_trial.learning_curve import CurveStop, predicted_accuracy
from search_core.strategies.multi_trial.options import RandomSearchOptions
from search_core.strategies.multi_trial.random_search import RandomSearch

NETWORK = NetworkOptions(nodes=2, cells=3, init_channels=4)
SPACE = genotype_space(NETWORK)
LIMITS = ChildLimits(Constraints(), NetworkSize(NETWORK, (1, 8, 8), 10))


@dataclass(frozen=True)
class Child:
    """A code, and the accuracy on held-out images after each epoch."""

    code: Code
    accuracies: tuple[float, ...]

    @property
    def known(self) -> list[float]:
        """Features that are known before its first epoch."""
        return known_beforehand(self.code, SPACE, LIMITS.cost(SPACE.decode(self.code)), NETWORK.init_channels, None)


def record(num_children: int, epochs: int, known: Sequence[Child]) -> Iterator[Child]:
    """The children of a random search, each trained whole, but for the first, which are known."""
    torch.set_num_threads(1)
    strategy = RandomSearchOptions(estimate=EstimateOptions(epochs=epochs, stop=CurveStop(kind="curve")))
    options = SearchOptions(
        dataset=DatasetOptions(name="digits"), network=NETWORK, strategy=strategy, epochs=1, batch_size=64
    )
    data = load_data(options.dataset, torch.device("cpu"))
    proposer = RandomSearch(SPACE, LIMITS, options.seed)
    for number in range(num_children):
        proposal = proposer.ask()
        assert proposal is not None
        if number < len(known):
            assert known[number].code == proposal.code, "the file must be of the same search"
            continue
        order = ChildOrder(number=number, code=proposal.code)  # without a best score nothing stops it
        yield Child(proposal.code, tuple(r.held_out_accuracy for r in ChildTraining(options, data, order)))


def by_regression(children: Sequence[Child], child: Child, seen: int, num_known: int | None = None) -> float:
    """Final accuracy of a child by that of others, and by the first `num_known` features, all by default."""
    known_NA, curves_NT = np.array([c.known[:num_known] for c in children]), np.array([c.accuracies for c in children])
    return fit_law(known_NA, curves_NT, np.array(child.known[:num_known]), seen).predicted(child.accuracies[:seen])


def figures(predicted: Sequence[float], children: Sequence[Child]) -> dict[str, float]:
    """Mean absolute error in points, and Spearman's rho."""
    final = [child.accuracies[-1] for child in children]
    error = 100 * float(np.abs(np.subtract(predicted, final)).mean())
    return {"error": round(error, 2), "rho": round(float(spearmanr(predicted, final).statistic), 3)}


def compared(children: Sequence[Child], seen: int, startup: int) -> dict[str, dict[str, dict[str, float]]]:
    """All methods after `seen` epochs, with the regression made in either way."""
    epochs, later = len(children[0].accuracies), children[startup:]
    others = [[other for other in children if other is not child] for child in children]
    ways = {
        "leave one out": (children, others),
        "in order": (later, [children[:number] for number in range(startup, len(children))]),
    }
    return {
        way: {
            "last seen": figures([child.accuracies[seen - 1] for child in judged], judged),
            "extrapolation": figures([predicted_accuracy(c.accuracies[:seen], epochs) for c in judged], judged),
            "curve alone": figures(
                [by_regression(t, c, seen, 0) for c, t in zip(judged, teachers, strict=True)], judged
            ),
            "regression": figures([by_regression(t, c, seen) for c, t in zip(judged, teachers, strict=True)], judged),
        }
        for way, (judged, teachers) in ways.items()
    }


def stopped(children: Sequence[Child], kind: Literal["none", "curve", "regression"]) -> dict[str, float]:
    """Epochs that a search of these children would take with a stop, and its best score."""
    estimate = EstimateOptions(epochs=len(children[0].accuracies), stop=CurveStop(kind=kind))
    curves, best, total = FinishedCurves(estimate), None, 0
    for number, child in enumerate(children):
        laws = curves.laws(number, child.known) if kind == "regression" else ()
        epochs = 1
        while epochs < estimate.epochs and not estimate.stop.is_hopeless(
            child.accuracies[:epochs], estimate.epochs, best, laws
        ):
            epochs += 1
        curves.ended(number, child.accuracies[:epochs])
        total += epochs
        best = max(child.accuracies[epochs - 1], best or 0.0)
    assert best is not None
    return {"epochs": total, "best": round(best, 4)}


def main() -> None:
    """Train what is not known, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--children", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--curves", type=Path, help="file with the curves")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    children: list[Child] = []
    if options.curves is not None and options.curves.exists():
        lines = [json.loads(line) for line in options.curves.read_text().splitlines()][: options.children]
        children = [Child(tuple(line["code"]), tuple(line["accuracies"])) for line in lines]
    for child in record(options.children, options.epochs, tuple(children)):
        children.append(child)
        if options.curves is not None:
            with options.curves.open("a") as file:
                file.write(json.dumps(vars(child)) + "\n")
    startup = min(CurveStop().startup, options.children // 2)
    result = {seen: compared(children, seen, startup) for seen in range(3, options.epochs)}
    stops = {kind: stopped(children, kind) for kind in ("none", "curve", "regression")}
    if options.json:
        print(json.dumps({"predicted": result, "stops": stops}))
        return
    for seen, ways in result.items():
        for way, methods in ways.items():
            print(f"{seen} of {options.epochs} epochs, {way}: " + "; ".join(f"{m} {f}" for m, f in methods.items()))
    print(stops)


if __name__ == "__main__":
    main()
