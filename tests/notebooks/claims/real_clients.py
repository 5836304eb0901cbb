"""What 12_real_clients says of its figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from claims import Claims
from fedrevive_core.plots.timeline import choose_lanes
from fedrevive_notebooks.lessons import real_clients as lesson


def slowest(n) -> int:
    return int(np.argmax(n.timeline.mean_duration))


def first_job_of_the_slowest(n) -> int:
    return int(np.flatnonzero(n.timeline.client == slowest(n))[0])


def exponential(n) -> np.ndarray:
    """The staleness of the model in the static figure."""
    return lesson.modelled(n.timeline, "exponential", n.seed)


def real(n) -> np.ndarray:
    return n.timeline.arrival_staleness


def relative(n) -> np.ndarray:
    return lesson.relative_durations(n.timeline)


def heard(n) -> np.ndarray:
    """The number of updates of each client that arrived, fastest client first."""
    count = np.bincount(n.timeline.client[n.timeline.arrivals], minlength=6)
    return count[np.argsort(n.timeline.mean_duration)]


def first_classes(n) -> pd.DataFrame:
    """The three classes that stand on the left."""
    return n.replay.classes.sort_values("slow", ascending=False, kind="stable").head(3)


CLAIMS: Claims = {
    "A run has a little less": lambda n: 4.5 < real(n).mean() < 5,
    "The slowest client's first job lasts longer than this figure.": lambda n: (
        n.timeline.arrival_time[first_job_of_the_slowest(n)] > choose_lanes(n.timeline)[1]
    ),
    "so its bar is the darkest": lambda n: n.timeline.staleness[first_job_of_the_slowest(n)] == real(n).max(),
    "bars of *one* client differ in length": lambda n: relative(n).std() > 0.2,
    "The batches of a job follow from the seed and the number of the job, not from the process that trains it.": (
        lambda n: n.replay.arrivals["client"].equals(n.live.arrivals["client"])
    ),
    "it makes half as many versions of the same arrivals, and an update misses about half as many": lambda n: (
        2 * n.runs[1].summary["num_versions"] == n.replay.summary["num_versions"]
        and np.isclose(2 * n.runs[1].summary["mean_staleness"], n.replay.summary["mean_staleness"], rtol=0.1)
    ),
    "The **means** nearly agree": lambda n: abs(exponential(n).mean() / real(n).mean() - 1) < 0.1,
    "No real job takes almost no time": lambda n: relative(n).min() > 0.05,
    "these arrive before anyone else, with staleness 0": lambda n: (exponential(n) == 0).mean() > 0.15,
    "so the model's stalest update is staler": lambda n: exponential(n).max() > real(n).max(),
    "the slowest client takes several times as long as the fastest": lambda n: (
        n.timeline.mean_duration.max() / n.timeline.mean_duration.min() > 5
    ),
    "The server took in less of these than there is": lambda n: (
        first_classes(n)["own"] + first_classes(n)["distilled"] < first_classes(n)["held"]
    ).all(),
    "a fast client brings many updates and the slow one only a few": lambda n: heard(n)[0] > 6 * heard(n)[-1],
    "the update is stale": lambda n: (
        real(n)[n.timeline.client[n.timeline.arrivals] == slowest(n)].mean() > 3 * real(n).mean()
    ),
    "exponential durations give more very fresh and more very stale updates than these processes had": lambda n: (
        (exponential(n) == 0).mean() > 1.5 * (real(n) == 0).mean()
        and (exponential(n) > 20).mean() > (real(n) > 20).mean()
    ),
}
