"""What a client does, however it is reached: load its data, say who it is, and train jobs on its own shard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from fedrevive_core.config import RunConfig
from fedrevive_core.data import load_federated
from fedrevive_core.simulation.build import build_client, num_threads, pick_device
from fedrevive_core.training import Job
from reproduce.live.messages import from_bytes, hello, to_bytes


class Trainer:
    """Client number `client` of the run that `values`, a configuration, describe.

    Raises ConfigError if this version cannot read or run them. slowdown: how many times as long a job lasts.
    """

    def __init__(self, values: Mapping[str, Any], client: int, slowdown: float = 1.0) -> None:
        self.config, self.client, self.slowdown = RunConfig.from_dict(values), client, slowdown
        self.device = pick_device(self.config.device)
        data = load_federated(self.config.data, self.config.federation.num_clients, self.device)
        self.layout, _, self.trainer, self.network = build_client(self.config, data)
        self.data = data.fingerprint

    def hello(self) -> dict[str, Any]:
        """What it says of itself first."""
        return hello(self.client, self.config, self.data)

    def warm_up(self) -> None:
        """Train once and drop the result: the first job of a process takes seconds longer."""
        with num_threads(self.config.num_threads):
            self.trainer.train([Job(0, self.client, self.layout.pack(self.network))])

    def train(self, job: int, state: bytes) -> bytes:
        """The state that job number `job` comes to, from the bytes of the state that it starts from."""
        started = time.perf_counter()
        with num_threads(self.config.num_threads):
            start = torch.from_numpy(from_bytes(state)).to(self.device)
            returned = to_bytes(self.trainer.train([Job(job, self.client, start)])[0].cpu().numpy())
        time.sleep((self.slowdown - 1) * (time.perf_counter() - started))
        return returned
