"""Image data sets as tensors: the digits of scikit-learn, and through torchvision, imported when it is used."""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrevive_core.data.cache import cache_file, data_directory, reason
from fedrevive_core.data.samples import ImageData, Images
from fedrevive_core.errors import ConfigError

# Where Debian's package `dataset-fashion-mnist` installs the original files, compressed.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_FILES = [f"{part}-{content}-ubyte" for part in ("train", "t10k") for content in ("images-idx3", "labels-idx1")]
# What torchvision raises where files are absent or damaged.
UNREADABLE = (RuntimeError, OSError, ValueError, TypeError, KeyError, AssertionError)


def load_images(name: str, image_size: int | None = None, *, download: bool = True) -> ImageData:
    """Data set `name`, resized to `image_size` if given (bilinear, antialiased).

    `digits` comes with scikit-learn. The others are read from `data_directory()`, in torchvision's layout, or else
    downloaded to it, unless `download` is False. Fashion-MNIST is unpacked to it where Debian has installed the files.
    Raises ConfigError saying where it looked and how to get the data, or which directory holds a damaged file.
    """
    return _load(name, image_size, download, data_directory())


def other_images(name: str, shape: tuple[int, ...]) -> Tensor:
    """Real images (n, *shape) that show nothing of data set `name`: digits for Fashion-MNIST, Fashion-MNIST for others.

    Nothing is downloaded. Raises ConfigError if `shape` has colours, which neither has, or Fashion-MNIST is not here.
    """
    if shape[0] != 1:
        raise ConfigError(
            f"revival.source = 'other' knows only grey images, and those of data.name = '{name}' have {shape[0]} "
            "channels: use 'noise'"
        )
    if name == "fashion_mnist":
        return load_images("digits", shape[-1]).train.images
    try:
        return load_images("fashion_mnist", shape[-1], download=False).train.images
    except ConfigError as error:
        raise ConfigError(
            "revival.source = 'other' distils on Fashion-MNIST, which cannot be read here: see what a run with "
            f"data.name = 'fashion_mnist' says, or use 'noise' ({reason(error)})"
        ) from None


@lru_cache(maxsize=2)  # compare and notebooks load the same data run after run
def _load(name: str, image_size: int | None, download: bool, directory: Path) -> ImageData:
    data = _digits() if name == "digits" else _published(name, directory, download)
    if image_size is None or image_size == data.train.images.shape[-1]:
        return data
    test = None if data.test is None else _resize(data.test, image_size)
    return ImageData(_resize(data.train, image_size), test, data.class_names)


def _digits() -> ImageData:
    library = Path(find_spec("sklearn").origin).parent  # type: ignore[union-attr, arg-type] # importing it takes seconds
    table = torch.from_numpy(np.loadtxt(library / "datasets" / "data" / "digits.csv.gz", delimiter=","))  # (n, 65)
    images = table[:, :64].reshape(-1, 1, 8, 8).float().div(16)  # grey levels are 0..16
    return ImageData(Images(images, table[:, 64].long()), None, tuple(map(str, range(10))))


def _published(name: str, directory: Path, download: bool) -> ImageData:
    from torchvision import datasets

    # torchvision checks the MD5 sums of CIFAR's files before it reads them, so that nothing foreign is unpickled.
    kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}
    kind, raw = kinds[name], directory / "FashionMNIST" / "raw"
    if name == "fashion_mnist":
        _unpack_debian(raw)
    try:
        train, test = (kind(directory, train=train) for train in (True, False))
    except UNREADABLE as problem:
        if name == "fashion_mnist" and all((raw / file).exists() for file in FASHION_FILES):
            raise ConfigError(f"{raw} holds a damaged file ({problem!r}): delete it and get it again") from None
        train, test = _fetch(name, kind, directory, download=download)
    return ImageData(_images(name, train), _images(name, test), tuple(train.classes))


def _images(name: str, part: Any) -> Images:
    pixels, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets)  # uint8 (n, S, S) or (n, S, S, C); (n,)
    if len(pixels) != len(labels):
        counts = f"{len(pixels)} images but {len(labels)} labels in its {'training' if part.train else 'test'} part"
        raise ConfigError(f"data.name = '{name}' has {counts}: get the files again")
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)  # (n, C, S, S)
    return Images(pixels.float().div(255).contiguous(), labels)


def _unpack_debian(raw: Path) -> None:
    """Unpack what Debian's package has and `raw` lacks. Raises ConfigError if a file is damaged or not writable."""
    for name in FASHION_FILES:
        packed = DEBIAN_FASHION_MNIST / f"{name}.gz"
        if (raw / name).exists() or not packed.exists():
            continue
        try:
            content = gzip.decompress(packed.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"{packed} cannot be unpacked ({error}): install the package again") from None
        with cache_file(raw / name) as path:
            path.write_bytes(content)


def _fetch(name: str, kind: Any, directory: Path, *, download: bool) -> list[Any]:
    """Let torchvision download both parts, with its progress bar. Raises ConfigError if it cannot or may not."""
    try:
        if not download:
            raise OSError("download is off")
        directory.mkdir(parents=True, exist_ok=True)
        return [kind(directory, train=train, download=True) for train in (True, False)]
    except UNREADABLE as error:
        looked, debian = str(directory), ""
        if name == "fashion_mnist":
            looked += f" and {DEBIAN_FASHION_MNIST}"
            debian = ", or (Debian, Ubuntu) run `apt-get install dataset-fashion-mnist`"
        raise ConfigError(
            f"data.name = '{name}': the data set was not found in {looked} and could not be downloaded "
            f"({reason(error)}). Connect to the network and run again, or set FEDREVIVE_DATA to a directory in "
            f"torchvision's layout that holds it{debian}, or use data that needs no download: --preset lab-digits"
        ) from None


def _resize(part: Images, size: int) -> Images:
    resized = F.interpolate(part.images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return Images(resized.clamp(0, 1), part.labels)
