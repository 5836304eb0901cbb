"""FedRevive: asynchronous federated learning that revives stale updates by data-free distillation (arXiv 2511.00655).

    from fedrevive_core import build, run
    record = run(build("lab-digits", "fedrevive"))
    record.evaluations.plot(x="sim_time", y="accuracy")

Public names are loaded when first used, so that importing the timeline or the plots never imports PyTorch.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the types of what `__getattr__` finds
    from fedrevive_core.config import METHODS, PRESETS, Method, RunConfig, build
    from fedrevive_core.data import ImageData, Images, federate
    from fedrevive_core.errors import ConfigError
    from fedrevive_core.models import StatisticProbe
    from fedrevive_core.records import Record
    from fedrevive_core.simulation import Simulation, run
    from fedrevive_core.timeline import Timeline, simulate_timeline

# PyTorch reads it when it first needs memory. Without large pages, a new vector of 45 MB (a ResNet-18) takes 18 ms on
# Linux before anything is written into it; with them 1.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOME = {
    "ConfigError": "errors",
    "ImageData": "data",
    "Images": "data",
    "METHODS": "config",
    "Method": "config",
    "PRESETS": "config",
    "Record": "records",
    "RunConfig": "config",
    "Simulation": "simulation",
    "StatisticProbe": "models",
    "Timeline": "timeline",
    "build": "config",
    "federate": "data",
    "run": "simulation",
    "simulate_timeline": "timeline",
}

__all__ = [
    "METHODS",
    "PRESETS",
    "ConfigError",
    "ImageData",
    "Images",
    "Method",
    "Record",
    "RunConfig",
    "Simulation",
    "StatisticProbe",
    "Timeline",
    "build",
    "federate",
    "run",
    "simulate_timeline",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"fedrevive_core.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fedrevive_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOME]


# Modules that earlier releases had, as notebooks and pages named them: where they are now, and what else is called
# differently. They work until the next release.
_MOVED: dict[str, tuple[str, dict[str, str]]] = {
    "fedrevive_core.methods": ("fedrevive_core.config", {}),
    "fedrevive_core.presets": ("fedrevive_core.config", {}),
    "fedrevive_core.plots_sweeps": ("reproduce.sweeps.figures", {}),
    "fedrevive_core.plots_travel": ("fedrevive_core.plots", {"plot_moment": "plot_arrival"}),
    "fedrevive_core.record": ("fedrevive_core.records", {}),
    "fedrevive_core.simulate": ("fedrevive_core.simulation", {}),
    "fedrevive_core.text_plots": ("fedrevive_core.plots", {}),
    "fedrevive_core.tracing": ("fedrevive_core.simulation", {}),
    "fedrevive_core.widgets.microscope": ("fedrevive_core.widgets.synthesis", {}),
    "fedrevive_core.widgets.sweeps": ("reproduce.sweeps.explorer", {}),
    "fedrevive_core.widgets.travel": ("fedrevive_core.widgets.replay", {}),
    "reproduce.report": ("reproduce.reports.report", {"read": "read_report", "write": "write_report"}),
}


class _Moved(MetaPathFinder, Loader):
    """Finds the modules of _MOVED; importing one gives the names of its new place, and a hint."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        place, renamed = _MOVED[module.__name__]
        hint = f"{module.__name__} is now {place}; the old name works until the next release"
        warnings.warn(hint, DeprecationWarning, stacklevel=2)
        now = import_module(place)
        names = {name: name for name in vars(now) if not name.startswith("_")} | renamed
        vars(module).update({old: getattr(now, new) for old, new in names.items()})


sys.meta_path.append(_Moved())
