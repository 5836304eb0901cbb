"""Explorers in the process, without a browser: what a control's new value does to the figure and to what is said."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pytest
from helpers import federation, steady
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from fedrevive_core.config.federation import SCHEDULES, Schedule
from fedrevive_core.config.presets import build
from fedrevive_core.errors import ConfigError
from fedrevive_core.plots.style import Plot, png_bytes
from fedrevive_core.plots.timeline import draw_timeline, empty_figure
from fedrevive_core.timeline.event_loop import simulate_timeline
from fedrevive_core.timeline.timeline import Timeline
from fedrevive_core.widgets.heard import explore_heard
from fedrevive_core.widgets.panel import Panel, choice, slider
from fedrevive_core.widgets.timeline import explore_timeline, with_stragglers


def line(height: int, kind: str = "straight") -> Figure:
    if height == 3:
        raise ConfigError("height = 3 is <not> drawn")
    if height == 4:
        raise KeyError("a mistake of the code")
    figure = Plot(figsize=(1, 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_ylim(0, 10)
    axes.plot([0, 1], [0 if kind == "straight" else height, height])
    return figure


def a_panel() -> Panel:
    controls = {"height": slider("height (m)", range(1, 10), 1), "kind": choice("kind", ["straight", "flat"], "flat")}
    return Panel(line, controls, title="A <line>")


def test_a_recorded_timeline_has_a_slider_for_its_buffer(tmp_path) -> None:
    """What was in flight at the end has no arrival in the file; the figure shows the start of the run all the same."""
    simulate_timeline(federation(20, 8, max_versions=100), 0).save(tmp_path / "timeline.csv")
    panel = explore_timeline(Timeline.load(tmp_path / "timeline.csv"))
    assert list(panel.controls) == ["buffer_size"]
    before = bytes(panel.image.value)
    panel.controls["buffer_size"].value = 10
    assert bytes(panel.image.value) != before
    assert panel.status.value == "<i></i>&nbsp;"


def test_every_control_draws_anew() -> None:
    panel = a_panel()
    seen = [bytes(panel.image.value)]
    panel.controls["kind"].value = "straight"
    seen.append(bytes(panel.image.value))
    panel.controls["height"].value = 2
    seen.append(bytes(panel.image.value))
    assert all(image.startswith(b"\x89PNG") for image in seen)
    assert len(set(seen)) == 3
    assert panel.seconds > 0


def test_the_words_follow_the_figure_and_stay_with_it() -> None:
    """They are read aloud after each drawing; an error leaves them, as it leaves the figure."""

    def draw(height: int) -> Figure:
        figure = line(height)
        figure.suptitle(f"a line <{height} m>")
        return figure

    panel = Panel(draw, {"height": slider("height (m)", range(1, 10), 1)}, title="A <line>")
    panel.controls["height"].value = 2
    assert "a line &lt;2 m&gt;. Across: " in panel.words.value
    assert 'role="status"' in panel.words.value
    panel.controls["height"].value = 3
    assert "a line &lt;2 m&gt;. Across: " in panel.words.value
    assert panel.image.tooltip == "A <line>"
    assert panel.image.description == "", "its view shows the tooltip only beside an empty description"


def test_an_error_is_said_and_the_last_figure_stays() -> None:
    panel = a_panel()
    before = panel.image.value
    panel.controls["height"].value = 3
    assert "Not drawn: height = 3 is &lt;not&gt; drawn" in panel.status.value
    assert "&#9888;" in panel.status.value
    assert panel.image.value == before
    panel.controls["height"].value = 5
    assert "Not drawn" not in panel.status.value


def test_a_mistake_of_the_code_is_said_and_raised() -> None:
    panel = a_panel()
    with pytest.raises(KeyError):
        panel.controls["height"].value = 4
    assert "Not drawn, KeyError" in panel.status.value


def test_a_panel_says_that_it_is_busy_while_it_draws() -> None:
    said = []

    def draw(height: int) -> Figure:
        said.append(panels[0].status.value if panels else "")
        return line(height)

    panels: list[Panel] = []
    panels.append(Panel(draw, {"height": slider("height (m)", range(1, 3), 1)}, title="busy"))
    panels[0].controls["height"].value = 2
    assert "drawing" in said[1]
    assert "drawing" not in panels[0].status.value


def test_sliders_hold_whole_numbers_or_fractions_and_report_when_they_rest() -> None:
    whole, fraction = slider("K", range(1, 11, 3), 4), slider("b", (0.0, 1.0, 0.1), 0.5)
    assert (whole.min, whole.max, whole.step, whole.value) == (1, 10, 3, 4)
    assert (fraction.min, fraction.max, fraction.value) == (0.0, 1.0, 0.5)
    assert not whole.continuous_update
    assert not fraction.continuous_update


MOVES = {
    "num_clients": 40, "concurrency": 9, "buffer_size": 3, "refill_size": 4, "schedule": "shifted", "slowdown": 20,
    "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def explorer() -> Panel:
    return explore_timeline(federation(30, 10, max_versions=1), num_arrivals=400)


def test_more_than_four_controls_stand_in_two_columns(explorer: Panel) -> None:
    """Seven rows of controls would push the histogram below the edge of a laptop's screen."""
    assert len(explorer.controls) > 4
    (box,) = (child for child in explorer.children if isinstance(child, ipw.Box))
    assert list(box.children) == list(explorer.controls.values())
    assert box.layout.flex_flow == "row wrap"
    assert {control.layout.width for control in box.children} == {"min(29em, 98%)"}
    few = Panel(lambda a: Plot(), {"a": slider("a", range(3), 0)}, title="few")
    assert few.controls["a"] in few.children


