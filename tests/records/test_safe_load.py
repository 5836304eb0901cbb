"""Files made to harm: nothing runs, nothing large is allocated, and each ends in one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import resource
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import small
from test_record import a_record, arrivals_table

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import safe_load as untrusted
from fedrevive_core.records.record import Record
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.simulation import Simulation

BIG = 10 * untrusted.LIMIT


class Harm:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.fixture
def directory(tmp_path) -> Path:
    a_record().save(tmp_path / "run")
    return tmp_path / "run"


def refused(directory: Path, words: str) -> None:
    """It is not loaded, and neither Python nor Arrow takes more than 100 MB in trying."""
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with pytest.raises(ConfigError, match=words):
            Record.load(directory)
        assert tracemalloc.get_traced_memory()[1] < 100e6
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100e3
    finally:
        tracemalloc.stop()


def array_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_member(path: Path, size: int, header: bytes) -> None:
    """An npz whose only array is `header` followed by zeros, `size` bytes in all."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("version.npy", "w", force_zip64=True) as file,
    ):
        file.write(header)
        for _ in range((size - len(header)) // 2**20):
            file.write(bytes(2**20))


@pytest.fixture
def lower_limit(monkeypatch) -> None:
    monkeypatch.setattr(untrusted, "LIMIT", 2**26)
    monkeypatch.setattr(untrusted.check_file, "__defaults__", (2**26,))


@pytest.mark.usefixtures("lower_limit")
def test_a_zip_bomb(directory):
    """A thousandth on disk of what it would take."""
    write_member(directory / "samples.npz", 2**27, array_header((2**27,)))
    assert (directory / "samples.npz").stat().st_size < 2**18
    refused(directory, r"samples.npz takes 13.,.* bytes, and at most 67,108,864 are read")


def test_an_array_that_claims_more_than_there_is(directory):
    write_member(directory / "samples.npz", 0, array_header((BIG,), "<i8"))
    refused(directory, "the size of version.npy is not that of its array")


def test_a_declared_size_beyond_the_limit(directory):
    """Written by hand into the archive's directory, where the sizes stand."""
    write_member(directory / "samples.npz", 0, array_header((3,)) + b"abc")
    content = bytearray((directory / "samples.npz").read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 0xFFFFFFF0)
    (directory / "samples.npz").write_bytes(content)
    refused(directory, "samples.npz takes 4,294,967,280 bytes")


@pytest.mark.parametrize("kind", ["objects", "bare pickle"])
def test_pickles(directory, kind, capsys):
    harm = np.array([Harm()], dtype=object)
    if kind == "objects":
        np.savez(directory / "samples.npz", version=harm)
    else:
        (directory / "samples.npz").write_bytes(pickle.dumps(Harm()))
    refused(directory, "does not hold a readable run")
    assert "never run" not in capsys.readouterr().out


def test_a_header_that_is_too_large(directory):
    (directory / "run.json").write_text("[" + " " * untrusted.JSON_LIMIT + "]")
    refused(directory, "run.json takes 16,777,218 bytes")


def test_a_header_that_is_too_deep(directory):
    (directory / "run.json").write_text("[" * 100_000)
    refused(directory, "run.json is nested too deeply")


@pytest.mark.parametrize("text", ["[]", "3", '{"config": 3}', '{"config": {"server": {"lr": 1e999}}}', "\xff"])
def test_a_header_that_is_something_else(directory, text):
    (directory / "run.json").write_bytes(text.encode("latin-1"))
    refused(directory, "does not hold a readable run")


def test_a_huge_header_of_tensors(directory):
    """The first 8 bytes of a safetensors file are the size of its header."""
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(directory, "does not hold a readable run")


def test_a_link_is_not_followed(directory, tmp_path):
    (directory / "run.json").rename(tmp_path / "elsewhere.json")
    (directory / "run.json").symlink_to(tmp_path / "elsewhere.json")
    refused(directory, r"run\.json is a link, and is not followed")


def test_a_huge_sparse_file(directory):
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(BIG)
    refused(directory, r"model.safetensors takes .* and at most 2,147,483,648 are read")


@pytest.mark.usefixtures("lower_limit")
def test_a_table_of_many_equal_rows(directory):
    """10 million rows of one value in some kilobytes, as parquet stores them."""
    table = pa.Table.from_pandas(arrivals_table(1_000_000), preserve_index=False)
    with pq.ParquetWriter(directory / "arrivals.parquet", table.schema) as writer:
        writer.write_table(table.set_column(0, "job", pa.array(np.zeros(1_000_000, np.int64))))
    assert (directory / "arrivals.parquet").stat().st_size < 100_000
    refused(directory, "arrivals.parquet takes 288,000,000 bytes")


def test_a_table_that_repeats_one_long_text(directory):
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), pa.array(["x" * 100_000]))
    table = pa.Table.from_pandas(arrivals_table(100_000), preserve_index=False)
    table = table.set_column(table.column_names.index("rejected"), "rejected", texts)
    pq.write_table(table, directory / "arrivals.parquet", store_schema=False)
    assert (directory / "arrivals.parquet").stat().st_size < 1_000_000
    refused(directory, "arrivals.parquet takes 10,000,000,000 bytes")


