"""The command line. Each command is a thin layer: it parses, calls what does the work, and prints."""

from __future__ import annotations

import typer

from reproduce.cli.door import main
from reproduce.cli.notebooks import notebook, pages
from reproduce.cli.runs import branch, compare, presets, quickstart, run, timeline
from reproduce.cli.sweeps import evidence, pack, report, sweep
from reproduce.cli.tools import bench, doctor, seed_texts, verify

__all__ = ["COMMANDS", "app", "main"]  # an installed `fedrevive` of the last release looks for main here

# By what one wants to do, as `--help` shows them.
COMMANDS = {
    "Understand": (presets, timeline),
    "Reproduce": (quickstart, run, compare, sweep, report, pack, evidence, branch, seed_texts),
    "Teach": (notebook, pages),
    "Check": (verify, doctor, bench),
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Understand, reproduce and teach **FedRevive**: asynchronous federated learning that revives stale updates.

Start with `quickstart`: it needs no download and takes a few minutes on a laptop. If something is missing, `doctor`
says what. Every command has a `--help` with an example; `--install-completion` makes your shell complete names.""",
)

for group, commands in COMMANDS.items():
    for command in commands:
        # The value of the old spelling `notebook -p NAME VALUE` is an extra argument, and may begin with a minus sign.
        settings = {"allow_extra_args": True, "ignore_unknown_options": True} if command is notebook else None
        app.command(rich_help_panel=group, context_settings=settings)(command)
