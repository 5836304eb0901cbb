"""A folder to work in: copies of the notebooks, with the documents that they link to, opened in JupyterLab."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import fedrevive_notebooks
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file, check_writable, lock, writing

HOME = Path(fedrevive_notebooks.__file__).parents[1]
# An installed copy has both under names of their own; in a checkout they are folders beside the packages.
NOTEBOOKS = Path(fedrevive_notebooks.__file__).parent
DOCUMENTS = next((path for path in (HOME / "fedrevive_docs", HOME / "docs") if path.is_dir()), HOME / "docs")
COPIED = {
    "notebooks": (NOTEBOOKS, ("*.ipynb", "from_scratch.py")),
    "docs": (DOCUMENTS, ("*.md", "figures/*")),
}
LIST = ".fedrevive-lab.json"  # what was copied: sha256 by name
LONGEST = 1_000_000  # bytes of that list


def course() -> dict[str, Path]:
    """Every file of the working folder by its name there, such as `notebooks/index.ipynb`, with where it comes from."""
    return {
        f"{folder}/{path.relative_to(home).as_posix()}": path
        for folder, (home, patterns) in COPIED.items()
        for pattern in patterns
        for path in sorted(home.glob(pattern))
    }


def copy_course(folder: Path) -> list[str]:
    """Copy the course to `folder`, and return the names of files that stay although the course has a newer one.

    A copy that is still as it was made is replaced by a newer one. What was changed since, or is of somebody else, is
    never replaced. Raises ConfigError if nothing can be written to `folder`.
    """
    check_writable(folder)
    kept = []
    with writing(folder), lock(folder, seconds=60):
        copied = _copied(folder / LIST)
        for name, source in course().items():
            goal, new = folder / name, source.read_bytes()
            if goal.is_symlink() or (goal.exists() and not goal.is_file()):
                kept.append(name)
                continue
            there = goal.read_bytes() if goal.exists() else None
            if there is None or _sha256(there) == copied.get(name):
                if there != new:
                    with atomic_file(goal) as path:
                        path.write_bytes(new)
            elif there != new:
                if copied.get(name) != _sha256(new):
                    kept.append(name)
                continue
            copied[name] = _sha256(new)
        with atomic_file(folder / LIST) as path:
            path.write_text(json.dumps(copied, indent=1) + "\n", encoding="utf-8")
    return kept


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _copied(path: Path) -> dict[str, str]:
    """The list of what was copied; empty if there is none, or it cannot be read: then all that differs is kept."""
    try:
        if path.is_symlink() or path.stat().st_size > LONGEST:
            return {}
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(digest) for name, digest in held.items()} if isinstance(held, dict) else {}


def open_lab(folder: Path, options: list[str]) -> None:
    """Run JupyterLab in `folder` until it is stopped; `options` are JupyterLab's own.

    Raises ConfigError if it is not installed.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install -e '.[notebooks]'") from None
    place = [f"--ServerApp.root_dir={folder.resolve()}", "--LabApp.default_url=/lab/tree/notebooks/index.ipynb"]
    LabApp.launch_instance([*place, *options])