LONG = ["x" * 1000]
STRANGE = {
    "dictionary of bytes": pa.DictionaryArray.from_arrays(np.zeros(1, np.int32), pa.array([b"x" * 1000])),
    "dictionary of texts": pa.DictionaryArray.from_arrays(np.zeros(1, np.int32), pa.array(LONG)),
    "bytes": pa.array([b"x"]),
    "large bytes": pa.array([b"x"], pa.large_binary()),
    "list of texts": pa.array([LONG]),
    "list of lists": pa.array([[[1.0]]]),
    "struct": pa.array([{"a": "x"}]),
    "map": pa.array([[("a", "x")]], pa.map_(pa.string(), pa.string())),
    "decimal": pa.array([1], pa.decimal128(38)),
    "view": pa.array(LONG, pa.string_view()),
    "time": pa.array([1], pa.timestamp("ns")),
    "unsigned": pa.array([2**63], pa.uint64()),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_table_with_a_type_that_we_never_write(directory, kind):
    table = pa.Table.from_pandas(arrivals_table(1), preserve_index=False)
    try:
        pq.write_table(table.append_column("more", STRANGE[kind]), directory / "arrivals.parquet")
    except pa.ArrowNotImplementedError:
        pytest.skip("this version of pyarrow cannot write it")
    refused(directory, "arrivals.parquet: 'more' is .*, not a type that we write")


def test_a_table_compressed_a_thousandfold(directory):
    arrivals_table(1).to_parquet(directory / "arrivals.parquet", compression="zstd")
    refused(directory, "arrivals.parquet is compressed in another way than snappy")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"config": {}, "config": {}}', "a name stands twice"),
        ('{"config": "\\ud800"}', "surrogates not allowed"),
        ('{"config": ' + "9" * 5000 + "}", "limit"),
        ('{"config": {}, "summary": {"faults": {"crash": -1}}, "provenance": []}', "summary.faults.crash = -1"),
    ],
)
def test_json_that_we_never_write(directory, text, words):
    (directory / "run.json").write_text(text)
    refused(directory, words)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    simulation = Simulation(small("fedrevive"))
    for _ in zip(simulation.steps(), range(12), strict=False):
        pass
    checkpoint.write(simulation, directory)
    return directory


def forged(written: Path, directory: Path, change, *, hashed: bool = True) -> Path:
    """A checkpoint made by someone who knows how to make its hashes fit."""
    shutil.copytree(written, directory)
    (path,) = checkpoint.list_checkpoints(directory)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    change(manifest, path)
    if hashed:
        manifest["tensors"] = hashlib.sha256((path / checkpoint.TENSORS).read_bytes()).hexdigest()
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    digest = hashlib.sha256((path / checkpoint.MANIFEST).read_bytes()).hexdigest()
    path.rename(directory / f"000000012-{digest}")
    return directory


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["recorder"].pop("receipts"),
        lambda state: state.update(num_processed=10**12),
        lambda state: state["server"]["reviver"]["teachers"].update(teachers=[0] * 50),
        lambda state: state["server"].update(state={"$tensor": "/returned/nothing"}),
        lambda state: state["server"].update(state=state["server"]["jobs"]),
        lambda state: state["recorder"].update(evaluations=3),
        lambda state: state.update(timer={"server": "long"}),
    ],
)
def test_a_forged_checkpoint_is_one_sentence(written, tmp_path, change):
    with pytest.raises(ConfigError, match="does not match this run"):
        checkpoint.restore(
            Simulation(small("fedrevive")),
            forged(written, tmp_path / "forged", lambda manifest, _: change(manifest["state"])),
        )


def test_a_checkpoint_larger_than_the_memory_is_not_read(written, tmp_path):
    """Its tensors are a file without content that claims 2**43 bytes: hashing it alone would take days."""

    def grow(_, path):
        with (path / checkpoint.TENSORS).open("r+b") as file:
            file.truncate(2**43)

    with (
        pytest.warns(UserWarning, match="tensors.safetensors takes 8,796,093,022,208 bytes"),
        pytest.raises(ConfigError, match="is damaged"),
    ):
        checkpoint.restore(Simulation(small("fedrevive")), forged(written, tmp_path / "forged", grow, hashed=False))
