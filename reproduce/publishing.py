"""Commands that turn results into something to read: one notebook, all of them, the verdicts of a sweep."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrevive_core.validation import ConfigError

OUT = Path("build/notebooks")


def notebook_runner() -> Any:
    """The module that runs notebooks. Raises ConfigError without the packages that it needs."""
    try:
        from reproduce import notebooks
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


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that `sweep` wrote, finished or not.")],
) -> None:
    """Put the claims of a sweep beside what it measured, into DIR/report: index.html, report.md and parquet tables.

    Example: `python -m reproduce report runs/sweeps/smoke`
    """
    from reproduce.report import write

    page = write(directory, f"python -m reproduce report {shlex.quote(str(directory))}")
    print(f"Open this page: {page.resolve()}")


def pack(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories that `sweep` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Directory that gets a packed sweep for each of them.")],
) -> None:
    """Keep of each sweep what its tables and figures are made of: a few kilobytes a run, to be committed or sent.

    A packed sweep of the same experiment is replaced. Example:
    `python -m reproduce pack runs/sweeps/smoke --out build/packed`
    """
    from reproduce import collected

    for directory in directories:
        place = collected.pack(directory, out)
        print(f"{place}: {sum(path.stat().st_size for path in place.rglob('*')) / 1e3:,.0f} kB")


def evidence(
    check: Annotated[
        list[Path] | None,
        typer.Option("--check", metavar="DIR", help="A sweep made again: hold its runs against the committed ones."),
    ] = None,
) -> None:
    """Make the tables and figures of docs/RESULTS.md from the committed runs, or hold runs made again against them.

    With `--check` nothing is written, and the exit code is 1 if the mean of an arm is not as before.
    Example: `python -m reproduce evidence --check runs/evidence-quick/map`
    """
    from reproduce import evidence as made
    from reproduce.comparison import markdown

    if not check:
        print("Written: " + ", ".join(map(str, made.write())))
        return
    rows = [row for directory in check for row in made.compared(directory)]
    print(markdown(rows))
    if any(row["as before"] == "no" for row in rows):
        raise typer.Exit(1)


def publish(directory: Path, notebook: str) -> None:
    """End a sweep: its report, and its rendering notebook executed over its runs, DIR/report/NOTEBOOK.ipynb and .html.

    Raises ConfigError if nothing is finished, and ends with exit code 1 if the notebook fails.
    """
    from reproduce.report import write

    write(directory, f"python -m reproduce report {shlex.quote(str(directory))}")
    runner = notebook_runner()
    try:
        page = runner.render(notebook, directory, directory / "report" / f"{Path(notebook).stem}.ipynb")
    except runner.NotebookFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Report: {directory / 'report' / 'index.html'}\nNotebook: {page}")


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    # A value may begin with a minus sign.
    app.command(context_settings={"ignore_unknown_options": True})(notebook)
    app.command()(pages)
    app.command()(report)
    app.command()(pack)
    app.command()(evidence)
