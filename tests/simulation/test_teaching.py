"""Clients that are taught: the loss by a plain loop, who teaches whom, and limits that must agree exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import small
from torch import Tensor

from fedrevive_core.config.price import price
from fedrevive_core.config.run import RunConfig
from fedrevive_core.config.training import LessonConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.models.device import Executor
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.training import Job, batch_sizes

pytestmark = pytest.mark.usefixtures("one_thread")
SAME = {"server__lr": 0.1, "federation__buffer_size": 1}


def final_state(config: RunConfig) -> str:
    return run(config, progress=False).summary["state_sha256"]


def test_a_lesson_is_the_plain_loop() -> None:
    """Adam on CE + 0.7 * 2^2 * sum_c p (ln p - ln q), p and q softmaxes at T = 2, written out step by step."""
    simulation = Simulation(small("fare-dust", training__lesson__temperature=2.0, training__steps=5))
    trainer, start = simulation.trainer, simulation.server.state
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    teacher = start + 0.05 * noise
    job = Job(3, 5, start, teacher, 0.7)
    (taught,) = trainer.train([job])

    numbers, draws = trainer._draw(job)
    parameters = trainer.layout.parameters(start).clone().requires_grad_()
    optimiser = torch.optim.Adam([parameters], lr=trainer.config.lr)
    first = 0
    for size in batch_sizes(len(trainer.data.shards[5]), 5, trainer.config.batch_size):
        chosen = slice(first, first + size)
        inputs, labels = trainer._batch(torch.tensor(numbers[None, chosen]), torch.tensor(draws[None, chosen]))
        first += size
        tensors = trainer.layout.views(start) | trainer.layout.parameter_views(parameters)
        logits = trainer.layout.call(tensors, inputs[0])
        told = trainer.layout.call(trainer.layout.views(teacher), inputs[0])
        p, q = (torch.softmax(answers / 2.0, dim=1) for answers in (told, logits))
        divergence = (p * (p.log() - q.log())).sum(dim=1).mean()
        loss = torch.nn.functional.cross_entropy(logits, labels[0]) + 0.7 * 4.0 * divergence
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(trainer.layout.parameters(taught), parameters.detach(), rtol=0, atol=2e-5)
    untaught = trainer.train([Job(3, 5, start)])[0]
    assert (trainer.layout.parameters(taught) - trainer.layout.parameters(untaught)).abs().max() > 1e-3


@pytest.mark.parametrize("executor", ["single", "stacked", "stacked-4", "captured-4"])
def test_taught_together_is_taught_alone(executor: str) -> None:
    """Jobs with several teachers and weights, among others that have none."""
    simulation = Simulation(small("fare-dust"))
    simulation.trainer.executor = Executor.parse(executor)
    start = simulation.server.state
    jobs = [
        Job(n, n, start + 0.01 * n, None if n % 3 == 0 else start - 0.02 * n, 0.0 if n % 3 == 0 else 0.5 * n)
        for n in range(9)
    ]
    together = torch.stack(simulation.trainer.train(jobs))
    alone = torch.stack([simulation.trainer.train([job])[0] for job in jobs])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["fare-dust", "fedadt"])
def test_a_weight_of_zero_is_the_plain_asynchronous_baseline_bit_for_bit(method: str) -> None:
    plain = final_state(small("fedbuff", **SAME))
    assert final_state(small(method, training__lesson__weight=0, **SAME)) == plain
    assert final_state(small(method, **SAME)) != plain


def test_nothing_is_corrected_where_nothing_is_stale() -> None:
    """In synchronous rounds FedADT is FedAvg bit for bit."""
    rounds = {"federation__buffer_size": 8, "federation__refill_size": 8, "federation__max_versions": 3}
    lesson = {"training__lesson__rise": 0, "evaluation__every": 1}
    assert final_state(small("fedadt", server__lr=0.7, **rounds, **lesson)) == final_state(
        small("fedavg", server__lr=0.7, **rounds)
    )


def processed(config: RunConfig) -> tuple[Simulation, dict[int, Job], list[Tensor]]:
    """A whole run, its jobs by number, and what the server was given at each arrival."""
    simulation = Simulation(config)
    jobs: dict[int, Job] = {}
    given: list[Tensor] = []
    train, receive = simulation.trainer.train, simulation.server.receive

    def noted(group: Any) -> list[Tensor]:
        jobs.update((job.number, job) for job in group)
        return train(group)

    def given_to(upload: Any) -> Any:
        given.append(upload.returned)
        return receive(upload)

    simulation.trainer.train = noted  # type: ignore[method-assign]
    simulation.server.receive = given_to  # type: ignore[method-assign]
    longest = 0
    for _ in simulation.steps():
        longest = max(longest, len(simulation.teaching.kept))
    assert longest <= simulation.config.training.lesson.kept + simulation.config.federation.concurrency
    return simulation, jobs, given


def test_a_teacher_is_one_of_the_models_returned_last_and_no_rejected_one() -> None:
    faults = {"federation__faults__non_finite": 0.2, "federation__faults__duplicate": 0.2}
    simulation, jobs, given = processed(
        small("fare-dust", training__lesson__kept=3, training__lesson__rise=4, federation__max_versions=40, **faults)
    )
    rejected = [bool(receipt.rejected) for receipt in simulation.recorder.receipts]
    assert any(rejected)
    back = set()
    for number, job in jobs.items():
        before = int(simulation.timeline.dispatched_after[number])
        assert job.weight == simulation.config.training.lesson.weight_at(before)
        window = range(max(before - 3, 0), before)
        same = [arrival for arrival in window if job.teacher is not None and torch.equal(given[arrival], job.teacher)]
        if job.teacher is None:
            assert before == 0 or any(rejected[arrival] for arrival in window)
        else:
            assert any(not rejected[arrival] for arrival in same)
            back |= {before - arrival for arrival in same}
    assert back == {1, 2, 3}
    assert not simulation.teaching.kept  # every teacher has been freed


def test_a_stale_model_is_corrected_once_by_the_current_one() -> None:
    """`returned` + a lesson of 2 steps from the current model, on batches of its own; a copy is not corrected."""
    config = small(
        "fedadt", training__lesson__steps=2, training__lesson__rise=10, federation__faults__duplicate=0.3, **SAME
    )
    simulation = Simulation(config)
    timeline, teaching = simulation.timeline, simulation.teaching
    taught: list[Job] = []
    train = teaching.corrector.train

    def noted(group: Any) -> list[Tensor]:
        taught.extend(group)
        return train(group)

    teaching.corrector.train = noted  # type: ignore[method-assign]
    for number in range(len(timeline.arrivals)):
        before, current, version = len(taught), simulation.server.state, simulation.version
        simulation.process(number)
        wanted = timeline.arrival_staleness[number] > 0 and not timeline.is_copy[number] and version > 0
        assert len(taught) == before + wanted
        if wanted:
            job = taught[-1]
            assert job.number == timeline.arrivals[number]
            assert job.teacher is current
            assert job.weight == min(version / 10, 1.0)
    assert timeline.is_copy.any()
    job = taught[-1]
    corrected, other = train([job])[0], Simulation(config).trainer.train([job])[0]
    assert teaching.corrector.config.steps == 2
    assert torch.equal(corrected, train([job])[0])
    assert not np.array_equal(teaching.corrector._draw(job)[0][:20], simulation.trainer._draw(job)[0][:20])
    assert 0 < (corrected - job.start).abs().max() < (other - job.start).abs().max()


def test_the_weight_rises_in_a_line() -> None:
    rising = LessonConfig(teacher="current", weight=2.0, rise=10)
    assert [rising.weight_at(version) for version in (0, 5, 10, 50)] == [0.0, 1.0, 2.0, 2.0]
    assert LessonConfig(weight=2.0).weight_at(0) == 2.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("teacher", "me"),
        ("weight", -1),
        ("weight", np.inf),
        ("temperature", 0),
        ("kept", 0),
        ("steps", 0),
        ("rise", -1),
    ],
)
def test_a_lesson_that_cannot_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^training\.lesson\.{field} = "):
        small("fare-dust", **{f"training__lesson__{field}": value})


def test_a_lesson_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = price(small("fedbuff", **SAME))
    returned, current = price(small("fare-dust", **SAME)), price(small("fedadt", **SAME))
    assert returned["operations"] > plain["operations"]
    assert current["operations"] > plain["operations"]
    assert returned["bytes"] > current["bytes"]
    monkeypatch.setenv("FEDREVIVE_MAX_COST", "0.01")
    for field, method in (("kept", "fare-dust"), ("steps", "fedadt")):
        with pytest.raises(ConfigError, match=r"this run would take about"):
            Simulation(small(method, **{f"training__lesson__{field}": 10**9}))
