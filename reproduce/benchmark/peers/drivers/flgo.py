"""FLGo: its FedBuff under its virtual clock, or its FedAvg, on a benchmark of its own making (`GeneralCalculator`).

As released, FLGo 0.4.4 fails with today's PyTorch: its `TaskDataset` overrides `Subset.__getitem__`, and a `DataLoader`
calls `Subset.__getitems__`, which asks the data set for whole lists. One method restores what was meant.
"""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import flgo
import flgo.algorithm.fedavg
import flgo.algorithm.fedbuff
import flgo.benchmark.partition
import flgo.benchmark.toolkits.cv.classification as classification
import flgo.simulator.default_simulator
from torch.utils.data import TensorDataset

from reproduce.benchmark.peers import job

NAME = "peer_digits"


class Simulator(flgo.simulator.default_simulator.Simulator):
    """Each client has its own latency, in tenths of the job's seconds: FLGo's clock counts whole units."""

    def initialize(self) -> None:
        """Set what the options do not."""
        super().initialize()
        self.set_variable(self.all_clients, "latency", [int(10 * seconds) for seconds in job.durations()])


def getitems(self: Any, numbers: list[int]) -> list[Any]:
    """The samples `numbers`, one by one."""
    return [self[number] for number in numbers]


class EachClient(flgo.benchmark.partition.BasicPartitioner):
    """Deals the job's shards."""

    num_clients = job.CLIENTS

    def __call__(self, data: TensorDataset) -> list[list[int]]:
        """The shards of `data`."""
        return job.shards(data.tensors[1])


def benchmark() -> types.ModuleType:
    """A benchmark as `flgo.gen_task_by_` wants it: a module with the digits and FLGo's own parts for images."""
    images, labels, test_images, test_labels = job.digits()
    data = {"train_data": TensorDataset(images, labels), "test_data": TensorDataset(test_images, test_labels)}
    classification.FromDatasetPipe.TaskDataset.__getitems__ = getitems
    module: Any = types.ModuleType(NAME)
    core: Any = types.ModuleType(f"{NAME}.core")

    class TaskGenerator(classification.FromDatasetGenerator):
        __module__ = core.__name__

        def __init__(self) -> None:
            super().__init__(benchmark=NAME, **data)

    class TaskPipe(classification.FromDatasetPipe):
        def __init__(self, task_path: str) -> None:
            super().__init__(task_path, **data)

    core.TaskGenerator, core.TaskPipe, core.TaskCalculator = TaskGenerator, TaskPipe, classification.GeneralCalculator
    module.core, module.visualize, module.__path__ = core, lambda *_: None, []
    sys.modules |= {NAME: module, core.__name__: core}
    return module


def main() -> None:
    """Run what the command line asks for."""
    mode, versions = job.asked()
    meter = job.Meter("flgo", mode)
    source = {"async": flgo.algorithm.fedbuff, "sync": flgo.algorithm.fedavg}[mode]
    trained: list[int] = []

    class Client(source.Client):  # type: ignore[name-defined]
        def train(self, model: Any) -> None:
            """Train as the package does, and count it."""
            super().train(model)
            trained.append(self.id)

    algorithm: Any = types.ModuleType(f"{mode}_algorithm")
    algorithm.Server, algorithm.Client = source.Server, Client
    with tempfile.TemporaryDirectory() as folder:
        task = str(Path(folder) / "task")
        flgo.gen_task_by_(benchmark(), EachClient(), task)
        option = {
            "num_rounds": versions, "proportion": (job.CONCURRENCY + 0.5) / job.CLIENTS, "num_steps": job.STEPS,
            "batch_size": job.BATCH, "learning_rate": job.LR, "optimizer": "Adam", "train_holdout": 0.0,
            "eval_interval": versions, "no_log_console": True, "no_tqdm": True, "sample": "uniform",
        }  # fmt: skip
        if mode == "async":
            option["algo_para"] = [(job.BUFFER + 0.5) / job.CLIENTS, 1.0]
        model = flgo.convert_model(job.new_model)
        simulator = Simulator if mode == "async" else flgo.simulator.DefaultSimulator
        runner = flgo.init(task, algorithm, option, model, Simulator=simulator)
        meter.begin()
        runner.run()
        meter.end(len(trained))
    meter.report(runner.model)


if __name__ == "__main__":
    main()
