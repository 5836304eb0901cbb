"""The command line. Each command is a thin layer: it parses, calls what does the work, and prints."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from reproduce.cli.bundle import bundle
from reproduce.cli.classroom import collect, release
from reproduce.cli.door import main
from reproduce.cli.live import live, node
from reproduce.cli.notebooks import book, lab, notebook
from reproduce.cli.runs import branch, compare, presets, quickstart, run, timeline
from reproduce.cli.sweeps import evidence, pack, report, sweep
from reproduce.cli.tools import bench, convert_trace, doctor, gpu, privacy, seed_texts, verify

__all__ = ["COMMANDS", "app", "main"]  # an installed `fedrevive` of the last release looks for main here

# By what one wants to do, as `--help` shows them.
COMMANDS = {
    "Understand": (presets, timeline),
    "Reproduce": (
        quickstart,
        run,
        live,
        node,
        compare,
        sweep,
        report,
        pack,
        evidence,
        privacy,
        branch,
        seed_texts,
        convert_trace,
    ),
    "Teach": (lab, notebook, book),
    "Check": (verify, doctor, bench, gpu),
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Understand, reproduce and teach **FedRevive**: asynchronous federated learning that revives stale updates.

Start with `quickstart`: it needs no download and takes a few minutes on a laptop. If something is missing, `doctor`
says what. Every command has a `--help` with an example; `--install-completion` makes your shell complete names.""",
)

# What has several commands of its own: a sentence, and these.
GROUPS = {
    "classroom": (
        "Prepare a class, release the notebooks to it, and judge what it hands in.",
        (release, collect, bundle),
    )
}


class Command(TyperCommand):
    """A command whose options may be given once each, unless they can be repeated: the first would be ignored."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises typer.BadParameter for an option that is given twice."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in order:
            if parameter.param_type_name == "option" and not parameter.multiple and order.count(parameter) > 1:
                raise typer.BadParameter("It may be given once.", ctx=ctx, param_hint=parameter.opts[0])
        return super().parse_args(ctx, args)


for group, commands in COMMANDS.items():
    for command in commands:
        # The value of the old spelling `notebook -p NAME VALUE` is an extra argument, and may begin with a minus sign.
        settings = {"allow_extra_args": True, "ignore_unknown_options": True} if command is notebook else None
        app.command(cls=Command, rich_help_panel=group, context_settings=settings)(command)

for name, (words, parts) in GROUPS.items():
    several = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=words)
    for part in parts:
        several.command(cls=Command)(part)
    app.add_typer(several, name=name, rich_help_panel="Teach")
