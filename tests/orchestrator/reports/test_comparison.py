"""A small space whose every genotype is trained, searched by two strategies: a study as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.driver.searcher import tell
from orchestrator.driver.start import run_study
from orchestrator.errors import ConfigError
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.reports.comparison import compare
from orchestrator.reports.comparison_text import comparison_markdown, pruned_text
from orchestrator.study.records import FRONT_METRICS
from orchestrator.study.study import Study
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.sweep import suggest
from orchestrator.study_file.yaml_file import dump_yaml
from search_core.errors import DataError
from search_core.space.codes import genotype_space
from search_core.space.genotype import Genotype
from tests.orchestrator.studies import Done, run_to_its_end
from tests.orchestrator.tiny import (
    ONE_OBJECTIVE,
    RETRAIN,
    SEARCH,
    artifact_paths,
    made_up_record,
    opened_study,
    snas,
    study_data,
    tiny_spec,
    written_journal,
)

PRIMITIVES = ["none", "skip_connect"]
MICRO: dict[str, Any] = study_data(
    name="micro",
    search={
        **SEARCH,
        "network": {**SEARCH["network"], "nodes": 1, "primitives": PRIMITIVES},
        "penalty": {"strength": 0.0},
        "batch_size": 12,  # a fifth of 64 images is held out
    },
    sweep={
        "strategy.kind": {"choice": ["snas", "random_sampling"]},
        "seed": {"int": [0, 1]},
        "penalty.strength": {"choice": [0.0, 0.1], "when": {"strategy.kind": "snas"}},
    },
    sampler="grid",
    trials=100,
    objectives=ONE_OBJECTIVE,
    resources={"cpu": 0.5},
    max_concurrent=2,
    ground_truth={"seeds": 2, "epochs": 1, "batch_size": 32},
    retrain={**RETRAIN, "top": "all"},
)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = run_to_its_end(tmp_path_factory.mktemp("micro"), MICRO)
    assert done.outcome.code == 0, done.outcome.said
    return done


def study_of(done: Done) -> Study:
    return Study.load(done.name, Runs(done.runs))


def truth_of(done: Done) -> dict[tuple[int, ...], list[float]]:
    """Accuracies by genotype, from the journals as they lie there."""
    found: dict[tuple[int, ...], list[float]] = {}
    for file in sorted((done.runs / done.name / "ground_truth").glob("*.jsonl")):
        for record in Journal(file).epochs:
            found.setdefault(tuple(record["code"]), []).append(record["metrics"]["val_accuracy"])
    return found


def plain_tau(pairs: list[tuple[float, float]]) -> float:
    """Kendall's tau-b, pair by pair."""
    agree = ties_first = ties_second = total = 0
    for (a, b), (c, d) in combinations(pairs, 2):
        total += 1
        ties_first += a == c
        ties_second += b == d
        agree += ((a > c) - (a < c)) * ((b > d) - (b < d))
    return float(agree / ((total - ties_first) * (total - ties_second)) ** 0.5)


