"""One arrival as the authors' code computes it, replayed: their inputs must lead to their outputs.

`golden/arrival.npz` holds every input, random draw and output of one server-side arrival, computed on a CPU by a
transcription of the authors' research release. Switched to the authors' way for the replay: eps 0 in the meta step, and
probe statistics in the student's update.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrevive_core.config.data import DataConfig
from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.run import DistillationConfig, ServerConfig, StalenessConfig, SynthesisConfig
from fedrevive_core.models.probes import StatisticProbe
from fedrevive_core.models.state import StateLayout
from fedrevive_core.revival.distillation import Distiller
from fedrevive_core.revival.generator import EMBEDDING_WEIGHT, ImageGenerator
from fedrevive_core.revival.losses import LossGuard, synthesis_losses
from fedrevive_core.revival.synthesis import Draws, Synthesizer
from fedrevive_core.revival.teachers import teacher_weights
from fedrevive_core.server import Server, Upload
from fedrevive_core.staleness import beta
from fedrevive_core.transforms import Preparation

CPU = torch.device("cpu")
LOSS_TOLERANCE = {"rtol": 0, "atol": 2e-6}  # tight enough to tell a biased from an unbiased variance
TOLERANCE = {"rtol": 0, "atol": 1e-5}


class GoldenNet(nn.Module):
    """The network of the recording: 12,990 values with the probes' statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.stat_track1 = nn.Conv2d(1, 6, 3), StatisticProbe(6)
        self.conv2, self.stat_track2 = nn.Conv2d(6, 8, 3), StatisticProbe(8)
        self.fc = nn.Linear(200, 62)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stat_track1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.stat_track2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


class Golden:
    """The recording, as flat states and tensors."""

    def __init__(self) -> None:
        with np.load(Path(__file__).parents[1] / "golden" / "arrival.npz") as archive:
            self.arrays = dict(archive)
        self.layout = StateLayout(GoldenNet())
        self.teachers = [self.state(f"teacher{m}") for m in range(3)]
        self.student = self.state("student")
        self.weights = self["synth0/teacher_weights"]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def state(self, prefix: str) -> Tensor:
        return torch.cat([self[f"{prefix}/{name}"].reshape(-1) for name in self.layout.names])

    def generator(self, prefix: str) -> dict[str, Tensor]:
        """Parameters and buffers under `prefix`, by the names of our ImageGenerator."""
        names = {
            name: name.removeprefix(f"{prefix}/").replace("l1.0", "project").replace("conv_blocks", "blocks")
            for name in self.arrays
            if name.startswith(f"{prefix}/")
        }
        return {ours: self[theirs] for theirs, ours in names.items()}

    def synthesizer(self) -> Synthesizer:
        generator = ImageGenerator(noise_dim=16, width=4, channels=1, side=28)
        generator.load_state_dict(self.generator("generator_before"))
        config = SynthesisConfig(
            batch_size=16, steps=2, noise_dim=16, width=4, generator_lr=3e-3, noise_lr=1e-3,
            feature_weight=0.3, label_weight=1.0, adversarial_weight=0.1, meta_eps=0.0,
        )  # fmt: skip
        return Synthesizer(self.layout, plain_images(), generator, config, guard=True)

    def draws(self) -> Draws:
        return Draws(
            labels=self.arrays["synth0/targets"],
            latents=(self["synth0/z"], self["synth0/class_embeddings"]),
            augmentation=torch.zeros(2, 16, 4),
        )


def plain_images() -> Preparation:
    """No augmentation, no normalisation."""
    return Preparation(DataConfig(name="fashion_mnist"), CPU, synthetic=True)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


@pytest.fixture(scope="module")
def synthesised(golden):
    synthesizer = golden.synthesizer()
    made = synthesizer.synthesise(golden.draws(), golden.teachers, golden.weights, golden.student, adversarial=True)
    return synthesizer, made


def test_teacher_weights(golden):
    shares = np.stack([golden.arrays[f"teacher{m}/proportions"] for m in range(3)])
    np.testing.assert_allclose(teacher_weights(shares), golden.arrays["synth0/teacher_weights"], atol=1e-7)


def test_losses_of_the_first_step(golden):
    generator = golden.synthesizer().generator.train()
    draws = golden.draws()
    labels = golden["synth0/targets"]
    noise, embeddings = draws.latents
    x = generator(noise + EMBEDDING_WEIGHT * embeddings[labels])
    torch.testing.assert_close(x.detach(), golden["synth0/images"][0], **TOLERANCE)
    views = golden.layout.views(torch.stack(golden.teachers))
    losses = synthesis_losses(
        golden.layout, x, labels, views, golden.weights, golden.layout.views(golden.student), generator
    )
    expected = torch.stack([golden[f"synth0/loss_{name}"][0] for name in ("bn", "oh", "adv")])
    torch.testing.assert_close(losses.detach(), expected, **LOSS_TOLERANCE)


def test_agreement_of_teachers_and_student(golden):
    images = golden["synth0/images"]
    for step in range(2):
        student = golden.layout.call(golden.layout.views(golden.student), images[step]).argmax(dim=1)
        for m, teacher in enumerate(golden.teachers):
            agree = golden.layout.call(golden.layout.views(teacher), images[step]).argmax(dim=1) == student
            assert agree.long().tolist() == golden["synth0/agree_mask"][step, m].tolist()


