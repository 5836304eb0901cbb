"""Data sets from files as they lie on disk, and how their samples are dealt to clients."""

from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import datasets

from fedrevive_core.config.data import DataConfig
from fedrevive_core.data import images as images_module
from fedrevive_core.data.cache import data_directory
from fedrevive_core.data.federated import FederatedData, load_federated
from fedrevive_core.data.images import DEBIAN_FASHION_MNIST, load_images, other_images
from fedrevive_core.data.partition import Dealer, class_counts, dirichlet_shards, iid_shards, portions
from fedrevive_core.errors import ConfigError

CPU = torch.device("cpu")


# ----------------------------------------------------------------------------------------------- dealing, by hand


class Scripted:
    """Stands for a random generator: proportions and the class that gets a shortfall are given."""

    def __init__(self, proportions: list[float], unlucky: int = -1) -> None:
        self.proportions, self.unlucky = proportions, unlucky

    def dirichlet(self, alpha: np.ndarray) -> np.ndarray:
        assert len(alpha) == len(self.proportions)
        return np.array(self.proportions)

    def integers(self, high: int) -> int:
        assert 0 <= self.unlucky < high, "no shortfall was expected"
        return self.unlucky


@pytest.mark.parametrize(
    ("proportions", "size", "unlucky", "counts"),
    [
        # 2, 3, 5: nothing to correct.
        ([0.2, 0.3, 0.5], 10, -1, [2, 3, 5]),
        # 2.4, 2.4, 2.4, 2.8 round to 2, 2, 2, 3: one is short and goes to the drawn class.
        ([0.24, 0.24, 0.24, 0.28], 10, 1, [2, 3, 2, 3]),
        # 2.4, 2.4, 2.4, 1.4, 1.4 round to 2, 2, 2, 1, 1: both that are short go to one class.
        ([0.24, 0.24, 0.24, 0.14, 0.14], 10, 4, [2, 2, 2, 1, 3]),
        # 2.6, 2.6, 4.8 round to 3, 3, 5: one too many, taken off the largest.
        ([0.26, 0.26, 0.48], 10, -1, [3, 3, 4]),
        # 6 x 1/10 each round to 1 ten times: four too many, and each largest has only one to give.
        ([0.1] * 10, 6, -1, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]),
        # One class has everything.
        ([1.0, 0.0], 7, -1, [7, 0]),
    ],
)
def test_counts_are_rounded_shares_corrected_to_the_size(
    proportions: list[float], size: int, unlucky: int, counts: list[int]
) -> None:
    found = class_counts(0.5, size, len(proportions), Scripted(proportions, unlucky))
    assert found.tolist() == counts


def test_counts_follow_dirichlet() -> None:
    """Mean 1/C and variance (1/C)(1 - 1/C) / (C alpha + 1) of a class's share."""
    rng = np.random.default_rng(0)
    for alpha in (0.1, 0.5, 10.0):
        shares = np.stack([class_counts(alpha, 1000, 4, rng) for _ in range(3000)]) / 1000
        np.testing.assert_allclose(shares.mean(axis=0), 0.25, atol=0.03)
        np.testing.assert_allclose(shares.var(axis=0), 0.25 * 0.75 / (4 * alpha + 1), rtol=0.1)


def test_a_dealer_hands_out_everything_before_it_shuffles_again() -> None:
    dealer = Dealer(np.arange(10), np.random.default_rng(0))
    hands = [dealer.deal(4), dealer.deal(4)]
    assert len(set(np.concatenate(hands).tolist())) == 8
    # Two are left, three are wanted: a fresh shuffle of all ten, and the two are not dealt first.
    hands = [dealer.deal(3), dealer.deal(7)]
    assert sorted(np.concatenate(hands).tolist()) == list(range(10))
    assert sorted(dealer.deal(10).tolist()) == list(range(10))
    assert dealer.deal(0).tolist() == []


def test_portions_round_cumulatively() -> None:
    """7 x (.6, .15, .05, .2): ends at 4.2, 5.25, 5.6 -> 4, 5, 6."""
    parts = portions(np.arange(7), (0.6, 0.15, 0.05, 0.2), np.random.default_rng(0))
    assert [len(part) for part in parts] == [4, 1, 1, 1]
    assert sorted(np.concatenate(parts).tolist()) == list(range(7))


