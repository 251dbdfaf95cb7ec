"""Multi-trial searches in a study, without Ray: what is trained next and reported, and what a killed driver leaves."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.driver.child_trials import OrderLog
from orchestrator.driver.children import DriverChildren
from orchestrator.driver.launch import OwnFault
from orchestrator.driver.progress import StudyView
from orchestrator.driver.searcher import StudySearcher
from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.json_lines import JsonLines
from orchestrator.files.layout import Runs, split_child_label, trial_label
from orchestrator.jobs import ChildJob, Job, SearchJob
from orchestrator.sampling.bayesian import build_proposer
from orchestrator.study_file.loading import parse_study
from search_core.cost.constraints import ChildLimits, Constraints
from search_core.errors import ConstraintsError
from search_core.search.child_training import ChildOrder
from search_core.search.children import ProposedChildren
from search_core.search.options import SearchOptions
from search_core.space.codes import genotype_space
from tests.orchestrator.tiny import ONE_OBJECTIVE, SEARCH, opened_study, study_data
from tests.search_core.tiny import TINY_NETWORK, TINY_SIZE, images_of

EVOLUTION = {
    "kind": "regularised_evolution",
    "children": 3,
    "at_once": 1,
    "population": 3,
    "sample": 2,
    "estimate": {"epochs": 1, "held_out": 0.5, "batch_size": 16, "inherit": True},
}
RANDOM = {"kind": "random", "children": 3, "at_once": 1, "estimate": {"epochs": 1, "held_out": 0.5, "batch_size": 16}}


class View(StudyView):
    """Notes what is reported to it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def started(self, label: str, epochs: int, journal: Journal, values: str = "") -> None:
        self.events.append(f"{label} started, {epochs} epochs")

    def epoch(self, label: str, journal: Journal) -> None:
        self.events.append(f"{label} epoch {len(journal.epochs)}")

    def ended(self, label: str, journal: Journal) -> None:
        self.events.append(f"{label} {journal.end}")


class Driver:
    """What a driver has. A new one in the same folder is a restarted one."""

    def __init__(self, folder: Path, data: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.spec = parse_study(data)
        self.folder = Runs(folder).study(self.spec.name)
        self._journals: dict[str, Journal] = {}
        self.study = opened_study(self.spec, Runs(folder).optuna_url())
        self.view, self.tracked = View(), list[str]()
        self.children = DriverChildren(
            self.spec,
            self.folder,
            images_of(self.spec.search.dataset),
            open_journal=self.journal,
            make_job=self.make_job,
            track=lambda job, journal: self.tracked.append(f"{job.label}: {len(journal.epochs)}"),
            view=self.view,
        )
        self.searcher = StudySearcher(
            self.study,
            self.spec,
            lambda number: self.journal(trial_label(number)),
            lambda number, options: self.make_job(trial_label(number), options),
            OwnFault(),
            self.children,
        )
        self._num_trials = 0

    def journal(self, label: str) -> Journal:
        if label not in self._journals:
            self._journals[label] = Journal(self.folder.journal("search", label))
        return self._journals[label]

    def make_job(self, label: str, options: SearchOptions) -> SearchJob:
        return SearchJob(label=label, checkpoints=Path(label), epochs=options.epochs, options=options)

    def suggest(self) -> tuple[str, Any]:
        """Ray's id of a trial and its job; None while there is none."""
        self._num_trials += 1
        trial_id = f"ray-{id(self)}-{self._num_trials}"
        suggested = self.searcher.suggest(trial_id)
        return trial_id, Job.from_config(suggested) if isinstance(suggested, dict) else suggested

    def train(self, trial_id: str, job: SearchJob | ChildJob, score: float | None = None) -> None:
        """Have a trial end as the callback and Ray say it; without a score that follows from its code."""
        journal = self.journal(job.label)
        if isinstance(job, SearchJob):
            journal.append_epoch({"epoch": 0, "metrics": {"child_val_error": 0.5}, "genotype": {}})
            journal.finish("complete")
        elif score is not None and math.isnan(score):
            self.searcher.on_trial_complete(trial_id, error=True)
            journal.finish("failed", "the worker died")
            self.searcher.tell_failed(job.label)
            return
        else:
            record_child(journal, made_up_score(job.order) if score is None else score)
        self.searcher.on_trial_complete(trial_id)

    def run(self, most: int = 1000) -> list[str]:
        """Run one trial after another until the searcher has no more; returns their labels."""
        labels = []
        while len(labels) < most:
            trial_id, job = self.suggest()
            assert job is not None, "with nothing running there must be something to do"
            if job == Searcher.FINISHED:
                break
            labels.append(job.label)
            self.train(trial_id, job)
        return labels

    def records(self, number: int = 0) -> list[dict[str, Any]]:
        """Reports of a search, without the time at which they came."""
        epochs = json.loads(json.dumps(Journal(self.folder.journal("search", trial_label(number))).epochs))
        return [{key: value for key, value in record.items() if key != "time"} for record in epochs]

    @property
    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials(deepcopy=False)]


