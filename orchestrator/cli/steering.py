"""`snas study extend | enqueue | pause` and `snas trial cancel | retry | fork`: requests to a study, running or not."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from orchestrator.cli.common import RunsOption, stdout
from orchestrator.cli.completion import study_names
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import DEFAULT_RUNS, Runs

StudyArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a study in the folder of runs.", autocompletion=study_names)
]
NumberArgument = Annotated[int, typer.Argument(metavar="NUMBER", min=0, help="Number of the trial.")]


def extend(
    name: StudyArgument,
    trials: Annotated[str, typer.Option(metavar="+N", help="How many trials more, as in +20.")],
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Add trials to a study, also to one that is over.

    A study that runs begins them as soon as it has room; otherwise `snas study resume` does.

    Example: `snas study extend digits-quickstart --trials +20`
    """
    if re.fullmatch(r"\+[1-9]\d*", trials) is None:
        raise OrchestratorError(f"--trials must be + and a number of at least 1, as in +20, got `{trials}`")
    _ask(name, runs, "extend", more=int(trials))


def enqueue(
    name: StudyArgument,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="A swept key and its value for the next trial; repeatable."),
    ],
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Have the next trial of a study take these values; swept keys that are left out are drawn.

    It is one of the study's trials; if all of them have begun, the study has one more.

    Example: `snas study enqueue digits-quickstart --set penalty.strength=0.01 --set temperature.kind=linear`
    """
    from orchestrator.study_file.yaml_file import read_settings

    _ask(name, runs, "enqueue", values=read_settings(settings))


def pause(name: StudyArgument, runs: RunsOption = DEFAULT_RUNS) -> None:
    """Stop a running study: its trials wait at their newest checkpoints until `snas study resume`.

    Example: `snas study pause digits-quickstart`
    """
    _ask(name, runs, "pause")


def delete(
    name: StudyArgument,
    checkpoints_only: Annotated[
        bool, typer.Option("--checkpoints-only", help="Only the checkpoints of trials and retrainings that are over.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Delete a study from disk, Optuna, MLflow and its model registry, after saying what that is and asking.

    Refused while a driver runs it. One that was interrupted is completed by the same command.

    Example: `snas study delete digits-quickstart --checkpoints-only`
    """
    from orchestrator.driver.deletion import delete, deletion
    from orchestrator.study.study import Study

    study = Study.load(name, Runs(runs))
    with deletion(study, checkpoints_only=checkpoints_only) as planned:
        for part in planned.parts:
            stdout.print(f"  {part}", markup=False, highlight=False, soft_wrap=True)
        if not yes:
            typer.confirm(f"delete all of this for good, {planned.mb:.1f} MB?", abort=True)
        left = delete(study, planned)
    said = f"deleted; left: {left}" if left else "deleted"
    stdout.print(said, markup=False, highlight=False, soft_wrap=True)


def cancel(study: StudyArgument, number: NumberArgument, runs: RunsOption = DEFAULT_RUNS) -> None:
    """End a trial that runs or waits at a checkpoint: it is no result, and its worker is free after its epoch.

    Example: `snas trial cancel digits-quickstart 3`
    """
    _ask(study, runs, "cancel", trial=number)


def retry(study: StudyArgument, number: NumberArgument, runs: RunsOption = DEFAULT_RUNS) -> None:
    """Try a trial that failed or was stopped again, from its first epoch: as another trial with the same values.

    Example: `snas trial retry digits-quickstart 3`
    """
    _ask(study, runs, "retry", trial=number)


def fork(
    study: StudyArgument,
    number: NumberArgument,
    epoch: Annotated[int, typer.Option(metavar="E", min=1, help="After which epoch, of those with a kept checkpoint.")],
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="A swept key and its value from there on; repeatable."),
    ] = [],  # noqa: B006 - typer copies it
    trials: Annotated[
        int, typer.Option(metavar="K", min=1, help="How many; with several, what is swept and not given is drawn.")
    ] = 1,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Begin another trial of the study at a checkpoint of this one, with another penalty, temperature or limit.

    `snas trial show` names the checkpoints; `storage: {keep: {every: 10}}` in the study file keeps more of them.

    Example: `snas trial fork digits-quickstart 3 --epoch 10 --set penalty.strength=0.01`
    """
    from orchestrator.study_file.yaml_file import read_settings

    _ask(study, runs, "fork", trial=number, epoch=epoch, values=read_settings(settings), count=trials)


def note(
    study: StudyArgument,
    number: NumberArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The note; an empty one removes it.")],
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Write a note on a trial: a tag of its MLflow run, which `snas trial show` and the dashboard show.

    Example: `snas trial note digits-quickstart 3 "both cells lost their inputs"`
    """
    _mark(study, number, runs, {"snas.note": text}, "noted" if text else "the note is gone")


def star(
    study: StudyArgument,
    number: NumberArgument,
    off: Annotated[bool, typer.Option("--off", help="Take the star away.")] = False,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Give a trial a star, or take it away.

    Example: `snas trial star digits-quickstart 3`
    """
    _mark(study, number, runs, {"snas.star": "" if off else "true"}, "the star is gone" if off else "starred")


def tag(
    study: StudyArgument,
    number: NumberArgument,
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Tags; an empty value removes one.")],
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Set tags of a trial's MLflow run, to be searched there: `tags.paper = "yes"`.

    Example: `snas trial tag digits-quickstart 3 paper=yes`
    """
    pairs = [setting.partition("=") for setting in settings]
    if malformed := [key for key, equals, _ in pairs if not key or not equals]:
        raise OrchestratorError(f"a tag must have the form KEY=VALUE, got `{malformed[0]}`")
    _mark(study, number, runs, {key: text for key, _, text in pairs}, "tagged")


def _mark(name: str, number: int, runs: Any, tags: dict[str, str], done: str) -> None:
    from orchestrator.study.study import Study
    from orchestrator.tracking.marks import mark

    mark(Study.load(name, Runs(runs)), number, **tags)
    stdout.print(f"trial {number}: {done}", markup=False, highlight=False, soft_wrap=True)


def _ask(name: str, runs: Any, kind: Any, **facts: Any) -> None:
    from orchestrator.driver.steering import ask, said
    from orchestrator.files.lock import lock_holder
    from orchestrator.study.study import Study

    study = Study.load(name, Runs(runs))
    text = said(ask(study, kind, **facts))
    if kind in ("extend", "enqueue", "retry", "fork") and lock_holder(study.folder.lock_file) is None:
        text += f"; `{study.runs.command('study', 'resume', name)}` runs what is open"
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)
