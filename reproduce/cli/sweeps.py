"""Commands about experiments of many runs: sweeps, their reports, and the evidence made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedrevive_core.config import choices
from fedrevive_core.errors import ConfigError
from reproduce.cli.notebooks import notebook_runner
from reproduce.cli.options import (
    ENGINES,
    EngineOption,
    JobsOption,
    OtherCodeOption,
    ScaleOption,
    ShardOption,
    directory,
    parse_pairs,
)
from reproduce.console import command_line, print_table
from reproduce.sweeps.experiment import load_experiment, scale_of, select, shipped

if TYPE_CHECKING:
    from reproduce.sweeps.executors import Executor
    from reproduce.sweeps.experiment import Scale
    from reproduce.sweeps.sweep import Shard
    from reproduce.sweeps.worker import CellRun


def sweep(
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT", autocompletion=shipped, help="Name of a shipped experiment, or a YAML file."
        ),
    ],
    out: Annotated[Path, directory("Directory of the sweep; it shares runs with sweeps beside it.")],
    scale: ScaleOption = "lab",
    jobs: JobsOption = None,
    engine: EngineOption = "local",
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="Address of the Ray cluster: `auto` or HOST:PORT.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the unfinished sweep in OUT; begin if there is none.")
    ] = False,
    allow_other_code: OtherCodeOption = False,
    shard: ShardOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate time and disk space.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="KEY=VALUE",
            help="Only the runs with this arm, method, seed or grid value; repeat the option to narrow further.",
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="At the end, write the report and the notebook to OUT/report.")
    ] = True,
) -> None:
    """Run every run of an experiment once. After an interruption, `--resume` continues it.

    Finished runs are never repeated, and sweeps in neighbouring directories share them. A run that fails is tried once
    more. If it fails again, the others still run, and the exit code is 1.

    ```
    fedrevive sweep smoke --out runs/sweeps/smoke --jobs 2
    fedrevive sweep smoke --out runs/sweeps/smoke --only seed=0 --dry-run
    fedrevive sweep smoke --out runs/sweeps/smoke --shard 1/4
    ```
    """
    from reproduce.sweeps.sweep import begun_by, check_out, plan, run_sweep

    described = load_experiment(experiment)
    if report:  # a missing package or a misspelt name is reported before the work, not after it
        notebook_runner().shows_sweep(described.notebook)
    at = scale_of(described, scale)
    executor = _executor(engine, out, jobs, address, described.scales[at])
    part = parse_shard(shard)
    planned = plan(described, at, executor.device, begun_by(out) if allow_other_code else None)
    wanted = parse_pairs("--only", only, "KEY=VALUE", "arm=fedrevive or seed=0")
    cells = set(map(id, select([run.cell for run in planned.runs], wanted)))
    chosen = [run for run in planned.runs if id(run.cell) in cells]
    chosen = chosen if part is None else part.of(chosen)
    if dry_run:
        _forecast(chosen, out, executor.slots)
        return
    if part is None:  # while other parts begin, only who holds the lock can tell; `run_sweep` looks then
        check_out(planned, chosen, out, resume=resume)
    report = report and part is None  # the last part to end does not know that it is the last
    failed = run_sweep(planned, chosen, executor, out, Console(stderr=True), part)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} runs are finished: {out / 'runs'}")
    if failed:
        print(f"{len(failed)} have failed, {out / 'failures'} says why; --resume tries them again")
    if report and len(failed) < len(chosen):
        publish(out, described.notebook)
    if failed:
        raise typer.Exit(1)


def _executor(engine: str, out: Path, jobs: int | None, address: str, scale: Scale) -> Executor:
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: {choices(engine, ENGINES)}")
    if engine == "local" and address != "auto":
        raise ConfigError(f"--address {address} is for --engine ray: leave it out, or add --engine ray")
    if engine == "ray" and jobs is not None:
        raise ConfigError(f"--jobs {jobs} is for --engine local: a cluster runs as many as its CPUs allow")
    if engine == "ray":
        from reproduce.sweeps.ray_executor import RayExecutor

        return RayExecutor(out, address, scale)
    from reproduce.sweeps.executors import LocalExecutor

    return LocalExecutor(out, jobs)


def parse_shard(text: str | None) -> Shard | None:
    """Part I of N from `I/N`. Raises ConfigError if it is not one."""
    from reproduce.sweeps.sweep import Shard

    if text is None:
        return None
    number, _, count = text.partition("/")
    short = len(text) <= 13 and number.isascii() and number.isdecimal() and count.isascii() and count.isdecimal()
    if not short or not 1 <= int(number) <= int(count):
        raise ConfigError(f"--shard {text[:40]}: must be I/N with I from 1 to N, such as 1/4")
    return Shard(int(number), int(count))


def _forecast(chosen: list[CellRun], out: Path, slots: int) -> None:
    from reproduce.sweeps.cost import costs
    from reproduce.sweeps.progress import duration
    from reproduce.sweeps.sweep import siblings

    known = siblings(out)
    done = [run for run in chosen if run.is_finished(out)]
    shared = [run for run in chosen if run not in done and run.name.rpartition("-")[2] in known]
    todo = [run for run in chosen if run not in done and run not in shared]
    print(f"{len(chosen)} runs: {len(done)} done, {len(shared)} done in sweeps beside this one, {len(todo)} to do")
    if not todo:
        return
    estimates = costs(todo)
    rows = []
    for arm in dict.fromkeys(run.cell.arm for run in todo):
        of_arm = [estimates[run.name] for run in todo if run.cell.arm == arm]
        each = duration(fmean(cost.seconds for cost in of_arm))
        record = f"{fmean(cost.record_bytes for cost in of_arm) / 1e3:,.0f} kB"
        rows.append({"arm": arm, "runs to do": str(len(of_arm)), "time of each": each, "record of each": record})
    print_table("Time and disk space", rows)
    records = sum(cost.record_bytes for cost in estimates.values())
    checkpoints = sorted((cost.checkpoint_bytes for cost in estimates.values()), reverse=True)[:slots]
    total = duration(sum(cost.seconds for cost in estimates.values()) / slots)
    print(
        f"Estimated from a short sample of each kind of run, measured just now on this machine: {total} with "
        f"{slots} at a time, at most {records / 1e6:,.1f} MB of records, and meanwhile up to "
        f"{sum(checkpoints) / 1e6:,.0f} MB of checkpoints."
    )


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a sweep, finished or not.")],
) -> None:
    """Compare the claims of an experiment with what its sweep measured.

    Writes DIR/report: index.html, report.md and parquet tables.

    ```
    fedrevive report runs/sweeps/smoke
    ```
    """
    from reproduce.reports.report import write_report

    page = write_report(directory, command_line("report", directory))
    print(f"Open this page: {page.resolve()}")


def pack(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories of sweeps.")],
    out: Annotated[Path, directory("Directory for the packed sweeps.")],
) -> None:
    """Pack each sweep into the few files its tables and figures need: a few kB per run, small enough to commit or send.

    A packed sweep of the same experiment is replaced.

    ```
    fedrevive pack runs/sweeps/smoke --out build/packed
    ```
    """
    from reproduce.sweeps import results
    from reproduce.sweeps.sweep_file import header

    packs: dict[str, Path] = {}
    for sweep_directory in directories:
        other = packs.setdefault(header(sweep_directory)["experiment"], sweep_directory)
        if other != sweep_directory:
            raise ConfigError(
                f"'{sweep_directory}' and '{other}' are of one experiment, and one would replace the other: "
                "pack them into two directories"
            )
    for sweep_directory in packs.values():
        packed = results.pack(sweep_directory, out)
        print(f"{packed}: {sum(path.stat().st_size for path in packed.rglob('*')) / 1e3:,.0f} kB")


def evidence(
    check: Annotated[
        list[Path] | None,
        typer.Option(
            "--check", metavar="DIR", help="Sweep that was run again; repeat the option to check several of them."
        ),
    ] = None,
    pools: Annotated[
        list[Path] | None,
        typer.Option("--pools", metavar="DIR", help="Sweep whose pools of images are measured; repeat the option."),
    ] = None,
) -> None:
    """Make the tables and figures of docs/RESULTS.md from the committed runs.

    With `--check`, compare runs that were made again with the committed ones. Nothing is written then, and the exit
    code is 1 if the mean of an arm has changed. With `--pools`, measure the images that the runs of a sweep distilled
    on, which a packed sweep no longer has, and keep the numbers for these tables.

    ```
    fedrevive evidence
    fedrevive evidence --check runs/evidence-quick/map
    fedrevive evidence --pools runs/sweeps/image-pools-fashion
    ```
    """
    if check and pools:
        raise ConfigError("--check and --pools: give one of them, as the first writes nothing")
    if pools:
        from reproduce.evidence.images import write_quality

        print(f"Written: {write_quality(pools)}")
        return
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
    """Write the report of a sweep, and execute its notebook over its runs: DIR/report/NOTEBOOK.ipynb and .html.

    Raises ConfigError if no run is finished, and typer.Exit with code 1 if the notebook fails.
    """
    from reproduce.reports.report import write_report

    write_report(directory, command_line("report", directory))
    runner = notebook_runner()
    try:
        page = runner.render(notebook, directory, directory / "report" / f"{Path(notebook).stem}.ipynb")
    except runner.NotebookFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Report: {directory / 'report' / 'index.html'}\nNotebook: {page}")