def made_up_score(order: ChildOrder) -> float:
    return sum(choice == position % 4 for position, choice in enumerate(order.code)) / 16 + order.number / 1e4


def record_child(journal: Journal, score: float, epochs: int = 1) -> None:
    metrics = {"train_loss": 1.0, "train_accuracy": 0.5, "held_out_loss": 1.0}
    metrics |= {"val_loss": 1.0, "val_accuracy": score / 2, "val_accuracy_recalibrated": score / 2}
    hours = {"seconds": 3600.0, "images_per_s": 2.0, "cpu_core_hours": 0.5}
    for epoch in range(epochs):
        held_out = {"held_out_accuracy": score * (epoch + 1) / epochs}
        journal.append_epoch({"epoch": epoch, "metrics": {**metrics, **held_out, **hours}})
    journal.finish("complete")


def data_of(strategy: Mapping[str, Any] = EVOLUTION, **changes: Any) -> dict[str, Any]:
    return study_data(
        search={**SEARCH, "epochs": 3, "strategy": strategy},
        **{"sweep": {}, "trials": 1, "objectives": ONE_OBJECTIVE, **changes},
    )


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Driver]:
    return lambda **changes: Driver(tmp_path, data_of(**changes))


def test_every_child_is_a_trial_and_a_report_follows_every_epoch(start: Callable[..., Driver]) -> None:
    driver = start()
    assert driver.run() == [f"0000-{child:04d}" for child in range(9)]
    assert driver.states == ["COMPLETE"]
    journal = driver.journal("0000")
    assert (journal.end, len(journal.epochs)) == ("complete", 3)
    assert driver.study.trials[0].values == [journal.last_metric("child_val_error")]
    scores = [driver.journal(f"0000-{child:04d}").last_metric("held_out_accuracy") for child in range(9)]
    for epoch, record in enumerate(journal.epochs):
        best = max(range(3 * epoch + 3), key=lambda child: scores[child])
        assert record["child"] == best
        assert record["metrics"]["child_val_accuracy"] == scores[best] / 2
        assert record["metrics"]["cpu_core_hours"] == 1.5 * (epoch + 1), "of all children so far"
        assert record["metrics"]["seconds"] == 3 * 3600
    assert driver.view.events == ["0000 started, 3 epochs", "0000 epoch 1", "0000 epoch 2", "0000 complete"]
    assert driver.tracked == ["0000: 1", "0000: 2", "0000: 3"]


def test_child_is_given_its_parent_and_the_best_so_far(start: Callable[..., Driver]) -> None:
    driver = start()
    for child in range(5):
        trial_id, job = driver.suggest()
        assert job is not None
        order = job.order
        assert (order.number, job.epochs) == (child, 1)
        if child < 3:
            assert job.parent is None
        else:
            assert job.parent.parts[-2:] == ("trial-0000", f"{order.parent:04d}")
            assert driver.searcher._searches[0].children.codes[order.parent] == order.parent_code
            assert order.best == max(
                driver.journal(f"0000-{other:04d}").last_metric("held_out_accuracy") for other in range(child)
            )
        driver.train(trial_id, job)


def test_resumed_driver_predicts_final_accuracies_by_the_same_laws(start: Callable[..., Driver]) -> None:
    estimate = {**RANDOM["estimate"], "epochs": 4, "stop": {"kind": "regression", "startup": 5}}  # type: ignore[dict-item]
    strategy = {**RANDOM, "estimate": estimate}
    driver = start(strategy=strategy)
    for _ in range(5):
        trial_id, job = driver.suggest()
        assert job.order.laws == ()
        record_child(driver.journal(job.label), made_up_score(job.order), epochs=4)
        driver.searcher.on_trial_complete(trial_id)
    _, job = driver.suggest()
    assert len(job.order.laws) == 1
    assert start(strategy=strategy).suggest()[1].order == job.order
    assert "laws" not in OrderLog(driver.folder.order_log("0000")).entries[-1], "it follows from the journals"


#: What a killed driver may have done last, in the middle of a child.
DEATHS = ("suggested", "child recorded", "child scored", "child recorded, log torn")


BAYESIAN = {**RANDOM, "kind": "bayesian", "startup": 3}


@pytest.mark.parametrize(
    ("strategy", "death"),
    [*((EVOLUTION, death) for death in DEATHS), (BAYESIAN, "child recorded")],
    ids=[*DEATHS, "bayesian"],
)
@pytest.mark.slow
def test_resumed_study_trains_each_child_once_and_finds_the_same(
    tmp_path: Path, strategy: Mapping[str, Any], death: str
) -> None:
    """Drivers are killed in the middle of a child, at the end of an epoch, and in the last child."""
    undisturbed = Driver(tmp_path / "whole", data_of(strategy))
    whole, trained = undisturbed.run(), list[str]()
    for last in (2, 4, 8):
        driver = Driver(tmp_path / "killed", data_of(strategy))
        trained += driver.run(most=last - len(trained))
        trial_id, job = driver.suggest()
        assert job is not None
        assert job.label == f"0000-{last:04d}"
        if death == "suggested":
            continue
        trained.append(job.label)
        if death == "child scored":
            driver.train(trial_id, job)
            continue
        record_child(driver.journal(job.label), made_up_score(job.order))
        if death == "child recorded, log torn":
            with driver.folder.order_log("0000").open("ab") as file:
                file.write(b'{"told": ')
    resumed = Driver(tmp_path / "killed", data_of(strategy))
    trained += resumed.run()
    assert trained == whole
    assert resumed.records() == undisturbed.records()
    assert resumed.states == ["COMPLETE"]
    assert resumed.study.trials[0].values == undisturbed.study.trials[0].values


KINDS = (
    EVOLUTION,
    RANDOM,
    BAYESIAN,
    {**RANDOM, "kind": "rl_nas", "batch": 2},
    {**RANDOM, "kind": "nasnet", "batch": 2},
)


def run_unevenly(driver: Driver, luck: random.Random, workers: int, most: int = 1000) -> list[str]:
    """Run this many at a time, any of which may end first; returns labels in the order of ends. The rest stays open."""
    labels, running = list[str](), list[tuple[str, ChildJob]]()
    while len(labels) < most:
        while len(running) < workers and isinstance((given := driver.suggest())[1], ChildJob):
            running.append((given[0], given[1]))
        if not running:
            break
        trial_id, job = running.pop(luck.randrange(len(running)))
        driver.train(trial_id, job)
        labels.append(job.label)
    return labels


@pytest.mark.parametrize("strategy", KINDS, ids=[each["kind"] for each in KINDS])
@pytest.mark.parametrize("at_once", [2, 4])
@pytest.mark.slow
def test_search_finds_the_same_whichever_child_ends_first(
    tmp_path: Path, strategy: Mapping[str, Any], at_once: int
) -> None:
    data = data_of({**strategy, "at_once": at_once})
    alone = Driver(tmp_path / "alone", data)
    alone.run()
    log = alone.folder.order_log("0000").read_text()
    scored = [entry["told"] for entry in OrderLog(alone.folder.order_log("0000")).entries if "told" in entry]
    assert scored == list(range(9)), "in the order of their numbers"
    for seed, workers in enumerate((2, 3, 9, 9)):
        luck, ended = random.Random(seed), list[str]()
        for most in (1, 3, 2, 1000):  # then its driver is killed
            driver = Driver(tmp_path / f"{seed}", data)
            ended += run_unevenly(driver, luck, workers, most)
        assert sorted(ended) == [f"0000-{child:04d}" for child in range(9)], "each was trained to its end once"
        assert driver.folder.order_log("0000").read_text() == log
        assert driver.records() == alone.records()
        assert driver.states == ["COMPLETE"]


