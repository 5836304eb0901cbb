"""What 09_your_own says of its runs."""

from __future__ import annotations

from claims import Claims

CLAIMS: Claims = {
    "These are the shares of each class that the last model gets right; guessing gives 1/3.": lambda n: (
        min(n.with_my_data.summary["class_accuracy"].values()) > 0.8
    ),
    "a late update counts fully up to a limit, and not at all beyond it": lambda n: (
        n.with_my_rule.arrivals.groupby("beta")["staleness"].max().get(0.0)
        <= n.concurrency
        < n.with_my_rule.arrivals.groupby("beta")["staleness"].min().get(1.0)
    ),
    "Two updates make one version of the baseline": lambda n: n.baseline.config.federation.buffer_size == 2,
}
