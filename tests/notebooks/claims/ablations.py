"""What 06_ablations says of the committed records."""

from __future__ import annotations

from claims import Claims
from fedrevive_notebooks.lessons import ablations as lesson


def lead(n, sweep: str, arm: str) -> tuple[float, bool]:
    """The lead of an arm over FedRevive, in points, and whether its interval excludes zero."""
    rows = lesson.leads(n.sweeps[sweep], n.metric, "fedrevive").set_index("arm")
    return rows.loc[arm, "lead"], rows.loc[arm, "clear"] == "yes"


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
}
