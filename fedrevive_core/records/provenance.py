"""Where a run was made: packages, device, commit."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DEVELOPERS = ("browser", "lint", "test")  # extras that no run uses


def provenance(device: str, num_threads: int) -> dict[str, Any]:
    """Where a run was made: package versions, interpreter, platform, device, threads, git commit if there is one.

    `versions` names this project, all that it always requires (None if missing), and what its extras have installed.
    """
    versions = {"fedrevive": installed("fedrevive")}
    for name, (_, extra) in requirements().items():
        version = installed(name)
        if version is not None or not extra:
            versions[name] = version
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": device,
        "num_threads": num_threads,
        "git_commit": _git_commit(),
    }


@functools.cache  # a lookup reads a file, and every run makes some thirty
def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> dict[str, tuple[Requirement, str]]:
    """What pyproject.toml requires, by package, each with the extra that it is for ("" if always).

    Developers' tools are left out. Where only the source is there, not installed: what the bits depend on most.
    """
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires("fedrevive") or []
    except importlib.metadata.PackageNotFoundError:
        declared = ["numpy", "torch"]
    found: dict[str, tuple[Requirement, str]] = {}
    for required in map(Requirement, declared):
        extra = str(required.marker).split('"')[1] if required.marker else ""  # the marker is: extra == "notebooks"
        if extra not in DEVELOPERS:
            found.setdefault(required.name, (required, extra))
    return found


def _git_commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    asked = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return asked.stdout.strip() or None
