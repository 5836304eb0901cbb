"""A client imports what local training needs, and trains to the same bits without PyTorch's compiler."""

from __future__ import annotations

from helpers import run_python

CODE = """
import sys
from pathlib import Path
from reproduce.live.lean import without_compiler
without_compiler()
import torch
from fedrevive_core.data import load_federated
from fedrevive_core.simulation.build import build_client
from fedrevive_core.training import Job
from reproduce.live import messages
from reproduce.live.settings import live_config

config = live_config("lab-digits", "fedrevive", 0, 3, 9, Path("out"), {})
layout, _, trainer, network = build_client(config, load_federated(config.data, 3, torch.device("cpu")))
one = trainer.train([Job(0, 1, layout.pack(network))])[0]
unused = ("sklearn", "scipy", "torchvision", "matplotlib", "sympy", "torch._inductor", "torch._dynamo.config")
print([name for name in unused if name in sys.modules])

import torch._dynamo.config  # asked for more, the real compiler is there
without_compiler()  # too late, and says nothing
print(torch._dynamo.config.__name__, torch._dynamo.is_compiling())
print(torch.equal(one, trainer.train([Job(0, 1, layout.pack(network))])[0]))
"""


def test_a_client_imports_only_what_training_needs() -> None:
    assert run_python(CODE).splitlines() == ["[]", "torch._dynamo.config False", "True"]
