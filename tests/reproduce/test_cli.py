"""The command line, in process: what it prints and writes, and that bad input ends with one sentence and code 2."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from fedrevive_core.errors import ConfigError
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import Simulation
from reproduce import doctor

QUICK = [
    "--set", "federation.max_versions=4", "--set", "federation.max_sim_time=null", "--set", "federation.num_clients=10",
    "--set", "federation.concurrency=4", "--set", "training.steps=2", "--set", "revival.warmup=1",
    "--set", "synthesis.every=1", "--set", "synthesis.width=4", "--set", "distillation.steps=1",
]  # fmt: skip


def test_presets(call):
    listed = json.loads(call("presets", "--json")[1])
    assert "lab-digits" in listed["presets"]
    assert "fedrevive" in listed["methods"]
    assert "cifar10-authors" in call("presets")[1]


def test_settings_of_a_preset_are_shown_with_their_source(call):
    assert "[paper]" in call("presets", "cifar10")[1]
    settings = json.loads(call("presets", "cifar10", "--json")[1])
    assert settings["dd-fedrevive"]["server"]["lr"] == 0.2


def test_timeline_as_json(call):
    code, out, _ = call("timeline", "--preset", "cifar10", "--schedule", "shifted", "--seed", "10", "--json")
    summary = json.loads(out)
    assert code == 0
    assert 50_000 < summary["num_arrivals"] < 52_000
    assert {"num_versions", "mean_staleness", "max_staleness", "sim_time", "seconds"} <= summary.keys()


def test_timeline_drawn(call, tmp_path):
    assert call("timeline", "--plot", tmp_path / "t.png")[0] == 0
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_drawn_is_one_sentence(call, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "t.xyz", tmp_path / "file" / "t.png"):
        code, _, error = call("timeline", "--plot", path)
        assert code == 2
        assert re.match("error: (cannot draw '.*t.xyz'|'.*t.png' cannot be written .Not a directory)", error)
        assert error.count("\n") == 1


def test_run_writes_a_record(call, tmp_path):
    out = tmp_path / "runs" / "first"
    code, printed, _ = call("run", "--method", "fedrevive", "--out", out, "--json", *QUICK)
    assert code == 0
    assert json.loads(printed)["num_versions"] == 4
    names = {"run.json", "evaluations.parquet", "arrivals.parquet", "timings.parquet", "timeline.parquet",
             "classes.parquet", "samples.npz", "model.safetensors", "curves.png", "heard.png"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    record = Record.load(out)
    assert record.summary["num_versions"] == 4
    assert record.config.federation.num_clients == 10
    assert record.provenance["versions"]["torch"]
    header = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert header["summary"]["state_sha256"] == record.summary["state_sha256"]
    assert len(pd.read_parquet(out / "arrivals.parquet")) == 4


def test_a_directory_that_holds_a_run_is_refused_before_any_work(call, tmp_path):
    assert call("run", "--method", "fedbuff", "--out", tmp_path / "r", *QUICK)[0] == 0
    before = (tmp_path / "r" / "run.json").read_bytes()
    code, _, error = call("run", "--method", "fedbuff", "--out", tmp_path / "r", *QUICK)
    assert code == 2
    assert "already holds a run" in error
    assert (tmp_path / "r" / "run.json").read_bytes() == before


@pytest.mark.processes
def test_compare_goes_on_where_it_stopped(call, tmp_path):
    arguments = ["compare", "--methods", "fedbuff,fedrevive", "--seeds", "0,1", "--out", tmp_path, "--json", *QUICK]
    arguments += ["--jobs", "2"]
    code, out, _ = call(*arguments)
    assert code == 0
    rows = json.loads(out)
    assert [row["method"] for row in rows] == ["FedBuff", "FedRevive"]
    assert "±" in rows[0]["final %"]
    assert (tmp_path / "table.md").exists()
    assert (tmp_path / "curves.png").exists()
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "runs").iterdir())
    assert names == ["fedbuff-s0", "fedbuff-s1", "fedrevive-s0", "fedrevive-s1"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert call(*arguments)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    code, _, error = call(*arguments, "--set", "server.lr=0.123")
    assert code == 2
    assert "server.lr: 0.123" in error


def test_compared_methods_share_their_arrivals(call, tmp_path):
    call("compare", "--methods", "afl-dw,fedrevive", "--seeds", "3", "--out", tmp_path, *QUICK)
    paths = (next((tmp_path / "runs").glob(f"{method}-s3-*")) for method in ("afl-dw", "fedrevive"))
    one, other = (Record.load(path).arrivals for path in paths)
    assert one[["job", "client", "sim_time"]].equals(other[["job", "client", "sim_time"]])


def test_a_comparison_of_an_older_version_is_refused_and_stays(call, tmp_path):
    record = tmp_path / "fedbuff" / "seed-0" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    code, _, error = call("compare", "--methods", "fedbuff", "--out", tmp_path, *QUICK)
    assert code == 2
    assert "as older versions arranged a comparison" in error
    assert error.count("\n") == 1
    assert list(tmp_path.rglob("*")) == [record.parent.parent, record.parent, record]


def test_a_comparison_whose_run_fails_says_so(call, tmp_path):
    """ConvNet needs larger images than digits have, which only the run itself finds out."""
    code, _, error = call("compare", "--methods", "fedbuff", "--seeds", "0", "--out", tmp_path, "--set",
                          "model=convnet", *QUICK)  # fmt: skip
    assert code == 1
    assert f"1 of 1 runs have failed, {tmp_path / 'failures'} says why" in error
    assert not (tmp_path / "table.md").exists()


def test_doctor(call):
    rows = {row["what"]: row for row in json.loads(call("doctor", "--json")[1])}
    assert rows["data 'digits'"]["found"] == "1,797 images"
    assert rows["torch"]["found"] != "missing"
    assert {"pydantic", "safetensors", "papermill", "ray"} <= rows.keys()  # required, or for an extra
    assert "pytest" not in rows


def test_doctor_names_what_is_missing_or_too_old(monkeypatch):
    required = ["torch>=999", "absent-package>=1", 'absent-extra>=1; extra == "cluster"', 'pytest>=8; extra == "test"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: required)
    rows = {row["what"]: row for row in doctor.examine()}
    assert rows["torch"]["to do"] == ">=999 is needed, pip install -e ."
    assert (rows["absent-package"]["found"], rows["absent-package"]["to do"]) == ("missing", "pip install -e .")
    assert rows["absent-extra"]["to do"] == "only for cluster: pip install -e '.[cluster]'"
    assert "pytest" not in rows

    monkeypatch.setattr(doctor, "installed", lambda name: None)
    assert "pip install -e ." in {row["what"]: row for row in doctor.examine()}["fedrevive"]["to do"]


def test_doctor_says_before_the_lab_what_would_fail_in_it(monkeypatch):
    def remarks() -> dict[str, str]:
        return {row["what"]: row["to do"] for row in [*doctor._machine(), *doctor._lab()]}

    plenty = SimpleNamespace(total=16e9, available=9e9, free=50e9)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: plenty)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: plenty)
    assert set(remarks().values()) == {""}
    plenty.total = 8.1e9
    assert "one notebook at a time" in remarks()["memory"]
    plenty.total, plenty.free = 2e9, 0.5e9
    assert "use another machine" in remarks()["memory"]
    assert "make room" in remarks()["disk here"]
    other = SimpleNamespace(argv=["/elsewhere/bin/python3"])
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.get_kernel_spec", lambda *_: other)
    assert "another Python" in remarks()["kernel 'python3'"]
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    assert "PyTorch is missing" in remarks()["notebooks that run"]
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert "[notebooks]" in remarks()["lab"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "lab-digit"], "did you mean 'lab-digits'"),
        (["--method", "fedbuf"], "did you mean 'fedbuff'"),
        (["--schedule", "shiftd"], "did you mean 'shifted'"),
        (["--preset", "x"], "preset = 'x' is unknown: allowed: lab-digits, "),
        (["--set", "server.lrr=0.1"], "server.lrr is unknown: did you mean 'lr'"),
        (["--set", "sever.lr=0.1"], "sever is unknown: did you mean 'server'"),
        (["--set", "server.lr"], "must be SECTION.FIELD=VALUE"),
        (["--set", "server.lr=fast"], "server.lr = 'fast'"),
        (["--set", "server.lr=-1"], "server.lr = -1: input should be greater than 0"),
        (["--set", "federation.concurrency=999"], "concurrency = 999 must be at most num_clients = 150"),
        (["--set", "federation.refill_size=99"], "refill_size = 99 must be at most concurrency = 80"),
        (["--set", "federation.buffer_size=0"], "federation.buffer_size = 0"),
        (["--set", "data.alpha=0"], "data.alpha = 0"),
        (["--set", "federation.max_sim_time=0.01"], "ends after 0 arrivals"),
        (["--set", "data.samples_per_client=1000"], "lower samples_per_client or raise alpha"),
        (["--set", "data.split=iid", "--set", "data.samples_per_client=5000"], "must be at most the 107"),
        (["--set", "data.samples_per_client=0"], "data.samples_per_client = 0"),
        (["--seed", "-1"], "seed = -1"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(call, tmp_path, arguments, words):
    code, out, error = call("run", "--out", tmp_path / "new", *arguments)
    assert code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "fedbuff,fedbuff"], "each may be given once"),
        (["--methods", ","], "--methods is empty"),
        (["--methods", "fedbuff", "--seeds", "1,x"], "must be whole numbers"),
        (["--methods", "fedbuff", "--seeds", "1,1"], "each may be given once"),
        (["--methods", "fedbuff", "--seeds", "1,01"], "each may be given once"),
        (["--methods", "fedbuf"], "did you mean 'fedbuff'"),
    ],
)
def test_bad_lists(call, tmp_path, arguments, words):
    code, _, error = call("compare", "--out", tmp_path, *arguments)
    assert code == 2
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_that_is_resumed_says_so(call, tmp_path, monkeypatch):
    """A batch system may start one command line again and again: with nothing there, after a full disk, at the end."""
    command = ["run", "--method", "fedbuff", "--keep-every", "2", "--out", tmp_path / "r", "--resume", *QUICK]
    save, trained = Record.save, []
    process = Simulation.process
    monkeypatch.setattr(Simulation, "process", lambda self, number: trained.append(number) or process(self, number))

    def full(*_, **__):
        raise ConfigError("no room")

    monkeypatch.setattr(Record, "save", full)
    code, _, error = call(*command)
    assert (code, error.splitlines()[-1]) == (2, "error: no room")
    monkeypatch.setattr(Record, "save", save)
    once = len(trained)
    first = call(*command, "--json")
    assert once == len(trained) > 0, "nothing is trained again"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert call(*command, "--json")[:2] == first[:2]
    code, printed, _ = call(*command)
    assert (code, "it was finished before; nothing was run" in " ".join(printed.split())) == (0, True)
    code, _, error = call(*command, "--set", "server.lr=0.123")
    assert (code, "already holds a run, which differs in server.lr: " in error) == (2, True)
    branched = ["branch", tmp_path / "r", "--out", tmp_path / "b", "--resume", "--json"]
    trained.clear()
    assert call(*branched, "--at", "2")[:2] == call(*branched, "--at", "2")[:2]
    assert 0 < len(trained) < once, "once"
    code, _, error = call(*branched, "--at", "4")
    assert (code, "differs in the arrival after which it was branched: 4 / 8" in error) == (2, True)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "r"]
