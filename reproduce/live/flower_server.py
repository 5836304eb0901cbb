"""The ServerApp: the loop of a live run, whose clients are Flower's SuperNodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flwr.app import Context, Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid, ServerApp

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from reproduce.live.flower_messages import from_record, to_record
from reproduce.live.nodes import SERVER, Nodes, Reply
from reproduce.live.run import LiveRun
from reproduce.live.show import shown
from reproduce.runs.output import OutputDirectory


class FlowerGrid:
    """Flower's grid as ours; see `Grid`."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def nodes(self) -> set[int]:
        """See `Grid`."""
        return set(self.grid.get_node_ids())

    def push(self, node: int, message: bytes, seconds: float) -> str:
        """See `Grid`."""
        ids = list(self.grid.push_messages([Message(to_record(message), node, "train", ttl=seconds)]))
        return ids[0] or "" if ids else ""

    def pull(self, ids: Sequence[str], limit: int) -> list[Reply]:
        """See `Grid`."""
        return [_reply(message, limit) for message in self.grid.pull_messages(list(ids))]


def _reply(message: Message, limit: int) -> Reply:
    answers, sender = message.metadata.reply_to_message_id, message.metadata.src_node_id
    node = SERVER if sender == SUPERLINK_NODE_ID else sender
    if message.has_error():
        return Reply(answers, node, error=f"Flower says: {message.error.reason or message.error.code}")
    try:
        return Reply(answers, node, from_record(message.content, limit))
    except ValueError as error:
        return Reply(answers, node, error=str(error))


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