def test_no_more_children_are_open_than_at_once(start: Callable[..., Driver]) -> None:
    driver = start(strategy={**RANDOM, "at_once": 2})
    (first_id, first), (second_id, second), third = [driver.suggest() for _ in range(3)]
    assert first is not None
    assert second is not None
    assert third[1] is None
    driver.train(second_id, second)
    assert driver.suggest()[1] is None, "the first child must be scored before the second"
    driver.train(first_id, first)
    assert [driver.suggest()[1].order.number for _ in range(2)] == [2, 3]


def test_report_that_the_killed_driver_could_not_append_is_appended(tmp_path: Path) -> None:
    undisturbed, killed = Driver(tmp_path / "whole", data_of()), Driver(tmp_path / "killed", data_of())
    undisturbed.run()
    killed.run(most=3)
    file = killed.folder.journal("search", "0000")
    file.write_text("")  # it holds the first report
    resumed = Driver(tmp_path / "killed", data_of())
    resumed.run()
    assert resumed.records() == undisturbed.records()


def test_other_trials_run_while_a_strategy_waits_for_scores(start: Callable[..., Driver]) -> None:
    """Evolution proposes nothing until its first population is scored."""
    kinds = {"strategy.kind": {"choice": ["regularised_evolution", "snas"]}}
    only = {"when": {"strategy.kind": "regularised_evolution"}}
    own = {f"strategy.{key}": {"choice": [EVOLUTION[key]], **only} for key in ("children", "population", "sample")}
    own |= {f"strategy.estimate.{key}": {"choice": [value], **only} for key, value in RANDOM["estimate"].items()}  # type: ignore[attr-defined]
    driver = start(strategy={"kind": "snas"}, sweep={**kinds, **own}, sampler="grid", trials=5)
    given = [driver.suggest() for _ in range(4)]
    assert [job.label for _, job in given if job] == ["0000-0000", "0000-0001", "0000-0002", "0001"]
    assert driver.suggest()[1] is None, "all that is left must wait"
    for trial_id, job in given[:3]:
        assert job is not None
        driver.train(trial_id, job)
    assert [driver.suggest()[1].label for _ in range(2)] == ["0000-0003", "0000-0004"]


def test_failed_child_counts_with_nan_and_the_search_continues(start: Callable[..., Driver]) -> None:
    driver = start()
    for child in range(9):
        trial_id, job = driver.suggest()
        assert job is not None
        driver.train(trial_id, job, math.nan if child in (0, 4) else 0.1 * child)
    assert driver.run() == []
    assert driver.states == ["COMPLETE"]
    assert [record["child"] for record in driver.records()] == [2, 5, 8]


def test_search_whose_children_all_fail_fails_with_the_reason(start: Callable[..., Driver]) -> None:
    driver = start(strategy={**EVOLUTION, "at_once": 3})
    given = [driver.suggest() for _ in range(3)]
    for trial_id, job in given:
        assert job is not None
        driver.train(trial_id, job, math.nan)
    assert driver.states == ["FAIL"]
    assert driver.suggest()[1] == Searcher.FINISHED
    journal = driver.journal("0000")
    assert journal.end == "failed"
    assert journal.reason == "a child must be trained to its end, got 3 that failed, the last because: the worker died"
    assert start().run() == []


