"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import installed, requirements

# Not there if the project was installed as a package, without its source.
TESTED = Path(__file__).parents[1] / "constraints.txt"
DATA_SETS = ("digits", "fashion_mnist", "cifar10", "cifar100")
KEPT = {"femnist": "femnist.npz", "newsgroups": "20news-bydate", "docstrings": "docstrings-*.npz"}


def examine() -> list[dict[str, str]]:
    """Rows of `what`, `found`, `to do` (empty if nothing)."""
    python = platform.python_version()
    rows = [_row("Python", python, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")]
    return [*rows, _row("platform", platform.platform()), *_packages(), *_device(), *_data()]


def _row(what: str, found: str, to_do: str = "") -> dict[str, str]:
    return {"what": what, "found": found, "to do": to_do}


def _packages() -> list[dict[str, str]]:
    """A row for this project, and for every package that it requires, always or for an extra."""
    own, tested = installed("fedrevive"), _tested()
    rows = [_row("fedrevive", own or "not installed", "" if own else "pip install -e . (this also lists its packages)")]
    return rows + [
        _package(required, extra, tested.get(name, "")) for name, (required, extra) in requirements().items()
    ]


def _package(required: Requirement, extra: str, tested: str) -> dict[str, str]:
    remedy = f"only for {extra}: pip install -e '.[{extra}]'" if extra else "pip install -e ."
    version = installed(required.name)
    if version is None:
        return _row(required.name, "missing", remedy)
    if not required.specifier.contains(version, prereleases=True):
        return _row(required.name, version, f"{required.specifier} is needed, {remedy}")
    same = not tested or SpecifierSet(f"=={tested}").contains(version, prereleases=True)
    return _row(required.name, version, "" if same else f"may stay; this release was tested with {tested}")


def _tested() -> dict[str, str]:
    """The version of each package that this release was tested with on this system, if constraints.txt is there."""
    lines = TESTED.read_text(encoding="utf-8").splitlines() if TESTED.exists() else []
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    return {pin.name: next(iter(pin.specifier)).version for pin in here}


def _device() -> list[dict[str, str]]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    advice = "" if torch.cuda.is_available() else "the lab presets need none; the paper's models do"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    return [_row("device 'auto'", gpu, advice), _row("CPU threads", threads)]


def _data() -> list[dict[str, str]]:
    from fedrevive_core.data import data_directory, load_images

    try:
        directory = data_directory()
    except ConfigError as error:
        return [_row("data directory", "not usable", str(error))]
    rows = [_row("data directory", str(directory), "set FEDREVIVE_DATA to use another")]
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
        if any(directory.glob(pattern)):
            rows.append(_row(f"data '{name}'", "available"))
        else:
            ways = "is read from the installed packages" if name == "docstrings" else "is downloaded"
            rows.append(_row(f"data '{name}'", "missing", f"{ways} at its first use"))
    return rows
