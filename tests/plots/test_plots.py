"""Figures show the numbers they claim to show, and need neither training nor PyTorch."""

from __future__ import annotations

import base64
import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from helpers import FEW, record_of
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from fedrevive_core import plots
from fedrevive_core.config.faults import FAULTS
from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import StalenessConfig
from fedrevive_core.plots.style import UNKNOWN_COLOUR
from fedrevive_core.records import confidence_interval
from fedrevive_core.records.record import Record
from fedrevive_core.timeline import expected_staleness
from fedrevive_core.timeline.event_loop import play, simulate_timeline
from fedrevive_core.timeline.timeline import Timeline


def timeline_of(method: str = "fedrevive", **federation: object) -> Timeline:
    overrides = {**FEW, **{f"federation.{name}": value for name, value in federation.items()}}
    return simulate_timeline(build("lab-digits", method, overrides=overrides).federation, 0)


def hand_timeline() -> Timeline:
    """Two clients, both at work; client 0 takes 1, client 1 takes 3, and the run ends at 4.5.

    client 0  |--0--|--2--|--3--|--5--|--6~~         jobs 0, 2, 3, 5 arrive at 1, 2, 3, 4
    client 1  |--------1--------|--4~~~~~~~~         job 1 arrives at 3, before job 3: it was dispatched first
    time      0     1     2     3     4 4.5          job 1 is 2 versions stale, job 3 is 1 version stale
    """
    schedule = {
        part: {"kind": "constant", "means": [1.0], "odds": [1.0]} for part in ("training", "download", "upload")
    }
    federation = FederationConfig(num_clients=2, concurrency=2, schedule=schedule, max_sim_time=4.5)
    return play(federation, lambda client: 3.0 if client else 1.0, lambda: 0.0, np.array([1.0, 3.0]))


def renamed(record: Record, method: str) -> Record:
    return record_of(config=record.config.model_copy(update={"method": method}))


def bars(figure: Figure) -> tuple[PolyCollection, PolyCollection]:
    """Coloured bars, and grey ones."""
    coloured, grey = (c for c in figure.axes[0].collections if isinstance(c, PolyCollection))
    return coloured, grey


def extents(collection: PolyCollection) -> list[tuple[float, float]]:
    return [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in collection.get_paths()]