def test_the_explorer_has_a_move_for_every_control(explorer: Panel) -> None:
    assert set(MOVES) == set(explorer.controls)


@pytest.mark.parametrize("name", MOVES)
def test_every_control_of_the_explorer_changes_its_figure_and_back(explorer: Panel, name: str) -> None:
    """Back to the byte: the figure is used again, and nothing of what it showed before may stay."""
    before, value = explorer.image.value, explorer.controls[name].value
    explorer.controls[name].value = MOVES[name]
    assert explorer.image.value != before
    explorer.controls[name].value = value
    assert explorer.image.value == before


def test_the_explorer_says_what_cannot_be_played_out(explorer: Panel) -> None:
    before = explorer.image.value
    explorer.controls["concurrency"].value = 31
    assert "Not drawn: concurrency = 31 must be at most num_clients = 30" in explorer.status.value
    assert explorer.image.value == before
    explorer.controls["concurrency"].value = 10


def test_the_explorer_starts_from_a_preset_a_run_or_a_federation() -> None:
    config = build("lab-digits", "fedbuff", seed=0)
    for start in ("lab-digits", config, config.federation):
        panel = explore_timeline(start, seed=3, num_arrivals=50)
        assert panel.controls["concurrency"].value == 80
        assert panel.controls["seed"].value == 3
        assert panel.controls["buffer_size"].value == (1 if start == "lab-digits" else 2)
    with pytest.raises(ConfigError, match="did you mean 'lab-digits'"):
        explore_timeline("lab-digit")


def test_devices_are_choices_and_have_their_own_speeds() -> None:
    def label(panel: Panel) -> str:
        return panel.draw(**{name: control.value for name, control in panel.controls.items()}).axes[0].get_xlabel()

    config = build("lab-digits", "fedbuff", schedule="devices", overrides={"federation.devices.unfinished": "lost"})
    panel = explore_timeline(config, num_arrivals=200)
    assert panel.controls["schedule"].value == "devices, jobs lost"
    assert label(panel) == "simulated time (seconds)"
    before = panel.image.value
    panel.controls["schedule"].value = "devices"
    assert panel.image.value != before
    panel.controls["slowdown"].value = 5
    assert "Not drawn: 1 client in 10 slower = 5: devices have their own speeds, choose 1" in panel.status.value
    panel.controls["schedule"].value = "default"
    assert label(panel) == "simulated time (unitless)"
    plain = explore_timeline("lab-digits", num_arrivals=200)
    assert plain.controls["schedule"].value == "default"
    plain.controls["schedule"].value = "devices"
    assert label(plain) == "simulated time (seconds)"


