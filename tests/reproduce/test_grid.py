"""Values of a grid through every stage, from the file to the table; and what an experiment must not say twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_report import experiment, lead_claim, runs

from fedrevive_core.config.base import flatten
from fedrevive_core.errors import ConfigError
from fedrevive_core.records.statistics import summarise
from reproduce.reports.claims import judge_claims
from reproduce.sweeps import plain_yaml
from reproduce.sweeps.experiment import cells, load_experiment, select
from reproduce.sweeps.explorer import EVERY, sweep_explorer
from reproduce.sweeps.figures import plot_lead, plot_settings
from reproduce.sweeps.grid import columns, identity, points, text
from reproduce.sweeps.results import SweepResults, collect

# Every value is one that a careless comparison takes for another.
AWKWARD = [
    None,
    "null",
    True,
    "true",
    1,
    "1",
    0,
    False,
    "",
    "all",
    0.1,
    0.1 + 1e-16,
    "0.1",
    [1, 2],
    ["1", 2],
    [],
    1e-7,
    "a b",
]
PLAIN = {"preset": "lab-digits", "seeds": [0]}


def write(directory: Path, body: str) -> Path:
    (directory / "e.yaml").write_text(f"name: e\nquestion: q\nnotebook: 08_reproduce\n{body}", encoding="utf-8")
    return directory / "e.yaml"


def test_no_value_of_a_grid_is_taken_for_another() -> None:
    values = [value for value in AWKWARD if value != 0.1 or value is AWKWARD[10]]
    assert len(set(map(identity, values))) == len(set(map(text, values))) == len(values)
    assert identity(1) == identity(1.0) != identity(True)
    grid = {"d.x": values, "d.y": [1, 2]}
    cells_ = [{"d.x": x, "d.y": y} for x in values for y in (1, 2)]
    table = columns(grid, plain_yaml.load(plain_yaml.dump(cells_)))
    table = table.assign(run=range(len(table)), arm="a", seed=0, mean_accuracy=0.5)
    for number, (point, own) in enumerate(points(table, grid)):
        assert point == cells_[number]
        assert own["run"].tolist() == [number]
    table = table[:12]
    assert plot_settings(table, "mean_accuracy", "d.x", "d.y").axes
    assert plot_lead(table, "mean_accuracy", "d.x", "d.y", "a", "a").axes
    values_shown = list(dict.fromkeys(table["d.x"]))
    explorer = sweep_explorer(table, ["d.x", "d.y"])
    assert explorer.draw("mean_accuracy", "d.x", **{"arm": EVERY, "d.x": values_shown[0], "d.y": EVERY}).axes


@pytest.mark.parametrize("values", [[0.1, 1], [3, None], [True, False], ["a", 1], [[0.5], [0.25, 1.0]]])
def test_only_takes_a_value_as_it_is_shown(values: list[object]) -> None:
    class Listed:
        def __init__(self, value: object) -> None:
            self.arm, self.seed, self.grid, self.config = "1", 0, {"x": value}, type("C", (), {"method": "m"})

    listed = [Listed(value) for value in values]
    for number, value in enumerate(values):
        assert select(listed, {"x": text(value), "arm": "1"}) == [listed[number]]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="allowed: "):
        select(listed, {"x": "nothing"})  # type: ignore[arg-type]


def test_a_claim_about_null_is_judged() -> None:
    grid = {"server.clip_norm": [None, 5.0]}
    both = columns(grid, [{"server.clip_norm": None}, {"server.clip_norm": 5.0}])
    table = runs("final_accuracy", a={0: 0.6, 1: 0.7}, b={0: 0.5, 1: 0.6}).merge(both, how="cross")
    claim = lead_claim(baselines=["b"], where={"server.clip_norm": None})
    (row,) = judge_claims(experiment([claim], grid=grid), "lab", table).to_dict("records")
    assert (row["at"], row["num_seeds"], row["verdict"]) == ("clip_norm=null", 2, "reproduced")


def test_a_packed_sweep_is_read_by_its_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A column of the table that says another value than sweep.json is not believed."""
    path = write(tmp_path, "scales: {lab: {preset: lab-digits, seeds: [0]}}\narms: {a: {method: fedrevive}}\n"
                           "grid: {server.clip_norm: [null, 5]}\n")  # fmt: skip
    path.rename(tmp_path / "experiment.yaml")
    listed = [{"run": f"r{n}", "arm": "a", "seed": 0, "grid": {"server.clip_norm": v}} for n, v in enumerate([None, 5])]
    monkeypatch.setattr("reproduce.sweeps.results.header", lambda _: {"scale": "lab", "cells": listed})
    runs = pd.DataFrame({"run": ["r1", "r0"], "arm": "a", "seed": 0})
    curves = runs.assign(version=1, sim_time=1.0, num_arrivals=1, accuracy=0.5)
    curves.to_parquet(tmp_path / "evaluations.parquet")
    stated = flatten(summarise(curves[:1], 1.0), " ")
    floats = dict.fromkeys(("sim_time", "mean_staleness", "server_seconds"), 1.0)
    counts = dict.fromkeys(("num_arrivals", "num_parameters", "client_steps", "bytes_up", "bytes_down"), 1)
    runs = runs.assign(method="fedrevive", **{"server.clip_norm": 7.0}, **floats, **counts, **stated)
    runs.to_parquet(tmp_path / "runs.parquet")
    found = collect(tmp_path)
    assert isinstance(found, SweepResults)
    assert found.records.runs["server.clip_norm"].tolist() == ["null", "5"]
    assert [own["run"].tolist() for _, own in points(found.records.runs, found.grid)] == [["r0"], ["r1"]]
    listed[0]["grid"] = {"server.clip_norm": 6}
    with pytest.raises(ConfigError, match=r"has a run with server.clip_norm = 6: allowed: null, 5"):
        collect(tmp_path)


