"""Sweeps: experiments as data, every cell once, and the same tables whatever happens in between."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import SMALL
from rich.console import Console

from fedrevive_core.config import build
from fedrevive_core.errors import ConfigError, Interrupted
from fedrevive_core.records import BESIDE, code_hash
from fedrevive_core.records.record import Record
from reproduce.sweeps import executors, progress
from reproduce.sweeps.collection import load_many
from reproduce.sweeps.experiment import cells, load_experiment, select, shipped
from reproduce.sweeps.progress import SweepProgress
from reproduce.sweeps.results import SweepResults, collect
from reproduce.sweeps.scheduler import Event, run_all
from reproduce.sweeps.sweep import Shard, check_out, opened, plan
from reproduce.sweeps.worker import CellRun, execute

SHORT = {name: value for name, value in SMALL.items() if name != "num_threads"} | {"federation.max_versions": 6}


def write_experiment(directory: Path, **changes) -> Path:
    """tiny.yaml: two arms, two seeds; `changes` replace its entries, None removes one."""
    values = {
        "name": "tiny",
        "question": "Does it work?",
        "notebook": "08_reproduce",
        "scales": {"lab": {"preset": "lab-digits", "seeds": [0, 1], "settings": SHORT, "checkpoint_every": 2}},
        "arms": {"fedbuff": {"method": "fedbuff"}, "fedrevive": {"method": "fedrevive"}},
    } | changes
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    return path


class Inline(executors.LocalExecutor):
    """Does a run in this process, when it is waited for."""

    def __init__(self, out: Path, slots: int | None = None) -> None:
        self.out, self.slots, self.started, self.waiting = out, slots or 1, [], []

    @property
    def running(self) -> list[CellRun]:
        return self.waiting

    def start(self, run: CellRun) -> None:
        self.started.append(run.name)
        self.waiting.append(run)

    def wait(self, seconds: float) -> list[tuple[CellRun, str | None]]:
        run = self.waiting.pop(0)
        return [(run, execute(run, self.out))]

    def stop(self) -> None:
        self.waiting.clear()


@pytest.fixture
def call(monkeypatch, call):
    """The command `sweep`, with runs in this process; (exit code, standard output, standard error)."""
    monkeypatch.setattr(executors, "LocalExecutor", Inline)
    return lambda *arguments: call("sweep", *([] if "--report" in arguments else ["--no-report"]), *arguments)


def tables(directory: Path) -> list[pd.DataFrame]:
    """All that must not depend on interruptions: no host seconds."""
    runs, evaluations, arrivals = load_many(directory / "runs")
    return [runs.loc[:, [name for name in runs if not name.endswith("_seconds")]], evaluations, arrivals]


def assert_same(left: Path, right: Path) -> None:
    for one, other in zip(tables(left), tables(right), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


# Experiments


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_experiment_builds_at_its_scales(name):
    experiment = load_experiment(name)
    assert "lab" in experiment.scales
    for scale in experiment.scales:
        found = cells(experiment, scale)
        assert len(found) >= 2
        assert {cell.config.preset for cell in found} == {experiment.scales[scale].preset}


def test_what_is_shipped():
    assert {"figure2-cifar10", "figure3-shifted", "lab-headline", "beta-rules", "smoke"} <= set(shipped())


def test_only_numbers_that_were_published_or_measured_are_claimed():
    values = {
        claim.paper_value for name in shipped() for claim in load_experiment(name).claims if claim.source != "ours"
    }
    assert values == {38.4, 16.5, 32.1, 21.5, 40, 61, 76, 75, 30, 79}


def test_cells_are_arms_times_grid_times_seeds(tmp_path):
    path = write_experiment(tmp_path, grid={"data.alpha": [0.1, 1.0], "training.batch_size": [1, 2]})
    found = cells(load_experiment(path), "lab")
    assert len(found) == 2 * 4 * 2
    assert str(found[0]) == "fedbuff seed 0 data.alpha=0.1 training.batch_size=1"
    assert str(found[-1]) == "fedrevive seed 1 data.alpha=1.0 training.batch_size=2"
    assert found[-1].config.training.batch_size == 2
    assert found[-1].config.num_threads == 1
    chosen = select(found, {"data.alpha": "1.0", "method": "fedbuff", "seed": "1"})
    assert [str(cell) for cell in chosen] == [
        "fedbuff seed 1 data.alpha=1.0 training.batch_size=1", "fedbuff seed 1 data.alpha=1.0 training.batch_size=2",
    ]  # fmt: skip


def test_what_was_tuned_for_a_point_of_the_grid_holds_there(tmp_path):
    tuned = [{"where": {"training.batch_size": 2, "data.alpha": 1.0}, "settings": {"server.lr": 0.5}}]
    arms = {"fedbuff": {"method": "fedbuff", "settings": {"server.lr": 0.25}, "tuned": tuned}}
    path = write_experiment(tmp_path, grid={"data.alpha": [0.1, 1.0], "training.batch_size": [1, 2]}, arms=arms)
    rates = {
        (c.grid["data.alpha"], c.grid["training.batch_size"]): c.config.server.lr
        for c in cells(load_experiment(path), "lab")
    }
    assert rates == {(0.1, 1): 0.25, (0.1, 2): 0.25, (1.0, 1): 0.25, (1.0, 2): 0.5}


@pytest.mark.parametrize("name", ["figure2-cifar10", "figure3-shifted", "proxy-vs-true"])
def test_the_arm_of_the_authors_code_is_their_preset(name):
    scale = load_experiment(name).scales["paper"]
    (cell, *_) = select(cells(load_experiment(name), "paper"), {"arm": "fedrevive-authors"})
    preset = build("cifar10-authors", "fedrevive", seed=cell.seed, schedule=scale.schedule)
    assert [d.partition(":")[0] for d in preset.differences(cell.config)] == ["preset", "num_threads"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "arms": {
                    "a": {"method": "fedbuff", "tuned": [{"where": {"data.alpha": 1}, "settings": {"server.lr": 1}}]}
                }
            },
            "arm 'a' is tuned for field 'data.alpha', which is not in the grid",
        ),
        ({"seedz": [0]}, "seedz is unknown: allowed: name, question"),
        ({"armz": {}}, "armz is unknown: did you mean 'arms'?"),
        ({"question": None}, "question is missing"),
        ({"scales": {"lab": {"preset": "lab-digits", "seeds": []}}}, "scales.lab.seeds = \\[\\]"),
        ({"scales": {"lab": {"preset": "lab-digits", "seeds": [0, 0]}}}, "each may be given once"),
        ({"grid": {"data.alpha": []}}, "grid.data.alpha is empty: give at least one value"),
        ({"arms": {}}, "arms is empty at scale lab"),
        ({"arms": {"Fed Buff": {"method": "fedbuff"}}}, "must consist of lower-case letters"),
        ({"claims": [{"text": "t"}]}, "claims.0.source is missing"),
    ],
)
def test_a_bad_experiment_is_one_sentence(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write_experiment(tmp_path, **changes))


CLAIM = {
    "text": "Better", "source": "v2", "metric": "final_accuracy", "arm": "fedrevive", "baselines": ["fedbuff"],
    "paper_value": 1, "unit": "accuracy points", "direction": "higher", "tolerance": 1, "comparable": {"lab": False},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "fedrevived"}, "is about arm 'fedrevived': did you mean 'fedrevive'?"),
        ({"baselines": ["fedbuf"]}, "did you mean 'fedbuff'?"),
        ({"where": {"data.alpha": 1}}, "is about field 'data.alpha'"),
        ({"metric": "time_to 0.75", "unit": "percent faster"}, "metric = 'time_to 0.75': did you mean"),
        ({"metric": "final_acuracy"}, "did you mean 'final_accuracy'?"),
        ({"metric": "time_to 0.8"}, "unit must be 'percent faster' for time_to"),
        ({"direction": None}, "direction belongs to a claim with baselines"),
        ({"baselines": []}, "direction belongs to a claim with baselines"),
        ({"baselines": [], "direction": None, "paper_value": None}, "a claim needs a paper_value"),
        ({"comparable": {}}, "does not say whether scale lab is comparable"),
        ({"source": "v3"}, "source = 'v3'"),
    ],
)
def test_a_bad_claim_is_one_sentence(tmp_path, changes, message):
    load_experiment(write_experiment(tmp_path, claims=[CLAIM]))
    with pytest.raises(ConfigError, match=message):
        load_experiment(write_experiment(tmp_path, claims=[CLAIM | changes]))


def test_all_invalid_cells_are_listed_before_anything_runs(call, tmp_path):
    arms = {
        "good": {"method": "fedbuff"},
        "typo": {"method": "fedbuf"},
        "lr": {"method": "fedbuff", "settings": {"server.lr": -1.0}},
    }
    code, _, error = call(write_experiment(tmp_path, arms=arms), "--out", tmp_path / "out")
    assert code == 2
    assert "tiny at scale lab has 4 invalid cells:" in error
    assert "typo seed 0: method = 'fedbuf' is unknown: did you mean 'fedbuff'?" in error
    assert "typo seed 1: " in error
    assert "lr seed 1: server.lr = -1.0: " in error
    assert not (tmp_path / "out").exists()


def test_cells_that_are_the_same_run_are_invalid(tmp_path):
    path = write_experiment(tmp_path, arms={"a": {"method": "fedbuff"}, "b": {"method": "fedbuff"}})
    with pytest.raises(ConfigError, match="b seed 1: the same configuration more than once"):
        cells(load_experiment(path), "lab")


# Names and places


def test_a_name_says_what_determines_the_result(tmp_path, monkeypatch):
    experiment = load_experiment(write_experiment(tmp_path))
    names = [run.name for run in plan(experiment, "lab", "cpu").runs]
    assert [name.rpartition("-")[0] for name in names] == ["fedbuff-s0", "fedbuff-s1", "fedrevive-s0", "fedrevive-s1"]
    assert len(set(names)) == 4
    assert names == [run.name for run in plan(experiment, "lab", "cpu").runs]
    scale = {"preset": "lab-digits", "seeds": [0, 1], "settings": SHORT | {"evaluation.every": 3}}
    changed = load_experiment(write_experiment(tmp_path, scales={"lab": scale}))
    others = {
        "device": plan(experiment, "lab", "cuda"),
        "settings": plan(changed, "lab", "cpu"),
    }
    monkeypatch.setattr("reproduce.sweeps.sweep._fingerprint", lambda *_: "other data")
    others["data"] = plan(experiment, "lab", "cpu")
    monkeypatch.undo()
    monkeypatch.setattr("reproduce.sweeps.sweep.software", lambda: {"code": "other code", "versions": {}})
    others["code"] = plan(experiment, "lab", "cpu")
    for what, other in others.items():
        assert not {run.name for run in other.runs} & set(names), what


def test_checkpoints_are_spaced_by_arrivals(tmp_path):
    """FedBuff makes a version of two arrivals: every 2 arrivals is every version."""
    runs = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu").runs
    assert [run.checkpoint_every for run in runs] == [1, 1, 2, 2]


def test_the_code_hash_is_of_every_source_file(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "plots").mkdir()
    (tmp_path / "data" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr("fedrevive_core.records.maker.CORE", tmp_path)
    first = code_hash.__wrapped__()
    (tmp_path / "plots" / "more.py").write_text("x = 1\n")
    assert code_hash.__wrapped__() == first
    (tmp_path / "data" / "a.py").write_text("x = 2\n")
    assert code_hash.__wrapped__() != first


def test_what_is_beside_a_run_is_not_used_by_one():
    """Presets and methods are read before a run: its configuration is all that it gets of them."""
    code = "import sys, fedrevive_core.simulation; print(*(m for m in sys.modules if m.startswith('fedrevive_core.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    beside = [m for m in loaded if any(Path(*m.split(".")[1:]).with_suffix(".py").match(p) for p in BESIDE)]
    named = {"methods", "presets", "preset_base", "presets_lab", "presets_paper"}
    shown = {"synthesis_trace"}  # the face of simulation hands it on
    assert {name.split(".")[-1] for name in beside} <= named | shown


# Running


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The sweep of tiny.yaml, not interrupted."""
    directory = tmp_path_factory.mktemp("sweeps")
    sweep = plan(load_experiment(write_experiment(directory)), "lab", "cpu")
    with opened(sweep, directory / "out"):
        assert run_all(sweep.runs, Inline(directory / "out"), lambda _: None) == {}
    return directory / "out"


