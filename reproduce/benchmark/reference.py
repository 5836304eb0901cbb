"""The plain reference path: asynchronous FL as it is usually simulated, for benchmarks to compare with.

One client after the other, a DataLoader over a Subset with torchvision transforms, eager Adam, the loss read back every
step, states as dictionaries of tensors, and teachers called one by one in every iteration. It computes the same thing
as the package: same timeline, same settings, other draws of batches.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from fedrevive_core.config import DataConfig, DistillationConfig, TrainingConfig
from fedrevive_core.data import Images
from fedrevive_core.revival import Teacher, teacher_weights
from fedrevive_core.seeding import stream
from fedrevive_core.simulation import Simulation
from fedrevive_core.staleness import beta

State = dict[str, Tensor]


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images as PIL pictures through torchvision transforms, one sample at a time."""

    def __init__(self, data: Images, config: DataConfig) -> None:
        pixels = data.images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        self.pictures = [Image.fromarray(p.squeeze(-1) if p.shape[-1] == 1 else p) for p in pixels]
        self.labels = data.labels.tolist()
        options, side = config.augmentation, data.images.shape[-1]
        steps: list[object] = []
        if options.crop_padding:
            steps.append(transforms.RandomCrop(side, padding=options.crop_padding))
        if options.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if options.rotation:
            steps.append(transforms.RandomRotation(options.rotation))
        self.transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[number]), self.labels[number]


def train_client(
    model: nn.Module, state: State, data: Dataset[tuple[Tensor, int]], shard: np.ndarray, config: TrainingConfig
) -> State:
    """State after `config.steps` Adam steps from `state`, on the model's device."""
    device = next(model.parameters()).device
    model.load_state_dict(state)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr)
    loader = DataLoader(Subset(data, shard.tolist()), batch_size=config.batch_size, shuffle=True)
    done = 0
    while done < config.steps:
        for images, labels in loader:
            optimiser.zero_grad()
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimiser.step()
            loss.item()
            done += 1
            if done == config.steps:
                break
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def distil(
    model: nn.Module,
    state: State,
    teachers: Sequence[State],
    proportions: Sequence[np.ndarray],
    images: Sequence[Tensor],
    labels: Sequence[int],
    data: DataConfig,
    config: DistillationConfig,
) -> State:
    """Student's state after `config.steps` steps on pool samples; each teacher is called again in every step."""
    device = next(model.parameters()).device
    student, judge = copy.deepcopy(model), copy.deepcopy(model).eval()
    student.load_state_dict(state)
    student.train()
    optimiser = torch.optim.Adam(student.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    normalise = transforms.Normalize(data.mean, data.std)
    by_class = [[n for n, label in enumerate(labels) if label == y] or list(range(len(labels))) for y in range(10)]
    for _ in range(config.steps):
        optimiser.zero_grad()
        total = torch.zeros((), device=device)
        for teacher, share in zip(teachers, proportions, strict=True):
            wanted = np.random.default_rng().choice(len(share), size=config.batch_size, p=share)
            picks = [by_class[y][np.random.default_rng().integers(len(by_class[y]))] for y in wanted]
            batch = torch.stack([normalise(images[n]) for n in picks]).to(device)
            judge.load_state_dict(teacher)
            with torch.no_grad():
                soft = (judge(batch) / config.temperature).softmax(dim=1)
            log_probs = (student(batch) / config.temperature).log_softmax(dim=1)
            total = total + config.temperature**2 * F.kl_div(log_probs, soft, reduction="sum")
        loss = total / (len(teachers) * config.batch_size)
        loss.backward()
        optimiser.step()
        loss.item()
    return {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}


def blend_and_step(state: State, client: State, distilled: State | None, weight: float, lr: float) -> State:
    """New version from one arrival (B = 1), tensor by tensor."""
    if distilled is None:
        return {name: tensor + lr * client[name] for name, tensor in state.items()}
    return {n: tensor + lr * ((1 - weight) * client[n] + weight * distilled[n]) for n, tensor in state.items()}


class ReferenceRun:
    """A whole FedRevive run on the timeline, data and first model of `simulation`; synthesis is the package's own."""

    def __init__(self, simulation: Simulation) -> None:
        if simulation.reviver is None:
            raise ValueError("the reference run is of FedRevive")
        self.simulation, self.reviver = simulation, simulation.reviver
        self.model = copy.deepcopy(simulation.layout.template).requires_grad_(True)
        self.data = ImageDataset(simulation.data.clients, simulation.config.data)
        self.state: State = {n: t.cpu().clone() for n, t in simulation.layout.views(simulation.server.state).items()}
        self.snapshots = {0: self.state}
        self.teachers: deque[tuple[int, State]] = deque(maxlen=simulation.config.revival.num_teachers)
        self.images: deque[Tensor] = deque(maxlen=simulation.config.synthesis.pool_size)
        self.labels: deque[int] = deque(maxlen=simulation.config.synthesis.pool_size)

    def process(self, number: int) -> None:
        """Arrival `number` (from 0): train its client now, then what the server does with the update."""
        simulation, config = self.simulation, self.simulation.config
        timeline = simulation.timeline
        job = int(timeline.arrivals[number])
        base, client = int(timeline.base_version[job]), int(timeline.client[job])
        start = self.snapshots[base]
        returned = train_client(self.model, start, self.data, simulation.data.shards[client], config.training)
        update = {name: returned[name] - start[name] for name in start}
        self.teachers.appendleft((client, returned))
        self.reviver.proportions.observe(number, Teacher(client, self.flat(returned)))
        weight = beta(number - base, config.staleness, config.federation)
        distilled = self._revive(number) if weight > 0 else None
        self.state = blend_and_step(self.state, update, distilled, weight, config.server.lr)
        for name, tensor in self.state.items():
            if name.endswith(("running_mean", "running_var")):
                tensor.fill_(float(name.endswith("running_var")))
        self.snapshots[number + 1] = self.state

    def _revive(self, version: int) -> State | None:
        config, reviver = self.simulation.config, self.reviver
        states = [self.flat(state) for _, state in self.teachers]
        shares = np.stack([reviver.proportions.of(client) for client, _ in self.teachers])
        if version % config.synthesis.every == 0 and reviver.synthesizer is not None:
            draws = reviver.synthesizer.draw(stream(config.seed, "synthesis", version), shares)
            weights = torch.from_numpy(teacher_weights(shares)).float()
            late = version >= (config.revival.warmup or 0)
            made = reviver.synthesizer.synthesise(draws, states, weights, self.flat(self.state), adversarial=late)
            self.images.extend(made.samples)
            self.labels.extend(draws.labels.tolist())
        if version <= (config.revival.warmup or 0) or not self.images:
            return None
        after = distil(
            self.model, self.state, [s for _, s in self.teachers], list(shares), list(self.images), list(self.labels),
            config.data, config.distillation,
        )  # fmt: skip
        return {name: after[name] - self.state[name] for name in self.state}

    def flat(self, state: State) -> Tensor:
        """`state` as the package's flat vector (size,)."""
        return torch.cat([state[name].reshape(-1) for name in self.simulation.layout.names])
