"""Commands. Each is a thin layer: parse, call the core, print. Bad input ends with one sentence and exit code 2."""

from __future__ import annotations

import sys

import typer

from fedrevive_core.errors import ConfigError, Interrupted
from reproduce.cli.notebooks import notebook, pages
from reproduce.cli.runs import branch, compare, presets, quickstart, run, timeline, verify
from reproduce.cli.sweeps import evidence, pack, report, sweep
from reproduce.cli.tools import bench, doctor
from reproduce.console import command_line

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Understand, reproduce and teach **FedRevive**: asynchronous federated learning that revives stale updates.

Start with `quickstart` (no download, a few minutes on a laptop), then look at `presets`, draw a `timeline`, make a
`run`, `compare` methods. `doctor` says what is missing on this machine.""",
)


def main() -> None:
    """Run the command line; a ConfigError becomes one sentence on standard error and exit code 2.

    A run that a signal stopped says how to go on and exits with 128 + the signal's number, as a shell would.
    """
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
        print(
            f"stopped by signal {stopped.signal}; {stopped.checkpoint} holds all that is needed to go on. Go on with:\n"
            f"{again}",
            file=sys.stderr,
        )
        sys.exit(128 + stopped.signal)


for command in (
    presets,
    timeline,
    run,
    compare,
    quickstart,
    branch,
    verify,
    sweep,
    report,
    pack,
    evidence,
    pages,
    bench,
    doctor,
):
    app.command()(command)
# A value may begin with a minus sign.
app.command(context_settings={"ignore_unknown_options": True})(notebook)
