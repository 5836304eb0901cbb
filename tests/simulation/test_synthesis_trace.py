"""Watching synthesis: the trace is what the run would do, and the run does not notice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import small

from fedrevive_core import Simulation
from fedrevive_core.plots.synthesis import plot_image_votes, plot_trace
from fedrevive_core.revival.synthesis import Synthesizer
from fedrevive_core.revival.teachers import teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_core.simulation.synthesis_trace import capture, trace_grid, trace_synthesis
from fedrevive_core.widgets.synthesis import synthesis_microscope


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """Stopped in the middle of a small run."""
    torch.set_num_threads(1)
    simulation = Simulation(small("fedrevive"))
    for number in range(10):
        simulation.process(number)
    return simulation


def test_a_trace_is_what_synthesis_gives_step_by_step(simulation: Simulation) -> None:
    """The pipeline's best images are those of the trace's step with the smallest total."""
    moment, run = capture(simulation), simulation.reviver.synthesizer
    trace = trace_synthesis(simulation, moment, steps=4, images_per_class=2)
    assert trace.images.shape == (4, 20, 1, 8, 8)
    assert trace.votes.shape == (4, len(moment.teachers) + 1, 20, 10)
    np.testing.assert_allclose(trace.votes.sum(axis=-1), 1, atol=1e-5)
    config = run.config.model_copy(update={"steps": 4, "batch_size": 20})
    synthesizer = Synthesizer(run.layout, run.prepare, moment.generator, config, guard=False)
    draws = synthesizer.draw(stream(simulation.config.seed, "synthesis", 0), moment.proportions)
    draws = replace(draws, labels=trace.labels)
    weights = torch.from_numpy(teacher_weights(moment.proportions)).float()
    made = synthesizer.synthesise(draws, moment.teachers, weights, moment.student, adversarial=True)
    total = trace.losses @ [config.feature_weight, config.label_weight, config.adversarial_weight]
    best = int(total.argmin())
    np.testing.assert_allclose(trace.losses[best], made.losses, rtol=1e-6)
    np.testing.assert_array_equal(trace.images[best], made.samples.mul(255).round().byte())


def test_the_run_goes_on_as_if_nobody_had_watched(simulation: Simulation) -> None:
    watched, alone = Simulation(small("fedrevive")), Simulation(small("fedrevive"))
    for number in range(12):
        watched.process(number)
        alone.process(number)
        if number == 8:
            trace_grid(watched, [capture(watched)], steps=2, images_per_class=1)
    assert torch.equal(watched.server.state, alone.server.state)
    assert torch.equal(watched.reviver.pool.samples, alone.reviver.pool.samples)


def test_a_moment_stays_when_the_run_goes_on() -> None:
    simulation = Simulation(small("fedrevive"))
    for number in range(9):
        simulation.process(number)
    moment = capture(simulation)
    before = trace_synthesis(simulation, moment, steps=2, images_per_class=1)
    for number in range(9, 14):
        simulation.process(number)
    after = trace_synthesis(simulation, moment, steps=2, images_per_class=1)
    assert moment.version == 9 != simulation.server.version
    np.testing.assert_array_equal(before.losses, after.losses)


def test_a_loss_that_is_switched_off_moves_nothing_but_is_measured(simulation: Simulation) -> None:
    moment = capture(simulation)
    label_only = trace_synthesis(simulation, moment, steps=5, images_per_class=2, weights=(0, 1, 0))
    feature_only = trace_synthesis(simulation, moment, steps=5, images_per_class=2, weights=(1, 0, 0))
    np.testing.assert_array_equal(label_only.images[0], feature_only.images[0])  # the same noise
    assert np.isfinite(label_only.losses).all()
    assert label_only.losses[-1, 1] < feature_only.losses[-1, 1]
    assert feature_only.losses[-1, 0] < label_only.losses[-1, 0]


def test_there_must_be_something_to_watch() -> None:
    with pytest.raises(ValueError, match="'afl-dw' synthesises nothing"):
        capture(Simulation(small("afl-dw")))
    with pytest.raises(ValueError, match="process an arrival first"):
        capture(Simulation(small("fedrevive")))


def test_the_microscope_follows_its_controls(simulation: Simulation) -> None:
    names = simulation.data.class_names
    grid = trace_grid(simulation, [capture(simulation)], steps=3, images_per_class=2)
    assert len(grid) == 7
    panel = synthesis_microscope(grid, names)
    for control, value in {"steps": 0, "label": 7, "hot": False}.items():
        before = panel.image.value
        panel.controls[control].value = value
        assert panel.image.value != before
        assert panel.status.value == "<i></i>&nbsp;"
    for control in ("feature", "adversarial"):
        panel.controls[control].value = False
    assert "switch at least one on" in panel.status.value


def test_figures_say_what_they_show(simulation: Simulation) -> None:
    names = simulation.data.class_names
    trace = trace_synthesis(simulation, capture(simulation), steps=3, images_per_class=2)
    figure = plot_trace(trace, 4, names, steps=1, on=(True, False, True))
    assert figure.texts[0].get_text() == "Version 10: images wanted of class 4, after 1 steps"
    assert "off" in figure.axes[2].get_title(loc="left")
    votes = figure.axes[4]
    assert [label.get_text() for label in votes.get_yticklabels()][-1] == "student"
    assert plot_image_votes(trace, 9, names).axes[0].get_title(loc="left") == "wanted: 4"