# ---------------------------------------------------------------------------------------------- dealing, properties


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels of all samples, the candidates among them, and a size of shard that every class could fill alone."""
    num_classes, size = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    labels = rng.permutation(np.repeat(np.arange(num_classes), 2 * size + draw(st.integers(0, 9))))
    by_class = [rng.permutation(np.flatnonzero(labels == y))[: draw(st.integers(size, 2 * size))] for y in set(labels)]
    return labels, rng.permutation(np.concatenate(by_class)), size


@given(data=labelled(), num_clients=st.integers(1, 12), alpha=st.floats(0.05, 20), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_dirichlet_shards(data: tuple[np.ndarray, np.ndarray, int], num_clients: int, alpha: float, seed: int) -> None:
    labels, candidates, size = data
    shards, again = (
        dirichlet_shards(labels, candidates, num_clients, size, alpha, np.random.default_rng(seed)) for _ in range(2)
    )
    assert [len(shard) for shard in shards] == [size] * num_clients
    assert all(len(set(shard.tolist())) == size for shard in shards)
    assert np.isin(np.concatenate(shards), candidates).all()
    assert all(np.array_equal(one, other) for one, other in zip(shards, again, strict=True))


@given(num=st.integers(1, 60), num_clients=st.integers(1, 12), seed=st.integers(0, 999), share=st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_iid_shards(num: int, num_clients: int, seed: int, share: float) -> None:
    candidates, size = np.arange(100, 100 + num), max(1, int(share * num))
    shards, again = (iid_shards(candidates, num_clients, size, np.random.default_rng(seed)) for _ in range(2))
    assert [len(shard) for shard in shards] == [size] * num_clients
    assert all(len(set(shard.tolist())) == size for shard in shards)
    assert np.isin(np.concatenate(shards), candidates).all()
    assert all(np.array_equal(one, other) for one, other in zip(shards, again, strict=True))
    # No sample is used twice before all have had their turn.
    first_pass = np.concatenate(shards[: num // size])
    assert len(set(first_pass.tolist())) == len(first_pass)


@given(num=st.integers(0, 200), cuts=st.lists(st.floats(0.01, 1), min_size=1, max_size=5), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_portions_cover_without_overlap(num: int, cuts: list[float], seed: int) -> None:
    fractions = tuple(cut / sum(cuts) for cut in cuts)
    parts = portions(np.arange(num), fractions, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(num))
    assert all(abs(len(part) - share * num) <= 1.0001 for part, share in zip(parts, fractions, strict=True))


def test_alpha_decides_how_skewed_clients_are() -> None:
    labels = np.repeat(np.arange(5), 1000)
    largest = {}
    for alpha in (0.05, 0.5, 50.0):
        shards = dirichlet_shards(labels, np.arange(5000), 60, 100, alpha, np.random.default_rng(0))
        largest[alpha] = np.mean([np.bincount(labels[shard], minlength=5).max() / 100 for shard in shards])
    assert largest[0.05] > 0.85 > largest[0.5] > 0.4 > largest[50.0] > 0.2


def test_a_client_that_needs_more_of_a_class_than_there_is_gets_an_error() -> None:
    labels = np.repeat([0, 1], [50, 3])
    message = (
        r"data\.samples_per_client = 20 with data\.alpha = 0\.05: client \d+ \w+ \d+ samples of class 1, "
        r"which has only 3: lower samples_per_client or raise alpha"
    )
    with pytest.raises(ConfigError, match=message):
        dirichlet_shards(labels, np.arange(53), 30, 20, 0.05, np.random.default_rng(0))


def test_an_iid_shard_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.samples_per_client = 11 must be at most the 10 samples for clients"):
        iid_shards(np.arange(10), 1, 11, np.random.default_rng(0))


# ----------------------------------------------------------------------------------------------------- digits whole


def keys(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def digits(num_clients: int = 20, **settings: Any) -> FederatedData:
    values = {"name": "digits", "samples_per_client": 50, **settings}
    return load_federated(DataConfig(**values), num_clients, CPU)


def test_digits_are_grey_levels_between_zero_and_one() -> None:
    data = load_images("digits")
    assert data.train.images.shape == (1797, 1, 8, 8)
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64
    assert data.test is None
    assert data.class_names == tuple("0123456789")
    assert data.train.images.min() == 0
    assert data.train.images.max() == 1
    assert ((data.train.images * 16) % 1 == 0).all()


def test_parts_of_digits_are_disjoint_and_cover_it_with_their_shares_of_each_class() -> None:
    """60 / 15 / 5 / 20 for clients, validation, held back, test. One client with everything shows the clients' part."""
    everything = load_images("digits").train
    number = {key: n for n, key in enumerate(keys(everything.images))}
    assert len(number) == 1797, "every image of digits is different"
    size = 1797 - sum(len(part.labels) for part in (digits().validation, digits().held_back, digits().test))
    data = digits(1, split="iid", samples_per_client=size)
    parts = {
        "clients": data.shards[0].tolist(),
        "validation": [number[key] for key in keys(data.validation.images)],
        "held back": [number[key] for key in keys(data.held_back.images)],
        "test": [number[key] for key in keys(data.test.images)],
    }
    assert sorted(chain.from_iterable(parts.values())) == list(range(1797))
    labels = everything.labels.numpy()
    for share, part in zip((0.60, 0.15, 0.05, 0.20), parts.values(), strict=True):
        of_class = np.bincount(labels[part], minlength=10)
        assert np.abs(of_class - share * np.bincount(labels)).max() <= 1
    for part, images in (("validation", data.validation), ("held back", data.held_back), ("test", data.test)):
        assert labels[parts[part]].tolist() == images.labels.tolist()


