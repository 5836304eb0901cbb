"""Image data sets as tensors: where they are looked for, and how they are read."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torchvision import datasets

from fedrevive_core.validation import ConfigError

# Where Debian's package `dataset-fashion-mnist` puts the original files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Images:
    """Labelled images: `images` (n, C, S, S) float32 in [0, 1], `labels` (n,) int64 in [0, num_classes)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageData:
    """A data set: official training and test part (`test` is None where there is no official one)."""

    train: Images
    test: Images | None
    class_names: tuple[str, ...]


def data_directory() -> Path:
    """The directory in which data sets are looked for and saved: $FEDREVIVE_DATA, or the user's cache folder."""
    if os.environ.get("FEDREVIVE_DATA"):
        return Path(os.environ["FEDREVIVE_DATA"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fedrevive"


def load_images(name: str, image_size: int | None = None, *, download: bool = True) -> ImageData:
    """Data set `name`, resized to `image_size` if given (bilinear, antialiased).

    `digits` comes with scikit-learn. The others are looked for in `data_directory()` (Fashion-MNIST also where Debian
    installs it) and otherwise downloaded, unless `download` is False. Raises ConfigError saying where it looked and
    how to get the data.
    """
    return _load(name, image_size, download, data_directory())


@lru_cache(maxsize=2)  # compare and notebooks load the same data run after run
def _load(name: str, image_size: int | None, download: bool, directory: Path) -> ImageData:
    if name == "digits":
        data = _digits()
    elif name == "fashion_mnist" and not (directory / "FashionMNIST").exists() and DEBIAN_FASHION_MNIST.exists():
        data = _debian_fashion_mnist(DEBIAN_FASHION_MNIST)
    else:
        data = _from_torchvision(name, directory, download)
    if image_size is None or image_size == data.train.images.shape[-1]:
        return data
    test = None if data.test is None else _resize(data.test, image_size)
    return ImageData(_resize(data.train, image_size), test, data.class_names)


def _digits() -> ImageData:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)  # grey levels are 0..16
    return ImageData(Images(images, torch.from_numpy(bunch.target).long()), None, tuple(map(str, range(10))))


def _from_torchvision(name: str, directory: Path, download: bool) -> ImageData:
    kinds = {"fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    kind = kinds[name]
    parts = []
    for train in (True, False):
        try:
            # A first try without download keeps read-only directories usable.
            part = kind(directory, train=train)
        except (RuntimeError, OSError) as absent:
            if not download:
                raise ConfigError(_absent(name, directory, absent)) from None
            try:
                directory.mkdir(parents=True, exist_ok=True)
                part = kind(directory, train=train, download=True)
            except (RuntimeError, OSError) as error:
                raise ConfigError(_absent(name, directory, error)) from None
        parts.append(part)
    train_part, test_part = parts
    return ImageData(_tensors(train_part), _tensors(test_part), tuple(train_part.classes))


def _tensors(part: datasets.VisionDataset) -> Images:
    images = torch.as_tensor(part.data)  # (n, S, S) or (n, S, S, 3), uint8
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return Images(images.float().div(255).contiguous(), torch.as_tensor(part.targets).long())


def _debian_fashion_mnist(directory: Path) -> ImageData:
    train, test = (
        Images(
            read_idx(directory / f"{part}-images-idx3-ubyte.gz").float().div(255).unsqueeze(1),
            read_idx(directory / f"{part}-labels-idx1-ubyte.gz").long(),
        )
        for part in ("train", "t10k")
    )
    return ImageData(train, test, tuple(datasets.FashionMNIST.classes))


def read_idx(path: Path) -> Tensor:
    """Tensor of unsigned bytes in a gzipped IDX file (the format of MNIST). Raises ConfigError if it is not one."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as a gzipped IDX file: {error}") from None
    # Header: two zero bytes, type (8: unsigned byte), number of dimensions, then each dimension as 4 bytes, big-endian.
    dimensions = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(int) if dimensions else np.array([-1])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(values) != np.prod(shape):
        raise ConfigError(f"{path} is not a complete IDX file of unsigned bytes: delete it and install it again")
    return torch.from_numpy(values.reshape(shape).copy())


def _resize(part: Images, size: int) -> Images:
    resized = F.interpolate(part.images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return Images(resized.clamp(0, 1), part.labels)


def _absent(name: str, directory: Path, error: Exception) -> str:
    looked = f"{directory}" + (f" and {DEBIAN_FASHION_MNIST}" if name == "fashion_mnist" else "")
    debian = ", or (Debian, Ubuntu) run `apt-get install dataset-fashion-mnist`" if name == "fashion_mnist" else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"data.name = '{name}': the data set was not found in {looked} and could not be downloaded ({reason}). "
        f"Connect to the network and run again, or set FEDREVIVE_DATA to a directory in torchvision's layout that "
        f"holds it{debian}, or use data that needs no download: --preset lab-digits"
    )
