"""Is a device right? The same run there and on the CPU, to rounding, and what else must hold on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fedrevive_core.config import METHODS
from fedrevive_core.models import AGREEMENT, Captured
from fedrevive_core.simulation import Simulation
from reproduce.benchmark.gpu.material import preset_names, random_data, tiny
from reproduce.benchmark.limit import float32


def ends(preset: str, method: str, device: str, executor: str = "auto") -> tuple[Tensor, Tensor]:
    """Parameters (P,) of the global model before and after a tiny run on `device`, on the CPU.

    Raises UserWarning where a recording is not used.
    """
    config = tiny(preset, method, device=device, executor=executor)
    with float32(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="the recorded ")
        simulation = Simulation(config, data=random_data(config))
        start = simulation.layout.parameters(simulation.server.state).cpu()
        for number in range(len(simulation.timeline.arrivals)):
            simulation.process(number)
        simulation.evaluate()
        return start, simulation.layout.parameters(simulation.server.state).cpu()


def compare_devices(device: torch.device, *, few: bool) -> Iterator[dict[str, Any]]:
    """A row for every preset, method and way of training: how far `device` is from the CPU, and what is wrong if so.

    `apart`: distance of the global models, relative to how far they moved. `few`: one preset with two methods.
    """
    for method in ("fedrevive", "fedbuff") if few else sorted(METHODS, key=lambda name: name != "fedrevive"):
        for preset in ["lab-digits"] if few else preset_names():
            start, there = ends(preset, method, "cpu")
            for executor in ("auto", "captured"):
                row: dict[str, Any] = {"preset": preset, "method": method, "executor": executor}
                try:
                    _, here = ends(preset, method, device.type, executor)
                except (RuntimeError, UserWarning) as error:
                    yield row | {"apart": None, "problem": str(error).splitlines()[0][:200]}
                    continue
                distance = float(torch.linalg.vector_norm(here - there) / torch.linalg.vector_norm(there - start))
                yield row | {"apart": distance, "problem": "" if distance <= AGREEMENT else "too far"}


def offloaded_states_are_pinned(device: torch.device) -> bool:
    """Whether states that wait on the host lie in pinned memory, from which a copy to a GPU need not be waited for."""
    config = tiny("lab-digits", "fedrevive", device=device.type, offload=True)
    simulation = Simulation(config, data=random_data(config))
    simulation.process(0)
    waiting = [*simulation.snapshots.values(), *simulation.returned.values()]
    return bool(waiting) and all(state.is_pinned() for state in waiting)


def recordings_repeat(device: torch.device) -> bool:
    """Whether work that is recorded once is done at every call, on what its tensors then hold."""
    total, term = torch.zeros((), device=device), torch.ones((), device=device)

    def work() -> None:
        total.add_(term)

    call = Captured(work, device)
    total.zero_()
    for value in (1.0, 10.0):
        term.fill_(value)
        call()
    return float(total) == 11.0
