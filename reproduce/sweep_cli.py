"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedrevive_core.validation import ConfigError, choices
from reproduce.experiments import load_experiment, select
from reproduce.publishing import notebook_runner, publish

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
    from reproduce.board import Board
    from reproduce.engines import Engine, LocalEngine
    from reproduce.sweep import carry_out, check_out, opened, plan, share

    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: {choices(engine, ENGINES)}")
    described = load_experiment(experiment)
    if scale not in described.scales:
        raise ConfigError(f"scale = '{scale}' is unknown in {described.name}: {choices(scale, described.scales)}")
    workers: Engine
    if engine == "ray":
        from reproduce.ray_engine import RayEngine

        workers = RayEngine(out, address, described.scales[scale])
    else:
        workers = LocalEngine(out, jobs)
    planned = plan(described, scale, workers.device)
    cells = set(map(id, select([run.cell for run in planned.runs], _parse(only or []))))
    chosen = [run for run in planned.runs if id(run.cell) in cells]
    if dry_run:
        _forecast(chosen, out, workers.slots)
        return
    check_out(planned, chosen, out, resume=resume)
    if report:
        notebook_runner()  # what is not installed is said before the work, not after it
    console = Console(stderr=True)
    with opened(planned, out):
        copied = share(chosen, out)
        if copied:
            console.print(f"{len(copied)} runs were finished in sweeps beside {out} and are copied", soft_wrap=True)
        todo = [run for run in chosen if not run.is_finished(out)]
        done = [run for run in chosen if run.is_finished(out)]
        with Board(f"{described.name}, {scale}", chosen, done, workers.slots, console) as board:
            failed = carry_out(todo, workers, board.report, board.tick)
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
    from reproduce.board import duration
    from reproduce.estimate import costs
    from reproduce.sweep import siblings

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
        own = [estimates[run.name] for run in todo if run.cell.arm == arm]
        each = sum(cost.seconds for cost in own) / len(own)
        kilobytes = sum(cost.record_bytes for cost in own) / len(own) / 1e3
        table.add_row(arm, str(len(own)), duration(each), f"{kilobytes:,.0f} kB")
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
