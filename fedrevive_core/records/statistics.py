"""Numbers that compare runs, and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)


def summarise(evaluations: pd.DataFrame, sim_time: float) -> dict[str, Any]:
    """Numbers that compare runs, from the table of evaluations and the run's length in simulated time.

    final_accuracy: mean over evaluations in the last 5% of simulated time (the last one if there is none). last_,
    best_accuracy. mean_accuracy: over simulated time, each evaluation holding until the next. time_to: simulated time
    of the first evaluation that reaches each of TARGETS, None if none does.
    """
    time, accuracy = evaluations["sim_time"].to_numpy(), evaluations["accuracy"].to_numpy()
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


def confidence_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and half width of the 95% Student t interval over `values`, one per seed; half width NaN for one value."""
    from scipy.special import stdtrit

    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        raise ValueError("a confidence interval needs at least one value")
    if sample.size == 1:
        return float(sample[0]), math.nan
    return float(sample.mean()), float(stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / math.sqrt(sample.size))
