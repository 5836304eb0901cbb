"""Image data sets as tensors: where they are looked for, and how they are read."""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.data.cache import data_directory
from fedrevive_core.data.samples import ImageData, Images
from fedrevive_core.errors import ConfigError

if TYPE_CHECKING:  # scikit-learn and torchvision take seconds to import, so each is imported by who reads with it
    from torchvision import datasets

# Where Debian's package `dataset-fashion-mnist` puts the original files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IDX_PARTS = ("train", "t10k")
IDX_KINDS = ("images-idx3", "labels-idx1")


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
    elif name == "fashion_mnist":
        data = _fashion_mnist(directory, download)
    else:
        data = _cifar(name, directory, download)
    if image_size is None or image_size == data.train.images.shape[-1]:
        return data
    test = None if data.test is None else _resize(data.test, image_size)
    return ImageData(_resize(data.train, image_size), test, data.class_names)


def _digits() -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)  # grey levels are 0..16
    return ImageData(Images(images, torch.from_numpy(bunch.target).long()), None, tuple(map(str, range(10))))


def _cifar(name: str, directory: Path, download: bool) -> ImageData:
    from torchvision import datasets

    # torchvision checks the files' MD5 sums before it reads them, so that nothing foreign is unpickled.
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        kind(directory)
    except (RuntimeError, OSError) as absent:
        _download(name, kind, directory, absent if not download else None)
    train, test = (kind(directory, train=train) for train in (True, False))
    return ImageData(_images(train.data, train.targets), _images(test.data, test.targets), tuple(train.classes))


def _images(pixels: np.ndarray, labels: list[int]) -> Images:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (n, 32, 32, 3), uint8
    return Images(images.float().div(255).contiguous(), torch.tensor(labels))


def _fashion_mnist(directory: Path, download: bool) -> ImageData:
    from torchvision import datasets

    raw = directory / "FashionMNIST" / "raw"
    complete = all((raw / f"{part}-{kind}-ubyte").exists() for part in IDX_PARTS for kind in IDX_KINDS)
    if not complete and DEBIAN_FASHION_MNIST.exists():
        raw, ending = DEBIAN_FASHION_MNIST, ".gz"
    else:
        ending = ""
        if not complete:
            _download("fashion_mnist", datasets.FashionMNIST, directory, None if download else OSError("not asked to"))
    train, test = (_idx_part(raw, part, ending) for part in IDX_PARTS)
    return ImageData(train, test, tuple(datasets.FashionMNIST.classes))


def _idx_part(raw: Path, part: str, ending: str) -> Images:
    images, labels = (read_idx(raw / f"{part}-{kind}-ubyte{ending}") for kind in IDX_KINDS)
    if len(images) != len(labels):
        raise ConfigError(f"{raw} holds {len(images)} images but {len(labels)} labels of '{part}': get the files again")
    return Images(images.float().div(255).unsqueeze(1), labels.long())


def _download(name: str, kind: type[datasets.VisionDataset], directory: Path, refused: Exception | None) -> None:
    """Let torchvision fetch both parts, with its progress bar. Raises ConfigError if `refused` or not possible."""
    try:
        if refused is not None:
            raise refused
        directory.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            kind(directory, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise ConfigError(_absent(name, directory, error)) from None


def read_idx(path: Path) -> Tensor:
    """Unsigned bytes in an IDX file (MNIST's format), gzipped if its name ends so. ConfigError if it is not one."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read as an IDX file: {error}") from None
    # Header: two zero bytes, type (8: unsigned byte), number of dimensions, then each dimension as 4 bytes, big-endian.
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    header, values = content[4 : 4 + 4 * dimensions], content[4 + 4 * dimensions :]
    shape = np.frombuffer(header, ">u4").astype(int) if len(header) == 4 * dimensions else ()
    if dimensions == 0 or len(shape) == 0 or len(values) != np.prod(shape):
        raise ConfigError(f"{path} is not a complete IDX file of unsigned bytes: delete it and get it again")
    return torch.from_numpy(np.frombuffer(values, np.uint8).reshape(shape).copy())


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
