"""Where a run was made: packages, device, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

# What the bits of a run may depend on; `doctor` lists everything that the project requires.
PACKAGES = ("fedrevive", "torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib", "scipy")


def provenance(device: str, num_threads: int) -> dict[str, Any]:
    """Where a run was made: package versions, interpreter, platform, device, threads, git commit if there is one."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": device,
        "num_threads": num_threads,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    asked = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return asked.stdout.strip() or None
