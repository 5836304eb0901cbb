"""A client: it waits for a job, trains it on its own shard, and sends the result back."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any


def main(connection: Connection, values: Mapping[str, Any], client: int, slowdown: float) -> None:
    """Serve until the server is gone. values: the run's configuration. slowdown: how many times as long a job lasts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its clients
    from reproduce.live.lean import without_compiler

    without_compiler()
    import torch

    from fedrevive_core.config import RunConfig
    from fedrevive_core.data import load_federated
    from fedrevive_core.simulation.build import build_client, num_threads, pick_device
    from fedrevive_core.training import Job
    from reproduce.live.messages import from_bytes, hello, pack, to_bytes, unpack

    config = RunConfig.from_dict(values)
    try:
        with num_threads(config.num_threads):
            device = pick_device(config.device)
            data = load_federated(config.data, config.federation.num_clients, device)
            layout, _, trainer, network = build_client(config, data)
            trainer.train([Job(0, client, layout.pack(network))])  # the first job of a process takes seconds longer
            connection.send_bytes(pack(hello(client, config, data.fingerprint)))
            while True:
                words, state = unpack(connection.recv_bytes())
                started = time.perf_counter()
                start = torch.from_numpy(from_bytes(state)).to(device)
                returned = to_bytes(trainer.train([Job(words["job"], client, start)])[0].cpu().numpy())
                time.sleep((slowdown - 1) * (time.perf_counter() - started))
                connection.send_bytes(pack({"job": words["job"]}, returned))
    except (EOFError, OSError):
        return  # the server is gone
