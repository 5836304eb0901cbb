"""Who was heard in a run: the updates of each client, how unequal they are, and the classes that the server took in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedrevive_core.config import RunConfig

OWNED = 0.5  # the slowest third owns a class of whose samples it holds more than this share


def accepted(arrivals: Mapping[str, Any]) -> np.ndarray:
    """(A,) which uploads the server accepted; a rejected distilled update leaves the client's own."""
    reasons = np.asarray(arrivals["rejected"], dtype=object)
    return np.array([not reason or reason.startswith("distilled") for reason in reasons], dtype=bool)


def update_counts(arrivals: Mapping[str, Any], num_clients: int) -> np.ndarray:
    """(N,) accepted updates of each client. Raises ValueError for a client that there is not."""
    client = np.asarray(arrivals["client"])
    if len(client) and not 0 <= client.min() <= client.max() < num_clients:
        raise ValueError(f"arrivals: a client is none of 0 to {num_clients - 1}")
    return np.bincount(client[accepted(arrivals)].astype(np.int64), minlength=num_clients)


def lorenz(counts: np.ndarray) -> np.ndarray:
    """(N + 1,) from 0 to 1: the share of all updates that the 0, 1, ..., N clients with the fewest of them made."""
    reached = np.cumsum(np.append(0.0, np.sort(counts)))
    return reached / max(reached[-1], 1)


def gini(counts: np.ndarray) -> float:
    """Inequality of the updates per client (N,): 0 if all have equally many, near 1 if one has all; NaN without any.

    It is twice the area between the Lorenz curve and the diagonal.
    """
    if not counts.sum():
        return math.nan
    curve = lorenz(counts)
    return float(1 - (curve[1:] + curve[:-1]).sum() / len(counts))


def intake(arrivals: Mapping[str, Any], config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Weight of each client (N,) in what the server took in: of its own updates, and as a teacher.

    own_k = sum over accepted updates i of client k of (1 - beta_i); but 1 where a reviver had nothing to blend in.
    taught_k = sum over blended distilled updates i of beta_i / M_i, if k sent one of their M_i teachers: the last
    `num_teachers` models that were accepted and not refused as teachers, arrival i included.
    Rejected uploads and distilled updates of zero count nothing. Left out are clipping, moments, the server's rate, and
    memories (CA2FL, MIFA), which use old updates again. A branch counts all arrivals by its own settings.
    """
    client, beta = np.asarray(arrivals["client"]).astype(np.int64), np.asarray(arrivals["beta"], dtype=float)
    taken, revived = accepted(arrivals), np.asarray(arrivals["revived"], dtype=bool)
    whole = ~revived if config.revival.source != "none" else np.zeros_like(taken)
    own = np.where(taken, np.where(whole, 1.0, 1 - beta), 0.0)
    refused = np.asarray(arrivals["not_teaching"], dtype=object) if "not_teaching" in arrivals else np.array([""])
    teaches = taken & (refused == "")
    distilled = np.where(revived & (np.asarray(arrivals["distilled_norm"]) > 0), beta, 0.0)
    so_far = np.cumsum(teaches)  # (A,) teachers that had come, with the present one
    at_once = np.minimum(so_far, config.revival.num_teachers)
    # An update's teachers are those that came last: a range in the order in which teachers came.
    change = np.zeros(len(client) + 1)
    each = distilled / np.maximum(at_once, 1)
    np.add.at(change, so_far - at_once, each)
    np.subtract.at(change, so_far, each)
    taught = np.cumsum(change)[: int(teaches.sum())]
    size = config.federation.num_clients
    return np.bincount(client, own, minlength=size), np.bincount(client[teaches], taught, minlength=size)


def class_table(
    names: Sequence[str],
    class_counts: np.ndarray,
    groups: Mapping[str, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray],
    evaluations: Mapping[str, Any],
    end: float,
) -> pd.DataFrame:
    """A row per class: who holds it, how much of it the server took in, and how well it is known.

    class: its name. held: its share of all samples of clients. fast, medium, slow: which share of its samples each
    third of the clients holds. own, distilled: its share in what the server took in, in two parts that sum to 1 over
    both columns. final_accuracy, mean_accuracy: in the last 5% of time, and over time, as in `summarise`.

    Args:
        class_counts: (N, C) samples. groups: clients of each third, by expected duration. weights: see `intake`; the
            classes of an update, or of a teacher, are those of its client's samples. evaluations: columns sim_time and
            class_accuracy. end: of the run, in simulated time.
    """
    of_class = class_counts.sum(axis=0)
    shares = class_counts / np.maximum(class_counts.sum(axis=1, keepdims=True), 1)
    own, distilled = (weight @ shares for weight in weights)
    total = max(own.sum() + distilled.sum(), np.finfo(float).tiny)
    time = np.asarray(evaluations["sim_time"], dtype=float)
    accuracy = np.array([list(row) for row in evaluations["class_accuracy"]], dtype=float)  # (evaluations, C)
    late = accuracy[time >= 0.95 * end]
    held = np.diff(np.append(time, max(end, time[-1])))
    return pd.DataFrame(
        {
            "class": list(names),
            "held": of_class / of_class.sum(),
            **{name: class_counts[who].sum(axis=0) / np.maximum(of_class, 1) for name, who in groups.items()},
            "own": own / total,
            "distilled": distilled / total,
            "final_accuracy": late.mean(axis=0) if len(late) else accuracy[-1],
            "mean_accuracy": held @ accuracy / held.sum() if held.sum() else accuracy[-1],
        }
    )


def slow_classes(classes: pd.DataFrame) -> dict[str, Any]:
    """Of the classes that the slowest third of clients owns, holding more than half of their samples: names, shares.

    held, own, distilled: as in `class_table`, of all of them together. final_accuracy, mean_accuracy: mean over them,
    None if there are none.
    """
    owned = classes[classes["slow"] > OWNED]
    return {
        "names": ", ".join(owned["class"])[:1000],
        "number": len(owned),
        **{name: float(owned[name].sum()) for name in ("held", "own", "distilled")},
        **{name: float(owned[name].mean()) if len(owned) else None for name in ("final_accuracy", "mean_accuracy")},
    }