def test_importing_plots_imports_neither_torch_nor_pyplot_nor_widgets_and_sets_no_style() -> None:
    # Asking for the backend would import pyplot.
    code = """
import sys, matplotlib
style = lambda: {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = style()
import fedrevive_core.plots
assert style() == before
print({"torch", "ipywidgets", "matplotlib.pyplot", "fedrevive_core.simulation"} & set(sys.modules) or "none")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "none\n"


def test_every_method_has_a_colour_of_its_own() -> None:
    assert set(plots.METHOD_COLOURS) == set(METHODS)
    assert len({*plots.METHOD_COLOURS.values(), UNKNOWN_COLOUR}) == len(METHODS) + 1


def test_figures_leave_global_style_and_a_notebook_picture_behind() -> None:
    before = dict(mpl.rcParams)
    figure = plots.plot_staleness(hand_timeline())
    assert dict(mpl.rcParams) == before
    assert isinstance(figure, Figure)
    data, metadata = figure._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    size = metadata["image/png"]
    assert (size["width"], size["height"]) == tuple((figure.get_size_inches() * figure.dpi).round())


# Timeline


def test_hand_drawn_timeline_is_drawn_as_in_its_docstring() -> None:
    figure = plots.plot_timeline(hand_timeline(), until=100.0)
    coloured, grey = bars(figure)
    assert sorted(extents(coloured)) == [(0, 1), (0, 3), (1, 2), (2, 3), (3, 4)]
    staleness = dict(zip(extents(coloured), coloured.get_array().tolist(), strict=True))
    assert staleness == {(0, 1): 0, (0, 3): 2, (1, 2): 0, (2, 3): 1, (3, 4): 0}
    assert sorted(extents(grey)) == [(3, 4)], "the run is drawn to its last arrival; bars still in flight end there"
    assert figure.axes[0].get_title("left") == "Who works when: the whole run; all 2 clients"
    lanes = [path.get_extents().intervaly.mean().round(6) for path in coloured.get_paths()]
    lane_of = dict(zip(extents(coloured), lanes, strict=True))
    assert lane_of == {(0, 1): 0, (0, 3): 1, (1, 2): 0, (2, 3): 0, (3, 4): 0}, "the fast client is on top"


def test_lost_jobs_are_outlined_in_red_and_named() -> None:
    """The slow client's job crashes at 1.5; of the fast one's, the second never returns and is given up at 1 + 2."""
    schedule = {
        part: {"kind": "constant", "means": [1.0], "odds": [1.0]} for part in ("training", "download", "upload")
    }
    config = FederationConfig(
        num_clients=2, concurrency=2, schedule=schedule, max_sim_time=6.5, faults={"never_return": 0.1, "timeout": 2.0}
    )
    codes = iter([0, FAULTS.index("crash"), FAULTS.index("never_return")] + [0] * 20)
    lasts = iter([1.0, 3.0] + [1.0] * 20)
    timeline = play(config, lambda _: next(lasts), lambda: 0.0, np.ones(2), lambda: next(codes), lambda: 0.5)
    figure = plots.plot_timeline(timeline, until=100.0)
    _, _, given_up, crashed = (c for c in figure.axes[0].collections if isinstance(c, PolyCollection))
    assert extents(crashed) == [(0, 1.5)]
    assert extents(given_up) == [(1, 3)]
    assert all(collection.get_hatch() for collection in (given_up, crashed))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1:] == ["lost: never returns, until given up", "lost: client crashes"]


@pytest.mark.parametrize("until", [None, 2.0, 1e9])
def test_there_is_one_bar_for_each_job_in_the_window(until: float | None) -> None:
    timeline = timeline_of()
    figure = plots.plot_timeline(timeline, until=until)
    end = figure.axes[0].get_xlim()[1]
    jobs = timeline.jobs()
    jobs = jobs[jobs["dispatch_time"] < end]
    coloured, grey = bars(figure)
    assert len(coloured.get_paths()) == (jobs["staleness"] >= 0).sum()
    assert len(grey.get_paths()) == (jobs["staleness"] < 0).sum()
    assert max(right for _, right in extents(coloured)) <= end


def test_by_default_a_start_of_the_run_is_shown_and_said() -> None:
    timeline = timeline_of()
    axes = plots.plot_timeline(timeline).axes[0]
    duration = (timeline.arrival_time - timeline.dispatch_time).mean()
    assert axes.get_xlim()[1] == pytest.approx(4 * duration)
    assert f"to time {4 * duration:.3g} of {timeline.sim_time:.3g}" in axes.get_title("left")


def test_synchronous_rounds_are_shown_until_the_third() -> None:
    timeline = timeline_of("fedavg")
    axes = plots.plot_timeline(timeline).axes[0]
    third = timeline.arrival_time[timeline.arrivals[3 * 6 - 1]]
    assert third < axes.get_xlim()[1] < 1.1 * third


def test_darker_bars_are_staler() -> None:
    coloured, _ = bars(plots.plot_timeline(timeline_of()))
    coloured.update_scalarmappable()
    lightness = coloured.get_facecolor()[:, :3] @ [0.299, 0.587, 0.114]
    order = np.argsort(coloured.get_array())
    assert np.all(np.diff(lightness[order]) <= 1e-9)


def test_of_many_clients_some_are_shown_from_the_fastest_to_the_slowest() -> None:
    timeline = timeline_of(num_clients=100, concurrency=60)
    figure = plots.plot_timeline(timeline, max_clients=10)
    axes = figure.axes[0]
    shown = [int(label.get_text()) for label in axes.get_yticklabels()]
    durations = timeline.mean_duration[shown]
    assert len(set(shown)) == 10
    assert np.all(np.diff(durations) >= 0)
    assert durations[[0, -1]].tolist() == [timeline.mean_duration.min(), timeline.mean_duration.max()]
    assert axes.get_title("left").endswith("10 of 100 clients")
    coloured, grey = bars(figure)
    in_window = timeline.dispatch_time < axes.get_xlim()[1]
    assert len(coloured.get_paths()) + len(grey.get_paths()) == (in_window & np.isin(timeline.client, shown)).sum()


def test_many_lanes_are_labelled_by_speed_group() -> None:
    axes = plots.plot_timeline(timeline_of(num_clients=100, concurrency=60)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fast", "medium", "slow"]


def test_version_numbers_stand_where_versions_are_made() -> None:
    timeline = timeline_of(buffer_size=2)
    axes = plots.plot_timeline(timeline, until=1e9).axes[0]
    (above,) = axes.child_axes
    ticks = {
        int(label.get_text()): place for label, place in zip(above.get_xticklabels(), above.get_xticks(), strict=True)
    }
    assert ticks.pop(0) == 0.0
    assert len(ticks) > 3
    for version, place in ticks.items():
        assert place == timeline.arrival_time[timeline.arrivals[2 * version - 1]]


@pytest.mark.parametrize("bad", [{"max_clients": 0}, {"until": 0.0}])
def test_an_empty_window_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        plots.plot_timeline(hand_timeline(), **bad)


# Staleness


def test_histogram_marks_the_mean_and_littles_prediction() -> None:
    timeline = timeline_of(buffer_size=2)
    axes = plots.plot_staleness(timeline).axes[0]
    (mean,) = axes.lines
    assert mean.get_xdata()[0] == timeline.staleness[timeline.arrivals].mean()
    (law,) = axes.collections
    assert law.get_offsets()[0, 0] == 5 / 2
    assert "$(6-1)/2$ = 2.5" in law.get_label()
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)


def test_histogram_of_few_versions_has_a_bar_for_each() -> None:
    axes = plots.plot_staleness(record_of(staleness=(0, 0, 1, 3))).axes[0]
    assert {bar.get_x() + 0.5: bar.get_height() for bar in axes.patches} == {0: 0.5, 1: 0.25, 2: 0, 3: 0.25}


def test_titles_and_methods_get_a_panel_each_and_seeds_share_one() -> None:
    titled = plots.plot_staleness({"small": timeline_of(), "from a run": record_of()})
    assert [axes.get_title("left") for axes in titled.axes] == ["small", "from a run"]
    runs = [record_of("fedrevive"), record_of("fedbuff", 0, staleness=(2,)), record_of("fedbuff", 1, staleness=(4,))]
    figure = plots.plot_staleness(runs)
    assert [axes.get_title("left") for axes in figure.axes] == ["FedBuff", "FedRevive"]
    assert figure.axes[0].lines[0].get_xdata()[0] == 3


@pytest.mark.parametrize(
    ("concurrency", "buffer_size", "refill_size"),
    [(8, 1, 1), (8, 3, 1), (8, 8, 8), (8, 1, 8), (8, 4, 8), (8, 4, 6), (9, 5, 4)],
)
def test_expected_staleness_is_the_mean_of_a_long_run(concurrency: int, buffer_size: int, refill_size: int) -> None:
    timeline = timeline_of(
        "fedbuff", concurrency=concurrency, buffer_size=buffer_size, refill_size=refill_size, max_sim_time=2000.0
    )
    expected = expected_staleness(timeline.federation)
    assert timeline.summary()["mean_staleness"] == pytest.approx(expected, rel=0.01, abs=1e-12)


# Accuracy


def test_interval_is_students_t_by_hand() -> None:
    mean, half_width = confidence_interval([0.6, 0.7, 0.8])
    # s = 0.1, t(0.975, 2 degrees of freedom) = 4.302653, over the root of 3
    assert (mean, half_width) == (pytest.approx(0.7), pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6))
    one = confidence_interval([0.5])
    assert one[0] == 0.5
    assert math.isnan(one[1])
    with pytest.raises(ValueError, match="at least one value"):
        confidence_interval([])


def test_one_seed_is_drawn_as_it_was_evaluated_and_held_to_the_end() -> None:
    figure = plots.plot_accuracy([record_of()])
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[0, 0.1], [1, 0.5], [2, 0.8], [3, 0.8]]
    assert line.get_drawstyle() == "steps-post"
    assert "80.0%" in figure.legends[0].get_texts()[0].get_text()


def test_few_seeds_give_the_mean_of_previous_values_and_a_thin_curve_each() -> None:
    """Evaluated at 0, 1, 2 and at 0, 1.5: the second run's 0.3 holds at 1, and its 0.7 at 2 and to the end."""
    runs = [
        record_of("fedbuff", 0, (0.1, 0.5, 0.9), (0.0, 1.0, 2.0)),
        record_of("fedbuff", 1, (0.3, 0.7), (0.0, 1.5)),
    ]
    figure = plots.plot_accuracy(runs)
    axes = figure.axes[0]
    line, *seeds = axes.lines
    assert line.get_xdata().tolist() == [0, 1, 1.5, 2, 3]
    assert line.get_ydata() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert to_rgba(line.get_color()) == to_rgba(plots.METHOD_COLOURS["fedbuff"])
    assert [seed.get_ydata().tolist() for seed in seeds] == [[0.1, 0.5, 0.5, 0.9, 0.9], [0.3, 0.3, 0.7, 0.7, 0.7]]
    assert max(seed.get_linewidth() for seed in seeds) < line.get_linewidth() / 2
    assert not axes.collections
    final, spread = confidence_interval([0.9, 0.7])
    assert figure.legends[0].get_texts()[0].get_text() == f"FedBuff\n{final:.1%} ± {spread:.1%} (2 seeds)"


