"""FedRevive from scratch: the whole method in one file, on handwritten digits: python notebooks/from_scratch.py

It uses NumPy, PyTorch and scikit-learn's digits, and nothing of this package. A test compares the two on the preset
lab-digits: they make the same 50 versions, to rounding. Shapes stand in brackets: N clients, M teachers, C classes, B
samples in a batch. Source: arXiv 2511.00655.
"""

import copy
import heapq
import math
import zlib
from collections import deque

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

N, K, C = 150, 80, 10  # clients, jobs in flight, classes
SHARD, ALPHA = 60, 0.1  # samples of a client; a small alpha gives each client few classes
STEPS, BATCH, CLIENT_LR = 15, 32, 3e-3  # local training
SERVER_LR, S_MAX = 0.1, 75  # step to a new version; staleness at which half of an update is replaced
TEACHERS, PROBE_INPUTS, PROBE_T = 8, 64, 0.8
WARMUP, EVERY, SYNTHESIS_STEPS = 20, 10, 2  # in versions; samples are made at every tenth version
SAMPLES, NOISE, WIDTH = 64, 64, 32  # synthetic samples a time; the generator's input and channels
GENERATOR_LR, NOISE_LR, LOSS_WEIGHTS = 3e-3, 1e-3, (0.3, 1.0, 0.1)  # of the losses feature, label, adversarial
POOL, DISTILLATION_STEPS, DISTILLATION_LR, DECAY, T = 4000, 10, 1e-3, 1e-5, 1.0


def stream(seed, purpose, *index):
    """Random numbers with a name: every purpose has its own, so that no part of a run changes those of another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *index)))


def federated_digits(seed=0):
    """1. Images [n, 1, 8, 8], labels [n], a list of N arrays of sample numbers [SHARD], and numbers of test samples."""
    digits, rng, decks, test = load_digits(), stream(seed, "split"), [], []
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # [1797, 1, 8, 8] in [0, 1]
    for y in range(C):  # of each class 60% for clients, 15% validation, 5% held back, 20% test
        numbers = rng.permutation(np.flatnonzero(digits.target == y))
        ends = np.rint(np.cumsum([0.60, 0.15, 0.05]) * len(numbers)).astype(int)
        decks.append(numbers[: ends[0]])
        test.append(numbers[ends[2] :])
    left, shards = [rng.permutation(deck) for deck in decks], []
    for _ in range(N):
        counts = np.rint(rng.dirichlet([ALPHA] * C) * SHARD).astype(int)  # [C], about SHARD in all
        if excess := counts.sum() - SHARD:
            counts[counts.argmax() if excess > 0 else rng.integers(C)] -= excess
        hands = []
        for y in range(C):
            if counts[y] > len(left[y]):  # too few are left: shuffle all again, so clients may share samples
                left[y] = rng.permutation(decks[y])
            hand, left[y] = np.split(left[y], counts[y : y + 1])
            hands.append(hand)
        shards.append(rng.permutation(np.concatenate(hands)))  # [SHARD]
    return images, torch.from_numpy(digits.target), shards, np.concatenate(test)


def durations(seed):
    """2. A function that draws how long the next job of a client lasts: download, training, upload."""
    means, exponential, offset = stream(seed, "clients"), stream(seed, "delays", 0), stream(seed, "delays", 2)
    training = means.choice([1.0, 1.3, 1.6], size=N, p=[0.25, 0.5, 0.25])  # [N] a mean for each client
    down, up = means.choice([0.1], size=N, p=[1.0]), means.choice([0.15, 0.25], size=N, p=[0.5, 0.5])  # [N] each
    return lambda i: training[i] * exponential.standard_exponential() + down[i] + (up[i] + offset.uniform(-0.02, 0.02))


def timeline(num_arrivals, seed):
    """One (job, client, start) per arrival. `start` is the version downloaded, so arrival i has staleness i - start."""
    lasts, pick = durations(seed), stream(seed, "selection")
    free, in_flight, jobs, arrivals, now = list(range(N)), [], [], [], 0.0
    while len(arrivals) < num_arrivals:
        for _ in range(K - len(in_flight)):  # fill every open slot with a client that is free
            position = int(pick.random() * len(free))
            free[position], free[-1] = free[-1], free[position]
            client = free.pop()
            heapq.heappush(in_flight, (now + lasts(client), len(jobs)))
            jobs.append((client, len(arrivals)))
        now, job = heapq.heappop(in_flight)
        arrivals.append((job, *jobs[job]))
        free.append(jobs[job][0])
    return arrivals


class Probe(nn.Module):
    """3. It stands where a normalisation layer would be, changes nothing, and tracks mean and variance per channel."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):  # [B, channels, S, S]
        self.seen = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)  # [channels] each
        if self.training:
            for running, new in zip((self.running_mean, self.running_var), self.seen, strict=True):
                running.mul_(0.9).add_(new.detach(), alpha=0.1)
        return x


