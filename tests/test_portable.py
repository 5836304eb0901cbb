"""What only POSIX has is taken away, and the package imports and runs: as far as Linux can show it, Windows is served.

The libraries are imported before, as they look after themselves.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers import run_python

import fedrevive_core

ROOT = Path(fedrevive_core.__file__).parents[1]
SOURCES = [
    p for name in ("fedrevive_core", "reproduce", "notebooks/lessons") for p in sorted((ROOT / name).rglob("*.py"))
]
STRIPPED = """
import importlib, os, pkgutil, signal, sys
import filelock, matplotlib, pandas, psutil, pyarrow.parquet, sklearn.datasets, torch, torchvision, typer, yaml
import ipywidgets, papermill, subprocess, multiprocessing.spawn, multiprocessing.popen_spawn_posix
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for owner, name in ((os, "sysconf"), (os, "fork"), (os, "getuid"), (signal, "SIGKILL"), (signal, "pthread_sigmask")):
    delattr(owner, name)
import multiprocessing.resource_tracker
multiprocessing.resource_tracker._HAVE_SIGMASK = False  # it looked before
"""


def test_every_module_imports() -> None:
    code = STRIPPED + (
        "import fedrevive_core, reproduce\n"
        "names = [m.name for p in (fedrevive_core, reproduce)\n"
        "         for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.') if not m.name.endswith('__main__')]\n"
        "import importlib.util\n"
        "alone = [] if importlib.util.find_spec('sphinx') else ['reproduce.book.extension']  # Sphinx imports it\n"
        "if not importlib.util.find_spec('flwr'):\n"
        "    alone += [name for name in names if 'live.flower_' in name]  # Flower imports them\n"
        "alone += [name for name in names if 'peers.drivers.' in name]  # each in the environment of its package\n"
        "for name in set(names) - set(alone):\n"
        "    importlib.import_module(name)\n"
        "print(len(names) > 80)\n"
    )
    assert run_python(code).strip() == "True"


@pytest.mark.processes
def test_run_with_checkpoints_resume_and_compare(tmp_path: Path) -> None:
    """In one process: a run with checkpoints, its record, a comparison by two workers."""
    small = (
        "{'federation.max_versions': 4, 'training.steps': 1, 'federation.num_clients': 10, 'federation.concurrency': 4}"
    )
    code = STRIPPED + (
        "from pathlib import Path\n"
        f"out = Path({str(tmp_path)!r})\n"
        "from fedrevive_core import Record, build, run\n"
        f"config = build('lab-digits', 'fedrevive', overrides={small})\n"
        "run(config, progress=False, checkpoints=out / 'kept', checkpoint_every=2).save(out / 'record')\n"
        "assert run(config, progress=False, checkpoints=out / 'kept').provenance['num_resumed'] == 1\n"
        "assert Record.load(out / 'record').summary['num_versions'] == 4\n"
        "from reproduce.cli.app import app\n"
        f"settings = [f'--set={{name}}={{value}}' for name, value in {small}.items()]\n"
        "app(['compare', '--methods', 'fedbuff,afl-dw', '--seeds', '0', '--jobs', '2', '--out', str(out / 'two'),\n"
        "     *settings], standalone_mode=False)\n"
        "print(sorted(path.name for path in (out / 'two').glob('*.*')))\n"
    )
    # The workers begin with this file: they need a main module that does nothing.
    script = tmp_path / "script.py"
    script.write_text("if __name__ == '__main__':\n" + "\n".join(f"    {line}" for line in code.splitlines()), "utf-8")
    assert "table.md" in run_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_utf8_wherever_they_are_read_or_written(path: Path) -> None:
    """The default is the locale's encoding, which on Windows is another."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("read_text", "write_text"):
                assert "encoding" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)
            elif node.func.attr == "run" and ast.unparse(node.func.value) == "subprocess":
                named = {keyword.arg for keyword in node.keywords}
                assert "text" not in named or "encoding" in named, ast.unparse(node)
