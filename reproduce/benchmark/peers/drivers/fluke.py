"""fluke: `CentralizedFL`, which is FedAvg, with its `FastDataLoader`; it counts passes, not steps."""

from __future__ import annotations

from typing import Any

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.server import Server

from reproduce.benchmark.peers import job


def main() -> None:
    """Run what the command line asks for."""
    mode, versions = job.asked()
    meter = job.Meter("fluke-fl", mode)
    environment = FlukeENV()
    environment.set_device("cpu")
    environment.set_evaluator(ClassificationEval(eval_every=versions + 1, n_classes=10))
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    images, labels, *_ = job.digits()
    optimiser = OptimizerConfigurator(
        DDict(name=torch.optim.Adam, lr=job.LR), DDict(name="StepLR", step_size=1, gamma=1.0)
    )
    trained = []

    class Counted(Client):
        def fit(self, *given: Any) -> float:
            """Train as the package does, and count it."""
            trained.append(self.index)
            return super().fit(*given)

    clients = [
        Counted(
            number,
            FastDataLoader(images[shard], labels[shard], num_labels=10, batch_size=job.BATCH, shuffle=True),
            None,
            optimiser,
            torch.nn.CrossEntropyLoss(),
            local_epochs=job.STEPS // 2,
            persistency=False,
        )
        for number, shard in enumerate(job.shards(labels))
    ]
    server = Server(job.new_model(), None, clients)
    federation = CentralizedFL(job.CLIENTS, None, None, clients, server)
    meter.begin()
    federation.run(versions, (job.CONCURRENCY + 0.5) / job.CLIENTS, finalize=False)
    meter.end(len(trained))
    meter.report(server.model)


if __name__ == "__main__":
    main()
