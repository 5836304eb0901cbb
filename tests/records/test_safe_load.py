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
from test_record import a_record

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


def array_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
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
    monkeypatch.setattr(untrusted.check_file, "__defaults__", (2**26,))


@pytest.mark.usefixtures("lower_limit")
def test_a_zip_bomb(directory):
    """A thousandth on disk of what it would take."""
    write_member(directory / "samples.npz", 2**27, array_header((2**27,)))
    assert (directory / "samples.npz").stat().st_size < 2**18
    refused(directory, r"samples.npz takes 13.,.* bytes, and at most 67,108,864 are read")


def test_an_array_that_claims_more_than_there_is(directory):
    write_member(directory / "samples.npz", 0, array_header((BIG,)))
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


def test_a_huge_sparse_file(directory):
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(BIG)
    refused(directory, r"model.safetensors takes .* and at most 2,147,483,648 are read")


@pytest.mark.usefixtures("lower_limit")
def test_a_table_of_many_equal_rows(directory):
    """10 million rows of one value in some kilobytes, as parquet stores them."""
    column = pa.array(np.zeros(1_000_000, np.int8))
    with pq.ParquetWriter(
        directory / "arrivals.parquet", pa.schema([("job", pa.int8())]), compression="zstd"
    ) as writer:
        for _ in range(10):
            writer.write_table(pa.table({"job": column}))
    assert (directory / "arrivals.parquet").stat().st_size < 100_000
    refused(directory, "arrivals.parquet takes 160,000,000 bytes")


def test_a_table_that_repeats_one_long_text(directory):
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"rejected": texts}), directory / "arrivals.parquet", store_schema=False)
    assert (directory / "arrivals.parquet").stat().st_size < 500_000
    refused(directory, "arrivals.parquet takes 10,000,000,000 bytes")


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
