"""FedRevive: asynchronous federated learning that revives stale updates by data-free distillation (arXiv 2511.00655).

    from fedrevive_core import build, run
    record = run(build("lab-digits", "fedrevive"))
    record.evaluations.plot(x="sim_time", y="accuracy")

Public names are loaded when first used, so that importing the timeline or the plots never imports PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the types of what `__getattr__` finds
    from fedrevive_core.config import METHODS, PRESETS, Method, RunConfig, build
    from fedrevive_core.data import ImageData, Images, federate
    from fedrevive_core.errors import ConfigError
    from fedrevive_core.models import StatisticProbe
    from fedrevive_core.records import Record
    from fedrevive_core.simulation import Simulation, run
    from fedrevive_core.timeline import Timeline, simulate_timeline

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
