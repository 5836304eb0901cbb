"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedrevive_core.errors import ConfigError
from fedrevive_core.records import installed, requirements

# Not there if the project was installed as a package, without its source.
TESTED = Path(__file__).parents[1] / "constraints.txt"
DATA_SETS = ("digits", "fashion_mnist", "cifar10", "cifar100")
# The kernel of 03_synthesis took 1.3 GB; JupyterLab, a browser and the system need some, too.
LEAST_MEMORY, ENOUGH_MEMORY = 3.5e9, 11e9  # bytes; a machine sold with 4 or 12 GB has a little less
LIGHT = ("01_staleness", "06_ablations", "08_reproduce")  # the notebooks that need no PyTorch
LEAST_DISK = 1e9  # bytes, for notebooks with outputs and for records
KEPT = {"femnist": "femnist.npz", "newsgroups": "20news-bydate", "docstrings": "docstrings-*.npz"}


def examine() -> list[dict[str, str]]:
    """Rows of `what`, `found`, `to do` (empty if nothing)."""
    python = platform.python_version()
    rows = [_row("Python", python, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")]
    rows += [_row("platform", platform.platform()), *_packages(), *_device(), *_machine(), *_lab()]
    return [*rows, *_data()] if installed("torch") else rows


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
    if not installed("torch"):
        return []
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    advice = "" if torch.cuda.is_available() else "the lab presets need none; the paper's models do"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    return [_row("device 'auto'", gpu, advice), _row("CPU threads", threads)]


def _machine() -> list[dict[str, str]]:
    """Memory, and room on the disk of the present directory: what a lab runs out of."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    advice = "" if memory.total > ENOUGH_MEMORY else "one notebook at a time: shut its kernel down before the next"
    if memory.total < LEAST_MEMORY:
        advice = "too little for JupyterLab and a browser: use another machine, or one of a server"
    room = "" if disk.free > LEAST_DISK else f"make room: a lab needs {LEAST_DISK / 1e9:.0f} GB"
    return [
        _row("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of it free", advice),
        _row("disk here", f"{disk.free / 1e9:,.1f} GB free", room),
    ]


def _lab() -> list[dict[str, str]]:
    """What would fail in a lab: JupyterLab, its kernel, notebooks without PyTorch."""
    if importlib.util.find_spec("jupyterlab") is None or importlib.util.find_spec("ipykernel") is None:
        return [_row("lab", "JupyterLab is missing", "pip install -e '.[notebooks]'")]
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    rows = []
    try:
        started = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        started = "none"
    # The kernel that comes with ipykernel names its Python without a path, or by the path of this environment.
    own = {*map(str.lower, ("python", "python3", Path(sys.executable).name)), str(Path(sys.executable)).lower()}
    other = started.lower() not in own
    advice = "another Python, which may lack packages: `jupyter kernelspec remove python3`" if other else ""
    rows.append(_row("kernel 'python3'", started, advice))
    light = "all" if installed("torch") else ", ".join(LIGHT)
    return [*rows, _row("notebooks that run", light, "" if light == "all" else "PyTorch is missing for the others")]


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
