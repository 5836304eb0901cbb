"""The presets of the paper's four data sets against its tables, which `paper_settings.json` holds a second time."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from fedrevive_core.config.presets import build
from fedrevive_core.config.run import RunConfig

TABLES = json.loads((Path(__file__).parent / "paper_settings.json").read_text())
DATA_SETS = ("cifar10", "cifar100", "femnist", "newsgroups")
METHODS = ("fedavg", "fedbuff", "afl-dw", "dd-fedrevive", "fedrevive")


def value(config: RunConfig, dotted: str) -> Any:
    found = functools.reduce(getattr, dotted.split("."), config)
    return list(found) if isinstance(found, tuple) else found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data_set", DATA_SETS)
def test_every_value_is_the_papers(data_set: str, method: str) -> None:
    # What is said of one data set and method comes last: CIFAR-100's FedAvg has K = 200.
    expected = TABLES["shared"] | TABLES[f"shared_{method}"] | TABLES[data_set]["all"] | TABLES[data_set][method]
    config = build(data_set, method)
    assert {name: value(config, name) for name in expected} == expected


def test_the_tables_say_what_they_should() -> None:
    """20 rows, each with a server rate, and no two data sets the same."""
    rows = [TABLES[data_set][method] for data_set in DATA_SETS for method in METHODS]
    assert len(rows) == 20
    assert all("server.lr" in row for row in rows)
    assert len({json.dumps(TABLES[data_set], sort_keys=True) for data_set in DATA_SETS}) == 4
