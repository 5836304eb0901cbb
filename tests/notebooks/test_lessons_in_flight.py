"""Jobs in flight in 06_ablations: the right answer, each mistake by its name, and what the panel draws."""

from __future__ import annotations

import pandas as pd
import pytest
from verdicts import Answers, cases, judge

from fedrevive_notebooks.lessons import in_flight
from reproduce.evidence.inflight import K, inflight_evaluations


def curves() -> pd.DataFrame:
    """FedRevive is at 60% after 100 uploads with K = 20 (time 10), after 160 with K = 80 (time 4): 2.5 times sooner."""
    steps = {20: ([0, 100, 500], [0.0, 10.0, 50.0]), 80: ([0, 160, 500], [0.0, 4.0, 12.5])}
    return pd.DataFrame(
        [
            {K: k, "arm": "fedrevive", "seed": 0, "run": str(k), "version": n, "num_arrivals": n, "sim_time": time,
             "accuracy": 0.7 if n else 0.1}
            for k, columns in steps.items()
            for n, time in zip(*columns, strict=True)
        ]
    )  # fmt: skip


SOONER = Answers(
    in_flight.check_times_sooner,
    "10.0 and 4.0 units of time, 2.50 times",
    [2.5, (100 / 20) / (160 / 80), 2.45],
    {
        "But how many uploads are needed": 4,
        "compares the uploads alone": 1.6,
        "alone": 0.625,
        "other way round": 0.4,
        "divide by their ratio": 6.4,
        "time saved, in percent": 60,
        "uploads needed, over uploads per unit of time": 10,
        "quotation marks": "2.5",
    },
    lambda: (curves(),),
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(SOONER))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


def test_what_is_praised_is_near_the_measured_times() -> None:
    """In the committed runs, where the mean duration of a job differs a little between the runs."""
    every = inflight_evaluations()
    uploads = in_flight.uploads_to_goal(every)
    said = in_flight.check_times_sooner((uploads[20] / 20) / (uploads[80] / 80), every)
    assert said.kind == "right"
    measured = float(said.message.split("units of time, ")[1].split(" ")[0])
    assert measured == pytest.approx(4 * uploads[20] / uploads[80], rel=0.1)
    assert f"| 80 | {uploads[80]:.0f} |" in in_flight.goal_table(uploads).data


@pytest.mark.parametrize("schedule", in_flight.DELAYS)
def test_the_panel_draws_a_run_on_the_closed_forms(schedule: str) -> None:
    """Within 10%, as heavy tails settle slowly; the thick curve is that of the nearest K on a scale of ratios."""
    figure = in_flight.plot_choice(curves(), 30, 3, schedule)
    for axes, law in zip(figure.axes[:2], (None, 29 / 3), strict=True):
        line, dot = axes.lines
        height = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))[30]
        assert list(dot.get_xdata()) == [30]
        assert float(dot.get_ydata()[0]) == pytest.approx(height, rel=0.1)
        assert law is None or height == pytest.approx(law)
    thick = [line.get_label() for line in figure.axes[2].lines if line.get_linewidth() > 2]
    assert thick == ["20"]
    assert "K = 20 (thick)" in figure.axes[2].get_title("left")


def test_moving_a_slider_draws() -> None:
    panel = in_flight.explore_jobs_in_flight(inflight_evaluations())
    before = bytes(panel.image.value)
    assert before.startswith(b"\x89PNG")
    panel.controls["concurrency"].value = 150
    assert bytes(panel.image.value) != before
    assert "<b>" not in panel.status.value
    assert panel.controls["concurrency"].max == 150
