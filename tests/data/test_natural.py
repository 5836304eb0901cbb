"""Natural partitions: FEMNIST by writer from files in the published format, and synthetic writers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fedrevive_core.config.data import DataConfig
from fedrevive_core.data.federated import FederatedData, load_federated
from fedrevive_core.data.femnist import CLASSES
from fedrevive_core.data.writers import Writer, write_as
from fedrevive_core.errors import ConfigError

pytest.importorskip("datasets")
CPU = torch.device("cpu")
WRITERS = ("f0012_04", "f0007_01", "f1000_03", "f0100_02")
# What the Hub stores beside the columns: how `datasets` reads them.
FEATURES = {
    "image": {"_type": "Image"},
    "writer_id": {"dtype": "string", "_type": "Value"},
    "hsf_id": {"dtype": "int64", "_type": "Value"},
    "character": {"names": list(CLASSES), "_type": "ClassLabel"},
}
PLAIN = FEATURES | {"character": {"dtype": "int64", "_type": "Value"}}


def png(grey: int, side: int = 28) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side), grey, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_parquet(
    directory: Path, rows: list[tuple[str, int, int]], *, features: dict[str, Any] | None = None, side: int = 28
) -> None:
    """`rows` of writer, character and grey level, in the columns of flwrlabs/femnist."""
    table = pa.table(
        {
            "image": [{"bytes": png(grey, side), "path": f"{n}.png"} for n, (_, _, grey) in enumerate(rows)],
            "writer_id": [writer for writer, _, _ in rows],
            "hsf_id": [int(writer[-1]) for writer, _, _ in rows],
            "character": [character for _, character, _ in rows],
        }
    )
    metadata = {"huggingface": json.dumps({"info": {"features": features or FEATURES}})}
    target = directory / "femnist" / "data"
    target.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), target / "train-00000-of-00001.parquet")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDREVIVE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def rows(per_writer: int = 20) -> list[tuple[str, int, int]]:
    """Interleaved writers; the grey level of an image is 60 times its writer's number plus its character."""
    return [(w, 7 * n % 62, 60 * k + 7 * n % 62) for n in range(per_writer) for k, w in enumerate(WRITERS)]


def natural(num_clients: int, **settings: Any) -> FederatedData:
    return load_federated(DataConfig(name="femnist", split="natural", **settings), num_clients, CPU)


