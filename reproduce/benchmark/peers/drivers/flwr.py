"""Flower: `run_simulation` with its Ray backend; `FedAvg`, messages, a `DataLoader` a job, as in its PyTorch tutorial.

One CPU is given to Ray, so that one client runs at a time, on one thread.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from reproduce.benchmark.peers import job

client_app = ClientApp()


@cache
def shards() -> list[Dataset[Any]]:
    """Each client's data, made once in a process."""
    torch.set_num_threads(1)
    images, labels, *_ = job.digits()
    return [Subset(TensorDataset(images, labels), shard) for shard in job.shards(labels)]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's job."""
    model = job.new_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loader = DataLoader(shards()[int(context.node_config["partition-id"])], batch_size=job.BATCH, shuffle=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=job.LR)
    done = 0
    while done < job.STEPS:
        for images, labels in loader:
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
            done += 1
            if done == job.STEPS:
                break
    metrics = MetricRecord({"num-examples": job.SHARD})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


def main() -> None:
    """Run what the command line asks for."""
    mode, versions = job.asked()
    meter = job.Meter("flwr", mode)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=(job.CONCURRENCY + 0.5) / job.CLIENTS, fraction_evaluate=0.0,
            min_available_nodes=job.CLIENTS,
        )  # fmt: skip
        model = job.new_model()
        meter.begin()
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=versions)
        meter.end(versions * job.CONCURRENCY)
        model.load_state_dict(result.arrays.to_torch_state_dict())
        meter.report(model)

    ray = {"num_cpus": 1, "include_dashboard": False}
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": ray}
    run_simulation(server_app, client_app, job.CLIENTS, backend_config=resources)


if __name__ == "__main__":
    from reproduce.benchmark.peers.drivers.flwr import main as start  # Ray's workers must find the module by its name

    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    start()
