"""The notebooks: their form, and that each runs to its end, unsolved and solved, in a few seconds.

`make test-notebooks` runs them at their own defaults, with three seeds (marker `notebooks`).
"""

from __future__ import annotations

import ast
import builtins
import html
import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from helpers import run_python

from reproduce.reports.notebook_html import to_html

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
MOST_LINES = 15  # of a code cell

# Parameters that make a notebook run in a few seconds; everything else is as the reader gets it.
TINY: dict[str, dict[str, Any]] = {
    "00_quick_tour": {"num_clients": 14, "concurrency": 8, "max_sim_time": 5.0},
    "01_staleness": {"num_arrivals": 300},
    "02_why_stale_hurts": {"num_versions": 12, "measure_at": [10, 12], "staleness": [0, 4, 8], "num_clients": 8},
    "03_synthesis": {
        "versions": [10, 25],
        "distillation_steps": 1,
        "distillation_batch": 2,
        "steps": 3,
        "images_per_class": 2,
        "patience": 3,
    },
    "04_distillation": {"num_versions": 24, "concurrency": 8, "every": 12, "counts": [1, 4], "step_counts": [2, 4]},
    "05_fedrevive": {"num_versions": 12, "concurrency": 6, "branch_every": 4},
    "07_text": {"num_clients": 10, "concurrency": 6, "max_sim_time": 5.0, "noise_rates": [0.3]},
    "09_your_own": {"sim_time": 2.5, "concurrency": 6},
    "06_ablations": {},  # reads records
    "08_reproduce": {},  # reads records
    "10_quiz": {},
    "11_from_scratch": {"num_versions": 3},
    "12_real_clients": {"num_arrivals": 12, "versions": 12, "slowdowns": [1, 1, 1, 1, 2, 3]},
}
EXERCISES = {"10_quiz": (12, 12), "11_from_scratch": (8, 8)}  # fewest and most; elsewhere from 2 to 4
SOLUTION_LINES = 40  # of a cell that holds a whole piece of the method


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters_cell(path: Path) -> Any:
    (found,) = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    return found


def execute(path: Path, out: Path, last: str = "", **parameters: Any) -> Any:
    """The executed notebook, run in another folder; an error in a cell fails the test with the cell's traceback.

    last: code of one more cell.
    """
    notebook = nbformat.read(path, as_version=4)
    if last:
        notebook.cells.append(nbformat.v4.new_code_cell(last))
    (given := out / f"given-{path.name}").write_text(nbformat.writes(notebook), encoding="utf-8")
    papermill.execute_notebook(
        given, out / path.name, parameters=parameters, cwd=out, kernel_name="python3", progress_bar=False
    )
    return nbformat.read(out / path.name, as_version=4)


def verdicts(notebook: Any) -> list[str]:
    """Kinds of all verdicts shown, in order."""
    shown = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/plain" in output.get("data", {})
    ]
    return [found[1] for text in shown if (found := re.match(r"\[(open|wrong|right)\]", text))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path: Path) -> None:
    """No outputs, the neutral kernel, valid, short cells, no less prose than code, parameters explained."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
    code = cells(path, "code")
    for cell in code:
        assert not cell.outputs, cell.source
        assert cell.execution_count is None
        is_piece = path.stem == "11_from_scratch" and "solution" in cell.metadata.get("tags", [])
        assert len(cell.source.splitlines()) <= (SOLUTION_LINES if is_piece else MOST_LINES), cell.source
    if path.stem != "10_quiz":  # which only asks
        assert len(cells(path, "markdown")) >= len(code)
    assert re.search(r"\b\d+ seconds?\b|\b\d+ s\b", cells(path, "markdown")[0].source), "say how long it takes"


def names_in(code: list[str]) -> set[str]:
    """Names that the reader of these cells can use: imported, assigned, or arguments of a function to be written."""
    names = set(dir(builtins))
    for source in code:
        stubs = [f"{stub}: ..." for stub in re.findall(r"# (def .+?): \.\.\.", source)]
        for node in (node for text in (source, *stubs) for node in ast.walk(ast.parse(text))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                names |= {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.arg):
                names.add(node.name if isinstance(node, ast.FunctionDef) else node.arg)
    return names


def assigned(source: str) -> set[str]:
    """The names that a cell gives a value."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {
        (a.asname or a.name) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for a in node.names
    }
    return names | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_name_of_its_own(path: Path) -> None:
    """Otherwise a check would judge the answer to another exercise where a cell was not run."""
    code = cells(path, "code")
    asked: dict[str, str] = {}
    for cell in code:
        for node in ast.walk(ast.parse(cell.source)):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr.startswith("check_"):
                assert isinstance(node.args[0], ast.Name), ast.unparse(node)
                assert node.args[0].id not in asked, node.args[0].id
                asked[node.args[0].id] = cell.source
    fewest, most = EXERCISES.get(path.stem, (2, 4))
    assert fewest <= len(asked) <= most
    for name, check in asked.items():
        assigning = [number for number, cell in enumerate(code) if name in assigned(cell.source)]
        exercise, solution = assigning
        assert re.search(rf"^{name} = None  # |^def {name}\(.*\n    return None", code[exercise].source, re.MULTILINE)
        assert "solution" in code[solution].metadata.tags
        assert [code[number].source for number in range(exercise, exercise + 3)].index(check) == 2
        assert solution == exercise + 1