def test_a_sweep_is_tables_of_its_runs(finished):
    found = collect(finished)
    assert isinstance(found, SweepResults)
    assert (found.experiment.name, found.scale, found.missing, found.failures) == ("tiny", "lab", [], {})
    runs = found.records.runs
    assert runs["arm"].tolist() == runs["method"].tolist() == ["fedbuff", "fedbuff", "fedrevive", "fedrevive"]
    assert runs["seed"].tolist() == [0, 1, 0, 1]
    assert set(found.records.arrivals["run"]) == set(runs["run"])
    assert not list(finished.rglob("model.safetensors"))
    assert not list(finished.rglob("*.partial"))


def test_the_same_command_again_repeats_nothing(call, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    code, out, _ = call(write_experiment(tmp_path), "--out", tmp_path / "out")
    assert code == 0
    assert "4 of 4 runs are finished" in out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}


def test_sweeps_side_by_side_share_runs_whatever_they_call_them(call, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "first")
    arms = {"renamed": {"method": "fedbuff"}}
    monkeypatch.setattr(Inline, "start", lambda *_: pytest.fail("computed again"))
    code, _, error = call(write_experiment(tmp_path, name="other", arms=arms), "--out", tmp_path / "second")
    assert code == 0
    assert "2 runs were finished in sweeps beside" in error
    runs = collect(tmp_path / "second").records.runs
    assert runs["arm"].tolist() == ["renamed", "renamed"]
    assert set(runs["state_sha256"]) <= set(collect(finished).records.runs["state_sha256"])


