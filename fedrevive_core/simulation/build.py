"""From a configuration to the parts of a run, in one visit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fedrevive_core.config import RunConfig, check_price
from fedrevive_core.data import FederatedData, encoder_path, load_federated, match_to_speed, other_images
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import Executor, StateLayout, build_model, build_text_model, check_model, seeded
from fedrevive_core.records import table_sha256
from fedrevive_core.revival import ClassProportions, Distiller, Reviver, SamplePool, Synthesizer
from fedrevive_core.seeding import stream
from fedrevive_core.server import Server
from fedrevive_core.simulation.executors import choose_executor
from fedrevive_core.simulation.modality import Modality, build_modality
from fedrevive_core.simulation.progress import Timer
from fedrevive_core.simulation.recorder import Recorder
from fedrevive_core.staleness import tabulate
from fedrevive_core.timeline import Timeline, simulate_timeline
from fedrevive_core.training import LocalTrainer, batch_sizes


@dataclass(frozen=True)
class Components:
    """The parts of a run. custom: SHA-256 of what the configuration does not fix: model, data, rule, timeline."""

    device: torch.device
    timeline: Timeline
    data: FederatedData
    layout: StateLayout
    modality: Modality
    trainer: LocalTrainer
    reviver: Reviver | None
    server: Server
    recorder: Recorder
    model_name: str
    custom: dict[str, str]


def build_components(
    config: RunConfig,
    model: nn.Module | None,
    data: FederatedData | None,
    beta: Callable[[int], float] | None,
    timer: Timer,
    recording: Timeline | None = None,
) -> Components:
    """The parts of the run that `config` describes, with a given `model`, `data` or rule `beta` where there is one.

    recording: a timeline that is still being recorded, in place of that of `config`.
    Raises ConfigError if they do not fit together, or if the run would take more than the limits allow.
    """
    check_price(config)
    device = pick_device(config.device)
    with timer("timeline"):
        timeline = simulate_timeline(config.federation, config.seed) if recording is None else recording
    if recording is None:
        check_price(config, len(timeline.client))  # the estimate may know no better than a lower bound
    weights = None if beta is None else tabulate(beta, int(timeline.arrival_staleness.max()))
    custom = _fingerprints(model, data, weights)
    if config.federation.reads_files and recording is None:  # which may change
        custom["timeline"] = table_sha256(timeline.table())
    with timer("data"):
        federated = _federated(config, data, device, None if recording is not None else timeline)
    layout, modality, trainer, network = build_client(config, federated, model)
    reviver = _reviver(config, layout, federated, modality, trainer.executor)
    return Components(
        device=device,
        timeline=timeline,
        data=federated,
        layout=layout,
        modality=modality,
        trainer=trainer,
        reviver=reviver,
        server=Server(
            layout.pack(network), layout, config.server, config.staleness, config.federation, reviver, weights
        ),
        recorder=Recorder(timeline, modality, device),
        model_name=_name(config, model),
        custom=custom,
    )


def build_client(
    config: RunConfig, data: FederatedData, model: nn.Module | None = None
) -> tuple[StateLayout, Modality, LocalTrainer, nn.Module]:
    """What a client needs to train jobs, and the network as it is initialised; `model` in place of `config.model`."""
    network = _initialised(config, data) if model is None else model
    check_model(
        network,
        data.sample_shape,
        data.num_classes,
        data.clients.inputs.dtype,
        smallest_batch=_smallest_batch(config, data),
        synthesises=config.revival.source == "synthetic",
    )
    device = data.clients.labels.device
    layout = StateLayout(network, device)
    modality = build_modality(config, data, layout.template, device)
    executor = choose_executor(config.executor, _name(config, model), layout)
    trainer = LocalTrainer(layout, data, modality.prepare, config.training, config.seed, executor)
    return layout, modality, trainer, network


def _name(config: RunConfig, model: nn.Module | None) -> str:
    return config.model if model is None else type(model).__qualname__


def pick_device(name: str) -> torch.device:
    """Device for 'auto' (CUDA if there is one), 'cpu' or 'cuda'. Raises ConfigError if CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda' but PyTorch sees no CUDA GPU here: use device = 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def num_threads(number: int | None) -> Iterator[None]:
    """PyTorch with `number` CPU threads inside; None leaves its choice."""
    before = torch.get_num_threads()
    if number in (None, before):
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _federated(
    config: RunConfig, data: FederatedData | None, device: torch.device, timeline: Timeline | None
) -> FederatedData:
    """The given `data`, or what `config.data` names, on `device`; with `timeline`, shards as speeds want them.

    Raises ConfigError if clients and shards differ, or speeds are wanted where nobody knows them.
    """
    num_clients, skew = config.federation.num_clients, config.data.speed_skew
    if timeline is None and skew > 0:
        raise ConfigError(f"data.speed_skew = {skew}: nobody knows the speed of real clients beforehand; set it to 0")
    if data is None:
        data = load_federated(config.data, num_clients, device)
    elif len(data.shards) != num_clients:
        raise ConfigError(
            f"federation.num_clients = {num_clients}, but your data has {len(data.shards)} shards: one for each client"
        )
    return data.to(device) if timeline is None else match_to_speed(data.to(device), config.data, timeline.mean_duration)


def _smallest_batch(config: RunConfig, data: FederatedData) -> int:
    """Return the number of samples in the smallest batch of local training."""
    steps, size = config.training.steps, config.training.batch_size
    return min(min(batch_sizes(shard, steps, size)) for shard in {len(shard) for shard in data.shards})


def _initialised(config: RunConfig, data: FederatedData) -> nn.Module:
    """`config.model` for `data`, with weights drawn from the run's seed (not from PyTorch's global generator)."""
    tokenizer, shape = data.tokenizer, data.sample_shape
    with seeded(stream(config.seed, "initialisation", 0)):
        if tokenizer is None:
            return build_model(config.model, shape[0], shape[-1], data.num_classes)
        size, pad, prefix = len(tokenizer.vocabulary), tokenizer.pad, tokenizer.prefix
        path = encoder_path(config.data.tokenizer)
        return build_text_model(config.model, size, shape[0], pad, prefix, data.num_classes, path)


def _fingerprints(
    model: nn.Module | None, data: FederatedData | None, weights: Sequence[float] | None
) -> dict[str, str]:
    """SHA-256 of what was given beside the configuration: a model's architecture, data, values of a rule beta."""
    given: dict[str, str] = {}
    if model is not None:
        shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
        given["model"] = hashlib.sha256(f"{model}{shapes}".encode()).hexdigest()
    if data is not None:
        given["data"] = data.fingerprint
    if weights is not None:
        given["beta"] = hashlib.sha256(json.dumps(list(weights)).encode()).hexdigest()
    return given


def _reviver(
    config: RunConfig, layout: StateLayout, data: FederatedData, modality: Modality, executor: Executor
) -> Reviver | None:
    """The reviver that `config.revival` asks for, or None."""
    revival, device = config.revival, layout.device
    if revival.source == "none":
        return None
    true = data.class_proportions if revival.proportions == "true" else None
    proportions = ClassProportions(layout, modality.probe, revival, config.seed, true)
    synthesizer, pool = None, _pool(config, data, modality, device)
    prepare = modality.prepare if revival.source in ("held_back", "other") else modality.prepare_synthetic
    if revival.source == "synthetic":
        with seeded(stream(config.seed, "initialisation", 1)):
            generator = modality.generator()
        synthesizer = Synthesizer(layout, prepare, generator.to(device), config.synthesis, guard=revival.guard)
    captured = executor.kind == "captured"
    distiller = Distiller(layout, prepare, config.distillation, device, guard=revival.guard, captured=captured)
    return Reviver(revival, config.synthesis, proportions, pool, synthesizer, distiller, config.seed)


def _pool(config: RunConfig, data: FederatedData, modality: Modality, device: torch.device) -> SamplePool:
    """What a run distils on, as it is before the first arrival: full, or empty if its samples are synthesised."""
    source, count, num_classes = config.revival.source, config.synthesis.pool_size, data.num_classes
    if source == "held_back":
        real = data.held_back
        pool = SamplePool(len(real.labels), data.sample_shape, num_classes, device, real.inputs.dtype)
        pool.add(real.inputs, real.labels.cpu().numpy())
        return pool
    if source == "synthetic":
        return SamplePool(count, modality.synthetic_shape, num_classes, device)
    rng = stream(config.seed, "noise pool")
    if source == "noise":
        samples = torch.from_numpy(modality.noise(rng, count))
    else:
        others = other_images(config.data.name, data.sample_shape)
        samples = others[torch.from_numpy(rng.permutation(len(others))[:count])]
    pool = SamplePool(len(samples), modality.synthetic_shape, num_classes, device)
    pool.add(samples.to(device), rng.integers(num_classes, size=len(samples)))
    return pool
