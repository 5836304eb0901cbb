"""What is here, what is missing, what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import sys

from fedrevive_core.errors import ConfigError

NEEDED = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "matplotlib", "typer")
OPTIONAL = {
    "jupyterlab": "notebooks",
    "ipywidgets": "notebooks",
    "papermill": "notebooks",
    "pytest": "test",
    "datasets": "femnist",
    "transformers": "text",
}
DATA_SETS = ("digits", "fashion_mnist", "cifar10", "cifar100")
KEPT = {"femnist": "femnist.npz", "newsgroups": "20news-bydate", "docstrings": "docstrings-*.npz"}


def examine() -> list[dict[str, str]]:
    """Rows of `what`, `found`, `to do` (empty if nothing)."""
    rows = [
        _row("Python", sys.version.split()[0], "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")
    ]
    for package in NEEDED:
        rows.append(_package(package, "pip install -e ."))
    for package, extra in OPTIONAL.items():
        rows.append(_package(package, f"only for {extra}: pip install -e '.[{extra}]'"))
    return rows + _device() + _data()


def _row(what: str, found: str, to_do: str = "") -> dict[str, str]:
    return {"what": what, "found": found, "to do": to_do}


def _package(package: str, remedy: str) -> dict[str, str]:
    try:
        return _row(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return _row(package, "missing", remedy)


def _device() -> list[dict[str, str]]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    advice = "" if torch.cuda.is_available() else "none needed for the lab presets; the paper's models want one"
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
        found = any(data_directory().glob(pattern))
        ways = "is read off the installed packages" if name == "docstrings" else "is downloaded"
        rows.append(_row(f"data '{name}'", "kept" if found else "missing", "" if found else f"{ways} at its first use"))
    return rows
