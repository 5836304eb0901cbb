"""Commands about notebooks: work with them in JupyterLab, execute one, or all of the course."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.errors import ConfigError, Interrupted
from reproduce.cli.options import directory, parse_pairs
from reproduce.console import hint

OUT = Path("build/notebooks")


CellSecondsOption = Annotated[
    int,
    typer.Option("--cell-seconds", metavar="N", min=0, max=10**9, help="A cell that takes longer fails; 0: no limit."),
]


def notebook_runner() -> Any:
    """The module that runs notebooks. Raises ConfigError without the packages that it needs."""
    try:
        from reproduce import notebook_runner as notebooks
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install -e '.[notebooks]'") from None
    return notebooks


def notebook(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A notebook of the course, such as `08_reproduce`, or a path to an .ipynb file."
        ),
    ],
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="Set one parameter; repeat the option to set several."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Executed copy; default `build/notebooks/NAME.ipynb`."),
    ] = None,
    cell_seconds: CellSecondsOption = 3600,
) -> None:
    """Execute one notebook with your parameters, and write the executed copy and its page (.html).

    Names and types of parameters are checked before anything runs. If a cell fails, the copy shows where, and the exit
    code is 1.

    ```
    fedrevive notebook 08_reproduce -p solve=true
    ```
    """
    runner = notebook_runner()
    pairs = parse_pairs("-p", _modern(parameters or [], context.args), "NAME=VALUE", "seed=1")
    path = runner.find(name)
    copy = out or OUT / path.name
    try:
        page = runner.execute(path, copy, runner.parse(path, pairs), cell_seconds=cell_seconds)
    except runner.NotebookFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except Interrupted as stopped:
        print(f"stopped by signal {stopped.signal}: {path.stem} was not finished", file=sys.stderr)
        raise typer.Exit(128 + stopped.signal) from None
    print(f"Executed: {copy}\nPage: {page}")


def _modern(parameters: list[str], values: list[str]) -> list[str]:
    """Every entry as NAME=VALUE; with the old spelling `-p NAME VALUE`, `values` holds the values in order."""
    left = list(values)
    entries = []
    for entry in parameters:
        if "=" not in entry and left:
            entry = f"{entry}={left.pop(0)}"
            hint(f"write -p {entry}; a space in place of '=' works in this release only")
        entries.append(entry)
    if left:
        raise ConfigError(f"'{left[0]}' is one argument too many: set parameters with -p NAME=VALUE")
    return entries


def lab(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to work in.")] = Path("fedrevive-lab"),
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTION", help="Options for JupyterLab, such as `--port=8889`."),
    ] = None,
) -> None:
    """Copy the notebooks into a folder of yours, and open JupyterLab there.

    The next time, only notebooks that you have not changed are brought up to date. Ctrl-C twice ends JupyterLab.

    ```
    fedrevive lab
    fedrevive lab my-lab -- --no-browser --port=8889
    ```
    """
    from reproduce.lab import copy_course, open_lab

    for name in copy_course(folder):
        print(f"kept: {folder / name}, which is not as it was copied; to get the newer one, rename yours")
    print(f"The notebooks are in {folder.resolve() / 'notebooks'}")
    open_lab(folder, options or [])


def book(
    out: Annotated[Path, directory("Directory for the pages and the executed notebooks.")] = Path("build/book"),
    cell_seconds: CellSecondsOption = 3600,
) -> None:
    """Execute every notebook of the course with its defaults, and write the book: documents, notebooks, API.

    If a notebook fails, the others still run; its page shows the error, and the exit code is 1. What has not changed
    since the last time is not executed again. It needs the extra `book` and a checkout.

    ```
    fedrevive book --out build/book
    ```
    """
    notebook_runner()  # before the next import, which needs the same packages
    from reproduce.book.make import make_book

    try:
        page, failures = make_book(out, cell_seconds=cell_seconds)
    except Interrupted as stopped:
        print(f"stopped by signal {stopped.signal}: the notebooks that ended are in {out}", file=sys.stderr)
        raise typer.Exit(128 + stopped.signal) from None
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"Open this page: {page.resolve()}")
    if failures:
        raise typer.Exit(1)
