"""One whole FedRevive arrival against an independent, slow, obvious re-implementation.

The slow one uses plain modules, one sample and one teacher at a time, probabilities written out, an Adam of its own.
It shares nothing with the package but the random draws, which are inputs here.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers import small
from torch import nn

from fedrevive_core.config.presets import build
from fedrevive_core.models.convnets import LabNet
from fedrevive_core.seeding import stream
from fedrevive_core.server import METRICS, Upload
from fedrevive_core.simulation import build as build_module
from fedrevive_core.simulation.simulation import Simulation

TINY = {
    "federation.num_clients": 12,
    "federation.concurrency": 8,
    "federation.max_sim_time": 3.0,
    "data.alpha": 0.5,
    "training.steps": 4,
    "revival.freeze": 0,
    "revival.warmup": 2,
    "revival.num_teachers": 3,
    "synthesis.every": 1,
    "synthesis.batch_size": 12,
    "synthesis.noise_dim": 8,
    "synthesis.width": 4,
    "distillation.steps": 3,
    "distillation.batch_size": 6,
    "distillation.temperature": 2.0,
    "num_threads": 1,
}


class SlowAdam:
    """Adam as its paper writes it (arXiv 1412.6980), with L2 decay added to the gradient."""

    def __init__(self, tensors, lr, betas, eps=1e-8, decay=0.0):
        self.tensors, self.lr, self.betas, self.eps, self.decay, self.t = tensors, lr, betas, eps, decay, 0
        self.m = [torch.zeros_like(x) for x in tensors]
        self.v = [torch.zeros_like(x) for x in tensors]

    def step(self, gradients):
        self.t += 1
        first, second = self.betas
        with torch.no_grad():
            for x, g, m, v in zip(self.tensors, gradients, self.m, self.v, strict=True):
                g = g + self.decay * x
                m.copy_(first * m + (1 - first) * g)
                v.copy_(second * v + (1 - second) * g * g)
                x -= self.lr * (m / (1 - first**self.t)) / ((v / (1 - second**self.t)).sqrt() + self.eps)


def plain_model(simulation: Simulation, state: torch.Tensor) -> nn.Module:
    model = LabNet(1, 8, 10)
    model.load_state_dict({name: view.clone() for name, view in simulation.layout.views(state).items()})
    return model.eval()


def slow_synthesis(teachers, student, generator, weights, draws, config, adversarial):
    """(images of the better step, generator's parameters after the Reptile step)."""
    fast = copy.deepcopy(generator).train()
    z, e = (latent.clone().requires_grad_() for latent in draws.latents)
    parameters = list(fast.parameters())
    fast_adam = SlowAdam(parameters, config.generator_lr, (0.5, 0.999))
    noise_adam = SlowAdam([z, e], config.noise_lr, (0.5, 0.999))
    kept, lowest = None, math.inf
    for _ in range(config.steps):
        x = fast(torch.stack([z[b] + 0.2 * e[y] for b, y in enumerate(draws.labels)]))
        feature = hot = adversarial_loss = 0.0
        for w, teacher in zip(weights, teachers, strict=True):
            seen = []
            hooks = [
                probe.register_forward_hook(lambda module, inputs, _, seen=seen: seen.append((module, inputs[0])))
                for probe in (teacher.probe1, teacher.probe2)
            ]
            log_probs = teacher(x).log_softmax(1)
            for hook in hooks:
                hook.remove()
            for module, h in seen:
                mean = h.mean(dim=(0, 2, 3))
                var = ((h - mean.view(1, -1, 1, 1)) ** 2).mean(dim=(0, 2, 3))
                distance = ((mean - module.running_mean) ** 2).sum().sqrt() + (
                    (var - module.running_var) ** 2
                ).sum().sqrt()
                feature = feature + sum(w[y] for y in draws.labels) * distance
            student_log_probs = student(x).log_softmax(1)
            for b, y in enumerate(draws.labels):
                hot = hot - w[y] * log_probs[b, y]
                if log_probs[b].argmax() == student_log_probs[b].argmax():
                    gap = log_probs[b] - student_log_probs[b]
                    adversarial_loss = adversarial_loss - w[y] * (log_probs[b].exp() * gap).sum()
        total = config.feature_weight * feature + config.label_weight * hot
        if adversarial:
            total = total + config.adversarial_weight * adversarial_loss
        total = total / len(x)
        if total.item() < lowest:
            lowest, kept = total.item(), x.detach().clone()
        gradients = torch.autograd.grad(total, [*parameters, z, e])
        fast_adam.step(gradients[:-2])
        noise_adam.step(gradients[-2:])
    slow = [p.detach().clone() for p in generator.parameters()]
    meta = SlowAdam(slow, config.generator_lr, (0.5, 0.999))
    meta.step([p - q.detach() for p, q in zip(slow, parameters, strict=True)])
    return kept, slow


def slow_distillation(teachers, student, samples, config):
    """Train `student` in place on samples[m][i][b]; mean loss of the steps."""
    student.train()
    adam = SlowAdam(list(student.parameters()), config.lr, (0.9, 0.999), decay=config.weight_decay)
    T = config.temperature
    losses = []
    for i in range(config.steps):
        loss, number = 0.0, 0
        for teacher, own in zip(teachers, samples, strict=True):
            for x in own[i]:
                p = (teacher(x[None]).detach() / T).softmax(1)
                q = (student(x[None]) / T).softmax(1)
                loss, number = loss + T**2 * (p * (p.log() - q.log())).sum(), number + 1
        losses.append((loss / number).item())
        adam.step(torch.autograd.grad(loss / number, list(student.parameters())))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("version", [2, 6])
def test_one_arrival(version):
    """Version 2 = warmup: synthesis with L_adv, no distillation yet. Version 6: everything."""
    simulation = Simulation(build("lab-digits", "fedrevive", overrides=TINY))
    for number in range(version):
        simulation.process(number)
    # The first steps of a persistent Adam are the easiest to state: start the generator's afresh.
    server, reviver, job = simulation.server, simulation.reviver, int(simulation.timeline.arrivals[version])
    synthesizer = reviver.synthesizer
    synthesizer.meta_optimiser.state.clear()
    if version in simulation.timeline.training_groups:
        simulation.train_group(version)
    base = int(simulation.timeline.base_version[job])
    tau = version - base
    assert tau > 0
    downloaded, returned = simulation.snapshots[base].clone(), simulation.returned[job].clone()
    client = int(simulation.timeline.client[job])

    # --- slow ---
    config = simulation.config
    states = [returned, *(teacher.state for teacher in reviver.buffer)][:3]
    clients = [client, *(teacher.client for teacher in reviver.buffer)][:3]
    teachers = [plain_model(simulation, state) for state in states]
    if len(reviver.proportions.estimates.get(client, [])) < 2:
        inputs = stream(0, "probing", version).standard_normal((64, 1, 8, 8), dtype=np.float32)
        probs = (teachers[0](torch.from_numpy(inputs)) / 0.8).softmax(1).mean(0).detach().double().numpy()
        probs = probs / probs.sum()
        reviver.proportions.estimates.setdefault(client, [])
        estimates = {client: [*reviver.proportions.estimates[client], probs]}
    else:
        estimates = {}
    share = [np.mean(estimates.get(c, reviver.proportions.estimates.get(c)), axis=0) for c in clients]
    weights = [[float(q[y] / sum(other[y] for other in share)) for y in range(10)] for q in share]
    draws = synthesizer.draw(stream(0, "synthesis", version), np.stack(share))
    student = plain_model(simulation, server.state)
    generator = copy.deepcopy(synthesizer.generator)
    images, generator_after = slow_synthesis(
        teachers, student, generator, weights, draws, config.synthesis, adversarial=version >= 2
    )
    client_update = returned - downloaded
    pool = copy.deepcopy(reviver.pool)
    pool.add(images, draws.labels)
    if version > 2:
        rng = stream(0, "distillation", version)
        slots = [pool.sample(q, 18, rng) for q in share]
        loss = slow_distillation(
            teachers, student, [pool.samples[s].unflatten(0, (3, 6)) for s in slots], config.distillation
        )
        distilled = simulation.layout.pack(student) - server.state
        beta = (1 - math.cos(math.pi * tau / 150)) / 2
        update = (1 - beta) * client_update + beta * distilled
    else:
        update = client_update
    parameters = simulation.layout.parameters
    expected = parameters(server.state + config.server.lr * update)

    # --- fast ---
    receipt = server.receive(Upload(client, tau, downloaded, returned))
    assert receipt.revived == (version > 2)
    torch.testing.assert_close(reviver.pool.newest(12)[0].flip(0), images, rtol=0, atol=1e-5)
    for after, wanted in zip(synthesizer.generator.parameters(), generator_after, strict=True):
        # A gap near 0 makes the first Adam step's sign a matter of rounding: nearly all must agree.
        assert ((after - wanted).abs() < 1e-5).float().mean() > 0.99
    torch.testing.assert_close(parameters(server.state), expected, rtol=0, atol=2e-6)
    metrics = dict(zip(METRICS, receipt.metrics.tolist(), strict=True))
    assert math.isfinite(metrics["adversarial_loss"])
    if version > 2:
        # Adam hides a wrong factor of the loss from the states, so it is compared as well.
        assert metrics["distillation_loss"] == pytest.approx(loss, rel=1e-4)


def test_no_adversary_before_warmup():
    simulation = Simulation(build("lab-digits", "fedrevive", overrides=TINY))
    for number in range(2):
        simulation.process(number)
    metrics = dict(zip(METRICS, simulation.recorder.receipts[1].metrics.tolist(), strict=True))
    assert math.isfinite(metrics["label_loss"])
    assert math.isnan(metrics["adversarial_loss"])


def test_a_pool_of_noise_is_full_from_the_start_and_stays_as_it_is(one_thread) -> None:
    simulation = Simulation(small("fedrevive", revival__source="noise", synthesis__pool_size=200))
    pool = simulation.reviver.pool
    assert len(pool) == 200
    assert simulation.reviver.synthesizer is None
    assert 0.45 < pool.samples.mean() < 0.55  # uniform in [0, 1)
    assert np.bincount(pool.labels, minlength=10).min() > 5
    before = pool.samples.clone()
    record = simulation.run()
    assert record.arrivals["revived"].any()
    assert torch.equal(pool.samples, before)
    assert len(record.samples["images"]) == 0


@pytest.mark.parametrize("kept", [64, 200])
def test_a_pool_of_other_images_has_some_of_them_with_labels_that_say_nothing(one_thread, monkeypatch, kept) -> None:
    others = torch.arange(100.0).div(100).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    asked = []
    monkeypatch.setattr(build_module, "other_images", lambda *given: asked.append(given) or others)
    simulation = Simulation(small("fedrevive", revival__source="other", synthesis__pool_size=kept))
    assert asked == [("digits", (1, 8, 8))]
    pool = simulation.reviver.pool
    shown = pool.samples[:, 0, 0, 0].mul(100).round().long().tolist()
    assert len(set(shown)) == len(shown) == min(kept, 100)
    assert shown != sorted(shown)
    assert len(set(pool.labels)) > 5
    assert abs(np.corrcoef(shown, pool.labels)[0, 1]) < 0.4
    assert not simulation.reviver.distiller.prepare.synthetic
    assert simulation.run().arrivals["revived"].any()


def test_fedrevive_on_held_back_samples_differs_in_the_pool_only(one_thread) -> None:
    revived = {}
    for source in ("synthetic", "held_back"):
        simulation = Simulation(small("fedrevive", revival__source=source, revival__warmup=2))
        revived[source] = simulation.run().arrivals["revived"].to_numpy()
    assert revived["held_back"].any()
    assert (revived["held_back"] == revived["synthetic"]).all()
    assert torch.equal(simulation.reviver.pool.samples, simulation.data.held_back.inputs)
    assert simulation.reviver.distiller.guard.enabled
