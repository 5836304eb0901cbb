"""FedRevive: asynchronous federated learning that revives stale updates by data-free distillation (arXiv 2511.00655).

    from fedrevive_core import build, run
    record = run(build("lab-digits", "fedrevive"))
    record.evaluations.plot(x="sim_time", y="accuracy")

Public names are loaded when first used, so that importing the timeline or the plots never imports PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ConfigError": "validation",
    "RunConfig": "config",
    "METHODS": "presets",
    "PRESETS": "presets",
    "build": "presets",
    "Timeline": "timeline",
    "simulate_timeline": "timeline",
    "Record": "record",
    "Simulation": "simulate",
    "run": "simulate",
    "StatisticProbe": "models",
    "ImageData": "data",
    "Images": "data",
    "federate": "data",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"fedrevive_core.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fedrevive_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
