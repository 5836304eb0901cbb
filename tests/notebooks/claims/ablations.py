"""What 06_ablations says of the committed records."""

from __future__ import annotations

from claims import Claims
from fedrevive_notebooks.lessons import ablations as lesson
from reproduce.evidence.inflight import K, inflight_runs


def lead(n, sweep: str, arm: str) -> tuple[float, bool]:
    """The lead of an arm over FedRevive, in points, and whether its interval excludes zero."""
    rows = lesson.leads(n.sweeps[sweep], n.metric, "fedrevive").set_index("arm")
    return rows.loc[arm, "lead"], rows.loc[arm, "clear"] == "yes"


def costs(n, arm: str) -> float:
    """How many times as many uploads the goal takes with K = 80 as with K = 20."""
    uploads = n.in_flight.uploads_to_goal(n.curves, arm)
    return uploads[80] / uploads[20]


def at_end(n, x: str) -> dict[int, float]:
    """FedRevive's accuracy by K at the same time, or after the same uploads."""
    runs = inflight_runs(n.curves)
    return runs[runs["arm"] == "fedrevive"].groupby(K)[x].mean().to_dict()


LOSSES = ("without-feature", "without-label", "without-adversarial")
CLAIMS: Claims = {
    "On digits no loss of the synthesis is worth more than two points": lambda n: all(
        lead(n, "ablation-synthesis", arm)[0] > -2 for arm in LOSSES
    ),
    "with noise in their place little is lost": lambda n: lead(n, "ablation-synthesis", "noise")[0] > -2,
    "FedRevive is far ahead of down-weighting here.": lambda n: (
        lead(n, "beta-rules", "down-weighting")[0] < -10 and lead(n, "beta-rules", "down-weighting")[1]
    ),
    "With one teacher nothing is gained.": lambda n: abs(lesson.kept_by_one_teacher(n.sweeps, n.metric)) < 5,
    "more teachers with fewer images each do even better": lambda n: (
        lead(n, "ablation-teachers", "teachers-16")[0] > 0 and lead(n, "ablation-teachers", "teachers-16")[1]
    ),
    "Against uploads, $K = 20$ is ahead of $K = 80$": lambda n: (
        at_end(n, "same_work")[20] > at_end(n, "same_work")[80] + 0.05
        and at_end(n, "mean_accuracy")[20] > at_end(n, "mean_accuracy")[80] + 0.05
    ),
    "Against time, $K = 80$ is ahead": lambda n: max(times := at_end(n, "same_time"), key=times.__getitem__) == 80,
    "both methods need more uploads": lambda n: costs(n, "fedrevive") > 1.2 and costs(n, "whole-updates") > 1.2,
    "but whole updates (FedBuff with $B = 1$) need far more": lambda n: (
        costs(n, "whole-updates") > costs(n, "fedrevive") + 0.4
    ),
    "the line of the speed bends upwards": lambda n: (
        (line := n.in_flight.plot_choice(n.curves, 80, 1, "1 client in 10 slower").axes[0].lines[0].get_ydata())[-1]
        > 1.3 * line[0] * 150
    ),
}