def new_model(seed):
    """A small convolutional network for images [B, 1, 8, 8]; returns logits [B, C]."""
    torch.manual_seed(int(stream(seed, "initialisation", 0).integers(2**63)))
    block1 = nn.Conv2d(1, 16, 3, padding=1), Probe(16), nn.MaxPool2d(2), nn.ReLU()  # [B, 16, 4, 4]
    block2 = nn.Conv2d(16, 32, 3, padding=1), Probe(32), nn.MaxPool2d(2), nn.ReLU()  # [B, 32, 2, 2]
    return nn.Sequential(*block1, *block2, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, C))


def local_training(model, start, shard, images, labels, rng):
    """4. The state that a client returns: STEPS steps of Adam from the state `start`."""
    model.train().load_state_dict(start)
    optimiser = torch.optim.Adam(model.parameters(), lr=CLIENT_LR)
    batches = [batch for _ in range(STEPS) for batch in np.split(rng.permutation(shard), [BATCH])]  # 32, 28, ...
    for batch in batches[:STEPS]:
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return copy.deepcopy(model.state_dict())


def beta(staleness):
    """5. The share of a client's update that is replaced: 0 when fresh, 1/2 at S_MAX, 1 from 2 S_MAX on."""
    return (1 - math.cos(math.pi * min(staleness, 2 * S_MAX) / (2 * S_MAX))) / 2


@torch.no_grad()
def proportions_of(model, state, rng):
    """6. Which classes has this client? Show its model Gaussian noise and average its answers: [C], the sum is 1."""
    noise = torch.from_numpy(rng.standard_normal((PROBE_INPUTS, 1, 8, 8), dtype=np.float32))
    logits = functional_call(model.eval(), state, noise)  # [PROBE_INPUTS, C]
    return (logits.double() / PROBE_T).softmax(dim=1).mean(dim=0).numpy()


class Guard:
    """Leaves out a loss that is not finite, or more than three times the mean of its last 20 accepted values."""

    def __init__(self):
        self.window = deque(maxlen=20)

    def accepts(self, value):
        mean = np.mean(self.window) if len(self.window) >= 10 else 0
        accepted = math.isfinite(value) and not 0 < 3 * mean < value
        self.window.extend([value] * accepted)
        return accepted


def new_generator(seed):
    """Noise [B, NOISE] to images [B, 1, 8, 8] in [0, 1]."""
    torch.manual_seed(int(stream(seed, "initialisation", 1).integers(2**63)))
    wide = 2 * WIDTH
    return nn.Sequential(
        nn.Linear(NOISE, wide * 4), nn.Unflatten(1, (wide, 2, 2)), nn.BatchNorm2d(wide),  # [B, 64, 2, 2]
        nn.Upsample(scale_factor=2), nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide),
        nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(wide, WIDTH, 3, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, 1, 3, padding=1), nn.Sigmoid(),  # [B, 1, 8, 8]
    )  # fmt: skip


