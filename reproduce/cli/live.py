"""The commands that run real clients, and that are one."""

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
    one_of,
    parse_settings,
)

TRANSPORTS = ("processes", "flower")


def live(
    out: Annotated[Path, directory("New directory for the record.")],
    preset: PresetOption = "lab-digits",
    method: MethodOption = "fedrevive",
    clients: Annotated[int, typer.Option("--clients", metavar="N", min=1, max=1000, help="Number of clients.")] = 8,
    arrivals: Annotated[int, typer.Option("--arrivals", metavar="N", min=1, help="Arrivals until the run ends.")] = 200,
    slowdown: Annotated[
        str,
        typer.Option("--slowdown", metavar="X,...", help="How many times as long as necessary clients take, in turn."),
    ] = "1",
    transport: Annotated[
        str,
        one_of("--transport", TRANSPORTS, "Clients: `processes` of this machine, or Flower's SuperNodes (`flower`)."),
    ] = "processes",
    superlink: Annotated[
        str,
        typer.Option(
            "--superlink",
            metavar="NAME",
            help="With Flower: a SuperLink in its config.toml; without, one and its nodes are started here.",
        ),
    ] = "",
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
    """Run a method with real clients, and record who did what when.

    The record is an ordinary one: `run --timeline OUT` repeats it to the same bits. Clients are processes of this
    machine; one that is killed loses its job and is started again. With `--transport flower` they may be other
    machines, each with the command `node`.

    ```
    fedrevive live --clients 8 --slowdown 1,1,2,5 --out runs/live
    fedrevive live --method fedavg --clients 4 --arrivals 40 --out runs/rounds
    fedrevive live --transport flower --clients 3 --out runs/flower
    ```
    """
    from fedrevive_core.config import choices
    from fedrevive_core.errors import ConfigError
    from reproduce.live.embedded import run_processes
    from reproduce.live.flower import check_flower, run_flower
    from reproduce.live.settings import live_config, parse_slowdowns
    from reproduce.runs.output import OutputDirectory, finish

    if transport not in TRANSPORTS:
        raise ConfigError(f"--transport {transport}: {choices(transport, TRANSPORTS)}")
    if superlink and (transport != "flower" or slowdown != "1"):
        raise ConfigError(
            f"--superlink {superlink} is for --transport flower, without --slowdown: every node says its own"
        )
    if transport == "flower":
        check_flower()
    slowdowns = parse_slowdowns(slowdown, clients)
    config = live_config(preset, method, seed, clients, arrivals, out, parse_settings(settings))
    output = OutputDirectory(out, checkpoint_every, 0, resume, allow_other_code)
    record = output.finished(config)
    if record is None and transport == "flower":
        record = run_flower(config, slowdowns, timeout, output, resume, superlink)
    finish(record or run_processes(config, slowdowns, timeout, output), output, as_json)


def node(
    superlink: Annotated[str, typer.Option("--superlink", metavar="HOST:PORT", help="Address of Flower's SuperLink.")],
    client: Annotated[int, typer.Option("--client", metavar="N", min=0, help="Which client it is, from 0.")],
    slowdown: Annotated[
        float,
        typer.Option("--slowdown", metavar="X", min=1, max=1e6, help="How many times as long as necessary it takes."),
    ] = 1.0,
    preset: Annotated[str, typer.Option("--preset", help="The only preset that it takes part in; without, any.")] = "",
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="More options of `flower-supernode`.")
    ] = None,
) -> None:
    """Be a client of live runs with Flower, until Ctrl-C: a SuperNode, and a process that trains.

    The data stay on this machine. It runs what the SuperLink sends: join those only whose owner you trust.

    ```
    fedrevive node --superlink 127.0.0.1:8000 --client 0 -- --insecure
    ```
    """
    from reproduce.live.node import run_node

    raise typer.Exit(run_node(superlink, client, slowdown, preset, options or []))