@pytest.mark.integration
@pytest.mark.slow
class TestStudy:
    @pytest.mark.slow
    def test_every_genotype_is_trained_with_every_seed(self, micro: Done) -> None:
        space = genotype_space(study_of(micro).spec.search.network)
        truth = truth_of(micro)
        assert set(truth) == set(space.all())
        assert all(len(values) == 2 for values in truth.values())
        table = json.loads((micro.runs / micro.name / "ground_truth.json").read_text())
        assert {tuple(row["code"]): row["val_accuracy"] for row in table["genotypes"]} == truth

    def test_rows_are_strategies_with_what_else_was_swept(self, micro: Done) -> None:
        rows = {row.name: row for row in compare(study_of(micro)).rows}
        assert list(rows) == ["snas (penalty.strength 0)", "snas (penalty.strength 0.1)", "random_sampling"]
        assert [row.num_searches for row in rows.values()] == [2, 2, 2]
        assert all(row.epochs == 2 and len(row.hours) == 2 and row.failed == 0 for row in rows.values())

    def test_numbers_of_a_row_are_those_of_its_searches(self, micro: Done) -> None:
        (row,) = (row for row in compare(study_of(micro)).rows if row.kind == "random_sampling")
        trials = [trial for trial in micro.shown()["trial_records"] if trial["values"].get("strategy.kind") == row.kind]
        for metric in ("child_val_accuracy", "discretization_gap", "child_madds"):
            assert list(getattr(row, metric)) == [trial["metrics"][metric] for trial in trials]

    def test_regret_and_rank_correlation_are_those_of_the_table(self, micro: Done) -> None:
        study, truth = study_of(micro), {code: mean(values) for code, values in truth_of(micro).items()}
        space = genotype_space(study.spec.search.network)
        expected = []
        for number in range(6):
            last = micro.journal(number).epochs[-1]
            chosen = truth[space.encode(Genotype.from_dict(last["genotype"]))]
            pairs = list(zip(last["scores"], (truth[code] for code in space.all()), strict=True))
            expected.append((max(truth.values()) - chosen, plain_tau(pairs)))
        rows = compare(study).rows
        assert sorted(regret for row in rows for regret in row.regret) == pytest.approx(sorted(r for r, _ in expected))
        assert sorted(tau for row in rows for tau in row.kendall_tau) == pytest.approx(
            sorted(tau for _, tau in expected)
        )
        assert {number for row in rows for number in row.num_scored} == {16}

    def test_truth_is_reported_with_its_noise_and_what_chance_does(self, micro: Done) -> None:
        truth, facts = truth_of(micro), compare(study_of(micro)).truth
        assert facts is not None
        means = [mean(values) for values in truth.values()]
        assert (facts.genotypes, facts.seeds) == (16, 2)
        assert (facts.best, facts.mean) == (max(means), pytest.approx(mean(means)))
        assert facts.noise == pytest.approx(mean(stdev(values) for values in truth.values()))

    def test_every_child_is_retrained_and_counts_for_each_search_that_found_it(self, micro: Done) -> None:
        shown = micro.shown()
        cells = {json.dumps(trial["genotype"], sort_keys=True) for trial in shown["trial_records"]}
        assert len(shown["retrain_records"]) == len(cells)
        assert all(len(row.test_accuracy) == 2 for row in compare(study_of(micro)).rows)

    def test_claims_say_what_is_missing(self, micro: Done) -> None:
        found = {claim.letter: claim for claim in compare(study_of(micro)).claims}
        assert [claim.letter for claim in compare(study_of(micro)).claims] == ["a", "b", "c", "d"]
        assert "snas (penalty.strength 0)" in found["a"].text
        assert "darts not known" in found["a"].evidence
        assert "4 complete searches of snas with 2 different penalties" in found["c"].evidence
        assert "no complete search of enas" in found["d"].evidence
        assert "snas" in found["a"].evidence
        assert "(n = 2)" in found["a"].evidence, "searches with another penalty than the file's own do not count"

    def test_report_is_printed_and_kept_with_the_parent_run(self, micro: Done) -> None:
        outcome = snas("study", "report", "micro", "--runs", micro.runs)
        assert outcome.code == 0
        for part in ("random_sampling", "against the ground truth", "16 genotypes", "cannot be said"):
            assert part in outcome.said
        document = json.loads(snas("study", "report", "micro", "--json", "--runs", micro.runs).out)
        assert document["has_control"]
        client = MlflowClient(f"sqlite:///{micro.runs}/mlflow.db")
        parent = micro.mlflow_runs["study"].info.run_id if "study" in micro.mlflow_runs else None
        parent = parent or next(
            run.info.run_id for run in micro.mlflow_runs.values() if "mlflow.parentRunId" not in run.data.tags
        )
        assert {"comparison.md", "comparison.json"} <= set(artifact_paths(client, parent))
        kept = (micro.runs / "micro" / "comparison.md").read_text()
        assert kept == comparison_markdown(compare(study_of(micro)))

    def test_study_is_whole_and_resuming_it_adds_nothing(self, micro: Done) -> None:
        said = snas("study", "doctor", "micro", "--runs", micro.runs)
        assert said.code == 0, said.said
        before = micro.counts()
        assert snas("study", "resume", "micro", "--runs", micro.runs).code == 0
        assert micro.counts() == before