def test_synthesis_keeps_the_better_step(golden, synthesised):
    _, made = synthesised
    kept = int(golden["synth0/kept_step"])
    torch.testing.assert_close(made.samples, golden["synth0/images"][kept], **TOLERANCE)
    expected = torch.stack([golden[f"synth0/loss_{name}"][kept] for name in ("bn", "oh", "adv")])
    torch.testing.assert_close(made.losses, expected, **LOSS_TOLERANCE)
    torch.testing.assert_close(made.samples, golden["pool/images"], **TOLERANCE)
    assert made.usable
    assert made.num_rejected == 0


def test_fast_copy_noise_and_embeddings(golden, synthesised):
    _, made = synthesised
    torch.testing.assert_close(made.latents[0], golden["synth0/z_after"], **TOLERANCE)
    torch.testing.assert_close(made.latents[1], golden["synth0/class_embeddings_after"], **TOLERANCE)
    for name, expected in golden.generator("synth0/fast_after").items():
        torch.testing.assert_close(made.fast.state_dict()[name], expected, **TOLERANCE)


def test_reptile_step(golden, synthesised):
    synthesizer, _ = synthesised
    for name, expected in golden.generator("synth0/generator_after").items():
        # 5e-7: an eps of 1e-8 instead of 0 already moves a parameter by 1e-6.
        torch.testing.assert_close(synthesizer.generator.state_dict()[name], expected, rtol=0, atol=5e-7)


@pytest.fixture(scope="module")
def distilled(golden):
    config = DistillationConfig(steps=4, batch_size=8, lr=1e-3, temperature=1.0, weight_decay=1e-5)
    distiller = Distiller(golden.layout, plain_images(), config, CPU, guard=True, track_statistics=True)
    samples = golden["kd/images"].transpose(0, 1)  # theirs: (steps, M, b, ...)
    return distiller.distil(golden.student, golden.teachers, samples, torch.zeros(3, 4, 8, 4))


def test_pool_indices_lead_to_the_images(golden):
    picked = golden["pool/images"][golden["kd/indices"]]
    torch.testing.assert_close(picked, golden["kd/images"], rtol=0, atol=0)


def test_distillation(golden, distilled):
    torch.testing.assert_close(distilled.losses, golden["kd/loss"], **LOSS_TOLERANCE)
    P = golden.layout.num_parameters
    expected = golden.state("kd_update")
    torch.testing.assert_close(distilled.update[:P], expected[:P], **TOLERANCE)
    torch.testing.assert_close(distilled.update[P:], expected[P:], **LOSS_TOLERANCE)
    torch.testing.assert_close(golden.student + distilled.update, golden.state("student_after"), **TOLERANCE)


def test_distillation_in_one_pass_has_the_same_parameters(golden, distilled):
    """The default: all teachers' batches together, probes left alone."""
    config = DistillationConfig(steps=4, batch_size=8, lr=1e-3, temperature=1.0, weight_decay=1e-5)
    distiller = Distiller(golden.layout, plain_images(), config, CPU, guard=True)
    samples = golden["kd/images"].transpose(0, 1)
    made = distiller.distil(golden.student, golden.teachers, samples, torch.zeros(3, 4, 8, 4))
    P = golden.layout.num_parameters
    torch.testing.assert_close(made.update[:P], distilled.update[:P], **TOLERANCE)
    assert (made.update[P:] == 0).all()


class Scripted:
    """A reviver that returns a given update."""

    def __init__(self, update: Tensor) -> None:
        self.update, self.pool = update, ()

    def revive(self, *_):
        from fedrevive_core.revival.reviver import Revival

        return Revival(self.update)


def test_blend_and_aggregation(golden):
    federation = FederationConfig(num_clients=100, concurrency=100, schedule="default", max_versions=1)
    tau = int(golden["blend/tau"])
    server = Server(
        golden.student, golden.layout, ServerConfig(lr=float(golden["blend/server_lr"])),
        StalenessConfig(rule="cosine", s_max=75.0), federation, Scripted(golden.state("kd_update")),
    )  # fmt: skip
    update = golden.state("client_update")
    blended = server._blend(update, golden.state("kd_update"), float(golden["blend/beta"]))
    torch.testing.assert_close(blended, golden.state("blended_update"), **LOSS_TOLERANCE)
    receipt = server.receive(Upload(0, tau, downloaded=golden.student, returned=golden.student + update))
    assert receipt.beta == pytest.approx(float(golden["blend/beta"]), abs=1e-15)
    torch.testing.assert_close(server.state, golden.state("new_global"), **LOSS_TOLERANCE)
    assert server.version == 1


@pytest.mark.parametrize(
    ("rule", "parameter"),
    [
        ("cosine", {"s_max": 75.0}),
        ("linear", {"slope": 0.005}),
        ("exponential", {"rate": 0.005}),
        ("stepwise", {"span": 1.5}),
    ],
)
def test_staleness_rules(golden, rule, parameter):
    federation = FederationConfig(num_clients=100, concurrency=100, schedule="default", max_versions=1)
    ours = [beta(int(tau), StalenessConfig(rule=rule, **parameter), federation) for tau in golden["beta/tau"]]
    np.testing.assert_allclose(ours, golden.arrays[f"beta/{rule}"], atol=1e-15)


def test_guard(golden):
    guard = LossGuard(1, CPU)
    kept, sizes = [], []
    for value in golden["guard/input"]:
        kept.append(torch.where(guard.accept(value.view(1)), value, 0))
        sizes.append(min(int(guard.num_accepted), 20))
    expected = golden["guard/output"]
    # Their rejected value is multiplied by 0, so one that is not finite stays NaN; ours is left out.
    torch.testing.assert_close(torch.cat(kept), torch.nan_to_num(expected, nan=0.0), rtol=0, atol=0)
    assert sizes == golden["guard/window_length"].tolist()