MANY = f"grid: {{data.alpha: {list(range(1, 1001))}, training.steps: {list(range(1, 12))}}}\n"
LAB, ARM = "scales: {lab: {preset: lab-digits, seeds: [0]}}\n", "arms: {a: {method: fedbuff}}\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (LAB + "arms:\n  a: {method: fedbuff}\n  a: {method: afl-dw}\n", "line 7: 'a' is given twice, first in line 6"),
        (LAB + ARM + "grid: {data.alpha: [1, 1.0]}\n", "grid.data.alpha has 1 and 1.0, which are the same"),
        (LAB + ARM + "grid: {federation.schedule: [{a: 1}]}\n", "must be a number, text, true, false, null or a list"),
        (LAB + ARM + "grid: {data.alpha: [[[1]]]}\n", "must be a number, text, true, false, null or a list"),
        (LAB + ARM + "grid: {seed: [1, 2]}\n", "varies seed: list seeds in the scale"),
        (LAB + "arms: {a: {method: fedbuff, settings: {seed: 3}}}\n", "arm 'a' sets or varies seed"),
        (LAB + "arms: {a: {method: fedbuff, settings: {server: {lr: 1}, server.lr: 2}}}\n", "server and server.lr set"),
        (
            LAB + "arms: {a: {method: fedbuff, settings: {server.lr: 1}}}\ngrid: {server.lr: [1, 2]}\n",
            "arm 'a' sets server.lr, and the grid varies server.lr",
        ),
        (
            "scales: {lab: {preset: lab-digits, seeds: [0], settings: {data: {alpha: 1}}}}\n" + ARM
            + "grid: {data.alpha: [1, 2]}\n", "scale lab sets data.alpha, and the grid varies data.alpha",
        ),
        (LAB + ARM + MANY, "11,000 cells .* at most 10,000 are allowed"),
        (LAB + "arms: {a: {methd: fedbuff}}\n", "arms.a.methd is unknown: did you mean 'method'"),
        ("scales: {lab: {preset: lab-digits, seed: [0]}}\n" + ARM, "scales.lab.seed is unknown: did you mean 'seeds'"),
        (LAB + "arms: {a: {method: fedbuff, tuned: [{were: {}}]}}\n", "tuned.0.were is unknown: did you mean"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_in_an_experiment_is_one_sentence(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        load_experiment(write(tmp_path, body))
    assert "\n" not in str(error.value)


def test_two_tuned_entries_for_one_point_are_refused(tmp_path: Path) -> None:
    tuned = (
        "[{where: {data.alpha: 1}, settings: {server.lr: 1}}, {where: {training.steps: 2}, settings: {server.lr: 2}}]"
    )
    body = (
        f"{LAB}arms: {{a: {{method: fedbuff, tuned: {tuned}}}}}\ngrid: {{data.alpha: [1, 2], training.steps: [1, 2]}}\n"
    )
    with pytest.raises(ConfigError, match=r"1 invalid cells:\n  a seed 0 data.alpha=1 .*server.lr is tuned twice"):
        cells(load_experiment(write(tmp_path, body)), "lab")


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 300))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: 'c' is given twice, first in line 3"),
        (BOMB, "more than 50,000 values"), (CHAIN, "nested more than 20 deep"), ("a: &x [*x]", "not defined before"),
        ("[" * 100_000, "nested more than 20 deep"), ("{a: " * 50_000, "nested more than 20 deep"),
        *((f"a: {word}", f"{word} may be read in several ways") for word in (
            "yes", "no", "on", "off", "True", "010", "0x1f", "1:30", "2024-01-01", "1_000", ".inf", "1e999", "08",
        )),
        ("a: " + "9" * 5000, "may be read in several ways"),
        ("1: a", "the key 1 must be text"), ("? [a]\n: b", "a key must be text"), ("a:", "a value is missing"),
        ("a: !!python/name:os.system x", "tags such as"), ("a: 1\n---\nb: 1", "a second document"), ("", "it is empty"),
        ('a: "\\ud800"', "is no text"), ("a: {<<: 1}", "must be followed by mappings"),
    ],
)  # fmt: skip
def test_yaml_that_is_not_plain_is_refused(given: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plain_yaml.load(given)


def test_yaml_is_read_as_it_looks_and_written_as_it_is_read(tmp_path: Path) -> None:
    given = "a: &t {b: 1e-3, c: [.5, -2, null, true, word, '1', \"x\"]}\nd: {<<: *t, b: 2}\n"
    value = {"a": {"b": 1e-3, "c": [0.5, -2, None, True, "word", "1", "x"]}}
    value["d"] = value["a"] | {"b": 2}
    assert plain_yaml.load(given) == value
    words = ["1e-3", "08", "yes", "010", "1:30", "2024-01-01", "", "~", "<<", "a\nb", "é", "#", "-", "x: y", "1.", "*a"]
    for other in (value, {word: word for word in words}, words, AWKWARD):
        read = plain_yaml.load(plain_yaml.dump(other))
        assert repr(read) == repr(other)  # which tells 1 from true
    (tmp_path / "large.yaml").write_bytes(b"#" * (plain_yaml.LIMIT + 1))
    for path, said in ((tmp_path / "large.yaml", "is larger than"), (tmp_path, "is not a file"),
                       (tmp_path / ("x" * 300), "cannot be read: File name too long")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            plain_yaml.read(path)