@pytest.mark.parametrize("split", ["dirichlet", "iid"])
def test_clients_never_hold_what_the_server_evaluates_on(split: str) -> None:
    data = digits(40, split=split)
    theirs = set(keys(data.clients.images[torch.from_numpy(np.concatenate(data.shards))]))
    for part in (data.validation, data.held_back, data.test):
        assert not theirs & set(keys(part.images))


def test_the_split_depends_on_its_own_seed_alone() -> None:
    one, again, other = digits(), digits(), digits(split_seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(one.shards, again.shards, strict=True))
    assert torch.equal(one.test.images, again.test.images)
    assert not all(np.array_equal(a, b) for a, b in zip(one.shards, other.shards, strict=True))
    assert not torch.equal(one.test.images, other.test.images)


def test_class_proportions_are_the_histograms_of_the_shards() -> None:
    data = digits(alpha=0.1)
    assert data.class_proportions.shape == (20, 10)
    np.testing.assert_allclose(data.class_proportions.sum(axis=1), 1)
    for shard, row in zip(data.shards, data.class_proportions, strict=True):
        counted = Counter(data.clients.labels[torch.from_numpy(shard)].tolist())
        assert (row * 50).round().astype(int).tolist() == [counted[y] for y in range(10)]


def test_shapes_and_classes_are_told() -> None:
    data = digits(image_size=12)
    assert data.sample_shape == (1, 12, 12)
    assert data.num_classes == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mean": (0.5, 0.5, 0.5)},
            r"data\.mean = \(0\.5, 0\.5, 0\.5\) must hold 1 value or 1, one per channel of the images",
        ),
        ({"std": (0.5, 0.5)}, r"data\.std = \(0\.5, 0\.5\) must hold 1 value or 1"),
        ({"split": "iid", "samples_per_client": 2000}, r"samples_per_client = 2000 must be at most the \d+ samples"),
        ({"samples_per_client": 2000}, r"samples_per_client = 2000 .* lower samples_per_client or raise alpha"),
    ],
)
def test_data_that_cannot_be_dealt_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        digits(**settings)


# ------------------------------------------------------------------------------------------------------- resizing


def test_resizing_keeps_flat_images_flat_and_values_in_range() -> None:
    small, large = load_images("digits", 4).train, load_images("digits", 13).train
    assert small.images.shape[-2:] == (4, 4)
    assert large.images.shape[-2:] == (13, 13)
    assert min(small.images.min(), large.images.min()) >= 0
    assert max(small.images.max(), large.images.max()) <= 1
    assert torch.equal(small.labels, load_images("digits").train.labels)
    assert load_images("digits", 8).train.images.shape[-1] == 8


def test_halving_weighs_four_pixels_along_each_axis() -> None:
    """Antialiased: weights 1, 3, 3, 1 over the pixels around the middle, cut off and scaled at the border."""
    weights = np.zeros((4, 8))
    for row in range(4):
        for place, weight in zip(range(2 * row - 1, 2 * row + 3), (1, 3, 3, 1), strict=True):
            if 0 <= place < 8:
                weights[row, place] = weight
    weights /= weights.sum(axis=1, keepdims=True)
    image = load_images("digits").train.images[5, 0].numpy()
    np.testing.assert_allclose(load_images("digits", 4).train.images[5, 0], weights @ image @ weights.T, atol=1e-6)


