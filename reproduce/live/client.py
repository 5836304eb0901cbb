"""A client that is a process of this machine: it waits for a job, trains it, and sends the result back."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any


def main(connection: Connection, values: Mapping[str, Any], client: int, slowdown: float) -> None:
    """Serve until the server is gone; arguments as in `Trainer`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its clients
    from reproduce.live.lean import without_compiler

    without_compiler()
    from reproduce.live.trainer import Trainer
    from reproduce.live.wire import pack, unpack

    try:
        trainer = Trainer(values, client, slowdown)
        trainer.warm_up()
        connection.send_bytes(pack(trainer.hello()))
        while True:
            words, state = unpack(connection.recv_bytes())
            connection.send_bytes(pack({"job": words["job"]}, trainer.train(words["job"], state)))
    except (EOFError, OSError):
        return  # the server is gone