def test_a_schedule_of_ones_own_is_one_choice_more_and_a_known_one_is_not_offered_twice() -> None:
    own = explore_timeline(federation(9, 3, schedule=steady(2.0), max_versions=1), num_arrivals=20)
    assert own.controls["schedule"].value == "as given"
    known = explore_timeline(federation(9, 3, schedule="shifted", max_versions=1), num_arrivals=20)
    assert known.controls["schedule"].value == "shifted"
    assert "as given" not in known.controls["schedule"].options


def test_the_explorer_draws_the_staleness_of_its_timeline() -> None:
    """Bars hold the shares of arrivals, what lies beyond the axis is said, and both means are in the title."""
    timeline = simulate_timeline(federation(30, 10, max_versions=2000), 0)
    figure = empty_figure()
    draw_timeline(figure, timeline)
    _, histogram = figure.axes
    (bars,) = (shown for shown in histogram.collections if isinstance(shown, PolyCollection))
    heights = [path.vertices[:, 1].max() for path in bars.get_paths()]
    staleness = timeline.staleness[timeline.arrivals]
    counted = [np.mean(staleness == value) for value in range(len(heights))]
    assert heights == pytest.approx(counted)
    assert (
        f"{np.mean(staleness >= len(heights)):.1%} of arrivals lie beyond, up to {staleness.max()}"
        in histogram.get_xlabel()
    )
    title = histogram.get_title("left")
    assert f"mean {staleness.mean():.3g} (line)" in title
    assert "Little's law 9 (triangle)" in title


def test_synchronous_rounds_leave_nothing_of_the_swim_lanes_before() -> None:
    fresh, used = empty_figure(), empty_figure()
    rounds = simulate_timeline(federation(12, 6, buffer_size=6, refill_size=6, max_versions=50), 0)
    draw_timeline(used, simulate_timeline(federation(60, 30, max_versions=100), 0))
    for figure in (fresh, used):
        draw_timeline(figure, rounds)
    assert png_bytes(fresh, 1.0) == png_bytes(used, 1.0)


def test_one_client_in_ten_is_slower() -> None:
    schedule = with_stragglers(SCHEDULES["default"], 10)
    training = Schedule.model_validate(schedule).training
    assert training.means == pytest.approx((1.0, 1.3, 1.6, 10.0, 13.0, 16.0))
    assert training.odds == pytest.approx((0.225, 0.45, 0.225, 0.025, 0.05, 0.025))
    assert with_stragglers(SCHEDULES["default"], 1) is SCHEDULES["default"]


def test_slow_clients_that_own_classes_are_heard_less() -> None:
    """Skew 1: what slow clients hold arrives less often than it is there; skew 0: everything as often, roughly."""
    panel = explore_heard(num_arrivals=800)

    def below() -> list[float]:
        """Share of a class in updates over its share in samples, from the class that slow clients hold most."""
        axes = panel.draw(**{name: control.value for name, control in panel.controls.items()}).axes[1]
        held, arrives = (np.array([bar.get_height() for bar in bars]) for bars in axes.containers)
        return list(arrives / held)

    skewed = below()
    assert max(skewed[:3]) < 0.85 < 1.1 < min(skewed[-3:])
    panel.controls["skew"].value = 0.0
    assert max(below()) < min(skewed[-3:])
    assert min(below()) > max(skewed[:3])
    panel.controls["concurrency"].value = 1
    assert "Not drawn" not in panel.status.value
