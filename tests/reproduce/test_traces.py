"""Public traces of devices: small files in their formats, worked by hand, and files that no one should trust.

The formats are those of FLHetBench's and FLASH's `cached_timers.json` and of FedScale's `client_behave_trace` and
`client_device_capacity`. The real files were not downloaded.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedrevive_core.config import build
from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline import simulate_timeline
from fedrevive_core.timeline.traces import read_trace
from reproduce.traces import convert

# Times count from 2020-01-02 00:00:00. The second client's trace is half as long as the first one's.
READY = {
    "6a-77": {"isSuccess": True, "trace_start": 0.0, "trace_end": 100.0, "ready_time": [[10.0, 30.0], [30.0, 40.0]]},
    "6a-78": {
        "trace_start": "2020-01-02 00:00:10",
        "trace_end": "2020-01-02 00:01:00",
        "ready_time": [["2020-01-02 00:00:20", "2020-01-02 00:00:35"], ["2020-01-02 00:00:55", "2020-01-02 00:01:00"]],
    },
    "6a-79": {"isSuccess": False, "trace_start": None, "trace_end": None, "ready_time": []},
    "6a-80": {"trace_start": 0, "trace_end": 100, "ready_time": [[50, 50], [70, 60], [90, 120]]},
}
ACTIVE = {
    432802: {"duration": 60, "active": [12, 100], "inactive": [65, 133], "finish_time": 200, "model": "CPH1801"},
    17: {"duration": 10, "active": [0], "inactive": [10], "finish_time": 100, "model": "SM-1"},
}
SPEEDS = {1: {"computation": 162.0, "communication": 5648.0}}


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def intervals(directory: Path) -> dict[int, list[tuple[float, float]]]:
    table = pd.read_parquet(directory / "availability.parquet")
    assert list(table.columns) == ["client", "from", "to"]
    return {
        client: list(zip(rows["from"].tolist(), rows["to"].tolist(), strict=True))
        for client, rows in table.groupby("client")
    }


def test_ready_times_are_joined_and_repeated_until_the_longest_trace_ends(tmp_path: Path) -> None:
    """The second trace lasts 50 seconds: its interval from 55 to 60 is also there from 5 to 10, that from 20 at 70."""
    found = convert(write(tmp_path / "cached_timers.json", READY), tmp_path / "trace")
    assert intervals(tmp_path / "trace") == {
        0: [(10, 40)],
        1: [(5, 10), (20, 35), (55, 60), (70, 85)],
        3: [(0, 20), (90, 100)],
    }
    assert found["clients"] == 4
    assert found["never there"] == 1
    assert found["intervals"] == 7
    text = (tmp_path / "trace" / "availability.parquet").read_bytes() + (tmp_path / "trace/speed.parquet").read_bytes()
    assert b"6a-7" not in text
    trace = read_trace(tmp_path / "trace")
    assert (trace.period, trace.seconds_there.tolist()) == (100, [30, 40, 0, 30])
    assert set(trace.seconds_per_step) <= {1, 3, 8}


def test_pickles_of_fedscale(tmp_path: Path) -> None:
    """162 ms for a sample in inference: a step of 10 samples trains for 10 x 3 x 0.162 seconds. Bytes are 8 bits."""
    speed = write(tmp_path / "client_device_capacity", SPEEDS)
    convert(write(tmp_path / "client_behave_trace", ACTIVE), tmp_path / "trace", speed, batch_size=10)
    assert intervals(tmp_path / "trace") == {0: [(12, 65), (100, 133)], 1: [(0, 10), (100, 110)]}
    trace = read_trace(tmp_path / "trace")
    assert trace.seconds_per_step == pytest.approx([4.86, 4.86])
    assert trace.down.tolist() == trace.up.tolist() == [706_000, 706_000]
    assert b"CPH1801" not in (tmp_path / "trace" / "availability.parquet").read_bytes()


def test_a_converted_trace_is_a_schedule(call: Any, tmp_path: Path) -> None:
    many = {str(number): READY["6a-77"] for number in range(8)}
    source = write(tmp_path / "cached_timers.json", many)
    code, out, _ = call("convert-trace", str(source), "--out", str(tmp_path / "trace"))
    assert code == 0
    assert "never there" in out
    overrides = {"federation.num_clients": 8, "federation.concurrency": 4, "federation.max_sim_time": 1000.0}
    overrides["federation.devices.trace"] = str(tmp_path / "trace")
    timeline = simulate_timeline(build("lab-digits", "fedbuff", schedule="devices", overrides=overrides).federation, 0)
    inside = timeline.dispatch_time % 40  # the trace ends with its last interval
    assert ((inside >= 10) & (inside < 40)).all()


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched-by-a-pickle"),))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trace.pkl", Hostile(), "and only plain values are read"),
        ("trace.pkl", {1: {"active": np.arange(3)}}, "it asks for numpy.*and only plain values are read"),
        ("trace.pkl", [1, 2], "holds no dictionary of clients"),
        ("trace.json", [1, 2], "holds no object"),
        ("trace.json", {}, "no client is ever there"),
        ("trace.json", {"a": READY["6a-79"]}, "no client is ever there"),
        ("trace.json", {"a": 1}, "trace.json, entry 1 is no dictionary"),
        ("trace.json", {"a": {"model": "x"}}, "entry 1 has neither 'ready_time' .* nor 'active'"),
        ("trace.json", {"a": {"messages": "x"}}, "entry 1 has raw messages"),
        ("trace.json", {"a": {**READY["6a-77"], "ready_time": [[1, 2, 3]]}}, "a 'ready_time' that is no list of pairs"),
        ("trace.json", {"a": {**READY["6a-77"], "ready_time": 4}}, "entry 1 has no list 'ready_time'"),
        ("trace.json", {"a": {**READY["6a-77"], "trace_end": "noon"}}, "entry 1 has a time in 'trace_end' that is"),
        ("trace.json", {"a": {**READY["6a-77"], "trace_end": float("nan")}}, "entry 1 has a time in 'trace_end'"),
        ("trace.json", {"a": {**READY["6a-77"], "trace_end": 1e300}}, "entry 1 has a time in 'trace_end'"),
        ("trace.json", {"a": READY["6a-77"], "b": {**READY["6a-77"], "trace_end": 1e11}}, "jobs, and 1e\\+07"),
        ("trace.pkl", {1: {**ACTIVE[17], "active": [1, 2]}}, "entry 1 has 2 times in 'active' and 1 in 'inactive'"),
        ("trace.pkl", {1: {**ACTIVE[17], "finish_time": True}}, "entry 1 has a time in 'finish_time'"),
    ],
)
def test_what_is_no_trace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        convert(write(tmp_path / name, content), tmp_path / "out")
    assert not (tmp_path / "touched-by-a-pickle").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [b"", b"\x80\x05.", b"not a pickle", pickle.dumps(ACTIVE)[:-20]])
def test_a_damaged_pickle(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "trace.pkl").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"trace\.pkl cannot be read"):
        convert(tmp_path / "trace.pkl", tmp_path / "out")


@pytest.mark.parametrize("speeds", [{}, {1: 2}, {1: {"computation": 1.0}}, {1: {**SPEEDS[1], "computation": 0}}])
def test_speeds_that_are_none(tmp_path: Path, speeds: Any) -> None:
    source, speed = write(tmp_path / "trace.pkl", ACTIVE), write(tmp_path / "speed.pkl", speeds)
    with pytest.raises(ConfigError, match=r"speed\.pkl(, entry 1 has no positive numbers| holds no speeds)"):
        convert(source, tmp_path / "out", speed)
