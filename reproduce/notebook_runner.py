"""Notebooks as batch jobs: validated parameters, this environment's kernel, an executed copy and a page beside it.

If a cell is tagged `picture`, its figure is saved beside the page, too.

The kernel always runs this interpreter, whatever kernels are installed. It listens on socket files in a temporary
directory, so that two kernels cannot race for a port; on TCP ports on Windows, which has no such files for Jupyter, and
where the name of that directory is too long for them. A kernel ends by itself when the command that started it is gone.
"""

from __future__ import annotations

import ast
import base64
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from traitlets.config import Config

import fedrevive_core
import fedrevive_notebooks
from fedrevive_core.config import choices, parse_value
from fedrevive_core.errors import ConfigError, Interrupted, stop_signals
from fedrevive_core.files import check_file, lock, publish, work_directory, writing
from fedrevive_core.simulation import LINES
from reproduce.reports.notebook_html import write_notebook_page

FOLDER = Path(fedrevive_notebooks.__file__).parent
START_SECONDS = 120  # a kernel that is not ready by then is started again
STARTS = 3
KERNEL = "fedrevive-kernel-"  # names of directories with the files of one kernel begin with this
SOCKET_LIMIT = 104 - len("/kernel-ipc-1")  # bytes that a system may allow for the directory of a socket file
CELL_SECONDS = 3600  # a cell that takes longer hangs
TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list, as JSON"}


class NotebookFailed(Exception):
    """A notebook stopped with an error; the message names the cell, the error and the executed copy."""


def shipped() -> list[str]:
    """Names of the notebooks of the course."""
    return sorted(path.stem for path in FOLDER.glob("[0-9]*.ipynb"))


def find(name: str) -> Path:
    """The notebook of the course called `name`, or the file of that name. Raises ConfigError if there is none."""
    path = Path(name) if name.endswith(".ipynb") else FOLDER / f"{name}.ipynb"
    if not path.is_file():
        raise ConfigError(f"notebook = '{name}' is unknown: {choices(name, shipped())}; or a path to an .ipynb file")
    return path.resolve()


def defaults(notebook: Path) -> dict[str, Any]:
    """Names and default values in the cell tagged `parameters`; empty without one.

    Magics, and whatever is no assignment, are passed over. Raises ConfigError if a default is no plain value.
    """
    for cell in read_notebook(notebook).cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            try:
                body = ast.parse(TransformerManager().transform_cell(cell.source)).body
                return {
                    ast.unparse(target): ast.literal_eval(part.value)
                    for part in body
                    if isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None
                    for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
                }
            except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
                raise ConfigError(
                    f"the parameters of {notebook.name} cannot be read ({' '.join(str(error).split())[:200]}): "
                    "the cell tagged 'parameters' must assign plain values, such as n = 1"
                ) from None
    return {}


