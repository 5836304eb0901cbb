"""The plain reference path: FedRevive as a straightforward author writes it, for benchmarks to compare with.

It is what the code of a research release looks like when it is written with care but without a thought for speed: one
client after the other, eager modules and Adam, states as dictionaries of tensors, the loss read back in every step.
It wastes nothing on purpose: images are tensors in memory, normalised once, a batch is one indexing operation (no
pictures, no `DataLoader`), and the teachers are modules that stay loaded. It computes the same thing as the package and
shares none of its networks or losses: only settings, the timeline, random draws and the augmentation of synthetic
images are the package's.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.models import resnet18

from fedrevive_core.config import DataConfig, DistillationConfig, SynthesisConfig, TrainingConfig
from fedrevive_core.data import Images
from fedrevive_core.revival.synthesis import Draws
from fedrevive_core.seeding import stream
from fedrevive_core.simulation import Simulation
from fedrevive_core.staleness import beta
from fedrevive_core.transforms import Preparation

State = dict[str, Tensor]


class Probe(nn.Module):
    """Tracks mean and variance per channel in training; with `watched`, keeps those of the last batch in `seen`."""

    running_mean: Tensor
    running_var: Tensor
    watched = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, C, S, S) as it is."""
        if self.training or self.watched:
            with torch.set_grad_enabled(self.watched):
                self.seen = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        if self.training:
            for running, new in zip((self.running_mean, self.running_var), self.seen, strict=True):
                running.mul_(0.9).add_(new.detach(), alpha=0.1)
        return x


