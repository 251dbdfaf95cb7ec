"""`snas init`: a study file to begin with, from those that come with the package."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completion
from orchestrator.cli.common import make_table, stdout
from orchestrator.errors import OrchestratorError, did_you_mean
from orchestrator.study_file.templates import SCHEMA_LINE, purpose, templates

#: The schema of study files, beside those that are written here.
_SCHEMA = "study.schema.json"


def init(
    template: Annotated[
        str | None,
        typer.Argument(
            metavar="TEMPLATE",
            help="Name of a template. [lists them]",
            show_default=False,
            autocompletion=completion.templates,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Where to write it. [TEMPLATE.yaml in this folder]", show_default=False),
    ] = None,
) -> None:
    """Write a commented study file to begin with; without arguments, list the templates.

    A file that is there already is never overwritten. Editors with yaml-language-server check the file as it is typed
    against `study.schema.json`, which is written beside it unless it is there.

    Example: `snas init quickstart mine.yaml`
    """
    known = templates()
    if template is None:
        _print_templates(known)
        return
    if template not in known:
        hint = did_you_mean(template, known) or f"; templates: {', '.join(known)}"
        raise OrchestratorError(f"TEMPLATE must be a name that `snas init` lists, got `{template}`{hint}")
    file = file or Path(f"{template}.yaml")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(re.sub(f"(?m)^{re.escape(SCHEMA_LINE)}.*$", f"{SCHEMA_LINE}{_SCHEMA}", known[template], count=1))
    except FileExistsError as error:
        raise OrchestratorError(
            f"FILE must not exist yet, got {file}: nothing was written; give another, as in `snas init {template} FILE`"
        ) from error
    schema = file.with_name(_SCHEMA)
    if not schema.exists():
        from orchestrator.study_file.json_schema import schema_text  # pydantic takes a second

        schema.write_text(schema_text(), encoding="utf-8")
    name = shlex.quote(str(file))
    stdout.print(
        f"wrote {file}; next:\n  snas study validate {name}\n  snas study run {name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _print_templates(known: dict[str, str]) -> None:
    table = make_table("templates: `snas init TEMPLATE [FILE]` writes one")
    table.add_column("template", no_wrap=True)
    table.add_column("what it is for")
    for name, text in known.items():
        table.add_row(name, purpose(text))
    stdout.print(table)
