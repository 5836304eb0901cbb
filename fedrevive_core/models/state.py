"""The state of a model as one flat vector, and models that compute with such a vector.

A state is a float32 vector of length `layout.size`: all parameters, then all floating-point buffers (the probes'
running statistics). Blends, differences and means are single vector operations; norms and cosines use
`layout.parameters(state)` only, because statistics would dominate them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from fedrevive_core.models.memory import reuse_freed_memory
from fedrevive_core.models.probes import StatisticProbe
from fedrevive_core.models.stacking import order_pools_

# Stacking saves overhead, and overhead only matters for small models (CPU measured, docs/SPEED.md: a LabNet on 28x28
# images, 105,000 parameters, gains a fifth; CUDA not yet).
LARGEST_STACKED = {"cpu": 200_000, "cuda": 1_000_000}


@contextmanager
def seeded(rng: np.random.Generator, device: torch.device | str = "cpu") -> Iterator[None]:
    """While open, PyTorch's random numbers (initialisation, dropout) follow from `rng`; its generator is restored."""
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**63)))
        yield


class StateLayout:
    """The position of every tensor of `model` in the flat vector. Keeps a private copy of the model as a template.

    Frozen parameters (pretrained embeddings) and integer buffers (BatchNorm's counters in a user's model) are not part
    of the state: the template holds them.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        reuse_freed_memory()
        parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
        self.names = [*parameters, *buffers]
        self.shapes = [tensor.shape for tensor in (*parameters.values(), *buffers.values())]
        self.lengths = [prod(shape) for shape in self.shapes]
        self.num_tensors = len(parameters)
        self.num_parameters = sum(self.lengths[: self.num_tensors])
        self.size = sum(self.lengths)
        self.device = torch.device(device)
        self.template = copy.deepcopy(model).to(device).requires_grad_(False)
        order_pools_(self.template)
        self.has_dropout = any(
            isinstance(m, _DropoutNd) and m.p > 0 for m in self.template.modules()
        )  # in training mode
        # Dropout draws for a whole stack at once, so a job's result would depend on which jobs it was trained with.
        self.stacks = self.num_parameters <= LARGEST_STACKED[self.device.type] and not self.has_dropout
        self._mode: tuple[bool, bool] | None = None
        probes = {name: m for name, m in self.template.named_modules() if isinstance(m, StatisticProbe)}
        self._probes = list(probes.values())
        self._statistics = [(f"{name}.running_mean", f"{name}.running_var") for name in probes]

    def model(self) -> nn.Module:
        """A copy of the given model, except for the values of its tensors; the same parameters are frozen."""
        model = copy.deepcopy(self.template)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.names)
        return model

    def pack(self, model: nn.Module) -> Tensor:
        """Copy the state of `model` into a new flat vector (size,) on the layout's device."""
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        return torch.cat([tensors[name].detach().reshape(-1).to(self.device, torch.float32) for name in self.names])

    def checked(self, state: Tensor) -> Tensor:
        """`state` on the layout's device. Raises ValueError unless it is a float32 vector of length `size`."""
        if state.shape != (self.size,) or state.dtype != torch.float32:
            raise ValueError(f"a state of this model is float32 ({self.size},), not {state.dtype} {tuple(state.shape)}")
        return state.to(self.device)

    def views(self, state: Tensor) -> dict[str, Tensor]:
        """Named tensors that share memory with `state` (..., size); leading dimensions are kept, gradients pass."""
        return self._named(state, 0, len(self.names))

    def parameter_views(self, parameters: Tensor) -> dict[str, Tensor]:
        """The same for parameters only (..., num_parameters), so that they can be leaves of a graph."""
        return self._named(parameters, 0, self.num_tensors)

    def buffers(self, state: Tensor) -> dict[str, Tensor]:
        """Named copies of the buffers in `state` (..., size), to be updated in place by a model in training.

        Each is contiguous: otherwise BatchNorm would update a copy under vmap.
        """
        views = self._named(state[..., self.num_parameters :], self.num_tensors, len(self.names))
        return {name: view.clone(memory_format=torch.contiguous_format) for name, view in views.items()}

    def _named(self, values: Tensor, first: int, last: int) -> dict[str, Tensor]:
        parts = values.split(self.lengths[first:last], dim=-1)
        shapes = self.shapes[first:last]
        lead = values.shape[:-1]
        return {
            n: part.view((*lead, *shape)) for n, part, shape in zip(self.names[first:last], parts, shapes, strict=True)
        }

    def parameters(self, state: Tensor) -> Tensor:
        """The slice of `state` (..., size) that holds the parameters, as a view (..., num_parameters)."""
        return state[..., : self.num_parameters]

    def reset_statistics_(self, state: Tensor) -> Tensor:
        """Set the probes' statistics in `state` to mean 0 and variance 1, in place, and return it."""
        views = self.views(state)
        for mean, var in self._statistics:
            views[mean].zero_()
            views[var].fill_(1.0)
        return state

    def call(self, tensors: Mapping[str, Tensor], x: Tensor, *, training: bool = False, track: bool = True) -> Tensor:
        """Logits of the model with `tensors` (from `views`) on `x`.

        In training mode the model's buffers among `tensors` are updated in place; with `track` False the probes
        are not.
        """
        mode = (training, training and track)
        if mode != self._mode:
            self.template.train(training)
            for probe in self._probes:
                probe.train(training and track)
            self._mode = mode
        return functional_call(self.template, dict(tensors), (x,))
