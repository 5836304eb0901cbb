"""Commands that turn results into something to read: one notebook, all of them, the verdicts of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.errors import ConfigError

OUT = Path("build/notebooks")


def notebook_runner() -> Any:
    """The module that runs notebooks. Raises ConfigError without the packages that it needs."""
    try:
        from reproduce import notebook_runner as notebooks
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install -e '.[notebooks]'") from None
    return notebooks


def notebook(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Notebook of the course, or a path to an .ipynb file.")],
    values: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME VALUE", help="Set one of its parameters; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Executed copy; default build/notebooks/NAME.ipynb.")
    ] = None,
) -> None:
    """Execute one notebook with parameters of your own; keep the executed copy and a page (.html) beside it.

    Names and types of parameters are checked before anything runs. If a cell fails, what ran is kept, and the exit code
    is 1. Example: `python -m reproduce notebook 08_reproduce -p solve true`
    """
    runner = notebook_runner()
    # The option takes the name, and the value stands where arguments do: in the same order.
    given, names = values or [], names or []
    if len(given) != len(names):
        raise ConfigError(f"-p takes a name and a value: got the names {names} and the values {given}")
    found = runner.find(name)
    parameters = runner.parse(found, list(zip(names, given, strict=True)))
    copy = out or OUT / found.name
    try:
        page = runner.execute(found, copy, parameters)
    except runner.NotebookFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Executed: {copy}\nPage: {page}")


def pages(
    out: Annotated[Path, typer.Option("--out", help="Directory for the pages and their index.")] = Path("build/pages"),
) -> None:
    """Execute every notebook of the course at its defaults, and write their pages with an index.

    A notebook that fails does not stop the others; the index says so, and the exit code is 1.
    """
    index, failures = notebook_runner().write_pages(out)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"Open this page: {index.resolve()}")
    if failures:
        raise typer.Exit(1)
