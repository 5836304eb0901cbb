"""The certificate: two runs are identical, or it says where they part; tables that were changed are found."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, small

from fedrevive_core.config import RunConfig
from fedrevive_core.records import Altered, first_difference
from fedrevive_core.records import hash_chain as certificate
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import run
from reproduce.cli import app as cli
from reproduce.sweeps.collection import load_many


@pytest.fixture(scope="module")
def record() -> Record:
    return run(small("fedrevive", evaluation__every=4), progress=False)


@pytest.fixture
def call(monkeypatch, capsys):
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return command


def broken_link(record: Record) -> str | None:
    return certificate.broken_link(record.evaluations, record.arrivals, record.summary)


def changed(record: Record, table: str, row: int, column: str, value: object) -> Record:
    copied = getattr(record, table).copy()
    copied.at[row, column] = value
    return replace(record, **{table: copied})


def test_a_record_fits_its_certificate_in_memory_and_on_disk(record, tmp_path):
    assert broken_link(record) is None
    record.save(tmp_path / "run")
    assert broken_link(Record.load(tmp_path / "run")) is None
    assert record.evaluations["chain"].nunique() == len(record.evaluations) == 5
    assert record.evaluations["state_sha256"].iloc[-1] == record.summary["state_sha256"]


@pytest.mark.parametrize("column", ["job", "client", "staleness", "beta", "revived", "cosine", "distillation_loss"])
def test_any_change_of_an_arrival_is_found(record, column):
    row = int(record.arrivals[column].last_valid_index())
    before = record.arrivals[column][row]
    other = changed(record, "arrivals", row, column, not before if column == "revived" else before + 1)
    assert broken_link(other) == "evaluations or arrivals up to version 16"


@pytest.mark.parametrize("column", ["accuracy", "sim_time", "state_sha256", "chain", "num_arrivals"])
def test_any_change_of_an_evaluation_is_found(record, column):
    before = record.evaluations[column][2]
    other = changed(record, "evaluations", 2, column, "0" * 64 if isinstance(before, str) else before + 1)
    assert broken_link(other) == "evaluations or arrivals up to version 8"


def test_a_chain_that_lacks_its_links_or_its_end_is_broken(record):
    rest = {name: value for name, value in record.summary.items() if name != "state_sha256"}
    lacking = (
        replace(record, evaluations=record.evaluations.drop(columns="chain")),
        replace(record, summary=rest),
        replace(record, summary={**rest, "state_sha256": None}),
    )
    assert all("no links, or its summary has no hash" in broken_link(other) for other in lacking)


@pytest.mark.parametrize("every", [4, 16])
def test_runs_part_at_their_first_difference(every):
    """Another server rate makes another version 1, seen at the next evaluation or by the first arrival it changes."""
    one, other = (
        run(small("fedbuff", evaluation__every=every, server__lr=lr, federation__buffer_size=1), progress=False)
        for lr in (0.05, 0.06)
    )
    difference = first_difference(one, other)
    columns = ["cosine", "client_norm", "beta"]
    before = difference.num_arrivals - 1
    assert one.arrivals[columns][:before].equals(other.arrivals[columns][:before])
    if every == 4:
        assert (difference.version, difference.quantity) == (4, "loss")
    else:
        assert difference.quantity == "client_norm"
        assert one.arrivals["client_norm"][before] != other.arrivals["client_norm"][before]
    assert first_difference(one, one) is None


def test_a_run_that_ends_earlier_differs_in_its_length(record):
    summary = record.summary | {"num_arrivals": 15, "certificate": "another"}
    shorter = replace(record, summary=summary, arrivals=record.arrivals[:15], evaluations=record.evaluations[:4])
    difference = first_difference(record, shorter)
    assert (difference.quantity, difference.one, difference.other) == ("num_arrivals", 16, 15)


def test_verify_two_records(record, call, tmp_path):
    for name in ("one", "two"):
        record.save(tmp_path / name)
    code, out, _ = call("verify", tmp_path / "one", tmp_path / "two")
    assert (code, out.split(":")[0]) == (0, "identical")
    run(small("fedbuff", federation__buffer_size=1, evaluation__every=4), progress=False).save(tmp_path / "three")
    code, out, _ = call("verify", tmp_path / "one", tmp_path / "three")
    assert code == 1
    assert "different: at version" in out
    assert "staleness.rule: cosine / constant" in out


def test_verify_finds_a_table_that_was_changed(record, call, tmp_path):
    record.save(tmp_path / "one")
    table = pd.read_parquet(tmp_path / "one" / "arrivals.parquet")
    table.assign(beta=table["beta"] * 0.999).to_parquet(tmp_path / "one" / "arrivals.parquet")
    code, out, _ = call("verify", tmp_path / "one", tmp_path / "one")
    assert code == 1
    assert "is not what its run left: evaluations or arrivals up to version 4" in out


def test_verify_makes_a_run_again(record, call, tmp_path):
    directory = tmp_path / "one"
    record.save(directory)
    assert call("verify", directory)[0] == 0
    values = record.config.to_dict()
    values["server"]["lr"] = 0.11
    versions = record.provenance["versions"] | {"torch": "1.0"}
    other = replace(record, config=RunConfig.from_dict(values), provenance=record.provenance | {"versions": versions})
    other.save(tmp_path / "other")
    code, out, error = call("verify", tmp_path / "other")
    assert code == 1
    assert "different: at version" in out
    assert "warning: torch was 1.0" in error


def put(directory: Path, *names: str, value: object) -> None:
    """Change one value in run.json."""
    header = header_of(directory)
    inner = header
    for name in names[:-1]:
        inner = inner[name]
    inner[names[-1]] = value
    (directory / "run.json").write_text(json.dumps(header), encoding="utf-8")


def header_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "run.json").read_text(encoding="utf-8"))


def put_in_table(directory: Path, name: str, column: str, value: object) -> None:
    table = pd.read_parquet(directory / f"{name}.parquet")
    table.loc[0, column] = value
    table.to_parquet(directory / f"{name}.parquet", index=False)


def put_model(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def put_sample(directory: Path) -> None:
    with np.load(directory / "samples.npz") as archive:
        arrays = dict(archive)
    arrays["images"][0, 0, 0, 0] += 1
    np.savez_compressed(directory / "samples.npz", **arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: put(d, "summary", "final_accuracy", value=0.99),
            "its summary says final_accuracy = 0.99, and its t",
        ),
        (lambda d: put(d, "summary", "time_to", "0.9", value=1.0), "its summary says time_to = "),
        (lambda d: put(d, "summary", "mean_staleness", value=0.5), "its summary says mean_staleness = 0.5"),
        (lambda d: put(d, "summary", "rejected_uploads", value=1), "its summary says rejected_uploads = 1"),
        (lambda d: put(d, "summary", "class_accuracy", "3", value=1.0), "its summary says class_accuracy = "),
        (lambda d: put(d, "summary", "sim_time", value=99.0), "its summary says sim_time = 99.0, and the run lasted"),
        (lambda d: put(d, "summary", "num_parameters", value=3), "run.json changed since"),
        (lambda d: put(d, "provenance", "device", value="cuda"), "run.json changed since"),
        (lambda d: put(d, "config", "server", "lr", value=0.9), "run.json changed since"),
        (lambda d: put(d, "summary", "state_sha256", value="0" * 64), "or the hash of the final state changed since"),
        (lambda d: put_in_table(d, "evaluations", "accuracy", 0.3), "up to version 0 changed since"),
        (lambda d: put_in_table(d, "timings", "seconds", 0.1), "timings.parquet changed since"),
        (lambda d: put_in_table(d, "timeline", "dispatched", 0.1), "timeline.parquet changed since"),
        (lambda d: put_in_table(d, "timeline", "arrived", 0.1), "timeline.parquet changed since"),
        (lambda d: put_in_table(d, "classes", "slow", 0.9), "classes.parquet changed since"),
        (lambda d: put(d, "summary", "gini", value=0.0), "its summary says gini = 0.0"),
        (put_sample, "samples.npz changed since"),
        (put_model, "model.safetensors changed since"),
    ],
)
def test_nothing_in_a_record_can_change_without_a_word(record, call, tmp_path, change, words):
    record.save(tmp_path / "one")
    change(tmp_path / "one")
    with pytest.raises(Altered, match="is not what its run left: .*" + re.escape(words)):
        Record.load(tmp_path / "one")
    code, out, _ = call("verify", tmp_path / "one", tmp_path / "one")
    assert (code, words in out) == (1, True)


def test_the_summary_of_an_older_record_is_computed_again_too(record, tmp_path):
    """Older headers have no hashes of files: such records are read, and what their tables say is not believed."""
    record.save(tmp_path / "one")
    for name in ("seal", "files", "tensors"):
        put(tmp_path / "one", name, value=None if name == "seal" else type(header_of(tmp_path / "one")[name])())
    assert Record.load(tmp_path / "one").summary == record.summary
    put(tmp_path / "one", "summary", "last_accuracy", value=0.99)
    with pytest.raises(Altered, match=r"last_accuracy = 0\.99"):
        Record.load(tmp_path / "one")
    with pytest.raises(Altered, match=r"last_accuracy = 0\.99"):
        load_many(tmp_path)


def test_what_cannot_be_verified_is_one_sentence(record, call, tmp_path):
    replace(record, provenance=record.provenance | {"branches": [{}]}).save(tmp_path / "branch")
    replace(record, summary=record.summary | {"model": "Own"}).save(tmp_path / "own")
    old = {name: value for name, value in record.summary.items() if name != "certificate"}
    replace(record, summary=old).save(tmp_path / "old")
    for name, words in (("branch", "is a branch"), ("own", "a custom model (Own)"), ("old", "has no certificate")):
        code, _, error = call("verify", tmp_path / name)
        assert code == 2
        assert words in error
    assert call("verify", *[tmp_path / "own"] * 3)[0] == 2


def test_damaged_files_are_read_as_they_were_or_refused(record, tmp_path):
    record.save(tmp_path / "record")
    found = damage.attempt(tmp_path, 12, places={"record": tmp_path / "record"})
    assert found["wrong"] == 0, found["examples_of_wrong"]
    assert found["refused"] > 20


def settings() -> list[str]:
    return [f"--set={name}={json.dumps(value)}" for name, value in SMALL.items()]


def test_keep_every_and_branch(call, tmp_path):
    """Kept checkpoints outlive the run; a branch with no change ends as the run did; one with changes says so."""
    out = tmp_path / "run"
    keep = ["--checkpoint-every", "3", "--keep-every", "4"]
    assert call("run", "--method", "fedrevive", "--out", out, *keep, *settings())[0] == 0
    kept = sorted(int(path.name[:9]) for path in (out / "checkpoints").iterdir())
    assert kept == [4, 8, 12, 16]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert call("branch", out, "--at", "8", "--out", tmp_path / "same")[0] == 0
    assert call("verify", out, tmp_path / "same")[:2][0] == 0
    other = ["--method", "fedbuff", "--set", "federation.buffer_size=1", "--set", "server.lr=0.02"]
    assert call("branch", out, "--at", "8", *other, "--out", tmp_path / "what-if")[0] == 0
    record = Record.load(tmp_path / "what-if")
    (origin,) = record.provenance["branches"]
    assert origin["version"] == 8
    assert Path(origin["checkpoint"]).parent == out / "checkpoints"
    assert "method: fedrevive / fedbuff" in origin["changed"]
    shared = ("federation", "data", "training", "evaluation", "num_threads")
    assert all(getattr(record.config, name) == getattr(small("fedrevive"), name) for name in shared)
    assert (record.config.method, record.config.server.lr, record.config.revival.source) == ("fedbuff", 0.02, "none")
    _, out_text, _ = call("verify", out, tmp_path / "what-if")
    assert "at version 8" in out_text


def test_what_cannot_be_branched_is_one_sentence(call, tmp_path):
    out = tmp_path / "run"
    assert call("run", "--method", "afl-dw", "--out", out, "--keep-every", "8", *settings())[0] == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    for more, words in (
        (["--at", "9"], "holds no checkpoint at version 9: there are 16, 8"),
        (["--method", "fedbuff"], "cannot differ in federation.buffer_size: 1 / 2"),
        (["--method", "fedbuf"], "did you mean 'fedbuff'"),
        (["--set", "training.lr=0.1"], "cannot differ in training.lr"),
        (["--checkpoint-every", "5m"], "checkpoint_every = 5m must be versions, such as 100, or seconds"),
    ):
        code, _, error = call("branch", out, "--out", tmp_path / "new", *more)
        assert (code, error.count("\n")) == (2, 1)
        assert words in error
    assert call("branch", tmp_path, "--out", tmp_path / "new")[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    shutil.rmtree(out)
