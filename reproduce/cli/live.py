"""The command that runs real clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reproduce.cli.options import (
    CheckpointOption,
    JsonOption,
    MethodOption,
    OtherCodeOption,
    PresetOption,
    ResumeOption,
    SeedOption,
    SetOption,
    directory,
    parse_settings,
)


def live(
    out: Annotated[Path, directory("New directory for the record.")],
    preset: PresetOption = "lab-digits",
    method: MethodOption = "fedrevive",
    clients: Annotated[
        int, typer.Option("--clients", metavar="N", min=1, max=1000, help="Number of clients; each is a process.")
    ] = 8,
    arrivals: Annotated[int, typer.Option("--arrivals", metavar="N", min=1, help="Arrivals until the run ends.")] = 200,
    slowdown: Annotated[
        str,
        typer.Option("--slowdown", metavar="X,...", help="How many times as long as necessary clients take, in turn."),
    ] = "1",
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=1, help="Give a job up after so long; restart its client."),
    ] = 300.0,
    seed: SeedOption = 0,
    settings: SetOption = None,
    checkpoint_every: CheckpointOption = None,
    resume: ResumeOption = False,
    allow_other_code: OtherCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a method with real clients, processes of this machine, and record who did what when.

    The record is an ordinary one: `run --timeline OUT` repeats it to the same bits. A client that is killed loses
    its job and is started again.

    ```
    fedrevive live --clients 8 --slowdown 1,1,2,5 --out runs/live
    fedrevive live --method fedavg --clients 4 --arrivals 40 --out runs/rounds
    ```
    """
    from reproduce.live.embedded import run_processes
    from reproduce.live.settings import live_config, parse_slowdowns
    from reproduce.runs.output import OutputDirectory, finish

    slowdowns = parse_slowdowns(slowdown, clients)
    config = live_config(preset, method, seed, clients, arrivals, out, parse_settings(settings))
    output = OutputDirectory(out, checkpoint_every, 0, resume, allow_other_code)
    finish(output.finished(config) or run_processes(config, slowdowns, timeout, output), output, as_json)
