"""A group whose commands' files are imported when they are used: help and completion stay quick."""

import importlib
import keyword
from collections.abc import Mapping
from typing import Any

import click


class LateGroup(click.Group):
    """late: by name, the module that holds the command of that name, and a line of help; section: the list's heading.

    A command whose name is a word of Python is called with an underscore behind it in its module.
    """

    def __init__(self, *args: Any, late: Mapping[str, tuple[str, str]], section: str = "Parts", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.late, self.section = late, section

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.late)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.late:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = getattr(importlib.import_module(self.late[cmd_name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(self.section):
            formatter.write_dl([(name, line) for name, (_, line) in self.late.items()])