def journaled(
    runs: Path,
    points: Sequence[dict[str, Any]],
    extra: Callable[[int, int], dict[str, float]] = lambda number, epoch: {},
    **spec: Any,
) -> Study:
    """A study whose searches are complete, one a point; `extra` adds metrics to what a trial reports after an epoch."""
    of = tiny_spec(objectives=ONE_OBJECTIVE, trials=len(points), **spec)
    study = Study(of, Runs(runs))
    study.folder.path.mkdir(parents=True)
    study.folder.spec_file.write_text(dump_yaml(of.resolved()), encoding="utf-8")
    stored = opened_study(of, study.runs.optuna_url())
    assert pruned_text(compare(study)) == ""
    figures = {**dict.fromkeys(FRONT_METRICS, 0.5), "discretization_gap": 0.0, "entropy_total": 0.0}
    figures |= {"supernet_val_accuracy": 0.5, "child_val_error": 0.5}
    for number, point in enumerate(points):
        stored.enqueue_trial(point)
        assert suggest(stored.ask(), of.sweep) == point
        records = [made_up_record(e, **figures, **extra(number, e)) for e in range(8)]
        journal = Journal(written_journal(study.folder.journal("search", f"{number:04d}"), records, "complete"))
        tell(stored, of, number, journal)
    return study


def test_report_has_the_divergence_of_pruned_networks_over_the_epochs(tmp_path: Path) -> None:
    kinds = {"strategy.kind": {"choice": ["snas", "one_shot"]}, "seed": {"int": [0, 1]}}
    points = [{"strategy.kind": kind, "seed": seed} for kind, seed in product(("snas", "one_shot"), (0, 1))]
    courses = {number: [(number + 1) / 2**epoch for epoch in range(8)] for number in (2, 3)}

    def divergence(number: int, epoch: int) -> dict[str, float]:
        return {"pruned_kl": courses[number][epoch]} if number in courses else {}

    study = journaled(tmp_path, points, divergence, sweep=kinds, sampler="grid")
    comparison, expected = compare(study), [mean(values) for values in zip(*courses.values(), strict=True)]
    assert {row.kind: list(row.pruned_kl) for row in comparison.rows} == {"snas": [], "one_shot": expected}
    shown = ", ".join(f"{expected[epoch]:.3g} ({epoch + 1})" for epoch in (0, 1, 3, 4, 6, 7))
    assert pruned_text(comparison).endswith(f"symmetrised KL in nats (epoch): one_shot {shown}.")
    assert pruned_text(comparison) in comparison_markdown(comparison)
    assert shown in snas("study", "report", "tiny", "--runs", tmp_path).said


def test_report_puts_penalty_strengths_of_a_range_together_by_decade(tmp_path: Path) -> None:
    sweep = {"penalty.strength": {"log_uniform": [1e-4, 1e-1]}, "temperature.end": {"log_uniform": [0.03, 0.5]}}
    etas = (0.05, 0.0002, 0.004, 0.001, 0.02)
    study = journaled(tmp_path, [{"penalty.strength": eta, "temperature.end": 0.03 + eta} for eta in etas], sweep=sweep)
    rows = {row.settings.removeprefix("penalty.strength "): row.num_searches for row in compare(study).rows}
    assert rows == {"0.0001 to 0.001": 1, "0.001 to 0.01": 2, "0.01 to 0.1": 2}
    assert list(rows) == sorted(rows), "from weak to strong"


def micro_with(**changes: Any) -> dict[str, Any]:
    return {**MICRO, **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            micro_with(search=SEARCH, sweep={"seed": {"int": [0, 1]}}),
            "must be left out for a search space of",
        ),
        (micro_with(sweep={"network.nodes": {"choice": [1, 2]}}), "must be left out with `ground_truth`"),
        (micro_with(ground_truth={"seeds": 0}), "must be at least 1, got 0"),
        (micro_with(retrain={**RETRAIN, "top": "some"}), "must be `front`, `all` or a whole number"),
    ],
)
def test_study_file_that_does_not_fit_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_study(data)


def test_images_that_cannot_be_divided_are_reported_before_anything_begins(tmp_path: Path) -> None:
    data = {**MICRO, "search": {**MICRO["search"], "batch_size": 32}}
    with pytest.raises(DataError, match=r"at most 13, .* when 0.2 of 64 training images are held out, got 32"):
        run_study(Study(parse_study(data), Runs(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_report_of_a_study_that_is_not_there(tmp_path: Path) -> None:
    outcome = snas("study", "report", "nothing", "--runs", tmp_path)
    assert outcome.code == 2
    assert "there is no study `nothing`" in outcome.said


def test_strategies_are_listed() -> None:
    rows = json.loads(snas("strategies", "--json").out)
    assert {"snas", "random_sampling"} <= {row["kind"] for row in rows}
    assert all(set(row) == {"kind", "summary", "paper", "children", "uses"} and row["paper"] for row in rows)
    assert "random_sampling" in snas("strategies").said
