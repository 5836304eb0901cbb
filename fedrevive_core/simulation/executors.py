"""Which executor a run gets: the one that its configuration names, or the one that was fastest on this GPU."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fedrevive_core.errors import ConfigError
from fedrevive_core.models import Executor, StateLayout
from fedrevive_core.records import read_json

# Names a file that `python -m reproduce gpu` has written: for each GPU the fastest executor of each model.
TABLE = "FEDREVIVE_EXECUTORS"


def choose_executor(name: str, model: str, layout: StateLayout) -> Executor:
    """The executor `name`, or for 'auto' the one that the table in the file named by `TABLE` has for this `model`.

    Without a table: small models are stacked, others trained one after the other. Raises ConfigError if the executor or
    the table cannot be used here.
    """
    if name != "auto":
        return _fitting(name, f"executor = '{name}'", layout)
    plain = Executor("stacked" if layout.stacks else "single")
    table = os.environ.get(TABLE)
    if table is None or layout.device.type != "cuda" or layout.has_dropout:
        return plain
    try:
        of_card = read_json(Path(table)).get(torch.cuda.get_device_name(layout.device), {})
    except (OSError, ValueError) as error:
        raise ConfigError(f"{TABLE} = '{table}' cannot be read ({error}): unset it, or name another file") from None
    found = of_card.get(model) if isinstance(of_card, dict) else None
    return plain if found is None else _fitting(str(found), f"{TABLE} = '{table}', {model} = '{found}'", layout)


def _fitting(name: str, words: str, layout: StateLayout) -> Executor:
    """The executor `name`, if a model of `layout` can be trained so. `words` begin the errors."""
    try:
        executor = Executor.parse(name)
    except ValueError as error:
        raise ConfigError(f"{words}: {error}") from None
    if executor.kind == "streams" and layout.device.type != "cuda":
        raise ConfigError(f"{words}: a CPU has no streams: choose single, stacked or captured")
    # Dropout draws for a whole stack at once, so a job's result would depend on which jobs it was trained with.
    if layout.has_dropout and executor.kind in ("stacked", "captured"):
        raise ConfigError(f"{words}: a model with dropout is trained one job after the other: choose single")
    return executor
