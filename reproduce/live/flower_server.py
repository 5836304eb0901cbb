"""The ServerApp: the loop of a live run, whose clients are Flower's SuperNodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from reproduce.live.flower_messages import FlowerGrid
from reproduce.live.nodes import Nodes
from reproduce.live.run import LiveRun
from reproduce.live.show import shown
from reproduce.runs.output import OutputDirectory

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run's configuration says, and save the record; see `write_app`."""
    asked = json.loads(str(context.run_config["run"]))
    config = RunConfig.from_dict(json.loads(str(context.run_config["config"])))
    try:
        output = OutputDirectory(Path(asked["out"]), asked["every"], 0, asked["resume"], asked["other_code"])
        run = LiveRun(config, asked["timeout"])
        clients = config.federation.num_clients
        with shown(f"{config.preset}/{config.method}, Flower", run.num_arrivals, [1.0] * clients) as show:
            run.told = show.say
            transport = Nodes(FlowerGrid(grid), config, run.data.fingerprint, run.layout.size, asked["timeout"])
            output.save(run.serve(transport, show=show.update, **output.options()))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise
