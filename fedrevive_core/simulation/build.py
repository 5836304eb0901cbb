"""Putting a run together: its device and threads, its first model, its reviver."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fedrevive_core.config import RunConfig
from fedrevive_core.data import FederatedData, encoder_path, load_federated
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import StateLayout, build_model, build_text_model, seeded
from fedrevive_core.revival import ClassProportions, Distiller, Reviver, SamplePool, Synthesizer
from fedrevive_core.seeding import stream
from fedrevive_core.simulation.modality import Inputs


def pick_device(name: str) -> torch.device:
    """Device for 'auto' (CUDA if there is one), 'cpu' or 'cuda'. Raises ConfigError if CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda' but PyTorch sees no CUDA GPU here: use device = 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def federated(config: RunConfig, data: FederatedData | None, device: torch.device) -> FederatedData:
    """Your own `data`, or what `config.data` names, on `device`. Raises ConfigError if clients and shards differ."""
    num_clients = config.federation.num_clients
    if data is None:
        return load_federated(config.data, num_clients, device)
    if len(data.shards) != num_clients:
        raise ConfigError(
            f"federation.num_clients = {num_clients}, but your data has {len(data.shards)} shards: one for each client"
        )
    return data.to(device)


def initialised(config: RunConfig, data: FederatedData) -> nn.Module:
    """`config.model` for `data`, with weights drawn from the run's seed (not from PyTorch's global generator)."""
    tokenizer, shape = data.tokenizer, data.sample_shape
    with seeded(stream(config.seed, "initialisation", 0)):
        if tokenizer is None:
            return build_model(config.model, shape[0], shape[-1], data.num_classes)
        size, pad, prefix = len(tokenizer.vocabulary), tokenizer.pad, tokenizer.prefix
        path = encoder_path(config.data.tokenizer)
        return build_text_model(config.model, size, shape[0], pad, prefix, data.num_classes, path)


def fingerprints(
    model: nn.Module | None, data: FederatedData | None, weights: Sequence[float] | None
) -> dict[str, str]:
    """SHA-256 of what a run was given beside its configuration: a model's architecture, data, values of a rule beta."""
    own: dict[str, str] = {}
    if model is not None:
        shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
        own["model"] = hashlib.sha256(f"{model}{shapes}".encode()).hexdigest()
    if data is not None:
        own["data"] = data.fingerprint
    if weights is not None:
        own["beta"] = hashlib.sha256(json.dumps(list(weights)).encode()).hexdigest()
    return own


def build_reviver(
    config: RunConfig, layout: StateLayout, data: FederatedData, inputs: Inputs, device: torch.device
) -> Reviver | None:
    """The reviver that `config.revival` asks for, or None."""
    revival = config.revival
    if revival.source == "none":
        return None
    true = data.class_proportions if revival.proportions == "true" else None
    proportions = ClassProportions(layout, inputs.probe, revival, config.seed, true)
    if revival.source == "held_back":
        real = data.held_back
        pool = SamplePool(len(real.labels), data.sample_shape, data.num_classes, device, real.inputs.dtype)
        pool.add(real.inputs, real.labels.cpu().numpy())
        synthesizer, prepare = None, inputs.prepare
    else:
        count = config.synthesis.pool_size
        pool = SamplePool(count, inputs.synthetic_shape, data.num_classes, device)
        synthesizer, prepare = None, inputs.prepare_synthetic
        if revival.source == "noise":
            rng = stream(config.seed, "noise pool")
            pool.add(torch.from_numpy(inputs.noise(rng, count)).to(device), rng.integers(data.num_classes, size=count))
        else:
            with seeded(stream(config.seed, "initialisation", 1)):
                generator = inputs.generator()
            synthesizer = Synthesizer(layout, prepare, generator.to(device), config.synthesis, guard=revival.guard)
    distiller = Distiller(layout, prepare, config.distillation, device, guard=revival.guard)
    return Reviver(revival, config.synthesis, proportions, pool, synthesizer, distiller, config.seed)


@contextmanager
def num_threads(number: int | None) -> Iterator[None]:
    """PyTorch with `number` CPU threads inside, or with its own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
