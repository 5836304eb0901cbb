"""The reference path of the benchmark computes what the package computes: where no draw is left to chance, the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrevive_core.aggregation import new_version
from fedrevive_core.config.run import DistillationConfig
from fedrevive_core.revival.distillation import Distiller
from fedrevive_core.server import blend
from fedrevive_core.training import Job
from fedrevive_core.transforms import Preparation
from reproduce.benchmark import reference
from reproduce.benchmark.bench import Workload, accuracies, plot_bench, side_by_side

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workload() -> Workload:
    made = Workload("LabNet 8x8", CPU)
    # Whole levels of grey, as pictures have them, so that turning images into pictures loses nothing.
    made.images.images.mul_(255).round_().div_(255)
    made.dataset = reference.ImageDataset(made.images, made.data_config)
    return made


def flat(workload: Workload, state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1) for name in workload.layout.names])


def test_a_client_whose_shard_is_one_batch(workload: Workload) -> None:
    """Whatever the order within the batch, its gradient is the same."""
    shard = workload.shards[0][:20]
    workload.trainer.data.shards[0] = shard
    (ours,) = workload.trainer.train([Job(0, 0, workload.state)])
    theirs = reference.train_client(workload.model, workload.named, workload.dataset, shard, workload.training)
    assert (ours - workload.state).norm() > 0.1
    torch.testing.assert_close(ours, flat(workload, theirs), rtol=1e-3, atol=1e-4)


def test_a_student_of_one_sample(workload: Workload) -> None:
    """A pool that holds one image: every draw is that image."""
    config = DistillationConfig(steps=4, batch_size=6, lr=1e-3)
    prepare = Preparation(workload.data_config, CPU, synthetic=True)
    distiller = Distiller(workload.layout, prepare, config, CPU, guard=False)
    teachers = [workload.state + 0.05 * (m + 1) for m in range(3)]
    image = workload.images.images[:1]
    draws = torch.zeros(3, config.steps, config.batch_size, 4)
    samples = image.expand(3, config.steps, config.batch_size, *image.shape[1:])
    update = distiller.distil(workload.state, teachers, samples, draws).update
    named = [{n: t.clone() for n, t in workload.layout.views(teacher).items()} for teacher in teachers]
    after = reference.distil(
        workload.model, workload.named, named, [np.full(10, 0.1)] * 3, [image[0]], [0], workload.data_config, config
    )
    change = workload.layout.parameters(flat(workload, after) - workload.state)
    assert change.norm() > 0.05
    torch.testing.assert_close(workload.layout.parameters(update), change, rtol=1e-3, atol=1e-4)


def test_a_new_version(workload: Workload) -> None:
    client, distilled = workload.state * 0.1, workload.state * -0.2
    ours = new_version(workload.layout, workload.state, [blend(client, distilled, 0.3)], 0.5)
    named = [{n: t.clone() for n, t in workload.layout.views(v).items()} for v in (client, distilled)]
    theirs = reference.blend_and_step(workload.named, *named, 0.3, 0.5)
    parameters = workload.layout.parameters
    torch.testing.assert_close(parameters(ours), parameters(flat(workload, theirs)))


def test_accuracies_of_both_paths() -> None:
    found = accuracies(CPU, (0,), 10)
    assert found["order"] == ["ours", "reference"]
    (row,) = found["runs"]
    assert row["seed"] == 0
    assert all(0 <= value <= 1 for value in (*row["final"], *row["mean"]))


def test_the_figure_has_a_row_for_every_ratio() -> None:
    rates = side_by_side(lambda: None, lambda: None, 1, 3)
    assert rates["ratio_min"] <= rates["ratio"] <= rates["ratio_max"]
    measured = {
        "results": {"client steps/s": {"LabNet 8x8": rates}, "timeline arrivals/s": {"N = 1,000": 1.0}},
        "provenance": {"device": "cpu", "num_threads": 1},
    }
    (axes,) = plot_bench(measured).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["client steps, LabNet 8x8"]