# --------------------------------------------------------------------------------------------------- files on disk


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty $FEDREVIVE_DATA, no Debian package, and a network that is down."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Error downloading\nTried a mirror")

    directory = tmp_path / "data"
    directory.mkdir()
    monkeypatch.setenv("FEDREVIVE_DATA", str(directory))
    monkeypatch.setattr(images_module, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    yield directory
    images_module._load.cache_clear()


def idx(values: np.ndarray) -> bytes:
    """The IDX format: magic number 0x0000 08 (bytes), number of dimensions; sizes, big-endian; values."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def fashion_files(seed: int = 0) -> dict[str, np.ndarray]:
    """Twelve images for training and five for testing, by file name."""
    rng = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (12, 28, 28)),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 12),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28)),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 5),
    }


def write_raw(home: Path, files: dict[str, np.ndarray]) -> Path:
    """Fashion-MNIST as torchvision unpacks it."""
    directory = home / "FashionMNIST" / "raw"
    directory.mkdir(parents=True)
    for name, values in files.items():
        (directory / name).write_bytes(idx(values))
    return directory


def write_debian(home: Path, files: dict[str, np.ndarray]) -> Path:
    """Fashion-MNIST as Debian's package installs it."""
    directory = home.parent / "debian"
    directory.mkdir()
    for name, values in files.items():
        (directory / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
    return directory


def check_fashion(files: dict[str, np.ndarray]) -> None:
    data = load_images("fashion_mnist")
    assert data.class_names[0] == "T-shirt/top"
    assert len(data.class_names) == 10
    for part, prefix in ((data.train, "train"), (data.test, "t10k")):
        pixels, labels = files[f"{prefix}-images-idx3-ubyte"], files[f"{prefix}-labels-idx1-ubyte"]
        assert part.images.dtype == torch.float32
        assert part.images.shape == (len(labels), 1, 28, 28)
        np.testing.assert_array_equal(part.images[:, 0].mul(255).round(), pixels)
        assert part.labels.tolist() == labels.tolist()
        assert part.labels.dtype == torch.int64


def test_fashion_mnist_from_torchvisions_layout(home: Path) -> None:
    files = fashion_files()
    write_raw(home, files)
    check_fashion(files)


def test_fashion_mnist_from_debians_package(home: Path) -> None:
    files = fashion_files()
    write_debian(home, files)
    check_fashion(files)


def test_ones_own_fashion_mnist_goes_before_debians(home: Path) -> None:
    write_debian(home, fashion_files(seed=1))
    files = fashion_files(seed=2)
    write_raw(home, files)
    check_fashion(files)


def test_a_download_that_failed_does_not_hide_debians_package(home: Path) -> None:
    """torchvision makes FashionMNIST/raw before it tries the network; the error's advice must then still help."""
    with pytest.raises(ConfigError, match="apt-get install dataset-fashion-mnist"):
        load_images("fashion_mnist")
    files = fashion_files()
    write_debian(home, files)
    check_fashion(files)


def test_other_images_than_those_of_a_data_set(home: Path) -> None:
    """Digits for Fashion-MNIST; Fashion-MNIST for all else, and only where it is."""
    digits = other_images("fashion_mnist", (1, 14, 14))
    assert torch.equal(digits, load_images("digits", 14).train.images)
    with pytest.raises(ConfigError, match=r"revival\.source = 'other' distils on Fashion-MNIST.*download is off"):
        other_images("digits", (1, 8, 8))
    write_raw(home, fashion_files())
    assert torch.equal(other_images("digits", (1, 8, 8)), load_images("fashion_mnist", 8).train.images)
    with pytest.raises(ConfigError, match=r"revival\.source = 'other'.*'cifar10' have 3 channels: use 'noise'"):
        other_images("cifar10", (3, 32, 32))


def cifar_entry(rng: np.random.Generator, count: int, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """Rows of 3072 bytes (1024 red, 1024 green, 1024 blue; row by row) and labels."""
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, num_classes, count).tolist()


def write_pickle(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def check_cifar(name: str, train: list[tuple[np.ndarray, list[int]]], test: tuple[np.ndarray, list[int]]) -> Any:
    data = load_images(name)
    for part, rows, labels in (
        (
            data.train,
            np.concatenate([rows for rows, _ in train]),
            list(chain.from_iterable(labels for _, labels in train)),
        ),
        (data.test, *test),
    ):
        assert part.images.shape == (len(labels), 3, 32, 32)
        np.testing.assert_array_equal(part.images.mul(255).round().flatten(1), rows)
        assert part.labels.tolist() == labels
        assert part.labels.dtype == torch.int64
    return data


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take our small files for the real ones: it compares their MD5 sums otherwise."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


def write_cifar10(home: Path) -> tuple[list[tuple[np.ndarray, list[int]]], tuple[np.ndarray, list[int]]]:
    rng, directory = np.random.default_rng(0), home / "cifar-10-batches-py"
    batches = {f"data_batch_{n}": cifar_entry(rng, 20, 10) for n in range(1, 6)}
    batches["test_batch"] = cifar_entry(rng, 7, 10)
    for name, (rows, labels) in batches.items():
        filenames = [f"image_{n}.png" for n in range(len(labels))]
        content = {"batch_label": name, "labels": labels, "data": rows, "filenames": filenames}
        write_pickle(directory / name, content)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    write_pickle(directory / "batches.meta", {"num_cases_per_batch": 20, "label_names": classes, "num_vis": 3072})
    return [batches[f"data_batch_{n}"] for n in range(1, 6)], batches["test_batch"]


@pytest.mark.usefixtures("unchecked")
def test_cifar10_from_its_python_batches(home: Path) -> None:
    data = check_cifar("cifar10", *write_cifar10(home))
    assert data.class_names[3] == "cat"


@pytest.mark.usefixtures("unchecked")
def test_cifar100_from_its_python_batches_with_fine_labels(home: Path) -> None:
    rng, directory = np.random.default_rng(0), home / "cifar-100-python"
    parts = {"train": cifar_entry(rng, 30, 100), "test": cifar_entry(rng, 9, 100)}
    for name, (rows, labels) in parts.items():
        content = {
            "filenames": [f"image_{n}.png" for n in range(len(labels))],
            "batch_label": f"{name} batch 1 of 1",
            "fine_labels": labels,
            "coarse_labels": [label // 5 for label in labels],
            "data": rows,
        }
        write_pickle(directory / name, content)
    fine, coarse = [f"fine {n}" for n in range(100)], [f"coarse {n}" for n in range(20)]
    write_pickle(directory / "meta", {"fine_label_names": fine, "coarse_label_names": coarse})
    data = check_cifar("cifar100", [parts["train"]], parts["test"])
    assert data.class_names == tuple(fine)


@pytest.mark.usefixtures("unchecked")
def test_official_training_sets_are_split_75_15_10_and_the_test_set_is_kept_whole(home: Path) -> None:
    train, (test_rows, test_labels) = write_cifar10(home)
    number = {row.tobytes(): n for n, row in enumerate(np.concatenate([rows for rows, _ in train]))}

    def numbers(images: torch.Tensor) -> list[int]:
        return [number[row.tobytes()] for row in images.mul(255).round().byte().flatten(1).numpy()]

    config = DataConfig(name="cifar10", split="iid", samples_per_client=75)
    data = load_federated(config, 1, CPU)
    parts = [data.shards[0].tolist(), numbers(data.validation.images), numbers(data.held_back.images)]
    assert [len(part) for part in parts] == [75, 15, 10]
    assert sorted(chain.from_iterable(parts)) == list(range(100))
    np.testing.assert_array_equal(data.test.images.mul(255).round().flatten(1), test_rows)
    assert data.test.labels.tolist() == test_labels


# ------------------------------------------------------------------------------------------- damaged and absent files


def spoil(content: bytes, how: str) -> bytes:
    """Damage to a file of the IDX format, before it is compressed if it is."""
    return {
        "empty": b"",
        "cut in the magic number": content[:3],
        "cut in the header": content[:7],
        "cut in the values": content[:-1],
        "too long": content + b"\0",
        "other type": content[:2] + b"\x0d" + content[3:],
        "other magic": b"PK" + content[2:],
    }[how]


IDX_DAMAGE = ["empty", "cut in the magic number", "cut in the header", "cut in the values", "too long"]


@pytest.mark.parametrize("how", ["not compressed", "cut", "changed inside"])
def test_a_damaged_file_of_debians_package_is_named(how: str, home: Path) -> None:
    path = write_debian(home, fashion_files()) / "train-images-idx3-ubyte.gz"
    packed = bytearray(path.read_bytes())
    if how == "not compressed":
        packed = bytearray(idx(np.zeros((3, 4, 4))))
    elif how == "cut":
        del packed[-200:]
    else:
        packed[10] = 0xFF  # the first block: a kind that does not exist
    path.write_bytes(packed)
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte\.gz cannot be unpacked"):
        load_images("fashion_mnist")
    assert not (home / "FashionMNIST" / "raw" / path.stem).exists()


def test_debians_files_are_unpacked_once(home: Path) -> None:
    files, raw = fashion_files(), home / "FashionMNIST" / "raw"
    debian = write_debian(home, files)
    check_fashion(files)
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {name: idx(v) for name, v in files.items()}
    images_module._load.cache_clear()
    for path in debian.iterdir():
        path.unlink()
    check_fashion(files)


def test_a_data_directory_that_cannot_be_written_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_debian(home, fashion_files())
    (home / "file").write_text("")
    monkeypatch.setenv("FEDREVIVE_DATA", str(home / "file" / "below"))
    with pytest.raises(ConfigError, match=r"cannot be written .*set FEDREVIVE_DATA to another directory"):
        load_images("fashion_mnist")


@pytest.mark.parametrize("how", [*IDX_DAMAGE, "other type", "other magic"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_in_torchvisions_layout_is_an_error(how: str, name: str, home: Path) -> None:
    directory = write_raw(home, fashion_files())
    (directory / name).write_bytes(spoil((directory / name).read_bytes(), how))
    with pytest.raises(ConfigError, match=f"{directory} holds a damaged file .*delete it and get it again"):
        load_images("fashion_mnist")


def test_images_without_their_labels_are_an_error(home: Path) -> None:
    files = fashion_files()
    files["train-labels-idx1-ubyte"] = files["train-labels-idx1-ubyte"][:-2]
    write_debian(home, files)
    with pytest.raises(ConfigError, match="12 images but 10 labels in its training part"):
        load_images("fashion_mnist")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_absent_data_tells_where_it_looked_and_what_to_do(name: str, home: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_images(name)
    message = str(error.value)
    assert f"data.name = '{name}'" in message
    assert f"not found in {home}" in message
    assert "set FEDREVIVE_DATA" in message
    assert "--preset lab-digits" in message
    assert ("apt-get install dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert (str(home.parent / "debian") in message) == (name == "fashion_mnist")
    assert "\n" not in message


def test_downloading_can_be_forbidden(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: asked.append(self))
    with pytest.raises(ConfigError, match="not found in"):
        load_images("cifar10", download=False)
    assert not asked


def test_files_that_fail_torchvisions_check_are_not_used(home: Path) -> None:
    write_cifar10(home)
    with pytest.raises(ConfigError, match=r"data\.name = 'cifar10'"):
        load_images("cifar10")


def test_a_directory_that_cannot_be_made_is_the_same_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("FEDREVIVE_DATA", str(home / "file" / "below"))
    with pytest.raises(ConfigError, match="set FEDREVIVE_DATA"):
        load_images("cifar10")


def test_a_failure_is_not_remembered(home: Path) -> None:
    with pytest.raises(ConfigError):
        load_images("fashion_mnist")
    files = fashion_files()
    for path in (home / "FashionMNIST" / "raw", home / "FashionMNIST"):
        path.rmdir()
    write_raw(home, files)
    check_fashion(files)


def test_where_data_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREVIVE_DATA", "~/sets")
    assert data_directory() == Path.home() / "sets"
    monkeypatch.delenv("FEDREVIVE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert data_directory() == Path("/somewhere/fedrevive")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data_directory() == Path.home() / ".cache" / "fedrevive"
    for bad in ("relative", __file__, "~no-such-user/sets", "/" + "x" * 300):
        monkeypatch.setenv("FEDREVIVE_DATA", bad)
        with pytest.raises(ConfigError, match="must be the absolute path of a directory"):
            data_directory()


def test_no_library_is_imported_before_its_loader_is_used() -> None:
    """In a fresh interpreter: the packages of data and training load none of the libraries that read data sets."""
    code = (
        "import sys, fedrevive_core.data, fedrevive_core.training\n"
        "print([m for m in ('sklearn', 'torchvision', 'pandas', 'datasets', 'transformers', 'pooch', 'scipy',"
        " 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDREVIVE_DATA", str(tmp_path))
    data = load_images("fashion_mnist", download=False)
    images_module._load.cache_clear()
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.labels[:5].tolist() == [9, 0, 0, 3, 0]  # the first is the well-known ankle boot
    assert data.train.images.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert data.train.images.std().item() == pytest.approx(0.3530, abs=1e-4)