def test_five_seeds_have_a_band_that_is_their_interval() -> None:
    runs = [record_of("fedbuff", seed, (0.1 + seed / 10, 0.9), (0.0, 1.0)) for seed in range(5)]
    axes = plots.plot_accuracy(runs).axes[0]
    assert len(axes.lines) == 1
    mean, half_width = confidence_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(mean - half_width)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] <= 1, "what cannot be is cut, whatever the interval"
    assert axes.get_title("left").endswith("mean over seeds and 95% interval")


def test_a_mean_reaches_as_far_as_its_shortest_run() -> None:
    runs = [record_of(seed=0), record_of(seed=1, accuracy=(0.2, 0.3), sim_time=(0.0, 1.0))]
    line, *_ = plots.plot_accuracy(runs, x="version").axes[0].lines
    assert line.get_xdata().tolist() == [0, 10]


def test_the_legend_is_ranked_and_unknown_methods_have_the_fallback_colour() -> None:
    runs = [record_of("fedavg", accuracy=(0.1, 0.2, 0.3)), renamed(record_of(), "mine")]
    figure = plots.plot_accuracy(runs, x="num_arrivals")
    assert [text.get_text().split("\n")[0] for text in figure.legends[0].get_texts()] == ["mine", "FedAvg"]
    assert [line.get_color() for line in figure.axes[0].lines] == ["#000000", UNKNOWN_COLOUR]