def names_asked_for(snippet: str) -> set[str]:
    """The names that `snippet` calls or takes attributes of; empty for what is no Python expression, or is a file."""
    if re.search(r"\.(py|md)$", snippet):
        return set()
    try:
        nodes = list(ast.walk(ast.parse(snippet, mode="eval")))
    except SyntaxError:
        return set()
    parts = [
        node.func if isinstance(node, ast.Call) else node.value
        for node in nodes
        if isinstance(node, ast.Attribute | ast.Call)
    ]
    return {part.id for part in parts if isinstance(part, ast.Name)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_hints_and_texts_use_is_there(path: Path) -> None:
    """`np.sum` in a hint helps nobody whose notebook has not imported `np`; a solution imports nothing either."""
    code = cells(path, "code")
    solutions = [cell.source for cell in code if "solution" in cell.metadata.get("tags", [])]
    assert not [source for source in solutions if re.search(r"^ *(import|from) ", source, re.MULTILINE)]
    known = names_in([cell.source for cell in code if cell.source not in solutions])
    for cell in cells(path, "markdown"):
        for pair in re.findall(r"`([^`\n]+)`|<code>(.+?)</code>", cell.source):
            snippet = html.unescape("".join(pair))
            assert names_asked_for(snippet) <= known, snippet


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_formulas_can_be_set_with_their_spaces(path: Path) -> None:
    """The page keeps no LaTeX source as text, and words stand in \\text: \\mathrm swallows spaces."""
    for cell in cells(path, "markdown"):
        assert not re.search(r"\\(mathrm|operatorname)\{[^}]*[ -][^}]*\}", cell.source), cell.source
        shown = re.sub(r"<pre.*?</pre>|<img[^>]*>", "", to_html(cell.source), flags=re.DOTALL)
        assert not re.search(r"\\[a-zA-Z]+|\$", shown), shown


def test_the_contents_page_links_to_every_notebook() -> None:
    (contents,) = cells(FOLDER / "index.ipynb", "markdown")
    for path in NOTEBOOKS:
        assert f"[{path.stem}]({path.name})" in contents.source
    assert not cells(FOLDER / "index.ipynb", "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_flat_literals_each_with_its_meaning(path: Path) -> None:
    source = parameters_cell(path).source
    names = []
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        ast.literal_eval(statement.value)
        names.append(statement.targets[0].id)  # type: ignore[attr-defined]
        assert "#" in source.splitlines()[statement.lineno - 1], f"{names[-1]} has no comment"
    assert "solve" in names
    assert set(TINY.get(path.stem, {})) <= set(names)


def test_every_import_resolves() -> None:
    """All import statements of all notebooks, in one fresh interpreter, from the folder in which they run."""
    statements = {
        ast.unparse(node)
        for path in NOTEBOOKS
        for cell in cells(path, "code")
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert any("fedrevive_core.plots" in statement for statement in statements)
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n" + "\n".join(sorted(statements))
    run_python(code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_its_exercises_are_open(path: Path, tmp_path: Path) -> None:
    """`solve = True`, at the same size, is part of the notebooks' own tier below: it takes as long again."""
    assert path.stem in TINY, "give it tiny parameters above"
    found = verdicts(execute(path, tmp_path, **TINY[path.stem]))
    fewest, most = EXERCISES.get(path.stem, (2, 4))
    assert fewest <= len(found) <= most
    assert set(found) == {"open"}


RUNS = [
    pytest.param(path, {"seed": seed, "solve": solve} if has_seed else {"solve": solve}, id=f"{path.stem}-{seed}")
    for path in NOTEBOOKS
    for has_seed in [bool(re.search(r"^seed = ", parameters_cell(path).source, re.MULTILINE))]
    for seed, solve in [(0, False), (1, True), (2, False)][: 3 if has_seed else 2]
]


@pytest.mark.notebooks
@pytest.mark.parametrize(("path", "parameters"), RUNS)
def test_at_its_defaults(path: Path, parameters: dict[str, Any], tmp_path: Path) -> None:
    """Unsolved and solved, with three seeds; and at the end, what the notebook says of its figures is true."""
    look = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\nimport claims\n"
    look += f"claims.hold(claims.of({path.stem!r}), globals())"
    found = verdicts(execute(path, tmp_path, last=look, **parameters))
    assert set(found) == {"right" if parameters["solve"] else "open"}
