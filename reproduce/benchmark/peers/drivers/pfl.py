"""pfl-research: `FederatedAveraging` on a `SimulatedBackend`; users are in-memory tensors, its fastest kind of data.

It counts passes, not steps, and does not shuffle them."""

from __future__ import annotations

from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.benchmark.peers import job


class Model(nn.Module):
    """The job's model with the two methods that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = job.new_model()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.net(x)

    def loss(self, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self(x), y)

    def metrics(self, *_: Any, **__: Any) -> dict[str, Any]:
        """None are asked for."""
        return {}


def main() -> None:
    """Run what the command line asks for."""
    mode, versions = job.asked()
    meter = job.Meter("pfl", mode)
    images, labels, *_ = job.digits()
    users = {n: (images[shard], labels[shard]) for n, shard in enumerate(job.shards(labels))}
    trained = []

    def make_user(number: int) -> PyTorchTensorDataset:
        trained.append(number)
        return PyTorchTensorDataset(users[number], user_id=str(number))

    net = Model()
    model = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.Adam,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    sampler = get_user_sampler("minimize_reuse", list(users))
    backend = SimulatedBackend(training_data=FederatedDataset(make_user, sampler), val_data=None)
    algorithm = NNAlgorithmParams(
        central_num_iterations=versions, evaluation_frequency=versions + 1,
        train_cohort_size=job.CONCURRENCY, val_cohort_size=0,
    )  # fmt: skip
    training = NNTrainHyperParams(
        local_learning_rate=job.LR, local_num_epochs=job.STEPS // 2, local_batch_size=job.BATCH
    )
    meter.begin()
    FederatedAveraging().run(algorithm, backend, model, training, send_metrics_to_platform=False)
    meter.end(len(trained))
    meter.report(net.net)


if __name__ == "__main__":
    main()
