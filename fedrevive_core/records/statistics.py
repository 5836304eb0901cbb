"""Numbers that compare runs, and intervals over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrevive_core.config import RunConfig
from fedrevive_core.records.participation import gini, update_counts

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)


def summarise(evaluations: Mapping[str, Any], sim_time: float) -> dict[str, Any]:
    """Numbers that compare runs, from the columns of evaluations and the run's length in simulated time.

    final_accuracy: mean over evaluations in the last 5% of simulated time (the last one if there is none). last_,
    best_accuracy. mean_accuracy: over simulated time, each evaluation holding until the next. time_to: simulated time
    of the first evaluation that reaches each of TARGETS, None if none does. Raises ValueError for what is no curve.
    """
    time, accuracy = np.asarray(evaluations["sim_time"]), np.asarray(evaluations["accuracy"])
    if not len(time) or not np.isfinite([*time, *accuracy, sim_time]).all() or (np.diff(time, prepend=0.0) < 0).any():
        raise ValueError("evaluations: sim_time must begin at 0 or later and never decrease, and accuracy be a number")
    end = max(sim_time, time[-1])
    late = accuracy[time >= 0.95 * end]
    held = np.diff(np.append(time, end))
    reached = {target: time[accuracy >= target] for target in TARGETS}
    return {
        "final_accuracy": float(late.mean()) if len(late) else float(accuracy[-1]),
        "last_accuracy": float(accuracy[-1]),
        "best_accuracy": float(accuracy.max()),
        "mean_accuracy": float((accuracy * held).sum() / end),
        "time_to": {str(target): float(times[0]) if len(times) else None for target, times in reached.items()},
    }


def summarise_arrivals(arrivals: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Numbers about a run of `config`, from the columns of its arrivals."""
    staleness, norms, terms = (np.asarray(arrivals[name]) for name in ("staleness", "client_norm", "rejected_terms"))
    rejected = Counter(reason for reason in arrivals["rejected"] if reason)
    return {
        "num_versions": len(staleness) // config.federation.buffer_size,
        "num_arrivals": len(staleness),
        "mean_staleness": float(staleness.mean()) if len(staleness) else math.nan,
        "gini": gini(update_counts(arrivals, config.federation.num_clients)),
        "rejected_uploads": rejected.total(),
        "rejected": dict(rejected.most_common()),
        "clipped_updates": int((norms > (config.server.clip_norm or np.inf)).sum()),
        "rejected_terms": int(np.nansum(terms)),
    }


def confidence_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and half width of the 95% Student t interval over `values`, one per seed; half width NaN for one value."""
    from scipy.special import stdtrit

    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        raise ValueError("a confidence interval needs at least one value")
    if sample.size == 1:
        return float(sample[0]), math.nan
    return float(sample.mean()), float(stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / math.sqrt(sample.size))
