"""The command line. Each command is a thin layer: it parses, calls what does the work, and prints."""

from __future__ import annotations

import io
import signal
import sys

import typer

from fedrevive_core.errors import ConfigError, Interrupted
from reproduce.cli.notebooks import notebook, pages
from reproduce.cli.runs import branch, compare, presets, quickstart, run, timeline
from reproduce.cli.sweeps import evidence, pack, report, sweep
from reproduce.cli.tools import bench, doctor, seed_texts, verify
from reproduce.console import command_line

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


def main() -> None:
    """Run the command line.

    A ConfigError becomes one sentence on standard error and exit code 2. A run that was stopped by a signal says how
    to resume it and exits with 128 + the number of the signal, as shells do.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without Greek letters shows '?' in their place
    for name in ("SIGTERM", "SIGHUP"):  # end as on Ctrl-C, so that what is unfinished is removed
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as error:
        print(f"error: not enough memory ({error}): choose fewer clients, or a smaller model or pool", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        again = command_line() + ("" if "--resume" in sys.argv else " --resume")
        print(f"stopped by signal {stopped.signal}; resume with:\n{again}", file=sys.stderr)
        sys.exit(128 + stopped.signal)
