"""`snas study`: run, resume, list, show, check and validate studies."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboards.analysis.answer_text import answer_words
from dashboards.formatting import duration, hours_text, metric_name, shown_metric
from orchestrator.cli import steering
from orchestrator.cli.common import JsonOption, RunsOption, SetOption, make_table, stdout
from orchestrator.cli.completion import study_names
from orchestrator.cli.plan import plan
from orchestrator.cli.verify import verify
from orchestrator.cli.views.study_tables import print_answer, print_facts, print_front, print_retrains, print_trials
from orchestrator.errors import OrchestratorError, StudyPaused
from orchestrator.files.layout import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from orchestrator.study.study import Study

app = typer.Typer(help="Studies: many searches on a Ray cluster.", no_args_is_help=True)

#: Ends of trials besides `complete`.
_EARLY_ENDS = ("stopped", "collapsed", "cancelled", "failed")
FileArgument = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a study in the folder of runs.", autocompletion=study_names)
]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster. [starts Ray on this machine]"),
]


@app.command()
def run(
    file: FileArgument,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    address: AddressOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the study. [the file's]")] = None,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Run a study: searches, then retraining of the best cells, all of it in MLflow.

    Example: `snas study run studies/quickstart.yaml --set trials=4 --name tiny`
    """
    from orchestrator.study.study import Study
    from orchestrator.study_file.loading import load_study
    from orchestrator.study_file.spec import check_name

    if name is not None:
        check_name(name)
    overrides = [*settings, f"name={json.dumps(name)}"] if name is not None else settings
    study = Study(load_study(file, overrides), Runs(runs))
    if study.exists:
        raise OrchestratorError(
            f"study `{study.spec.name}` exists in {study.runs.root}: "
            f"`{study.runs.command('study', 'resume', study.spec.name)}` resumes it, --name starts another"
        )
    _run(study, address)


