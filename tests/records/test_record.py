"""Records: the summary's numbers worked by hand, and files that come back as they went."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedrevive_core.config.presets import build
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import check_free
from fedrevive_core.records.hash_chain import state_sha256
from fedrevive_core.records.record import TABLES, Record
from fedrevive_core.records.statistics import summarise
from reproduce.sweeps.collection import load_many

EVALUATIONS = pd.DataFrame({"sim_time": [0.0, 2.0, 6.0, 10.0], "accuracy": [0.1, 0.55, 0.8, 0.7]})


def test_summary_worked_by_hand():
    """Held accuracy: 0.1 for 2 units, 0.55 for 4, 0.8 for 4, 0.7 for none: (0.2 + 2.2 + 3.2) / 10."""
    summary = summarise(EVALUATIONS, sim_time=10.0)
    assert summary["final_accuracy"] == pytest.approx(0.7)  # the only evaluation in the last 5% of time, [9.5, 10]
    assert summary["last_accuracy"] == pytest.approx(0.7)
    assert summary["best_accuracy"] == pytest.approx(0.8)
    assert summary["mean_accuracy"] == pytest.approx(0.56)
    assert summary["time_to"] == {"0.5": 2.0, "0.6": 6.0, "0.7": 6.0, "0.8": 6.0, "0.9": None}


def test_a_run_lasts_until_its_budget_ends():
    """Time 20: the last accuracy holds for 10 more units, and no evaluation lies in the last 5%."""
    summary = summarise(EVALUATIONS, sim_time=20.0)
    assert summary["mean_accuracy"] == pytest.approx((5.6 + 7.0) / 20)
    assert summary["final_accuracy"] == pytest.approx(0.7)


def test_final_accuracy_is_the_mean_of_the_last_twentieth():
    table = pd.DataFrame({"sim_time": [0.0, 9.4, 9.5, 10.0], "accuracy": [0.0, 0.9, 0.5, 0.7]})
    assert summarise(table, 10.0)["final_accuracy"] == pytest.approx(0.6)


def arrivals_table(count: int) -> pd.DataFrame:
    """`count` arrivals of which nothing is known."""
    columns = {
        name: {"int": 0, "float": np.nan, "bool": False, "text": ""}[kind] for name, kind in TABLES["arrivals"].items()
    }
    return pd.DataFrame({**columns, "job": range(count)})


def a_record(accuracy: float = 0.5, num_arrivals: int = 1, **config: Any) -> Record:
    """Two evaluations, the second at simulated time 1, and one arrival."""
    evaluations = pd.DataFrame(
        {
            "version": [0, 1], "sim_time": [0.0, 1.0], "num_arrivals": [0, 1], "accuracy": [0.1, accuracy],
            "loss": [2.0, np.nan], "class_accuracy": [[0.1, 0.2], [0.5, 0.5]],
        }
    )  # fmt: skip
    return Record(
        config=build("lab-digits", **({"method": "fedrevive", "overrides": {"server.lr": 0.123}} | config)),
        summary={
            **summarise(evaluations, 1.0),
            "model": "labnet",
            "state_sha256": state_sha256(np.ones(6, np.float32)),
        },
        provenance={"versions": {"torch": "2"}, "device": "cpu", "num_threads": 1},
        evaluations=evaluations,
        arrivals=arrivals_table(num_arrivals),
        timings=pd.DataFrame({"part": ["training"], "seconds": [1.5], "calls": [2]}),
        samples={
            "version": np.array([1]),
            "images": np.zeros((1, 2, 1, 8, 8), np.uint8),
            "labels": np.array([[1, -1]]),
        },
        model={"head.weight": np.ones((2, 3), np.float32)},
    )


def test_round_trip(tmp_path):
    record = a_record()
    record.save(tmp_path / "a" / "b")
    loaded = Record.load(tmp_path / "a" / "b")
    assert loaded.config == record.config
    assert loaded.summary == record.summary
    assert loaded.arrivals.equals(record.arrivals)
    assert [list(row) for row in loaded.evaluations["class_accuracy"]] == [[0.1, 0.2], [0.5, 0.5]]
    assert all(np.array_equal(loaded.samples[name], record.samples[name]) for name in record.samples)
    assert np.array_equal(loaded.model["head.weight"], record.model["head.weight"])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]  # no temporary directory stays


def test_a_record_may_leave_its_model_out(tmp_path):
    a_record().save(tmp_path / "run", with_model=False)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert Record.load(tmp_path / "run").model == {}


def varied(seed: int, method: str, lr: float, num_arrivals: int) -> Record:
    accuracy = 0.4 if seed else 0.5
    return a_record(accuracy, num_arrivals, method=method, seed=seed, overrides={"server.lr": lr})


def test_many_records_as_tidy_tables(tmp_path):
    """Two runs that differ in server.lr, method (and what belongs to it) and seed; the tables keep their rows apart."""
    varied(0, "fedbuff", 0.1, 2).save(tmp_path / "a")
    varied(1, "afl-dw", 0.2, 3).save(tmp_path / "deep" / "b", with_model=False)
    (tmp_path / "deep" / "c.partial").mkdir()
    many = load_many(tmp_path)
    assert many.runs["run"].tolist() == ["a", "deep/b"]
    assert many.runs["method"].tolist() == ["fedbuff", "afl-dw"]
    assert many.runs["seed"].tolist() == [0, 1]
    assert many.runs["server.lr"].tolist() == [0.1, 0.2]
    assert "training.lr" not in many.runs
    assert many.runs["time_to 0.5"].isna().tolist() == [False, True]
    assert many.runs["training_seconds"].tolist() == [1.5, 1.5]
    assert many.arrivals["run"].tolist() == ["a"] * 2 + ["deep/b"] * 3
    assert many.arrivals["job"].tolist() == [0, 1, 0, 1, 2]
    assert many.arrivals["server.lr"].tolist() == [0.1] * 2 + [0.2] * 3
    assert many.evaluations.groupby("seed")["accuracy"].last().tolist() == [0.5, 0.4]


def test_one_record_alone_still_says_method_and_seed(tmp_path):
    varied(3, "fedbuff", 0.1, 2).save(tmp_path / "a")
    runs = load_many(tmp_path).runs
    assert list(runs.columns[:3]) == ["run", "method", "seed"]
    assert "model" in runs


def test_no_records_and_damaged_records_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="holds no runs"):
        load_many(tmp_path)
    varied(0, "fedbuff", 0.1, 2).save(tmp_path / "a")
    (tmp_path / "a" / "arrivals.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="a does not hold a readable run"):
        load_many(tmp_path)


def test_a_full_directory_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty: choose another directory"):
        a_record().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        a_record().save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


FILES = ["run.json", "samples.npz", *(f"{table}.parquet" for table in TABLES)]


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, damage) for name in FILES for damage in ("delete", "truncate")), ("model.safetensors", "truncate")],
)
def test_a_damaged_record_is_an_error_that_names_it(tmp_path, name, damage):
    directory = tmp_path / "run"
    a_record().save(directory)
    path = directory / name
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match="does not hold a readable run"):
        Record.load(directory)


def test_a_record_with_pickled_objects_is_refused(tmp_path):
    directory = tmp_path / "run"
    a_record().save(directory)
    np.savez(directory / "samples.npz", version=np.array([object()], dtype=object))
    with pytest.raises(ConfigError, match="does not hold a readable run"):
        Record.load(directory)


def test_empty_or_absent_directories_are_free(tmp_path):
    assert check_free(tmp_path) == tmp_path
    assert check_free(tmp_path / "new") == tmp_path / "new"


def test_state_hash_is_of_little_endian_float32():
    assert state_sha256(np.array([1.0], np.float32)) == state_sha256(np.array([1.0], ">f4"))
    assert state_sha256(np.array([1.0], np.float32)) != state_sha256(np.array([1.0 + 2**-23], np.float32))
