"""A live run whose clients are processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from fedrevive_core.config import RunConfig
from fedrevive_core.records import Record
from reproduce.live.processes import Processes
from reproduce.live.run import LiveRun
from reproduce.live.show import shown
from reproduce.runs.output import OutputDirectory


def run_processes(config: RunConfig, slowdowns: Sequence[float], timeout: float, output: OutputDirectory) -> Record:
    """Run `config` with a process for every client, and return the record; arguments as in `LiveRun`, `Processes`."""
    run = LiveRun(config, timeout)
    with shown(f"{config.preset}/{config.method}, live", run.num_arrivals, slowdowns) as show:
        run.told = show.say
        transport = Processes(config, run.data.fingerprint, slowdowns, run.layout.size)
        try:
            return run.serve(transport, show=show.update, **output.options())
        finally:
            transport.close()
