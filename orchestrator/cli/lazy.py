"""Sub-commands that are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

_MARKUP: Final = "markdown"


@dataclass(frozen=True)
class SubCommand:
    """Where a sub-command is, and what the help of the program says of it.

    Attributes:
        module: that defines it.
        name: of the function, or of the `typer.Typer` with further sub-commands.
        help: the first line of its own help.
    """

    module: str
    name: str
    help: str

    def load(self, command: str) -> Any:
        """The command itself; imports its module.

        Args:
            command: what it is called on the command line.
        """
        found = getattr(import_module(self.module), self.name)
        app = typer.Typer(add_completion=False, rich_markup_mode=_MARKUP)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=command)
            group = typer.main.get_command(app)
            assert isinstance(group, TyperGroup)
            return group.commands[command]
        app.command(command)(found)
        return typer.main.get_command(app)


class _Listed(TyperCommand):
    """Stands for a sub-command in the help of the program."""

    def __init__(self, name: str, command: SubCommand) -> None:
        super().__init__(name, help=command.help, rich_markup_mode=_MARKUP)
        self.sub_command = command


class _LazyGroup(TyperGroup):
    """Lists sub-commands, and imports the one that is run, completed or asked for its help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The program's own options, which are flags: where the default is None, Typer has pydantic check it."""
        params = super().get_params(ctx)
        for option in params:
            option.default = False
        return params

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the first word names, and the other words."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed.sub_command.load(str(name)) if isinstance(listed, _Listed) else listed, rest


def _no_options() -> None:
    """What the program takes itself."""


def command_line(name: str, help: str, commands: Mapping[str, SubCommand]) -> TyperGroup:
    """A program, called without arguments, whose sub-commands are imported when they are asked for.

    Args:
        name: of the program.
        help: what it is for.
        commands: by what they are called.
    """
    app = typer.Typer(
        name=name,
        help=help,
        cls=_LazyGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=_MARKUP,
    )
    app.callback()(_no_options)  # Typer makes no group without one
    group = typer.main.get_command(app)
    assert isinstance(group, _LazyGroup)
    for command, place in commands.items():
        group.add_command(_Listed(command, place))
    return group
