"""What commands write, and what they leave alone: nothing of the user's is changed, nothing unfinished stays.

Every command of the program is tried, so a new one must be added to COMMANDS here.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import get_type_hints
from unittest.mock import MagicMock

import pytest
from helpers import SMALL, Here, commands_of, leave_what_uv_leaves, small
from matplotlib.figure import Figure

from fedrevive_core import files
from fedrevive_core.files import UNFINISHED
from fedrevive_core.simulation import run
from reproduce import notebook_runner
from reproduce.benchmark import bench
from reproduce.cli.app import COMMANDS as PANELS
from reproduce.cli.app import GROUPS, app
from reproduce.evidence import tables
from reproduce.runs import comparison
from reproduce.sweeps import executors

PARSERS = commands_of(app)
TINY = SMALL | {"federation.max_versions": 4}
SETTINGS = [word for name, value in TINY.items() for word in ("--set", f"{name}={json.dumps(value)}")]
LIVE = [word for pair in zip(SETTINGS[::2], SETTINGS[1::2], strict=True) for word in pair
        if not pair[1].startswith("federation.")]  # fmt: skip
# For every command: its arguments. OUT is where it is told to write, SWEEP a finished sweep, RECORD a run of it,
# KEPT holds checkpoints, and TRACE says when a device was there.
COMMANDS = {
    "presets": (),
    "timeline": ("--plot", "OUT/t.png", *SETTINGS),
    "quickstart": ("--out", "OUT"),
    "run": ("--method", "fedbuff", "--out", "OUT", *SETTINGS),
    "live": ("--method", "fedbuff", "--clients", "3", "--arrivals", "6", "--out", "OUT", *LIVE),
    "node": ("--superlink", "127.0.0.1:8000", "--client", "0"),
    "compare": ("--methods", "fedbuff", "--seeds", "0", "--out", "OUT", *SETTINGS),
    "sweep": ("EXPERIMENT", "--out", "OUT", "--resume"),
    "report": ("OUT",),
    "pack": ("SWEEP", "--out", "OUT"),
    "evidence": (),
    "privacy": ("--out", "OUT", "--seeds", "0", *SETTINGS),
    "branch": ("KEPT", "--out", "OUT"),
    "seed-texts": ("--model", "none", "--out", "OUT/seeds.jsonl"),
    "convert-trace": ("TRACE", "--out", "OUT"),
    "notebook": ("01_staleness", "--out", "OUT/copy.ipynb"),
    "book": ("--out", "OUT"),
    "lab": ("OUT",),
    "verify": ("RECORD", "RECORD"),
    "doctor": (),
    "bench": ("--out", "OUT/bench.json"),
    "gpu": ("--device", "cpu", "--tiny", "--out", "OUT"),
    "classroom bundle": ("--out", "OUT"),
    "classroom release": ("--out", "OUT"),
    "classroom collect": ("HANDED_IN", "--out", "OUT/table.csv"),
}
VALUES = [f"accuracy {method}, {when}" for method in ("fedrevive", "afl-dw") for when in ("end", "run")]
UNIT = {
    "values": dict.fromkeys(["updates, found", "labels tv, one upload", "labels kl, one upload", *VALUES], 0.5),
    "pool": {"distance": [0.1, 0.2], "label": [0, 0], "held": [True, False]},
}
EXECUTED = {"cells": [], "metadata": {"papermill": {}}, "nbformat": 4, "nbformat_minor": 5}
ON_A_SWEEP = ("report", "sweep")  # they write to a directory that holds one
WRITTEN = {"out", "plot", "folder"}  # parameters that are paths, as those of READ
READ = {
    "recorded",
    "pools",
    "check",
    "source",
    "runs",
    "directories",
    "directory",
    "students",
    "submissions",
    "released",
    "speed",
}
CASES = [(name, place) for name in COMMANDS for place in ("parent", "inside", "failing")]
CASES = [case for case in CASES if case[0] not in ("presets", "node", "verify", "doctor") or case[1] == "inside"]
CASES += [(name, "inside, with links") for name in ON_A_SWEEP]


class Inline(executors.LocalExecutor):
    """Does a run in this process."""

    def start(self, run):
        self.processes[id(run)] = run

    @property
    def running(self):
        return list(self.processes.values())

    def wait(self, seconds):
        from reproduce.sweeps.worker import execute

        _, run = self.processes.popitem()
        return [(run, execute(run, self.out))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep of one finished run, its experiment, and a record with a checkpoint in it."""
    directory = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "LocalExecutor", Inline)
        experiment = comparison.comparison("lab-digits", ["fedbuff"], [0], "default", TINY)
        comparison.run_comparison(experiment, directory / "sweep", 1)
    run(small("fedbuff", federation__max_versions=4), progress=False, checkpoints=directory / "kept", keep_every=2)
    (directory / "handed-in" / "ana").mkdir(parents=True)
    trace = {"a": {"trace_start": 0, "trace_end": 9, "ready_time": [[1, 5]]}}
    (directory / "trace.json").write_text(json.dumps(trace), encoding="utf-8")
    return directory


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Replace what takes long, but not what writes."""
    original = comparison.comparison

    def executed(notebook, out, **_):
        Path(out).write_text(json.dumps(EXECUTED), encoding="utf-8")

    monkeypatch.setattr(executors, "LocalExecutor", Inline)
    monkeypatch.setattr("reproduce.live.embedded.Processes", lambda config, *_: Here(config))
    monkeypatch.setattr("reproduce.live.node.run_node", lambda *_: 0)
    monkeypatch.setattr(comparison, "comparison", lambda *given: original(*given[:-1], TINY))
    monkeypatch.setattr(notebook_runner.papermill, "execute_notebook", executed)
    monkeypatch.setattr(notebook_runner, "shipped", lambda: ["01_staleness"])
    monkeypatch.setattr("reproduce.book.make.check_sphinx", lambda: None)
    monkeypatch.setattr("reproduce.book.make.run_sphinx", lambda _, pages: (pages / "index.html").write_text("book"))
    monkeypatch.setattr("reproduce.lab.open_lab", lambda *_: None)
    monkeypatch.setattr("reproduce.classroom.bundle._run", leave_what_uv_leaves)
    monkeypatch.setattr("reproduce.classroom.bundle.importlib", MagicMock())  # uv and pip are there
    measured = {"results": {"rate": {"one": {"ours": 1.0}}}, "clock": "CPU time"}
    monkeypatch.setattr(bench, "run_benchmark", lambda *_, **__: measured)
    monkeypatch.setattr(bench, "plot_bench", lambda _: Figure())
    monkeypatch.setattr("reproduce.benchmark.gpu.measure.Measurement.make", lambda measurement: measurement.save())
    writer = MagicMock()
    writer.AutoTokenizer.from_pretrained.return_value.batch_decode.return_value = ["a text"] * 2000
    monkeypatch.setitem(sys.modules, "transformers", writer)
    monkeypatch.setattr("reproduce.cli.tools.class_names", lambda _: ["one"])
    monkeypatch.setattr(tables, "measure", lambda: {"flops": {}})
    monkeypatch.setattr(tables, "FIGURES", {"results-map.png": Figure})
    for name in ("accuracy", "samples", "staleness", "staleness_weights", "timeline"):
        monkeypatch.setattr(f"reproduce.runs.quickstart.plot_{name}", lambda *_: Figure())
        monkeypatch.setattr(f"fedrevive_core.plots.plot_{name}", lambda *_: Figure())
    monkeypatch.setattr("reproduce.reports.report.plot_curves", lambda *_: Figure())
    monkeypatch.setattr("reproduce.runs.quickstart.METHODS_SHOWN", ("fedrevive",))
    monkeypatch.setattr("reproduce.runs.privacy.measure_unit", lambda *_: UNIT)
    monkeypatch.setattr("reproduce.evidence.privacy.plot_privacy", lambda _: Figure())
    monkeypatch.setattr("reproduce.doctor.examine", lambda: [{"what": "nothing"}])
    monkeypatch.setattr(tables, "PAGE", tmp_path / "parent" / "out" / "RESULTS.md")
    monkeypatch.setattr(tables, "MEASURED", tmp_path / "parent" / "out" / "measured.json")


def plant(directory: Path, outside: Path, *, links: bool = True) -> None:
    """Fill `directory` with what is not ours, some of it almost."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (".git/HEAD", ".dvc", ".fedrevive-unfinished-notes/new/x", ".fedrevive-unfinished-abcdefgh/mine",
                 ".fedrevive-unfinished", "lock", "mine.txt", "read-only"):  # fmt: skip
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{name} of mine", encoding="utf-8")
    (directory / ".fedrevive-unfinished-abcdefgh" / "lock").touch()
    (directory / "read-only").chmod(0o444)
    names = [".file", ".directory", ".nowhere", f"{UNFINISHED}00000000"] + (["file", "directory"] if links else [])
    for name in names:
        kind = "directory" if name.startswith(UNFINISHED) else name.strip(".")
        (directory / name).symlink_to(outside / kind)