def test_a_damaged_run_beside_is_computed_instead(call, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "first")
    for path in (tmp_path / "first").rglob("arrivals.parquet"):
        path.write_bytes(b"")
    code, _, error = call(write_experiment(tmp_path), "--out", tmp_path / "second", "--only", "arm=fedbuff")
    assert code == 0
    assert "is computed instead" in error
    assert len(load_many(tmp_path / "second").runs) == 2


def test_a_run_beside_with_the_name_of_another_is_computed_instead(call, finished, tmp_path):
    """One run of FedBuff lies there under the name of the other."""
    shutil.copytree(finished, tmp_path / "first")
    one, other = sorted((tmp_path / "first" / "runs").glob("fedbuff-*"))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    code, _, error = call(write_experiment(tmp_path), "--out", tmp_path / "second", "--only", "arm=fedbuff")
    assert code == 0
    assert f"{one} holds another run than its name says; {one.name} is computed instead" in error
    assert len(set(load_many(tmp_path / "second").runs["certificate"])) == 2


def test_a_sweep_ends_with_its_report(call, tmp_path, monkeypatch):
    """Unless nothing is finished."""
    published = []
    monkeypatch.setattr("reproduce.cli.sweeps.publish", lambda *given: published.append(given))
    path, out = write_experiment(tmp_path), tmp_path / "out"
    assert call(path, "--out", out, "--only", "seed=0", "--report")[0] == 0
    assert published == [(out, load_experiment(path).notebook)]
    monkeypatch.setattr(Inline, "wait", lambda self, _: [(self.waiting.pop(0), "no luck")])
    assert call(path, "--out", tmp_path / "other", "--only", "seed=1", "--report")[0] == 1
    assert len(published) == 1


