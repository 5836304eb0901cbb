"""What a branch takes over from the run that it leaves, by a pure function of two state dicts.

The rule: everything that both have. In the reviver, what the other configuration can use; the rest begins as in a fresh
run. docs/DURABILITY.md says it in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fedrevive_core.config import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import state_sha256

# What has led to the present state and makes the arrivals to come. The split is here because a branch continues the
# table of evaluations.
FIXED = ("seed", "model", "device", "federation", "data", "training", "evaluation.split")


def branch(simulation: Any, config: RunConfig, beta: Callable[[int], float] | None) -> Any:
    """A simulation that continues from the present state of `simulation`: see its method `branched`."""
    changed = simulation.config.differences(config)
    forbidden = [text for text in changed if text.startswith(FIXED)]
    if forbidden:
        raise ConfigError(
            f"a branch cannot differ in {', '.join(forbidden)}: it continues with the same jobs and models"
        )
    model = simulation.layout.model() if "model" in simulation.custom else None
    other = type(simulation)(config, model, simulation.data if "data" in simulation.custom else None, beta)
    if simulation.custom.get("beta") != other.custom.get("beta"):
        changed.append("beta of your own")
    origin = {
        "version": simulation.version,
        "num_arrivals": simulation.num_processed,
        "state_sha256": state_sha256(simulation.server.state.cpu().numpy()),
        "changed": changed,
    }
    other.load_state_dict(branched_state(simulation.state_dict(), other.state_dict()))
    other.branches = [*simulation.branches, origin]
    return other


def branched_state(old: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """State in which a branch begins, from `old`, of the run it leaves, and `fresh`, of a run of the branch's own.

    Neither is modified; tensors are shared.
    """
    server = dict(fresh["server"]) | dict(old["server"])
    server["reviver"] = _reviver(old["server"]["reviver"], fresh["server"]["reviver"])
    return dict(fresh) | dict(old) | {"server": server}


def _reviver(old: Mapping[str, Any] | None, fresh: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if old is None or fresh is None:
        return None if fresh is None else dict(fresh)
    state = dict(fresh) | {name: value for name, value in old.items() if name in fresh} | {"source": fresh["source"]}
    # A teacher needs its client's class proportions, and true ones leave no estimates behind.
    if old["proportions"]["true"] and not fresh["proportions"]["true"]:
        state |= {"teachers": fresh["teachers"], "proportions": fresh["proportions"]}
    else:
        capacity = fresh["teachers"]["capacity"]
        state["teachers"] = {"capacity": capacity, "teachers": old["teachers"]["teachers"][:capacity]}
    if "pool" in old and "pool" in fresh:
        state["pool"] = _resized(old["pool"], fresh["pool"]["capacity"])
        if _shapes(old["synthesizer"]["generator"]) != _shapes(fresh["synthesizer"]["generator"]):
            state["synthesizer"] = fresh["synthesizer"]
    # The guard compares losses with those of before, so it starts afresh where their scale may change.
    if (old["source"], old["distiller"]["temperature"]) != (fresh["source"], fresh["distiller"]["temperature"]):
        state["distiller"] = fresh["distiller"]
    return state


def _resized(pool: Mapping[str, Any], capacity: int) -> dict[str, Any]:
    """The pool's state with another capacity: the newest samples that fit, oldest first."""
    if pool["capacity"] == capacity:
        return dict(pool)
    kept = min(capacity, len(pool["labels"]))
    slots = torch.arange(pool["num_added"] - kept, pool["num_added"]) % pool["capacity"]
    return {
        "capacity": capacity,
        "num_added": kept,
        "samples": pool["samples"][slots],
        "labels": pool["labels"][slots],
    }


def _shapes(generator: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in generator.items()}