def test_means_over_different_settings_or_over_one_run_twice_are_refused() -> None:
    other = record_of(config=build("lab-digits", "fedrevive", seed=1, overrides={**FEW, "server.lr": 0.9}))
    with pytest.raises(ValueError, match="'FedRevive' differ in more than seeds"):
        plots.plot_accuracy([record_of(), other])
    with pytest.raises(ValueError, match=r"'FedRevive' repeat a seed: \[0, 0\]"):
        plots.plot_accuracy([record_of(), record_of()])
    figure = plots.plot_accuracy({"lr 0.1": [record_of()], "lr 0.9": [other]})
    assert len(figure.axes[0].lines) == 2


def test_what_cannot_be_plotted_is_refused() -> None:
    with pytest.raises(ValueError, match="x = 'epoch' must be one of sim_time, num_arrivals, version"):
        plots.plot_accuracy([record_of()], x="epoch")
    with pytest.raises(ValueError, match="no runs"):
        plots.plot_accuracy([])


# Samples


def samples_of(channels: int = 1, num_versions: int = 3) -> dict[str, np.ndarray]:
    """Four 8x8 images a version, newest first, labelled 7, 2, 7, none; pixels of image n of version v are 10 v + n."""
    number = 10 * np.arange(num_versions)[:, None] + np.arange(4)
    images = np.broadcast_to(number[:, :, None, None, None], (num_versions, 4, channels, 8, 8)).astype(np.uint8)
    labels = np.tile([7, 2, 7, -1], (num_versions, 1))
    return {"version": 20 * np.arange(1, num_versions + 1), "images": images, "labels": labels}


@pytest.mark.parametrize("channels", [1, 3])
def test_each_cell_holds_the_newest_image_of_its_class(channels: int) -> None:
    samples = samples_of(channels)
    samples["labels"][1] = [7, 7, 7, -1]  # at the second version there is none of class 2
    axes = plots.plot_samples(record_of(samples=samples)).axes[0]
    mosaic = np.asarray(axes.images[0].get_array())
    cells = [[np.unique(mosaic[row * 9 :, column * 9 :][:8, :8]).tolist() for column in range(3)] for row in range(2)]
    assert cells == [[[1], [245], [21]], [[0], [10], [20]]], "class 2 in the first row, 7 in the second; 245 is blank"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "7"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "40", "60"]


def test_colours_are_kept_as_they_are() -> None:
    samples = samples_of(channels=3, num_versions=1)
    samples["images"] = samples["images"].copy()
    samples["images"][0, 0] = np.array([200, 100, 50], dtype=np.uint8)[:, None, None]
    mosaic = np.asarray(plots.plot_samples(record_of(samples=samples)).axes[0].images[0].get_array())
    assert mosaic[9, 0].tolist() == [200, 100, 50]


def test_versions_are_spread_from_the_first_to_the_last() -> None:
    axes = plots.plot_samples(record_of(samples=samples_of(num_versions=9)), num_versions=3).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "100", "180"]


def test_of_many_classes_the_ten_seen_most_are_shown() -> None:
    samples = samples_of(num_versions=3)
    samples["labels"] = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]])
    axes = plots.plot_samples(record_of(samples=samples)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*map(str, range(9)), "10"]


def test_a_record_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="'fedbuff' left no samples"):
        plots.plot_samples(record_of("fedbuff"))
    with pytest.raises(ValueError, match="num_versions = 0 must be positive"):
        plots.plot_samples(record_of(samples=samples_of()), num_versions=0)


# Staleness weights


def test_weights_follow_the_rule() -> None:
    federation = build("lab-digits", "fedrevive").federation
    axes = plots.plot_staleness_weights(StalenessConfig(rule="linear", slope=0.005), federation, 300).axes[0]
    curve, expected = axes.lines
    weights = dict(curve.get_xydata().tolist())
    assert [weights[tau] for tau in (0, 100, 200, 300)] == pytest.approx([0, 0.5, 1, 1])
    assert expected.get_xdata()[0] == 79
