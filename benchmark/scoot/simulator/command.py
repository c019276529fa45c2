"""The command line of the simulator. Each command is loaded when it is asked for: `run` should be there at once."""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import Final

import click

from scoot.benchmark.standalone.command import ErrorGroup

_COMMANDS: Final = MappingProxyType(
    {
        "run": "scoot.simulator.run_command",
        "serve": "scoot.simulator.serve_command",
        "fit": "scoot.simulator.fit_command",
        "profiles": "scoot.simulator.profiles_command",
    }
)
"""Name -> module that has a command of that name."""


class _LazyGroup(ErrorGroup):
    """Commands that are loaded when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the guide."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one; None if there is none of that name."""
        del ctx
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(module), cmd_name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Simulates LLM inference engines, in virtual time or in real time over HTTP. Guide: docs/simulator.md."""