class LabNet(nn.Module):
    """The package's LabNet as a tutorial writes it: convolution, ReLU, pooling."""

    def __init__(self, channels: int, side: int, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.probe1 = nn.Conv2d(channels, 16, 3, padding=1), Probe(16)
        self.conv2, self.probe2 = nn.Conv2d(16, 32, 3, padding=1), Probe(32)
        self.hidden, self.head = nn.Linear(32 * (side // 4) ** 2, 64), nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (B, C, S, S)."""
        x = F.max_pool2d(F.relu(self.probe1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.probe2(self.conv2(x))), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


class ConvNet(nn.Module):
    """The package's ConvNet, written like LabNet."""

    def __init__(self, channels: int, side: int, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.probe1 = nn.Conv2d(channels, 64, 3), Probe(64)
        self.conv2, self.probe2 = nn.Conv2d(64, 64, 3), Probe(64)
        self.conv3, self.probe3 = nn.Conv2d(64, 64, 3), Probe(64)
        self.hidden1 = nn.Linear(64 * (((side - 4) // 2 - 2) // 2) ** 2, 200)
        self.hidden2, self.head = nn.Linear(200, 100), nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (B, C, S, S)."""
        x = F.relu(self.probe1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.probe2(self.conv2(x))), 2)
        x = F.max_pool2d(F.relu(self.probe3(self.conv3(x))), 2)
        return self.head(F.relu(self.hidden2(F.relu(self.hidden1(x.flatten(1))))))


def plain_model(name: str, channels: int, side: int, num_classes: int) -> nn.Module:
    """The architecture `name` for images (channels, side, side); its tensors have the names of the package's model."""
    if name != "resnet18":
        return {"labnet": LabNet, "convnet": ConvNet}[name](channels, side, num_classes)
    model = resnet18(norm_layer=Probe, num_classes=num_classes)
    model.conv1, model.maxpool = nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.Identity()
    model.fc = nn.Linear(512, num_classes, bias=False)
    return model


class Samples:
    """Images (n, C, S, S) in [0, 1] and labels as tensors; augmented, if at all, one image at a time by torchvision."""

    def __init__(self, data: Images, config: DataConfig) -> None:
        options, side = config.augmentation, data.images.shape[-1]
        steps: list[nn.Module] = []
        if options.crop_padding:
            steps.append(transforms.RandomCrop(side, padding=options.crop_padding))
        if options.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if options.rotation:
            steps.append(transforms.RandomRotation(options.rotation))
        normalise = transforms.Normalize(config.mean, config.std)
        self.transform = transforms.Compose([*steps, normalise]) if steps else None
        self.images, self.labels = data.images if steps else normalise(data.images), data.labels

    def batch(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the samples `numbers` (b,)."""
        images = self.images[numbers]
        if self.transform is not None:
            images = torch.stack([self.transform(image) for image in images])
        return images, self.labels[numbers]


def shuffled(shard: np.ndarray, config: TrainingConfig, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`config.steps` batches of sample numbers, by shuffled passes through `shard`."""
    done = 0
    while done < config.steps:
        order = rng.permutation(shard)
        for first in range(0, len(order), config.batch_size)[: config.steps - done]:
            yield order[first : first + config.batch_size]
            done += 1


def train_client(
    model: nn.Module, state: State, data: Samples, batches: Iterable[np.ndarray], config: TrainingConfig
) -> State:
    """State after an Adam step from `state` on each of `batches` (sample numbers); `model` is overwritten."""
    model.load_state_dict(state)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr)
    for numbers in batches:
        inputs, labels = data.batch(numbers)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimiser.step()
        loss.item()
    return copy.deepcopy(model.state_dict())


def prepared(prepare: Preparation, images: Tensor, draws: Tensor) -> Tensor:
    """Synthetic images (B, C, S, S), augmented and normalised, in PyTorch's usual memory format."""
    return prepare(images, draws).contiguous() if prepare.active else (images - prepare.mean) / prepare.std


def loaded(model: nn.Module, state: State) -> nn.Module:
    """A copy of `model` with `state`, in evaluation mode and frozen: a teacher."""
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    teacher.load_state_dict(state)
    return teacher


class Guard:
    """Leaves out a loss that is not finite, or more than three times the mean of its last 20 accepted values."""

    def __init__(self) -> None:
        self.window: deque[float] = deque(maxlen=20)

    def accepts(self, value: float) -> bool:
        """Whether `value` takes part."""
        mean = sum(self.window) / len(self.window) if len(self.window) >= 10 else 0
        accepted = math.isfinite(value) and not 0 < 3 * mean < value
        if accepted:
            self.window.append(value)
        return accepted


def make_generator(config: SynthesisConfig, channels: int, side: int) -> nn.Module:
    """Noise (B, n_z) to images (B, channels, side', side') in [0, 1], where side' is `side` or the next multiple of 4.

    Its parameters are in the order of the package's generator.
    """
    start, width = -(-side // 4), config.width
    return nn.Sequential(
        nn.Linear(config.noise_dim, 2 * width * start**2), nn.Unflatten(1, (2 * width, start, start)),
        nn.BatchNorm2d(2 * width), nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
        nn.Conv2d(width, channels, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of each sample, (B,), from logits (B, C)."""
    return F.kl_div(
        student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="none", log_target=True
    ).sum(dim=1)  # fmt: skip


def synthesis_losses(
    x: Tensor, labels: Tensor, teachers: Sequence[nn.Module], weights: Tensor, student: nn.Module | None
) -> list[Tensor]:
    """L_feat, L_hot and, with a student, L_adv of prepared images x; weights (M, C): a teacher's say about a class."""
    of_student = None if student is None else student(x)
    feature = label = adversarial = torch.zeros((), device=x.device)
    for w, teacher in zip(weights[:, labels], teachers, strict=True):
        probes = [module for module in teacher.modules() if isinstance(module, Probe)]
        for probe in probes:
            probe.watched = True
        logits = teacher(x)
        for probe in probes:
            mean, var = probe.seen
            feature = feature + w.sum() * ((mean - probe.running_mean).norm() + (var - probe.running_var).norm())
            probe.watched = False
        label = label + (w * F.cross_entropy(logits, labels, reduction="none")).sum()
        if of_student is not None:
            agree = logits.argmax(dim=1) == of_student.argmax(dim=1)
            adversarial = adversarial - (w * agree * kl(logits, of_student)).sum()
    return [term / len(x) for term in (feature, label, adversarial)][: 2 if student is None else 3]


class Synthesis:
    """A generator that persists, its meta optimiser and guards."""

    def __init__(self, generator: nn.Module, config: SynthesisConfig, prepare: Preparation) -> None:
        self.generator, self.config, self.prepare = generator, config, prepare
        self.meta = torch.optim.Adam(
            generator.parameters(), lr=config.generator_lr, betas=(0.5, 0.999), eps=config.meta_eps
        )
        self.guards = [Guard(), Guard(), Guard()]

    def make(
        self, draws: Draws, teachers: Sequence[nn.Module], weights: Tensor, student: nn.Module | None, side: int
    ) -> Tensor | None:
        """Images (n, C, side, side) for `draws.labels`, or None if no step was finite; one Reptile step is taken."""
        config = self.config
        noise, embeddings = (latent.clone().requires_grad_() for latent in draws.latents)
        labels = torch.from_numpy(draws.labels).to(noise.device)
        fast, best, images = copy.deepcopy(self.generator), math.inf, None
        groups = [
            {"params": list(fast.parameters()), "lr": config.generator_lr},
            {"params": [noise, embeddings], "lr": config.noise_lr},
        ]
        optimiser = torch.optim.Adam(groups, betas=(0.5, 0.999))
        scales = config.feature_weight, config.label_weight, config.adversarial_weight
        for augmentation in draws.augmentation:
            x = fast(noise + 0.2 * embeddings[labels])[..., :side, :side]
            terms = synthesis_losses(prepared(self.prepare, x, augmentation), labels, teachers, weights, student)
            kept = [
                scale * term
                for scale, term, guard in zip(scales, terms, self.guards, strict=False)
                if guard.accepts(term.item())
            ]
            if not kept:
                continue
            total = torch.stack(kept).sum()
            if total.item() < best:
                best, images = total.item(), x.detach()
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
        if images is not None:
            for slow, quick in zip(self.generator.parameters(), fast.parameters(), strict=True):
                slow.grad = slow.detach() - quick.detach()
            self.meta.step()
        return images


def choose(labels: np.ndarray, share: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers (count,) of samples with `labels` (n,) that follow `share` (C,); a class that is missing: any sample."""
    wanted, order = rng.choice(len(share), size=count, p=share), rng.permutation(len(labels))
    chosen = rng.integers(len(labels), size=count)
    for y in np.unique(wanted):
        of_class, places = order[labels[order] == y], np.flatnonzero(wanted == y)
        if len(of_class):
            chosen[places] = of_class[np.arange(len(places)) % len(of_class)]
    return chosen


def distil(
    model: nn.Module,
    state: State,
    teachers: Sequence[nn.Module],
    samples: Tensor,
    draws: Tensor,
    prepare: Preparation,
    config: DistillationConfig,
    guard: Guard,
) -> State:
    """Student's state after `config.steps` steps from `state`; `model` is overwritten.

    samples, draws (M, steps, b, ...): those of each teacher and step, and their augmentation. In every step teachers
    and student answer one teacher's samples after the other's.
    """
    model.load_state_dict(state)
    student = model.train()
    optimiser = torch.optim.Adam(student.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    for step in range(config.steps):
        total = torch.zeros((), device=samples.device)
        for teacher, images, draw in zip(teachers, samples[:, step], draws[:, step], strict=True):
            x = prepared(prepare, images, draw)
            with torch.no_grad():
                answers = teacher(x) / config.temperature
            total = total + config.temperature**2 * kl(answers, student(x) / config.temperature).sum()
        loss = total / (len(teachers) * samples.shape[2])
        optimiser.zero_grad()
        loss.backward()
        if guard.accepts(loss.item()):
            optimiser.step()
    return copy.deepcopy(student.state_dict())


def blend_and_step(state: State, client: State, distilled: State | None, weight: float, lr: float) -> State:
    """New version from one arrival (B = 1), tensor by tensor, with the probes' statistics reset."""
    version = {}
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var")):
            version[name] = torch.full_like(tensor, float(name.endswith("running_var")))
        elif distilled is None:
            version[name] = tensor + lr * client[name]
        else:
            version[name] = tensor + lr * ((1 - weight) * client[name] + weight * distilled[name])
    return version


def teacher_weights(shares: np.ndarray) -> Tensor:
    """w_m(y) = q_m(y) / sum_n q_n(y), (M, C)."""
    return torch.from_numpy(shares / np.maximum(shares.sum(axis=0), 1e-8)).float()


class ReferenceRun:
    """A whole FedRevive run on the timeline, data and first models of `simulation`."""

    def __init__(self, simulation: Simulation) -> None:
        reviver, config = simulation.reviver, simulation.config
        if reviver is None or reviver.synthesizer is None:
            raise ValueError("the reference run is of FedRevive")
        self.simulation = simulation
        channels, self.side, _ = simulation.data.sample_shape
        device = simulation.device
        self.model = plain_model(config.model, channels, self.side, simulation.data.num_classes).to(device)
        self.data = Samples(simulation.data.clients, config.data)
        self.state: State = {n: t.clone() for n, t in simulation.layout.views(simulation.server.state).items()}
        self.snapshots = {0: self.state}
        self.teachers: deque[tuple[int, nn.Module]] = deque(maxlen=config.revival.num_teachers)
        self.estimates: dict[int, list[np.ndarray]] = {}
        generator = make_generator(config.synthesis, channels, self.side).to(device)
        copy_parameters(reviver.synthesizer.generator, generator)
        self.prepare = simulation.modality.prepare_synthetic
        self.synthesis, self.guard = Synthesis(generator, config.synthesis, self.prepare), Guard()
        self.pool: deque[tuple[Tensor, np.ndarray]] = deque(
            maxlen=config.synthesis.pool_size // config.synthesis.batch_size
        )

    def process(self, number: int) -> None:
        """Arrival `number` (from 0): train its client now, then what the server does with the update."""
        simulation, config = self.simulation, self.simulation.config
        timeline = simulation.timeline
        job = int(timeline.arrivals[number])
        base, client = int(timeline.base_version[job]), int(timeline.client[job])
        start, shard = self.snapshots[base], simulation.data.shards[client]
        batches = shuffled(shard, config.training, np.random.default_rng((config.seed, number)))
        returned = train_client(self.model, start, self.data, batches, config.training)
        update = {name: returned[name] - start[name] for name in start}
        self.teachers.appendleft((client, loaded(self.model, returned)))
        self._estimate(number, client)
        weight = beta(number - base, config.staleness, config.federation)
        distilled = self._revive(number) if weight > 0 else None
        self.state = blend_and_step(self.state, update, distilled, weight, config.server.lr)
        self.snapshots[number + 1] = self.state

    @torch.no_grad()
    def _estimate(self, number: int, client: int) -> None:
        """The proxy of the client's class proportions, from its first two uploads."""
        known, config = self.estimates.setdefault(client, []), self.simulation.config
        if len(known) < 2:
            rng = stream(config.seed, "probing", number)
            noise = torch.from_numpy(self.simulation.modality.probe(rng, config.revival.num_probe_inputs))
            logits = self.teachers[0][1](noise.to(self.simulation.device)).double()
            known.append((logits / config.revival.probe_temperature).softmax(dim=1).mean(dim=0).cpu().numpy())

    def _revive(self, version: int) -> State | None:
        config = self.simulation.config
        warmup = config.revival.warmup or 0
        teachers = [teacher for _, teacher in self.teachers]
        shares = np.stack([np.mean(self.estimates[client], axis=0) for client, _ in self.teachers])
        synthesizer = self.simulation.reviver and self.simulation.reviver.synthesizer
        if version % config.synthesis.every == 0 and synthesizer:
            draws = synthesizer.draw(stream(config.seed, "synthesis", version), shares)
            student = loaded(self.model, self.state) if version >= warmup else None
            weights = teacher_weights(shares).to(self.simulation.device)
            images = self.synthesis.make(draws, teachers, weights, student, self.side)
            if images is not None:
                self.pool.append((images, draws.labels))
        if version <= warmup or not self.pool:
            return None
        rng = np.random.default_rng((config.seed, 1, version))
        samples, augmentation = draw_samples(self.pool, shares, self.prepare, config.distillation, rng)
        after = distil(
            self.model, self.state, teachers, samples, augmentation, self.prepare, config.distillation, self.guard
        )
        return {name: after[name] - self.state[name] for name in self.state}

    def flat(self, state: State) -> Tensor:
        """`state` as the package's flat vector (size,)."""
        return torch.cat([state[name].reshape(-1) for name in self.simulation.layout.names])


def draw_samples(
    pool: Iterable[tuple[Tensor, np.ndarray]],
    shares: np.ndarray,
    prepare: Preparation,
    config: DistillationConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Samples of each teacher and step (M, steps, b, C, S, S) from the batches in `pool`, and their augmentation."""
    batches, of_batches = zip(*pool, strict=True)
    images, labels = torch.cat(batches), np.concatenate(of_batches)
    numbers = np.stack([choose(labels, share, config.steps * config.batch_size, rng) for share in shares])
    draws = prepare.draw(rng, len(shares), config.steps, config.batch_size)
    samples = images[torch.from_numpy(numbers).to(images.device)]
    return samples.unflatten(1, (config.steps, config.batch_size)), torch.from_numpy(draws).to(images.device)


@torch.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the parameters of `source`, in order."""
    for new, old in zip(target.parameters(), source.parameters(), strict=True):
        new.copy_(old)
