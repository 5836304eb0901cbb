"""What makes a client process start sooner."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


class _NoCompiler(ModuleType):
    """Stands for PyTorch's compiler in a process that compiles nothing; asked for more, it imports the real one."""

    def graph_break(self) -> None:
        """Do nothing, as the real one where nothing is compiled."""

    def disable(self, function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        """Return `function` as it is."""
        return function

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(import_module(COMPILER), name)


def without_compiler() -> None:
    """Spare this process the import of PyTorch's compiler, which every first optimiser asks for and no client uses."""
    import torch

    if COMPILER not in sys.modules:
        torch._dynamo = sys.modules[COMPILER] = _NoCompiler(COMPILER)
