"""The reference path of the benchmark computes what the package computes: to rounding where both get the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrevive_core.aggregation import new_version
from fedrevive_core.revival import Distiller, Synthesizer, teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_core.server import blend
from fedrevive_core.training import Job, batch_sizes
from fedrevive_core.transforms import Preparation
from reproduce.benchmark import reference
from reproduce.benchmark.bench import WORKLOADS, Workload, accuracies, plot_bench, side_by_side

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload("LabNet 8x8", CPU)


def flat(workload: Workload, state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1) for name in workload.layout.names])


def teachers_of(workload: Workload, count: int = 3) -> tuple[list[torch.Tensor], list[torch.nn.Module]]:
    rng = torch.Generator().manual_seed(0)
    states = [workload.state + 0.05 * torch.randn(len(workload.state), generator=rng).abs() for _ in range(count)]
    return states, [reference.loaded(workload.model, workload.by_name(state)) for state in states]


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_plain_network_is_the_packages(name: str) -> None:
    made = Workload(name, CPU)
    theirs = reference.loaded(made.model, made.named)
    assert flat(made, theirs.state_dict()).equal(made.state)
    x = made.images.images[:4] - 0.5
    torch.testing.assert_close(made.layout.call(made.layout.views(made.state), x), theirs(x))


def test_a_client(workload: Workload) -> None:
    """Three passes through a shard of 60: batches of 32 and 28, which both take in the order that the package drew."""
    job = Job(0, 0, workload.state)
    numbers, _ = workload.trainer._draw(job)
    ends = np.cumsum(batch_sizes(60, workload.training.steps, 32))[:-1]
    (ours,) = workload.trainer.train([job])
    theirs = reference.train_client(
        workload.model, workload.named, workload.samples, np.split(numbers, ends), workload.training
    )
    assert (ours - workload.state).norm() > 0.1
    torch.testing.assert_close(ours, flat(workload, theirs), rtol=1e-3, atol=1e-4)


def test_the_batches_are_shuffled_passes(workload: Workload) -> None:
    shard = np.arange(100, 160)
    batches = list(reference.shuffled(shard, workload.training, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == batch_sizes(60, workload.training.steps, 32)
    assert sorted(np.concatenate(batches[:2])) == sorted(np.concatenate(batches[2:4])) == list(shard)


def test_a_distillation(workload: Workload) -> None:
    config = workload.config.distillation.model_copy(update={"steps": 4, "batch_size": 6, "temperature": 2.0})
    prepare = Preparation(workload.data_config, CPU, synthetic=True)
    distiller = Distiller(workload.layout, prepare, config, CPU, guard=True)
    states, modules = teachers_of(workload)
    samples, draws = workload.images.images[:72].view(3, 4, 6, 1, 8, 8), torch.zeros(3, 4, 6, 4)
    update = distiller.distil(workload.state, states, samples, draws).update
    guard = reference.Guard()
    after = reference.distil(workload.model, workload.named, modules, samples, draws, prepare, config, guard)
    change = workload.layout.parameters(flat(workload, after) - workload.state)
    assert change.norm() > 0.05
    torch.testing.assert_close(workload.layout.parameters(update), change, rtol=1e-3, atol=1e-4)


def test_a_synthesis(workload: Workload) -> None:
    """The images, and the generator after its Reptile step."""
    config, share = workload.config.synthesis, np.random.default_rng(0).dirichlet(np.ones(10), 3)
    prepare = Preparation(workload.data_config, CPU, synthetic=True)
    generator = reference.make_generator(config, 1, 8)
    reference.copy_parameters(workload.generator, generator)
    synthesizer = Synthesizer(workload.layout, prepare, workload.generator, config, guard=True)
    theirs = reference.Synthesis(generator, config, prepare)
    draws = synthesizer.draw(stream(0, "synthesis", 0), share)
    states, modules = teachers_of(workload)
    weights = torch.from_numpy(teacher_weights(share)).float()
    torch.testing.assert_close(reference.teacher_weights(share), weights)
    before = torch.cat([p.detach().flatten() for p in workload.generator.parameters()])
    made = synthesizer.synthesise(draws, states, weights, workload.state, adversarial=True)
    student = reference.loaded(workload.model, workload.named)
    images = theirs.make(draws, modules, weights, student, 8)
    torch.testing.assert_close(made.samples, images)
    after = torch.cat([p.detach().flatten() for p in workload.generator.parameters()])
    assert (after - before).norm() > 0.1
    torch.testing.assert_close(
        after, torch.cat([p.detach().flatten() for p in generator.parameters()]), rtol=1e-2, atol=1e-3
    )


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
    rates = side_by_side(lambda: sum(range(10_000)), lambda: sum(range(10_000)), 1, 3, CPU)
    assert rates["ratio_min"] <= rates["ratio"] <= rates["ratio_max"]
    measured = {
        "results": {"client steps/s": {"LabNet 8x8": rates}, "timeline arrivals/s": {"N = 1,000": 1.0}},
        "clock": "CPU time",
        "provenance": {"device": "cpu", "num_threads": 1},
    }
    (axes,) = plot_bench(measured).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["client steps, LabNet 8x8"]
