"""How many jobs in flight: what a run reaches by the same time and the same work, and what a goal takes it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reproduce.evidence import inflight
from reproduce.evidence.inflight import K, held, inflight_runs

RUNS = {  # by K: uploads, the time of each, and accuracy of whole updates; FedRevive has 0.1 more
    20: ([0, 100, 200, 500], [0.0, 10.0, 20.0, 50.0], [0.1, 0.6, 0.7, 0.8]),
    80: ([0, 100, 200, 500], [0.0, 2.0, 4.0, 10.0], [0.1, 0.2, 0.6, 0.5]),
}


def evaluations() -> pd.DataFrame:
    rows = [
        {K: k, "arm": arm, "seed": seed, "run": f"{arm}-{k}-{seed}", "version": n, "num_arrivals": n, "sim_time": time,
         "accuracy": accuracy + 0.1 * (arm == "fedrevive")}
        for k, columns in RUNS.items()
        for arm in inflight.ARMS
        for seed in (0, 1)
        for n, time, accuracy in zip(*columns, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_an_evaluation_holds_until_the_next() -> None:
    """0.2 to 3 and 0.6 to 5; beyond the last it holds."""
    x, accuracy = np.array([0.0, 3.0]), np.array([0.2, 0.6])
    assert held(x, accuracy, 0, 5) == pytest.approx((3 * 0.2 + 2 * 0.6) / 5)
    assert held(x, accuracy, 2, 4) == pytest.approx(0.4)
    assert held(x, accuracy, 0, 2) == pytest.approx(0.2)


def test_time_and_work_by_hand() -> None:
    """The shortest run ends at 10: from 9 to 10, K = 20 has 0.1 (0.6 comes at 10), K = 80 has 0.6."""
    runs = inflight_runs(evaluations()).set_index([K, "arm", "seed"])
    few, many = runs.loc[20, "whole-updates", 0], runs.loc[80, "whole-updates", 0]
    assert (few["same_time"], many["same_time"]) == pytest.approx((0.1, 0.6))
    assert (few["same_work"], many["same_work"]) == pytest.approx((0.7, 0.6))
    assert few["mean_accuracy"] == pytest.approx((100 * 0.1 + 100 * 0.6 + 300 * 0.7) / 500)
    assert (few["throughput"], many["throughput"]) == (10, 50)
    assert (few["num_arrivals 0.6"], few["sim_time 0.6"], bool(few["reached 0.6"])) == (100, 10, True)
    assert (many["num_arrivals 0.7"], many["sim_time 0.7"], bool(many["reached 0.7"])) == (500, 10, False)
    assert runs.loc[(80, "fedrevive", 0), "reached 0.7"]


def test_a_run_that_never_arrives_is_marked() -> None:
    runs = inflight_runs(evaluations())
    of = {arm: runs[(runs[K] == 80) & (runs["arm"] == arm)] for arm in inflight.ARMS}
    assert inflight.takes(of["whole-updates"], "num_arrivals", 0.7) == "> 500"
    assert inflight.takes(of["fedrevive"], "num_arrivals", 0.7).startswith("200")
    assert inflight.takes(pd.concat(of.values()), "num_arrivals", 0.7).startswith("> 350")


def test_the_committed_runs() -> None:
    """Five seeds and 500 uploads for each method and K; the closed forms beside them are near."""
    found = inflight.inflight_evaluations()
    runs = inflight_runs(found)
    assert runs.groupby([K, "arm"], observed=True)["seed"].nunique().eq(5).all()
    assert {20, 40, 80} <= set(runs[K])
    assert found.groupby("run")["num_arrivals"].max().eq(500).all()
    for row in inflight.inflight_laws_table():
        measured = float(row["uploads per unit of time"].split(" ")[0])
        assert measured == pytest.approx(float(row["in closed form"]), rel=0.05)
        in_runs = runs.loc[runs[K] == int(row["K"]), "throughput"].mean()
        assert in_runs == pytest.approx(measured, abs=0.06)  # the same timelines
    rows = inflight.inflight_table()
    assert len(rows) == 2 * runs[K].nunique()
    assert [bool(row["lead over whole updates, over the run"]) for row in rows] == [
        row["method"] == "FedRevive" for row in rows
    ]


def test_figures_have_every_k_and_open_dots_for_what_is_not_reached() -> None:
    figure = inflight.plot_inflight(inflight_runs(evaluations()), goal=0.7)
    for axes, x in zip(figure.axes, ("sim_time 0.7", "num_arrivals 0.7"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines if not str(line.get_label()).startswith("_")}
        runs = inflight_runs(evaluations())
        for name, arm in (("FedRevive", "fedrevive"), ("whole-updates", "whole-updates")):
            assert lines[name] == pytest.approx(runs[runs["arm"] == arm].groupby(K)[x].mean().to_numpy())
        hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
        assert [line.get_xdata()[0] == pytest.approx(80, rel=0.05) for line in hollow] == [True]
    curves = inflight.plot_inflight_curves(evaluations())
    assert [[line.get_label() for line in axes.lines] for axes in curves.axes] == [["20", "80"]] * 2
    assert curves.axes[0].lines[1].get_xdata()[-1] == 10
