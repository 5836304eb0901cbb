"""Notebooks run in any folder, with papermill and nbconvert as they are, and refuse a parameter that is mistyped."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import SMALL, run_python
from test_notebooks import FOLDER, NOTEBOOKS, cells, parameters_cell

from fedrevive_core.errors import ConfigError
from fedrevive_notebooks.lessons import blend
from reproduce.doctor import LIGHT

SHELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(history_length=0)
shell.history_manager.enabled = False
for source in {sources!r}:
    done = shell.run_cell(source, store_history=True)
    print(repr(done.error_before_exec or done.error_in_exec))
"""


def errors(*sources: str) -> list[str]:
    """What each cell raised in an IPython of its own."""
    shown = run_python(SHELL.format(sources=["from fedrevive_notebooks import lessons", *sources]))
    return [line for line in shown.splitlines() if line == "None" or "Error" in line or line.startswith("Unknown")]


def test_papermill_with_an_unknown_parameter_ends_before_the_notebook() -> None:
    parameters = "num_arrivals = 5000  # length\nseed = 0"
    refused = errors(parameters, "# Parameters\nnum_arrival = 300\nseed = 3\n")
    assert refused[:2] == ["None", "None"]
    assert refused[2].startswith("UnknownParameter(\"the notebook has no parameter 'num_arrival': did you mean 'num_a")
    assert errors(parameters, "# Parameters\nnum_arrivals = 300\n", "other = 1") == ["None"] * 4
    assert errors(parameters, "other = 1", "# my Parameters\nmine = 2") == ["None"] * 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_the_lessons_before_its_parameters(path: Path) -> None:
    """They refuse what is mistyped."""
    code = cells(path, "code")
    before = "\n".join(cell.source for cell in code[: code.index(parameters_cell(path))])
    modules = [node.module or "" for node in ast.walk(ast.parse(before)) if isinstance(node, ast.ImportFrom)]
    assert any(module.startswith("fedrevive_notebooks.lessons") for module in modules)


def test_records_made_again_never_replace_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blend, "SHOWN", ("fedrevive", "afl-dw"))
    made = blend.records(str(tmp_path / "mine"), recompute=True, **SMALL)
    read = blend.records(str(tmp_path / "mine"), recompute=False)
    assert [record.summary for record in made] == [record.summary for record in read]
    with pytest.raises(ConfigError, match="already holds a run"):
        blend.records(str(tmp_path / "mine"), recompute=True, **SMALL)


WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision"):
    sys.modules[name] = None  # an import of it fails
import matplotlib; matplotlib.use("agg")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(history_length=0)
shell.history_manager.enabled = False
for source in {sources!r}:
    shell.run_cell(source, store_history=True).raise_error()
"""


@pytest.mark.notebooks
@pytest.mark.parametrize("name", LIGHT)
def test_these_notebooks_need_no_pytorch(name: str) -> None:
    run_python(WITHOUT_TORCH.format(sources=[cell.source for cell in cells(FOLDER / f"{name}.ipynb", "code")]))


def test_the_lab_and_the_doctor_need_no_pytorch(tmp_path: Path) -> None:
    run_python(
        "import sys\nsys.modules['torch'] = None\nfrom reproduce import doctor, lab\n"
        "doctor.installed = lambda name: None\n"
        f"from pathlib import Path\nlab.copy_course(Path({str(tmp_path / 'lab')!r}))\n"
        "from reproduce.cli.app import app\nassert doctor.examine()"
    )


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=folder, capture_output=True, text=True)


@pytest.mark.notebooks
def test_papermill_from_any_directory(tmp_path: Path) -> None:
    path = FOLDER / "01_staleness.ipynb"
    done = run("papermill", path, "out.ipynb", "-p", "num_arrivals", "300", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "num_arrivals = 300" in (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    done = run("papermill", path, "out.ipynb", "-p", "num_arival", "300", folder=tmp_path)
    assert done.returncode == 1
    assert "UnknownParameter: the notebook has no parameter 'num_arival': did you mean 'num_arrivals'?" in done.stderr


@pytest.mark.notebooks
@pytest.mark.parametrize("name", ["01_staleness", "05_fedrevive", "08_reproduce"])
def test_nbconvert_of_a_copy_in_another_folder(name: str, tmp_path: Path) -> None:
    shutil.copy(FOLDER / f"{name}.ipynb", tmp_path / "mine.ipynb")
    done = run("nbconvert", "--to", "notebook", "--execute", "mine.ipynb", "--output", "out.ipynb", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert any(cell.get("outputs") for cell in executed.cells)