def kl(teacher, student):
    """KL(teacher || student) of each sample, [B], from logits [B, C]."""
    p, q = teacher.log_softmax(dim=1), student.log_softmax(dim=1)
    return (p.exp() * (p - q)).sum(dim=1)


def synthesis_losses(model, x, y, teachers, weights, student):
    """7. L_feat, L_hot and, with a student, L_adv of images x [B, 1, 8, 8] for classes y [B].

    teachers: M states. weights: [M, C], a teacher's say about each class. student: a state, or None.
    """
    probes = [name for name, module in model.eval().named_modules() if isinstance(module, Probe)]
    of_student = None if student is None else functional_call(model, student, x)  # [B, C]
    feature = label = adversarial = torch.zeros(())
    for w, teacher in zip(weights[:, y], teachers, strict=True):  # w: [B]
        logits = functional_call(model, teacher, x)  # [B, C]
        for name in probes:  # the images should look to the teacher as its client's data did
            mean, var = model.get_submodule(name).seen
            feature = feature + w.sum() * (mean - teacher[f"{name}.running_mean"]).norm()
            feature = feature + w.sum() * (var - teacher[f"{name}.running_var"]).norm()
        label = label + (w * F.cross_entropy(logits, y, reduction="none")).sum()
        if of_student is not None:  # reward what the teacher knows and the student does not, where both agree
            agree = logits.argmax(dim=1) == of_student.argmax(dim=1)
            adversarial = adversarial - (w * agree * kl(logits, of_student)).sum()
    return [term / len(x) for term in (feature, label, adversarial)][: 2 if student is None else 3]


def reptile(generator, fast, meta_optimiser):
    """One step of the generator towards where its fast copy went."""
    for slow, quick in zip(generator.parameters(), fast.parameters(), strict=True):
        slow.grad = slow.detach() - quick.detach()
    meta_optimiser.step()


def synthesise(model, generator, meta_optimiser, guards, teachers, shares, student, rng):
    """Images [SAMPLES, 1, 8, 8] and labels [SAMPLES]; the generator takes one Reptile step."""
    noise = torch.from_numpy(rng.standard_normal((SAMPLES, NOISE), dtype=np.float32)).requires_grad_()
    embeddings = torch.from_numpy(rng.standard_normal((C, NOISE), dtype=np.float32)).requires_grad_()
    y = torch.from_numpy(rng.choice(C, size=SAMPLES, p=shares.mean(axis=0)))
    weights = torch.from_numpy(shares / shares.sum(axis=0)).float()  # [M, C], columns sum to 1
    fast, best = copy.deepcopy(generator), math.inf
    groups = [{"params": fast.parameters(), "lr": GENERATOR_LR}, {"params": [noise, embeddings], "lr": NOISE_LR}]
    optimiser = torch.optim.Adam(groups, betas=(0.5, 0.999))
    for _ in range(SYNTHESIS_STEPS):
        x = fast(noise + 0.2 * embeddings[y])  # [SAMPLES, 1, 8, 8]
        terms = zip(LOSS_WEIGHTS, synthesis_losses(model, x, y, teachers, weights, student), guards, strict=False)
        total = sum(weight * loss for weight, loss, guard in terms if guard.accepts(loss.item()))
        if total.item() < best:
            best, images = total.item(), x.detach()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    reptile(generator, fast, meta_optimiser)
    return images, y.numpy()


def choose(labels, share, count, rng):
    """Numbers [count] of pool samples with labels [n] that follow `share` [C]; none twice while a class has enough."""
    wanted, order = rng.choice(C, size=count, p=share), rng.permutation(len(labels))
    chosen = rng.integers(len(labels), size=count)  # any sample, for classes that the pool does not have
    for y in np.unique(labels):
        of_class, slots = order[labels[order] == y], np.flatnonzero(wanted == y)
        chosen[slots] = of_class[np.arange(len(slots)) % len(of_class)]
    return chosen