def test_child_that_ran_out_of_memory_is_tried_again_by_the_next_launch(start: Callable[..., Driver]) -> None:
    changes = {"strategy": {**EVOLUTION, "at_once": 3}}
    driver = start(**changes)
    (first_id, first), *others = [driver.suggest() for _ in range(3)]
    assert first is not None
    driver.journal(first.label).note("out_of_memory", "CUDA out of memory")
    driver.searcher.on_trial_complete(first_id)
    for trial_id, job in others:
        assert job is not None
        driver.train(trial_id, job)
    assert driver.suggest()[1] == Searcher.FINISHED, "the population lacks one, and nothing runs that could bring more"
    assert driver.states == ["RUNNING"]
    again = start(**changes)
    assert again.run() == ["0000-0000", *[f"0000-{child:04d}" for child in range(3, 9)]]
    assert again.states == ["COMPLETE"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_checkpoints_are_kept_of_possible_parents_and_in_the_end_of_the_best_only(
    start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    driver = start()
    folder = driver.folder.checkpoints(driver.spec, "search", "0000")
    while (given := driver.suggest())[1] != Searcher.FINISHED:
        trial_id, job = given
        assert job is not None
        own = driver.folder.checkpoints(driver.spec, "search", job.label)
        assert own.parent == folder
        own.mkdir(parents=True)
        kept = {int(path.name) for path in folder.iterdir()} - {job.order.number}
        best = driver.searcher._searches[0].children.best_number
        if job.order.number == 7:
            assert kept == {4, 5, 6, best}, "the population and the best"
            assert job.order.parent in kept, "it begins with the weights"
        if job.order.number == 8:
            assert kept == {job.order.parent, best}, "no child will be proposed any more"
            if is_killed:  # when the journal has its end
                monkeypatch.setattr(
                    driver.children, "progressed", lambda search: (_ for _ in ()).throw(KeyboardInterrupt)
                )
                with pytest.raises(KeyboardInterrupt):
                    driver.train(trial_id, job)
                assert len(list(folder.iterdir())) > 1
                driver = start()
                continue
        driver.train(trial_id, job)
    best = driver.records()[-1]["child"]
    assert {int(path.name) for path in folder.iterdir()} == {best}
    assert driver.states == ["COMPLETE"]


@pytest.mark.slow
def test_search_that_cannot_begin_fails_with_the_reason(start: Callable[..., Driver]) -> None:
    driver = start(sweep={"constraints.params.max": {"choice": [1.0, 1e6]}}, sampler="grid", trials=2)
    assert {label[:4] for label in driver.run()} == {"0001"}
    assert driver.states == ["FAIL", "COMPLETE"]
    assert "no genotype in 10,000 draws keeps the constraints" in driver.journal("0000").reason


@pytest.mark.parametrize("is_killed", [False, True])
def test_search_that_finds_no_further_child_fails_alone(
    start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """With tight limits 10,000 draws may find nothing although those before were not."""
    ask = ProposedChildren.ask

    def ask_in_vain(self: ProposedChildren) -> ChildOrder | None:
        if self.options.constraints.maxima["params"] < 2e6 and len(self._scores) == 4:
            raise ConstraintsError("no genotype in 10,000 draws keeps the constraints")
        return ask(self)

    monkeypatch.setattr(ProposedChildren, "ask", ask_in_vain)
    changes = {"sweep": {"constraints.params.max": {"choice": [1e6, 2e6]}}, "sampler": "grid", "trials": 2}
    driver = start(strategy=RANDOM, **changes)
    expected = [*[f"0000-{child:04d}" for child in range(4)], *[f"0001-{child:04d}" for child in range(9)]]
    labels = driver.run(most=4 if is_killed else 1000)
    assert "0000 failed" in driver.view.events
    assert "0000: 1" in driver.tracked, "the end is reported to MLflow"
    if is_killed:
        driver = start(strategy=RANDOM, **changes)
        labels += driver.run()
    assert labels == expected
    assert driver.states == ["FAIL", "COMPLETE"]
    assert driver.journal("0000").reason == "no genotype in 10,000 draws keeps the constraints"


def test_damaged_order_is_reported_with_its_line(tmp_path: Path) -> None:
    log = OrderLog(tmp_path / "order.jsonl")
    log.asked(ChildOrder(number=0, code=(1, 2)))
    log.scored(0)
    assert OrderLog(log.path).entries == log.entries
    log.path.write_text(log.path.read_text() + "{}\n")
    with pytest.raises(OrchestratorError, match=r"order\.jsonl:3: a line must say which child"):
        OrderLog(log.path)


def test_strategy_that_proposes_something_else_is_refused(start: Callable[..., Driver]) -> None:
    """As another version of it would: its children could not be compared."""
    start().run(most=2)
    log = OrderLog(start().folder.order_log("0000"))
    entry = {**log.entries[0], "code": [0] * 10}
    log.path.unlink()
    lines = JsonLines(log.path)
    for each in (entry, *log.entries[1:]):
        lines.append(each)
    with pytest.raises(OrchestratorError, match="child 0 must be proposed again as it was"):
        start().suggest()


def test_labels_of_children() -> None:
    assert split_child_label("0007-0012") == (7, 12)
    assert split_child_label("0007") is None


def test_orchestrator_builds_every_strategy_multi_trial() -> None:
    from search_core.strategies.registry import MULTI_TRIAL

    limits = ChildLimits(Constraints(), TINY_SIZE)
    for options in MULTI_TRIAL.values():
        proposer = build_proposer(options(), genotype_space(TINY_NETWORK), limits, 0)
        assert proposer.ask() is not None