def parse(notebook: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Convert parameters given as text to the types of their defaults.

    Raises ConfigError for an unknown name and a value of another type.
    """
    allowed = defaults(notebook) if given else {}
    parsed: dict[str, Any] = {}
    for name, text in given.items():
        if name not in allowed:
            raise ConfigError(f"{notebook.stem} has no parameter '{name}': {choices(name, allowed)}")
        parsed[name] = _value(name, text, allowed[name])
    return parsed


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    value = parse_value(text.lower() if text in ("True", "False") else "null" if text == "None" else text)
    kind = list if isinstance(default, tuple) else type(default)
    if kind is float and type(value) in (int, float) and abs(value) < 1e300:
        return float(value)
    if default is None or (type(value) is kind and kind is not float):
        return value
    raise ConfigError(f"parameter {name} = {text}: must be {TYPES.get(kind, kind.__name__)}, such as {default!r}")


def execute(
    notebook: Path,
    out: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    progress: bool = True,
    cell_seconds: int = CELL_SECONDS,
) -> Path:
    """Execute `notebook` in its directory, write the executed copy to `out` and return the path of its page (.html).

    Args:
        parameters: values by name, as `parse` returns them.
        progress: show a bar on a terminal, elsewhere a line per code cell, on standard error.
        cell_seconds: a cell that takes longer fails; 0: no limit.

    Raises ConfigError for an `out` that cannot be written, NotebookFailed if a cell fails: the copy then shows where.
    Raises Interrupted on SIGINT or SIGTERM; there is no copy then.
    """
    out = out.resolve()
    check_copy(notebook, out)
    source = read_notebook(notebook)
    num_cells = sum(cell.cell_type == "code" for cell in source.cells) + bool(parameters)  # papermill adds one
    with work_directory(out.parent) as work:
        copy = work / out.name
        try:
            with stop_signals(at_once=True) as received:
                _start_and_run(notebook, copy, dict(parameters or {}), num_cells, progress, cell_seconds)
        except KeyboardInterrupt:
            copy.unlink(missing_ok=True)
            raise Interrupted(received[0] if received else signal.SIGINT, str(notebook)) from None
        except PapermillExecutionError as error:
            line = _first_line(error.source)
            raise NotebookFailed(
                f"{notebook.stem} failed in cell {error.exec_count} (`{line}`): {error.ename}: "
                f"{' '.join(str(error.evalue).split())}; what ran is in {out}"
            ) from None
        finally:
            if copy.exists():
                with writing(out):
                    executed = read_notebook(copy)
                    write_notebook_page(executed, copy.with_suffix(".html"))
                    _write_picture(executed, copy.with_suffix(".png"))
                    publish(work, out.parent)
    return out.with_suffix(".html")


def check_copy(notebook: Path, out: Path) -> None:
    """Raise ConfigError, before any work, if a copy of `notebook` and its page cannot be written at `out`."""
    if out.suffix != ".ipynb" or out.resolve() == notebook:
        raise ConfigError(f"out = '{out}' must be an .ipynb file, and not the notebook itself")
    check_file(out, out.with_suffix(".html"), out.with_suffix(".png"))
    if out.exists() and "papermill" not in read_notebook(out).metadata:
        raise ConfigError(f"out = '{out}' is a notebook that was not made by this command: choose another name")


def _write_picture(notebook: Any, path: Path) -> None:
    """Write the figure of the cell tagged `picture`, if it was drawn, in 256 colours: a third of the size."""
    for cell in notebook.cells:
        for output in cell.outputs if "picture" in cell.metadata.get("tags", []) else ():
            if "image/png" in output.get("data", {}):
                drawn = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
                drawn.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _start_and_run(
    notebook: Path, out: Path, parameters: dict[str, Any], num_cells: int, progress: bool, cell_seconds: int
) -> None:
    """One papermill execution; a kernel that does not start is started again, a notebook is never run twice."""
    bar = progress and sys.stderr.isatty()
    for attempt in range(1, STARTS + 1):
        cells = _Cells(notebook.stem, num_cells, show=progress and not bar)
        with _kernel_directory() as folder:
            manager = {"transport": _transport(folder), "connection_file": f"{folder}/kernel.json"}
            try:
                papermill.execute_notebook(
                    notebook,
                    out,
                    parameters=parameters,
                    kernel_name="python3",
                    language="python",
                    progress_bar={"desc": notebook.stem} if bar else False,
                    start_timeout=START_SECONDS,
                    execution_timeout=cell_seconds or None,
                    kernel_manager_class=ThisInterpreter,
                    config=Config(AsyncKernelManager=manager),
                    resources={"metadata": {"path": str(notebook.parent)}},
                    on_cell_execute=cells,
                    shutdown_kernel="immediate",  # asked politely, an idle kernel prints that it was interrupted
                )
                return
            except TimeoutError:
                raise NotebookFailed(
                    f"{notebook.stem}: cell {cells.number} (`{cells.line}`) took more than {cell_seconds} seconds; "
                    f"--cell-seconds allows more; what ran is in {out}"
                ) from None
            except RuntimeError as error:  # as nbclient reports a kernel that died or did not answer
                if cells.number:
                    raise NotebookFailed(
                        f"{notebook.stem}: the kernel died in cell {cells.number} (`{cells.line}`), as it does when "
                        f"memory runs out; what ran is in {out.name}"
                    ) from None
                if attempt == STARTS:
                    raise NotebookFailed(f"{notebook.stem}: no kernel started in {STARTS} attempts: {error}") from None
                print(f"{notebook.stem}: the kernel did not start ({error}); starting another", file=sys.stderr)
        time.sleep(2 * attempt)


def _transport(folder: str) -> str:
    return "tcp" if os.name == "nt" or len(os.fsencode(folder)) > SOCKET_LIMIT else "ipc"


@contextmanager
def _kernel_directory() -> Iterator[str]:
    """A new directory for the files of one kernel, under lock; those that killed commands left are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{KERNEL}*"):
        with suppress(ConfigError, OSError):
            # One that another command has just made may not be locked yet.
            if left.is_dir() and not left.is_symlink() and time.time() - left.stat().st_mtime > START_SECONDS:
                with lock(left):
                    shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=KERNEL, ignore_cleanup_errors=True) as folder, lock(Path(folder)):
        yield folder


class _Cells:
    """Called by nbclient when a code cell starts: `number` (from 1) and first `line` of the one that is running."""

    def __init__(self, title: str, total: int, *, show: bool) -> None:
        self.title, self.total, self.show = title, total, show
        self.number, self.line = 0, ""

    def __call__(self, cell: Any, cell_index: int) -> None:
        self.number, self.line = self.number + 1, _first_line(cell.source)
        if self.show:
            print(f"{self.title}: cell {self.number}/{self.total}, {self.line}", file=sys.stderr, flush=True)


class ThisInterpreter(AsyncKernelManager):
    """A kernel that runs this interpreter, imports the same package and prints progress as lines."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """What starts the kernel."""
        root = str(Path(fedrevive_core.__file__).parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3 (ipykernel)",
            language="python",
            env={"PYTHONPATH": path, LINES: "1"},
        )


def _first_line(source: str) -> str:
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    return lines[0].strip()[:60] if lines else "no code"


def read_notebook(path: Path) -> Any:
    """A notebook. Raises ConfigError if it cannot be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise ConfigError(f"{path} is not a readable notebook: {error}") from None


def render(notebook: str, records: Path, out: Path) -> Path:
    """Execute a notebook that shows a sweep over its `records`, and return the page beside the executed copy `out`.

    Args:
        notebook: a name or path, as for `find`; it needs a parameter `records`, which is set to the sweep's directory.

    Raises ConfigError if the notebook cannot show a sweep, NotebookFailed if a cell fails.
    """
    return execute(shows_sweep(notebook), out, {"records": str(records.resolve())})


def shows_sweep(notebook: str) -> Path:
    """The path of a notebook, as for `find`. Raises ConfigError if it cannot show a sweep."""
    path = find(notebook)
    if "records" not in defaults(path):
        raise ConfigError(f"notebook = '{notebook}' has no parameter 'records', so it cannot show a sweep")
    return path
