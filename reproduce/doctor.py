"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import sys

from packaging.requirements import Requirement  # comes with matplotlib

from fedrevive_core.errors import ConfigError

DEVELOPERS = ("test", "browser")  # extras that users do not need
DATA_SETS = ("digits", "fashion_mnist", "cifar10", "cifar100")
KEPT = {"femnist": "femnist.npz", "newsgroups": "20news-bydate", "docstrings": "docstrings-*.npz"}


def examine() -> list[dict[str, str]]:
    """Rows of `what`, `found`, `to do` (empty if nothing)."""
    python = sys.version.split()[0]
    rows = [_row("Python", python, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")]
    return rows + _packages() + _device() + _data()


def _row(what: str, found: str, to_do: str = "") -> dict[str, str]:
    return {"what": what, "found": found, "to do": to_do}


def _packages() -> list[dict[str, str]]:
    """A row for every package that this project requires, always or for an extra."""
    try:
        requirements = list(map(Requirement, importlib.metadata.requires("fedrevive") or []))
    except importlib.metadata.PackageNotFoundError:
        return [_row("fedrevive", "not installed", "pip install -e . (then this table also lists its packages)")]
    rows: dict[str, dict[str, str]] = {}
    for required in requirements:
        extra = str(required.marker).split('"')[1] if required.marker else ""  # the marker is: extra == "notebooks"
        if extra not in DEVELOPERS:
            rows.setdefault(required.name, _package(required, extra))
    return list(rows.values())


def _package(required: Requirement, extra: str) -> dict[str, str]:
    remedy = f"only for {extra}: pip install -e '.[{extra}]'" if extra else "pip install -e ."
    try:
        version = importlib.metadata.version(required.name)
    except importlib.metadata.PackageNotFoundError:
        return _row(required.name, "missing", remedy)
    fits = required.specifier.contains(version, prereleases=True)
    return _row(required.name, version, "" if fits else f"{required.specifier} is needed, {remedy}")


def _device() -> list[dict[str, str]]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    advice = "" if torch.cuda.is_available() else "the lab presets need none; the paper's models do"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    return [_row("device 'auto'", gpu, advice), _row("CPU threads", threads)]


def _data() -> list[dict[str, str]]:
    from fedrevive_core.data import data_directory, load_images

    rows = [_row("data directory", str(data_directory()), "set FEDREVIVE_DATA to use another")]
    for name in DATA_SETS:
        try:
            data = load_images(name, download=False)
            rows.append(_row(f"data '{name}'", f"{len(data.train.labels):,} images"))
        except ConfigError:
            ways = "is downloaded at its first use"
            if name == "fashion_mnist":
                ways += "; or, on Debian and Ubuntu: apt-get install dataset-fashion-mnist"
            rows.append(_row(f"data '{name}'", "missing", ways))
    for name, pattern in KEPT.items():
        if any(data_directory().glob(pattern)):
            rows.append(_row(f"data '{name}'", "available"))
        else:
            ways = "is read from the installed packages" if name == "docstrings" else "is downloaded"
            rows.append(_row(f"data '{name}'", "missing", f"{ways} at its first use"))
    return rows