def test_a_failing_cell_is_retried_once_recorded_and_the_rest_goes_on(call, tmp_path):
    """ConvNet needs larger images than digits have, which only the run itself finds out."""
    arms = {"broken": {"method": "fedbuff", "settings": {"model": "convnet"}}, "fedbuff": {"method": "fedbuff"}}
    path, out = write_experiment(tmp_path, arms=arms), tmp_path / "out"
    code, printed, error = call(path, "--out", out)
    assert code == 1
    assert "2 of 4 runs are finished" in printed
    assert "2 have failed" in printed
    assert error.count("is tried once more") == 2
    assert error.count("has failed") == 2
    found = collect(out)
    assert found.records.runs["arm"].tolist() == ["fedbuff", "fedbuff"]
    assert [name.rpartition("-")[0] for name in found.missing] == ["broken-s0", "broken-s1"]
    assert set(found.failures) == set(found.missing)
    text = (out / "failures" / f"{found.missing[0]}.txt").read_text()
    assert "Traceback" in text
    assert "Traceback" not in text.splitlines()[0]


def test_a_run_that_fails_once_is_not_a_failure(tmp_path, monkeypatch):
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")
    executor, events, failing = Inline(tmp_path / "out"), [], [True]
    real = Record.save

    def save(record: Record, *arguments, **options) -> None:
        if failing and failing.pop():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(record, *arguments, **options)

    monkeypatch.setattr(Record, "save", save)
    with opened(sweep, executor.out):
        assert run_all(sweep.runs[:1], executor, events.append) == {}
    assert [event.kind for event in events] == ["started", "retried", "started", "done"]


