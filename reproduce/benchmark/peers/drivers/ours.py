"""This package: `Simulation` on the job's model, data and federation."""

from __future__ import annotations

import numpy as np

from fedrevive_core.config import build
from fedrevive_core.data import FederatedData, Images
from fedrevive_core.simulation import Simulation
from reproduce.benchmark.peers import job


def main() -> None:
    """Run what the command line asks for."""
    mode, versions = job.asked()
    meter = job.Meter("fedrevive", mode)
    simulation = prepare(mode, versions)
    meter.begin()
    simulation.run(progress=False)
    meter.end(simulation.num_processed)
    model = simulation.layout.model()
    model.load_state_dict(simulation.layout.views(simulation.server.state))
    meter.report(model)


def prepare(mode: str, versions: int) -> Simulation:
    """The run, ready to begin."""
    images, labels, test_images, test_labels = job.digits()
    shards = [np.array(shard) for shard in job.shards(labels)]
    counts = np.stack([np.bincount(labels.numpy()[shard], minlength=10) for shard in shards])
    test = Images(test_images, test_labels)
    names = tuple("0123456789")
    data = FederatedData(Images(images, labels), shards, test, test, test, names, counts / job.SHARD)
    federation = {"num_clients": job.CLIENTS, "concurrency": job.CONCURRENCY, "max_sim_time": None}
    if mode == "async":
        federation["buffer_size"] = job.BUFFER
    settings = {f"federation.{name}": value for name, value in federation.items()} | {
        "federation.max_versions": versions,
        "training.steps": job.STEPS,
        "training.batch_size": job.BATCH,
        "training.lr": job.LR,
        "server.lr": 1.0,
        "staleness.rule": "polynomial",
        "staleness.power": 0.5,
        "evaluation.every": versions,
        "num_threads": 1,
        "device": "cpu",
    }
    method = "fedbuff" if mode == "async" else "fedavg"
    return Simulation(build("lab-digits", method, overrides=settings), job.new_model(), data)


if __name__ == "__main__":
    main()
