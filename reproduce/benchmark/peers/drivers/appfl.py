"""APPFL: its virtual-time drivers (`AsyncSimDriver` with FedBuff, `SyncSimDriver` with FedAvg) and `VanillaTrainer`.

`optimize_memory` is off everywhere: on, as it is by default, APPFL collects garbage several times for every job, which
takes nearly all of the time of a small model.
"""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import numpy as np
from appfl.agent import SimClientAgent, SimServerAgent
from appfl.vsim import AsyncSimDriver, ClientProfile, SyncSimDriver
from torch.utils.data import Subset, TensorDataset

from reproduce.benchmark.peers import job


def share_right(true: np.ndarray, predicted: np.ndarray) -> float:
    """The metric that `VanillaTrainer` wants."""
    return float((true == predicted.argmax(axis=1)).mean())


def configuration(mode: str, versions: int, logs: str) -> dict[str, Any]:
    """What APPFL reads from a YAML file."""
    common = {"device": "cpu", "logging_output_dirname": logs, "optimize_memory": False}
    training = common | {
        "trainer": "VanillaTrainer", "mode": "step", "num_local_steps": job.STEPS, "optim": "Adam",
        "optim_args": {"lr": job.LR}, "train_batch_size": job.BATCH, "loss_fn": "CrossEntropyLoss",
        "metric_path": __file__, "metric_name": "share_right", "enable_wandb": False,
    }  # fmt: skip
    server = common | {"num_clients": job.CLIENTS, "num_global_epochs": versions}
    server |= {"scheduler_kwargs": {"num_clients": job.CLIENTS, "optimize_memory": False}}
    if mode == "async":
        server |= {
            "num_global_epochs": versions * job.BUFFER,  # APPFL counts an arrival as an epoch
            "scheduler": "AsyncScheduler",
            "aggregator": "FedBuffAggregator",
            "aggregator_kwargs": {
                "K": job.BUFFER,
                "num_clients": job.BUFFER,
                "alpha": 1.0,
                "optimize_memory": False,
                "staleness_fn": "polynomial",
                "staleness_fn_kwargs": {"a": 0.5},
            },
        }
    else:
        weights = {"client_weights_mode": "equal", "optimize_memory": False}
        server |= {"scheduler": "SyncScheduler", "aggregator": "FedAvgAggregator", "aggregator_kwargs": weights}
    model = {"model_path": job.__file__, "model_name": "new_model"}
    clients = {"train_configs": training, "model_configs": model, "optimize_memory": False}
    return {"client_configs": clients, "server_configs": server}


def main() -> None:
    """Run what the command line asks for."""
    mode, versions = job.asked()
    meter = job.Meter("appfl", mode)
    images, labels, *_ = job.digits()
    data = TensorDataset(images, labels)
    trained = []

    class Client(SimClientAgent):
        def train(self, **given: Any) -> None:
            """Train as the package does, and count it."""
            super().train(**given)
            trained.append(self.get_id())

    with tempfile.TemporaryDirectory() as logs:
        settings = configuration(mode, versions, logs)
        server = SimServerAgent(settings, num_clients=job.CLIENTS)
        of_clients = settings["client_configs"]
        clients = [Client(of_clients, str(n), Subset(data, shard)) for n, shard in enumerate(job.shards(labels))]
        # A client's pace is the job's: `base_step_time` times steps times factor.
        profiles = {str(n): ClientProfile(compute_factor=seconds) for n, seconds in enumerate(job.durations())}
        common = {"logger": logging.getLogger("appfl-sim"), "base_step_time": 1 / job.STEPS}
        if mode == "async":
            driver = AsyncSimDriver(server, clients, profiles, max_in_flight=job.CONCURRENCY, **common)
        else:
            driver = SyncSimDriver(server, clients, profiles, job.CONCURRENCY, target_rounds=versions, **common)
        meter.begin()
        driver.run()
        meter.end(len(trained))
        model = job.new_model()
        model.load_state_dict(server.get_parameters(serial_run=True))
    meter.report(model)


if __name__ == "__main__":
    main()