def test_a_full_disk_fails_runs_with_one_sentence_and_not_the_sweep(tmp_path, monkeypatch, capsys):
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")
    executor = Inline(tmp_path / "out")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(sweep, executor.out):
        monkeypatch.setattr(Record, "save", full)
        monkeypatch.setattr(Path, "write_text", full)
        failed = run_all(sweep.runs[:2], executor, lambda _: None)
    assert list(failed) == [run.name for run in sweep.runs[:2]]
    for problem in failed.values():
        assert "No space left on device" in problem.splitlines()[0]
    assert capsys.readouterr().err.count("could not be written (No space left on device)") == 2


def test_a_signal_lets_runs_write_checkpoints_and_says_so(tmp_path):
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")

    class Signalled(Inline):
        stopped = False

        def wait(self, seconds: float) -> list[tuple[CellRun, str | None]]:
            os.kill(os.getpid(), signal.SIGINT)
            return []

        def stop(self) -> None:
            self.stopped = True

    executor = Signalled(tmp_path / "out")
    with opened(sweep, executor.out), pytest.raises(Interrupted, match="the same call resumes from"):
        run_all(sweep.runs, executor, lambda _: None)
    assert executor.stopped


# What is asked for wrongly


def test_an_unfinished_sweep_asks_for_resume(call, finished, tmp_path):
    path, out = write_experiment(tmp_path), tmp_path / "new" / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(next((out / "runs").glob("fedbuff-s1-*")))
    code, _, error = call(path, "--out", out)
    assert code == 2
    assert "holds an unfinished sweep: add --resume" in error
    assert call(path, "--out", out, "--resume")[0] == 0
    assert_same(out, finished)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shard", "0/2"), "--shard 0/2: must be I/N with I from 1 to N, such as 1/4"),
        (("--shard", "3/2"), "--shard 3/2: must be I/N"),
        (("--shard", "1"), "--shard 1: must be I/N"),
        (("--scale", "papr"), "scale = 'papr' is unknown in tiny: allowed: lab"),
        (("--engine", "rey"), "--engine rey: did you mean 'ray'?"),
        (("--only", "arm=fedreviv"), "--only arm=fedreviv: did you mean 'fedrevive'?"),
        (("--only", "sed=0"), "--only sed=0: did you mean 'seed'?"),
        (("--only", "arm"), "--only arm: must be KEY=VALUE"),
    ],
)
def test_bad_options_are_one_sentence(call, tmp_path, arguments, message):
    code, _, error = call(write_experiment(tmp_path), "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()


def test_unknown_experiments(call, tmp_path):
    assert "did you mean 'smoke'?" in call("smok", "--out", tmp_path / "out")[2]
    assert "cannot be read: No such file" in call(tmp_path / "none.yaml", "--out", tmp_path / "out")[2]
    (tmp_path / "bad.yaml").write_text("a: [1,\n")
    assert "is not valid YAML" in call(tmp_path / "bad.yaml", "--out", tmp_path / "out")[2]


def test_another_sweeps_directory_is_refused(finished, tmp_path):
    other = plan(load_experiment(write_experiment(tmp_path, name="another")), "lab", "cpu")
    with pytest.raises(ConfigError, match="holds the sweep of tiny at scale lab: choose another directory"):
        check_out(other, other.runs, finished, resume=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        check_out(other, other.runs, tmp_path / "notes", resume=False)


OTHER = {"code": "0" * 64, "versions": {}}


def test_a_sweep_of_other_code_needs_leave_and_keeps_what_is_finished(call, finished, tmp_path, monkeypatch):
    path, out = write_experiment(tmp_path), tmp_path / "new" / "out"
    shutil.copytree(finished, out)
    (left,) = (out / "runs").glob("fedbuff-s1-*")
    shutil.rmtree(left)
    monkeypatch.setattr("reproduce.sweeps.sweep.software", lambda: OTHER)
    monkeypatch.setattr("reproduce.sweeps.worker.software", lambda: OTHER)
    code, _, error = call(path, "--out", out, "--resume")
    assert code == 2
    assert f"other code began: code {code_hash()[:12]} then, 000000000000 here" in error
    assert call(path, "--out", out, "--resume", "--allow-other-code")[0] == 0
    assert left.exists()
    assert_same(out, finished)
    assert call(path, "--out", out, "--resume")[0] == 2


def test_a_worker_with_other_code_refuses_in_a_sentence(tmp_path, monkeypatch):
    """As on a node of a cluster, or after a change to the source while a sweep runs."""
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")
    monkeypatch.setattr("reproduce.sweeps.worker.software", lambda: OTHER)
    problem = execute(sweep.runs[0], tmp_path / "out") or ""
    assert f"runs other code than the sweep: code {code_hash()[:12]} then, 000000000000 here" in problem.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_share_a_directory_except_by_shards(tmp_path):
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")
    out, work = tmp_path / "out", tmp_path / "out" / "runs" / ".fedrevive-unfinished-abcdefgh"

    def refused(shard: Shard | None) -> bool:
        try:
            with opened(sweep, out, shard):
                return False
        except ConfigError as error:
            return "in use by another process" in str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reproduce.sweeps.sweep.SECONDS", 0.1)
        with opened(sweep, out):
            assert refused(None)
            assert refused(Shard(1, 2))
        with opened(sweep, out, Shard(1, 2)):
            work.mkdir()
            os.utime(work, (0, 0))
            assert [refused(other) for other in (None, Shard(1, 2), Shard(1, 3), Shard(2, 2))] == [
                True,
                True,
                True,
                False,
            ]


def test_shards_do_everything_once_and_share_out_the_arms(tmp_path):
    runs = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu").runs
    parts = [Shard(number, 2).of(runs) for number in (1, 2)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    assert [[run.cell.arm for run in part] for part in parts] == [["fedbuff", "fedrevive"]] * 2
    assert [len(Shard(number, 7).of(runs)) for number in range(1, 8)] == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.processes
def test_two_shards_at_once_in_real_processes(tmp_path):
    path, out = write_experiment(tmp_path, arms={"fedbuff": {"method": "fedbuff"}}), tmp_path / "out"
    command = [sys.executable, "-m", "reproduce", "sweep", str(path), "--out", str(out), "--shard"]
    jobs = [subprocess.Popen([*command, f"{number}/2"], stdout=subprocess.PIPE, text=True) for number in (1, 2)]
    for job in jobs:
        printed, _ = job.communicate(timeout=200)
        assert (job.returncode, printed.split(":")[0]) == (0, "1 of 1 runs are finished")
    assert collect(out).missing == []
    assert not (out / "report").exists()


def test_a_dry_run_does_nothing_and_says_what_it_would_cost(call, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(Inline, "start", lambda *_: pytest.fail("a dry run must not run"))
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for place in (out / "runs").glob("*-s1-*"):
        shutil.rmtree(place)
    before = sorted(out.rglob("*"))
    code, printed, _ = call(write_experiment(tmp_path), "--out", out, "--dry-run")
    assert code == 0
    assert "4 runs: 2 done, 0 done in sweeps beside this one, 2 to do" in printed
    assert "Estimated from a short sample" in printed
    assert sorted(out.rglob("*")) == before


def test_an_unreachable_cluster_is_one_sentence(call, tmp_path):
    pytest.importorskip("ray")
    code, _, error = call(
        write_experiment(tmp_path), "--out", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1"
    )
    assert code == 2
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in error
    assert error.count("\n") == 1


# Real processes


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.processes
def test_killed_and_stopped_and_resumed_gives_the_same_tables(tmp_path):
    """SIGKILL to the driver leaves no worker behind; `stop` leaves checkpoints; then it goes on to the same end."""
    scale = {"preset": "lab-digits", "seeds": [0, 1], "checkpoint_every": 8}
    scale["settings"] = SHORT | {"federation.max_versions": 40}
    path = write_experiment(tmp_path, scales={"lab": scale}, arms={"fedrevive": {"method": "fedrevive"}})
    sweep = plan(load_experiment(path), "lab", "cpu")
    whole, out = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    with opened(sweep, whole):
        run_all(sweep.runs, Inline(whole), lambda _: None)

    def checkpoints() -> set[Path]:
        return set((out / "runs").glob("*.partial/0*"))

    command = [sys.executable, "-m", "reproduce", "sweep", path, "--no-report", "--out", out, "--jobs", "2"]
    driver = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    until(checkpoints)
    workers = children(driver.pid)
    driver.kill()
    driver.wait()
    assert workers
    until(lambda: not any(map(is_alive, workers)), seconds=10)

    with opened(sweep, out):
        left = [run for run in sweep.runs if not run.is_finished(out)]
        assert left
        executor, seen = executors.LocalExecutor(out, 1), checkpoints()
        executor.start(left[0])
        until(lambda: checkpoints() - seen)
        executor.stop()
        assert executor.running == []
        left = [run for run in sweep.runs if not run.is_finished(out)]
        assert left
        assert run_all(left, Inline(out), lambda _: None) == {}
    assert_same(whole, out)
    assert Record.load(left[0].record_path(out)).provenance["num_resumed"] >= 1
    assert not list(out.rglob("*.partial"))


def test_a_worker_that_was_asked_to_stop_ends(tmp_path, monkeypatch):
    """Without a way to block signals, as on Windows."""
    resource_tracker.ensure_running()  # it blocks signals when it is started, and does not know that it cannot
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")
    executor = executors.LocalExecutor(tmp_path, 1)
    executor.start(sweep.runs[0])
    executor.stop()
    assert executor.running == []


def test_progress_counts_runs_in_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", float("inf"))  # on a slow machine there would be more lines
    runs = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu").runs
    console = Console(file=io.StringIO(), width=200)
    with SweepProgress("tiny, lab", runs, runs[:1], console) as shown:
        for run, kinds in ((runs[1], ["started", "done"]), (runs[2], ["started", "retried", "started", "failed"])):
            for kind in kinds:
                shown.report(Event(run, kind, "no luck" if kind in ("retried", "failed") else ""))
        shown.report(Event(runs[3], "started"))
    first, retried, failed, last = console.file.getvalue().splitlines()
    assert first == "tiny, lab: 1 done, 0 running, 0 failed, 3 waiting"
    assert (retried, failed) == (
        "fedrevive seed 0 is tried once more: no luck", "fedrevive seed 0 has failed: no luck",
    )  # fmt: skip
    assert last.startswith("tiny, lab: 2 done, 1 running, 1 failed, 0 waiting")


def test_a_worker_that_dies_is_a_failed_attempt(tmp_path):
    """Killed while it still starts; what a full memory does to a process."""
    sweep = plan(load_experiment(write_experiment(tmp_path)), "lab", "cpu")
    executor = executors.LocalExecutor(tmp_path, 1)
    executor.start(sweep.runs[0])
    next(iter(executor.processes.values()))[1].kill()
    ((run, problem),) = executor.wait(30)
    assert run == sweep.runs[0]
    assert problem == "The process of this run was ended by signal 9 before it could say why"
    assert executor.running == []
