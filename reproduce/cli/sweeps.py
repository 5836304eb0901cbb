"""The command `sweep`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedrevive_core.config import choices
from fedrevive_core.errors import ConfigError
from reproduce.cli.notebooks import notebook_runner
from reproduce.sweeps.experiment import load_experiment, scale_of, select

ENGINES = ("local", "ray")


def sweep(
    experiment: Annotated[str, typer.Argument(help="Name of a shipped experiment, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the sweep; those beside it share their runs.")],
    scale: Annotated[str, typer.Option("--scale", help="`lab` (laptops, minutes) or `paper`.")] = "lab",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time on this machine.")] = 1,
    engine: Annotated[str, typer.Option("--engine", help="`local`, or `ray`: an existing Ray cluster.")] = "local",
    address: Annotated[str, typer.Option("--address", help="Of the Ray cluster: `auto` or HOST:PORT.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished sweep in OUT.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and do nothing.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="KEY=VALUE", help="Only cells with this arm, method, seed or grid value."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="End with the report and the executed notebook in OUT/report.")
    ] = True,
) -> None:
    """Carry out every run of an experiment once, and go on after any interruption with `--resume`.

    A finished run is never repeated, and is shared between sweeps that lie side by side. A run that fails is tried once
    more and then reported; the others go on, and the exit code is 1. Example:
    `python -m reproduce sweep smoke --scale lab --out runs/sweeps/smoke --jobs 2`
    """
    from reproduce.sweeps.executors import Executor, LocalExecutor
    from reproduce.sweeps.sweep import check_out, plan, run_sweep

    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: {choices(engine, ENGINES)}")
    described = load_experiment(experiment)
    at = scale_of(described, scale)
    executor: Executor
    if engine == "ray":
        from reproduce.sweeps.ray_executor import RayExecutor

        executor = RayExecutor(out, address, described.scales[at])
    else:
        executor = LocalExecutor(out, jobs)
    planned = plan(described, at, executor.device)
    cells = set(map(id, select([run.cell for run in planned.runs], _parse(only or []))))
    chosen = [run for run in planned.runs if id(run.cell) in cells]
    if dry_run:
        _forecast(chosen, out, executor.slots)
        return
    check_out(planned, chosen, out, resume=resume)
    if report:
        notebook_runner()  # a missing package is reported before the work, not after it
    failed = run_sweep(planned, chosen, executor, out, Console(stderr=True))
    print(f"{len(chosen) - len(failed)} of {len(chosen)} runs are finished: {out / 'runs'}")
    if failed:
        print(f"{len(failed)} have failed, {out / 'failures'} says why; --resume tries them again")
    if report and len(failed) < len(chosen):
        publish(out, described.notebook)
    if failed:
        raise typer.Exit(1)


def _parse(only: list[str]) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in only]
    for entry, (key, equals, value) in zip(only, pairs, strict=True):
        if not (key and equals and value):
            raise ConfigError(f"--only {entry}: must be KEY=VALUE, such as arm=fedrevive or seed=0")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _forecast(chosen: list, out: Path, slots: int) -> None:
    from reproduce.sweeps.cost import costs
    from reproduce.sweeps.progress import duration
    from reproduce.sweeps.sweep import siblings

    known = siblings(out)
    done = [run for run in chosen if run.is_finished(out)]
    shared = [run for run in chosen if run not in done and run.name.rpartition("-")[2] in known]
    todo = [run for run in chosen if run not in done and run not in shared]
    print(f"{len(chosen)} runs: {len(done)} done, {len(shared)} done in sweeps beside this one, {len(todo)} to do")
    estimates = costs(todo)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("arm", "runs to do", "time of each", "record of each"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm in dict.fromkeys(run.cell.arm for run in todo):
        of_arm = [estimates[run.name] for run in todo if run.cell.arm == arm]
        each = sum(cost.seconds for cost in of_arm) / len(of_arm)
        kilobytes = sum(cost.record_bytes for cost in of_arm) / len(of_arm) / 1e3
        table.add_row(arm, str(len(of_arm)), duration(each), f"{kilobytes:,.0f} kB")
    if todo:
        Console().print(table)
        every = list(estimates.values())
        records = sum(cost.record_bytes for cost in every)
        checkpoints = sorted((cost.checkpoint_bytes for cost in every), reverse=True)[:slots]
        total = duration(sum(cost.seconds for cost in every) / slots)
        print(
            f"Estimated from a short sample of each kind of run, measured just now on this machine: {total} with "
            f"{slots} at a time, at most {records / 1e6:,.1f} MB of records, and meanwhile up to "
            f"{sum(checkpoints) / 1e6:,.0f} MB of checkpoints."
        )


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that `sweep` wrote, finished or not.")],
) -> None:
    """Put the claims of a sweep beside what it measured, into DIR/report: index.html, report.md and parquet tables.

    Example: `python -m reproduce report runs/sweeps/smoke`
    """
    from reproduce.reports.report import write_report

    page = write_report(directory, f"python -m reproduce report {shlex.quote(str(directory))}")
    print(f"Open this page: {page.resolve()}")


def pack(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories that `sweep` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Directory that gets a packed sweep for each of them.")],
) -> None:
    """Keep of each sweep what its tables and figures are made of: a few kilobytes a run, to be committed or sent.

    A packed sweep of the same experiment is replaced. Example:
    `python -m reproduce pack runs/sweeps/smoke --out build/packed`
    """
    from reproduce.sweeps import results

    for directory in directories:
        packed = results.pack(directory, out)
        print(f"{packed}: {sum(path.stat().st_size for path in packed.rglob('*')) / 1e3:,.0f} kB")


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
    from reproduce.evidence import tables as results
    from reproduce.reports.text import markdown

    if not check:
        print("Written: " + ", ".join(map(str, results.write_results())))
        return
    rows = [row for directory in check for row in results.compare_with_committed(directory)]
    print(markdown(rows))
    if any(row["as before"] == "no" for row in rows):
        raise typer.Exit(1)


def publish(directory: Path, notebook: str) -> None:
    """End a sweep: its report, and its rendering notebook executed over its runs, DIR/report/NOTEBOOK.ipynb and .html.

    Raises ConfigError if nothing is finished, and ends with exit code 1 if the notebook fails.
    """
    from reproduce.reports.report import write_report

    write_report(directory, f"python -m reproduce report {shlex.quote(str(directory))}")
    runner = notebook_runner()
    try:
        page = runner.render(notebook, directory, directory / "report" / f"{Path(notebook).stem}.ipynb")
    except runner.NotebookFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Report: {directory / 'report' / 'index.html'}\nNotebook: {page}")