def state(*directories: Path) -> dict[Path, tuple]:
    """All that is below `directories`: mode, and content or target."""
    found = {}
    for directory in directories:
        for path in directory.rglob("*"):
            mode = path.lstat().st_mode
            content = os.readlink(path) if stat.S_ISLNK(mode) else path.read_bytes() if path.is_file() else b""
            found[path] = (mode, content)
    return found


@pytest.mark.parametrize(("command", "place"), CASES)
def test_what_is_not_ours_is_never_changed(call, made, quick, tmp_path, monkeypatch, command, place):
    outside, parent = tmp_path / "outside", tmp_path / "parent"
    (outside / "directory").mkdir(parents=True)
    (outside / "file").write_text("secret", encoding="utf-8")
    out = parent / "out"
    if command in ON_A_SWEEP:
        shutil.copytree(made / "sweep", out)
    places = [parent] if place in ("parent", "failing") else [parent, out]
    if command in ON_A_SWEEP and place != "parent":
        places += [out / name for name in ("runs", "failures", "report")]
    if command == "evidence":
        out.mkdir(parents=True, exist_ok=True)
        (out / "RESULTS.md").write_text("", encoding="utf-8")
    for directory in places:
        plant(directory, outside, links="links" in place)
    before = state(parent, outside)
    if place == "failing":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files.os, "replace", full)
    words = {
        "OUT": out, "SWEEP": made / "sweep", "EXPERIMENT": made / "sweep" / "experiment.yaml", "KEPT": made / "kept",
        "RECORD": next((made / "sweep" / "runs").iterdir()), "HANDED_IN": made / "handed-in",
        "TRACE": made / "trace.json",
    }  # fmt: skip
    code, _, error = call(*command.split(), *(words.get(a) or a.replace("OUT/", f"{out}/") for a in COMMANDS[command]))
    after = state(parent, outside)
    ours = {"report", "RESULTS.md", "experiment.yaml", "sweep.json"}
    changed = [path for path in before if after.get(path) != before[path] and not ours & set(path.parts)]
    assert changed == []
    new = set(after) - set(before)
    assert not [path for path in new if UNFINISHED in str(path)]
    assert "Traceback" not in error
    if place == "failing":
        assert (code, error.splitlines()[-1][:7]) == (2, "error: ")
        empty = [path for path in new if path.is_dir() and not any(path.iterdir())]
        assert empty == []
    elif place == "parent":
        assert code == 0, error
    else:
        assert code in (0, 2)
    if "links" in place and command in ON_A_SWEEP:
        assert "is a link, and is not opened" in error


def test_every_command_is_tried():
    """A new command, or a new path in one, must be added here."""
    assert set(COMMANDS) == set(PARSERS)
    functions = [*PANELS.values(), *(functions for _, functions in GROUPS.values())]
    hints = [hint for group in functions for command in group for hint in get_type_hints(command).items()]
    assert {name for name, hint in hints if "Path" in str(hint)} == WRITTEN | READ
