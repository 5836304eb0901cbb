"""What 08_reproduce says of the committed records."""

from __future__ import annotations

import pandas as pd

from claims import Claims
from fedrevive_core.records import confidence_interval


def half_widths(n, score: str) -> pd.Series:
    """The half width of the interval of `score` over seeds, by arm."""
    return n.report.records.runs.groupby("arm", observed=True)[score].agg(lambda values: confidence_interval(values)[1])


CLAIMS: Claims = {
    "One evaluation goes up and down; a mean over several does so less.": lambda n: (
        half_widths(n, "last_accuracy") > half_widths(n, "final_accuracy")
    ).all(),
    "they do the same steps and send the same bytes": lambda n: (
        n.report.arms[["client_steps", "bytes_up", "bytes_down"]].nunique().eq(1).all()
    ),
    "Read them as more or much more": lambda n: (
        n.report.arms.set_index("arm")["server_seconds"]["fedrevive"] > 10 * n.report.arms["server_seconds"].median()
    ),
}
