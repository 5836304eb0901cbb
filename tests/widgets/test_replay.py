"""Time travel: what the figure of an arrival says, the slider, and branches behind a button."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import run_until, small

from fedrevive_core.plots.arrival import lead_of_branch, plot_arrival, plot_branches, since_branch
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.widgets.replay import WhatIf, branch, time_travel

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("fedrevive", "dd-fedrevive", "afl-dw", "fedbuff", "fedasync-poly")


@pytest.fixture(scope="module")
def records():
    return {method: run(small(method, evaluation__every=4), progress=False) for method in METHODS}


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_time_shows_the_last_arrival_until_then(records):
    record = records["fedrevive"]
    times = record.arrivals["sim_time"]
    for number, time in ((9, times[9]), (9, (times[9] + times[10]) / 2), (0, 0.0), (15, 1e9)):
        row = record.arrivals.iloc[number]
        said = words(plot_arrival(record, time))
        assert f"time {row['sim_time']:.2f}: client {row['client']} arrives" in said
        assert f"upload {number + 1} of {len(record.arrivals)}, at version {row['version']};" in said


def test_the_arrows_have_the_norms_the_angle_and_the_weights_of_the_record(records):
    record = records["fedrevive"]
    number = int(np.flatnonzero(record.arrivals["revived"])[-1])
    row = record.arrivals.iloc[number]
    figure = plot_arrival(record, row["sim_time"])
    (arrows,) = [artist for artist in figure.axes[0].collections if hasattr(artist, "U")]
    client, distilled, blend = np.stack([arrows.U, arrows.V], axis=1)
    assert np.linalg.norm(client) == pytest.approx((1 - row["beta"]) * row["client_norm"])
    assert np.linalg.norm(distilled) == pytest.approx(row["beta"] * row["distilled_norm"])
    cosine = client @ distilled / np.linalg.norm(client) / np.linalg.norm(distilled)
    assert cosine == pytest.approx(row["cosine"], abs=1e-5)
    assert np.allclose(blend, client + distilled)
    assert figure.axes[0].get_aspect() == 1  # or the angle would not be the cosine's


def test_the_teachers_are_the_newest_arrivals_newest_on_top(records):
    record = records["fedrevive"]
    figure = plot_arrival(record, record.arrivals["sim_time"][9])
    axes = figure.axes[2]
    newest = record.arrivals["client"][2:10][::-1].tolist()
    assert [int(label.get_text()) for label in axes.get_yticklabels()] == newest
    assert [bar.get_width() for bar in axes.patches] == record.arrivals["staleness"][2:10][::-1].tolist()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("dd-fedrevive", "that the server holds"),
        ("afl-dw", "the rest is lost"),
        ("afl-dw", "no teachers"),
        ("fedbuff", "its update counts in full"),
    ],
)
def test_what_a_method_does_not_have_is_said(records, method, said):
    record = records[method]
    assert said in words(plot_arrival(record, record.arrivals["sim_time"].iloc[-1]))


def test_the_slider_goes_from_arrival_to_arrival_and_the_choice_from_run_to_run(records):
    panel = time_travel(list(records.values()), start=0.0)
    time, method = panel.controls["sim_time"], panel.controls["run"]
    assert len(time.options) == len(records["fedrevive"].arrivals)
    seen = [panel.image.value]
    time.index += 1
    seen.append(panel.image.value)
    method.value = 2
    seen.append(panel.image.value)
    assert len(set(seen)) == 3
    assert dict(method.options)["AFL-DW"] == 2
    assert "fedrevive-panel" in panel._dom_classes


@pytest.fixture(scope="module")
def past():
    config = small("fedrevive", evaluation__every=4, federation__buffer_size=1)
    simulation = run_until(Simulation(config), 6)
    kept = [simulation.branched(config)]
    run_until(simulation, 12)
    return [*kept, simulation.branched(config)], simulation.run(progress=False)


def test_a_button_trains_and_the_branch_joins_the_figure(past):
    simulations, record = past
    alternatives = {"AFL-DW": small("afl-dw", evaluation__every=4), "FedBuff": small("fedbuff")}
    panel = WhatIf(simulations, alternatives, record)
    assert panel.branches == {}
    before = panel.image.value
    panel.button.click()
    (made,) = panel.branches.values()
    assert list(panel.branches) == ["AFL-DW, from version 12"]
    assert made.provenance["branches"][0]["version"] == 12
    assert panel.image.value != before
    assert not panel.button.disabled
    assert panel.bar.value == panel.bar.max == 4
    panel.controls["start"].value, panel.controls["title"].value = 0, "FedBuff"
    assert len(panel.branches) == 1  # moving controls trains nothing
    panel.button.click()
    assert "Not trained: ConfigError: a branch cannot differ in federation.buffer_size" in panel.status.value
    assert len(panel.branches) == 1
    assert not panel.button.disabled


def test_a_branch_that_changes_nothing_is_the_run_itself(past):
    simulations, record = past
    told = []
    again = branch(simulations[0], simulations[0].config, lambda done, total: told.append((done, total)))
    assert again.summary["state_sha256"] == record.summary["state_sha256"]
    assert told == [(number, 10) for number in range(1, 11)]


def test_branches_leave_the_run_where_they_branched(past):
    simulations, record = past
    other = branch(simulations[1], small("afl-dw", evaluation__every=4))
    axes = plot_branches(record, {"other": other}, at=simulations[1].now).axes[0]
    whole, part = (line.get_xdata() for line in axes.lines[:2])
    assert len(part) < len(whole)
    assert part[0] in whole
    assert part[-1] == whole[-1]


def test_a_branch_is_compared_with_its_run_over_all_evaluations_since(past):
    """By hand: after version 12 the run is evaluated at 16; the branch itself stands where it parted."""
    simulations, record = past
    other = branch(simulations[1], small("afl-dw", evaluation__every=4))
    accuracy = {version: run.evaluations.set_index("version")["accuracy"] for version, run in ((0, record), (1, other))}
    later = [version for version in accuracy[0].index if version > 12]
    assert later
    assert since_branch(record, other)["version"].tolist() == later
    lead = 100 * np.mean([accuracy[1][version] - accuracy[0][version] for version in later])
    assert lead_of_branch(record, other) == pytest.approx(lead)
    figure = plot_branches(record, {"other": other}, at=simulations[1].now)
    assert f"{lead:+.1f} points on average" in figure.legends[0].get_texts()[1].get_text()
    assert lead_of_branch(record, branch(simulations[1], simulations[1].config)) == 0