def samples_for(shares, pool, rng):
    """8. What each teacher is asked about, [M, DISTILLATION_STEPS, B, 1, 8, 8]: images of classes that it knows."""
    images, labels = torch.stack([image for image, _ in pool]), np.array([y for _, y in pool])
    chosen = [choose(labels, share, DISTILLATION_STEPS * BATCH, rng) for share in shares]
    return images[np.stack(chosen)].unflatten(1, (DISTILLATION_STEPS, BATCH))


def distil(model, current, teachers, x, guard):
    """The distilled update: how the state `current` moves when it learns the teachers' answers to their samples x."""
    student = {name: tensor.clone() for name, tensor in current.items()}
    learned = {name: student[name].requires_grad_() for name, _ in model.named_parameters()}
    optimiser = torch.optim.Adam(learned.values(), lr=DISTILLATION_LR, weight_decay=DECAY)
    for step in range(DISTILLATION_STEPS):
        with torch.no_grad():
            answers = [functional_call(model.eval(), state, x[m, step]) for m, state in enumerate(teachers)]
        logits = functional_call(model, student, x[:, step].flatten(0, 1))  # [M * B, C]
        loss = T**2 * kl(torch.cat(answers) / T, logits / T).mean()
        optimiser.zero_grad()
        loss.backward()
        if guard.accepts(loss.item()):
            optimiser.step()
    return {name: tensor.detach() - current[name] for name, tensor in student.items()}


def new_version(current, update, distilled, share, first):
    """9. The next state. `share` of the client's update is replaced by the distilled one, if there is one."""
    if distilled is not None:
        update = {name: (1 - share) * update[name] + share * distilled[name] for name in update}
    new = {name: current[name] + SERVER_LR * update[name] for name in current}
    return new | {name: first[name] for name in new if "running" in name}  # statistics start again


def run(num_versions, seed=0, report=lambda version, state, share: None):
    """10. The last global state. `report` is called after each version with its number, state and beta."""
    images, labels, shards, _ = federated_digits()
    model, generator = new_model(seed), new_generator(seed)
    meta_optimiser = torch.optim.Adam(generator.parameters(), lr=GENERATOR_LR, betas=(0.5, 0.999))
    versions, recent, pool = [copy.deepcopy(model.state_dict())], deque(maxlen=TEACHERS), deque(maxlen=POOL)
    known = {}  # estimates of class proportions by client; the first two count
    *guards, distillation_guard = Guard(), Guard(), Guard(), Guard()
    for version, (job, client, start) in enumerate(timeline(num_versions, seed)):
        current, rng = versions[-1], stream(seed, "batches", job)
        returned = local_training(model, versions[start], shards[client], images, labels, rng)
        update = {name: returned[name] - versions[start][name] for name in current}
        recent.appendleft((client, returned))  # the newest teacher comes first
        if len(known.setdefault(client, [])) < 2:
            known[client].append(proportions_of(model, returned, stream(seed, "probing", version)))
        share, distilled = beta(version - start), None
        if share > 0:
            senders, teachers = zip(*recent, strict=True)
            shares = np.stack([np.mean(known[sender], axis=0) for sender in senders])  # [M, C]
            if version % EVERY == 0:
                student, rng = current if version >= WARMUP else None, stream(seed, "synthesis", version)
                made = synthesise(model, generator, meta_optimiser, guards, teachers, shares, student, rng)
                pool.extend(zip(*made, strict=True))
            if version > WARMUP and pool:
                x = samples_for(shares, pool, stream(seed, "distillation", version))
                distilled = distil(model, current, teachers, x, distillation_guard)
        versions.append(new_version(current, update, distilled, share, versions[0]))
        report(version + 1, versions[-1], share)
    return versions[-1]


def show(version, state, share):
    """Print the accuracy on test images, at every 50th version."""
    if version % 50 == 0:
        images, labels, _, test = federated_digits()
        right = functional_call(new_model(0).eval(), state, images[test]).argmax(dim=1) == labels[test]
        print(f"version {version:4}   accuracy {right.float().mean():.1%}   beta of its update {share:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(500, report=show)