@app.command()
def resume(
    name: NameArgument,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    address: AddressOption = None,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Resume a study that was stopped or killed: finished work is kept, unfinished work resumes from checkpoints.

    What `--set` replaces stays so: a larger budget, or anything else that may change between run and resume.

    Example: `snas study resume digits-quickstart --set budget.hours=12`
    """
    from orchestrator.study.study import Study

    _run(Study.load(name, Runs(runs), settings), address, settings)


@app.command("list")
def list_studies(as_json: JsonOption = False, runs: RunsOption = DEFAULT_RUNS) -> None:
    """List the studies in the folder of runs.

    Example: `snas study list`
    """
    from orchestrator.study.study import Study

    folder = Runs(runs)
    studies = [_overview(Study.load(name, folder)) for name in folder.study_names()]
    if as_json:
        print(json.dumps(studies))
        return
    if not studies:
        stdout.print(f"no studies in {folder.root}", highlight=False, soft_wrap=True)
        return
    table = make_table(f"studies in {folder.root}")
    for column in ("study", "state", "data", "complete", "stopped", "collapsed", "cancelled", "failed", "retrained"):
        table.add_column(column)
    for row in studies:
        progress = f"{row['complete']} of {row['trials']}"
        retrained = f"{row['retrained']} of {row['retrainings']}"
        early = [str(row[end]) for end in _EARLY_ENDS]
        table.add_row(row["name"], row["state"], row["dataset"], progress, *early, retrained)
    stdout.print(table)


@app.command()
def show(name: NameArgument, as_json: JsonOption = False, runs: RunsOption = DEFAULT_RUNS) -> None:
    """Show the front and all trials of a study.

    Example: `snas study show digits-quickstart`
    """
    from orchestrator.cli.views.cells import drawn_cells
    from orchestrator.reports.relations import study_facts
    from orchestrator.study.records import front_rows
    from orchestrator.study.study import Study

    study = Study.load(name, Runs(runs))
    trials, retrains = study.trials(), study.retrains()
    front, savings = front_rows(trials, retrains, study.spec), study.fork_savings()
    facts = study_facts(study, trials, retrains)
    answer = facts["answer"]
    if as_json:
        facts["answer"] = None if answer is None else {**answer.to_dict(), "words": answer_words(answer)}
        document = {
            **_overview(study),
            **facts,
            "fork": asdict(savings) if savings else None,
            "front": front,
            "trial_records": [asdict(trial) for trial in trials],
            "retrain_records": [asdict(record) for record in retrains],
        }
        print(json.dumps(document))
        return
    _print_state(_overview(study), facts)
    if savings is not None:
        stdout.print(str(savings), soft_wrap=True)
    elif study.trunk_failure:
        stdout.print(f"the shared epochs failed: {study.trunk_failure}", markup=False, highlight=False, soft_wrap=True)
    print_trials(trials)
    print_front(front)
    print_retrains(retrains)
    print_facts(facts)
    if answer is not None:
        print_answer(answer)
        kept = next(trial for trial in trials if trial.number == answer.keep.trial)
        assert kept.genotype is not None, "it has an error"
        stdout.print(f"\nthe cell of trial {kept.number}:", highlight=False)
        stdout.print(drawn_cells(kept.genotype), soft_wrap=True)


@app.command()
def report(name: NameArgument, as_json: JsonOption = False, runs: RunsOption = DEFAULT_RUNS) -> None:
    """Compare the strategies of a study: cost, accuracy before and after retraining, ground truth, claims.

    Example: `snas study report compare-strategies`
    """
    from orchestrator.cli.views.study_tables import print_comparison
    from orchestrator.reports.comparison import compare
    from orchestrator.study.study import Study

    comparison = compare(Study.load(name, Runs(runs)))
    if as_json:
        print(json.dumps(comparison.to_dict()))
    else:
        print_comparison(comparison)


@app.command()
def html(
    name: NameArgument,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Where to write it.")],
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Write a study as one HTML file to share: answer, front, players of its cells, claims, settings.

    It needs no network, and takes less than 3 MB. A file that is there already is never overwritten.

    Example: `snas study html digits-quickstart --to study.html`
    """
    from orchestrator.reports.one_file import study_page
    from orchestrator.study.study import Study

    page = study_page(Study.load(name, Runs(runs)))
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(page)
    except FileExistsError as error:
        raise OrchestratorError(
            f"--to must name a file that is not there yet, got {to}: nothing was written"
        ) from error
    stdout.print(f"wrote {to}, {to.stat().st_size / 1e6:.2g} MB", markup=False, highlight=False, soft_wrap=True)


@app.command()
def validate(file: FileArgument, settings: SetOption = [], runs: RunsOption = DEFAULT_RUNS) -> None:  # noqa: B006
    """Check a study file whole; all faults are listed.

    Example: `snas study validate studies/quickstart.yaml`
    """
    from orchestrator.study_file.loading import load_study

    spec = load_study(file, settings)
    goals = " and ".join(f"{objective.mode} {objective.metric}" for objective in spec.objectives)
    stdout.print(f"{file}: valid; {spec.num_trials} trials, {goals}", highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors: keys, what they mean, defaults and ranges.

    The templates of `snas init` name it in their first line, for yaml-language-server.

    Example: `snas study schema > study.schema.json`
    """
    from orchestrator.study_file.json_schema import schema_text

    print(schema_text(), end="")


@app.command()
def doctor(name: NameArgument, as_json: JsonOption = False, runs: RunsOption = DEFAULT_RUNS) -> None:
    """Check that a study is whole: every trial once in Optuna, journal and MLflow, nothing damaged or left behind.

    Changes nothing. Exit code 0 if it is whole, 1 if not.

    Example: `snas study doctor digits-quickstart`
    """
    from orchestrator.cli.views.doctor import print_report
    from orchestrator.doctor import examine

    report = examine(name, Runs(runs))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        print_report(report)
    raise typer.Exit(0 if report.is_whole else 1)


app.command()(plan)
app.command()(verify)
app.command()(steering.extend)
app.command()(steering.enqueue)
app.command()(steering.pause)
app.command()(steering.delete)


def _run(study: Study, address: str | None, settings: Sequence[str] = ()) -> None:
    from rich.console import Console

    from orchestrator.driver.progress import ConsoleView
    from orchestrator.reports.relations import study_answer
    from orchestrator.study.records import front_rows

    begin = time.monotonic()
    with ConsoleView(Console()) as view:
        view.step("loading PyTorch, Ray and MLflow")
        from orchestrator.driver.start import run_study  # readers need none of them, and they take seconds

        try:
            run_study(study, view, address=address, settings=settings)
        except StudyPaused as paused:
            view.note(str(paused))
            return
    trials, retrains = study.trials(), study.retrains()
    if study.spec.num_trials:
        print_front(front_rows(trials, retrains, study.spec))
    print_retrains(retrains)
    if (answer := study_answer(study, trials, retrains)) is not None:
        print_answer(answer)
    overview, took = _overview(study), duration(time.monotonic() - begin)
    retrained = f", {overview['retrained']} of {overview['retrainings']} retrained" if retrains else ""
    show, pages = study.runs.command("study", "show", study.spec.name), study.runs.command("dashboard")
    line = f"\n{_state_words(overview)}{retrained}, after {took}; `{show}` and `{pages}` show more"
    stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _state_words(overview: dict[str, Any]) -> str:
    early = "".join(f", {overview[end]} {end}" for end in _EARLY_ENDS if overview[end])
    ends = f"{overview['complete']} of {overview['trials']} trials complete{early}"
    ending = f" ({overview['ending']})" if overview["ending"] else ""
    return f"study {overview['name']}: {overview['state']}{ending}, {ends}"


def _print_state(overview: dict[str, Any], facts: dict[str, Any]) -> None:
    stdout.print(_state_words(overview), soft_wrap=True)
    parts = [f"best {metric_name(metric)} {shown_metric(metric, value)}" for metric, value in facts["best"].items()]
    if facts["hypervolume"] is not None:
        parts.append(f"hypervolume of the front {facts['hypervolume']:.3f}")
    parts += [f"{hours_text(metric, hours)} in searches" for metric, hours in facts["hours"].items()]
    if facts["running"]:
        left = facts["time_left_s"]
        parts.append("running" if left is None else f"running, about {duration(left)} left for the searches")
    if parts:
        stdout.print("; ".join(parts), highlight=False, soft_wrap=True)


def _overview(study: Study) -> dict[str, Any]:
    trials, retrains = study.trials(), study.retrains()
    ending = study.ending
    is_done = study.num_open_trials() == 0 and all(record.state != "running" for record in retrains)
    return {
        "name": study.spec.name,
        "state": "done" if is_done else "paused" if ending is not None and ending.kind == "pause" else "unfinished",
        "ending": "" if ending is None else ending.reason,
        "dataset": study.spec.search.dataset.title,
        "trials": study.spec.num_trials,
        **{end: sum(trial.state == end for trial in trials) for end in ("complete", *_EARLY_ENDS)},
        "retrainings": len(retrains),
        "retrained": sum(record.state == "complete" for record in retrains),
    }
