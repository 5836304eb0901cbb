"""The ClientApp: what a SuperNode does with a message, in a new process each time; so it imports no PyTorch."""

from __future__ import annotations

import json
import sys

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from reproduce.live.flower_messages import from_record, to_record
from reproduce.live.resident import ask
from reproduce.live.wire import unpack

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer the server; which client this is, stands in the SuperNode's --node-config."""
    words, state = unpack(from_record(message.content, sys.maxsize))
    own = {
        "client": int(context.node_config["partition-id"]),
        "slowdown": float(context.node_config.get("slowdown", 1)),
        "preset": str(context.node_config.get("preset", "")),
        "config": json.loads(context.run_config["config"]),
    }
    return Message(to_record(ask(words | own, state)), reply_to=message)