def test_each_writer_is_one_client_with_its_own_samples(directory: Path) -> None:
    write_parquet(directory, rows())
    data = natural(4)
    assert data.class_names == CLASSES
    assert sum(map(len, data.shards)) == 48  # 60% of 80
    assert [len(part.labels) for part in (data.validation, data.held_back, data.test)] == [12, 8, 12]
    for shard in data.shards:
        grey = (data.clients.images[shard, 0, 0, 0] * 255).round().long()
        assert len(set(((grey - data.clients.labels[shard]) // 60).tolist())) == 1
    assert data.clients.images.shape[1:] == (1, 28, 28)
    assert data.clients.images.max() <= 1


def test_writers_are_drawn_by_the_split_seed_and_the_cache_serves_later_runs(directory: Path) -> None:
    write_parquet(directory, rows())
    seen = {natural(2, split_seed=seed).fingerprint for seed in range(6)}
    assert 2 <= len(seen) <= 6
    (directory / "femnist" / "data" / "train-00000-of-00001.parquet").unlink()
    assert natural(2, split_seed=0).fingerprint in seen


def test_characters_may_be_plain_numbers(directory: Path) -> None:
    write_parquet(directory, rows(), features=PLAIN)
    assert natural(4).clients.labels.max() == max(character for _, character, _ in rows())


def test_a_writer_with_less_than_a_batch_trains_on_short_batches(directory: Path) -> None:
    from fedrevive_core.training import batch_sizes

    write_parquet(directory, rows(10))
    assert batch_sizes(len(natural(4).shards[0]), 3, 32) == [len(natural(4).shards[0])] * 3


def test_bad_femnist_is_refused_by_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"neither .*femnist\.npz nor parquet files .*hf download .*lab-styles"):
        natural(2)
    write_parquet(directory, [("f0001_01", 62, 9)], features=PLAIN)
    with pytest.raises(ConfigError, match="label 62, outside its 62 classes"):
        natural(1)
    write_parquet(directory, rows(1), side=12)
    with pytest.raises(ConfigError, match=r"image 0 has shape \(12, 12\), not \(28, 28\)"):
        natural(1)
    write_parquet(directory, rows())
    with pytest.raises(ConfigError, match=r"num_clients = 5 must be at most the 4 writers"):
        natural(5)
    assert not list(directory.glob(".femnist*"))


def test_a_writer_without_training_samples_is_an_error(directory: Path) -> None:
    write_parquet(directory, rows(1))
    with pytest.raises(ConfigError, match=r"writer \d has 1 samples, but none of them for training: choose another"):
        natural(4)


def test_damaged_files_are_named_and_nothing_half_written_stays(directory: Path) -> None:
    target = directory / "femnist"
    target.mkdir()
    (target / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ConfigError, match=r"femnist cannot be read as parquet"):
        natural(1)
    assert not (directory / "femnist.npz").exists()
    write_parquet(directory, rows())
    (target / "train.parquet").unlink()
    natural(2)
    cache = directory / "femnist.npz"
    content = bytearray(cache.read_bytes())
    content[len(content) // 3] ^= 255
    cache.write_bytes(content)
    with pytest.raises(ConfigError, match=r"femnist\.npz is damaged .*delete it"):
        natural(2)
    assert not list(directory.glob(".femnist*"))


def test_natural_splits_need_writers() -> None:
    with pytest.raises(ConfigError, match=r"'natural' needs samples with writers, as femnist has; not digits"):
        load_federated(DataConfig(name="digits", split="natural"), 3, CPU)


# ------------------------------------------------------------------------------------------- synthetic writers


def cross() -> torch.Tensor:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, :, 2] = 1.0
    return image


def test_stroke_thickens_and_thins() -> None:
    thick = write_as(cross(), Writer(0, 1, 1))[0, 0]
    assert thick.tolist() == [[0, 1, 1, 1, 0]] * 5
    assert write_as(write_as(cross(), Writer(0, 1, 1)), Writer(0, -1, 1))[0, 0, 2].tolist() == [0, 0, 1, 0, 0]


def test_slant_moves_rows_against_each_other_and_contrast_dims() -> None:
    slanted = write_as(cross(), Writer(0.5, 0, 1))[0, 0]
    assert slanted[0].argmax() == 3  # half a column a row: the top goes right, the bottom left
    assert slanted[4].argmax() == 1
    torch.testing.assert_close(write_as(cross(), Writer(0, 0, 0.5)), 0.5 * cross())


def test_every_client_writes_in_another_way() -> None:
    config = DataConfig(name="digits", split="iid", samples_per_client=20, styles=True)
    data = load_federated(config, 6, CPU)
    plain = load_federated(config.model_copy(update={"styles": False}), 6, CPU)
    assert [len(shard) for shard in data.shards] == [20] * 6
    assert torch.equal(data.clients.labels[data.shards[3]], plain.clients.labels[plain.shards[3]])
    assert not torch.equal(data.clients.images[data.shards[3]], plain.clients.images[plain.shards[3]])
    assert sorted(data.test.labels.tolist()) == sorted(plain.test.labels.tolist())
    np.testing.assert_array_equal(data.class_proportions, plain.class_proportions)
    assert load_federated(config, 6, CPU).fingerprint == data.fingerprint
    many = load_federated(config, 150, CPU)  # more writers than the server has samples
    assert len(many.held_back.labels) == len(data.held_back.labels) < 150
