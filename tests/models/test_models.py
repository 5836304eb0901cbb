"""The statistic probe, the architectures, and models as flat vectors."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from fedrevive_core.config.data import TEXT_MODELS, DataConfig
from fedrevive_core.config.run import RunConfig, TrainingConfig
from fedrevive_core.data.federated import load_federated
from fedrevive_core.errors import ConfigError
from fedrevive_core.models.build import ARCHITECTURES, build_model, check_model
from fedrevive_core.models.convnets import ConvNet, LabNet, resnet18
from fedrevive_core.models.probes import StatisticProbe, observe
from fedrevive_core.models.state import StateLayout
from fedrevive_core.training import Job, LocalTrainer
from fedrevive_core.transforms import Preparation


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def seeded(name: str, *arguments: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, *arguments)


# ------------------------------------------------------------------------------------------------------- the probe


def test_the_probe_returns_its_very_input() -> None:
    probe, x = StatisticProbe(3), normal(4, 3, 5, 5)
    kept = x.clone()
    assert probe.train()(x) is x
    assert probe.eval()(x) is x
    assert torch.equal(x, kept)


def test_running_statistics_by_hand() -> None:
    """Momentum 0.1 from mean 0 and variance 1, and the variance is divided by n, not n - 1.

    channel 0 sees 1, 3: mean 2, variance 1      ->  mean 0.9 x 0 + 0.1 x 2,  variance 0.9 x 1 + 0.1 x 1
    channel 1 sees 0, 6: mean 3, variance 9      ->  mean 0.3,                variance 0.9 + 0.9
    then channel 0 sees 4, 4: mean 4, variance 0 ->  mean 0.9 x 0.2 + 0.4,    variance 0.9 x 1
    """
    probe = StatisticProbe(2)
    assert probe.running_mean.tolist() == [0, 0]
    assert probe.running_var.tolist() == [1, 1]
    probe(torch.tensor([[1.0, 0.0], [3.0, 6.0]]))
    torch.testing.assert_close(probe.running_mean, torch.tensor([0.2, 0.3]))
    torch.testing.assert_close(probe.running_var, torch.tensor([1.0, 1.8]))
    probe(torch.tensor([[4.0, 3.0], [4.0, 3.0]]))
    torch.testing.assert_close(probe.running_mean, torch.tensor([0.58, 0.57]))
    torch.testing.assert_close(probe.running_var, torch.tensor([0.9, 1.62]))


def test_the_probe_averages_over_all_dimensions_but_the_channels() -> None:
    x = normal(6, 3, 4, 5)
    probe = StatisticProbe(3, momentum=1.0)
    probe(x)
    values = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(probe.running_mean, values.mean(dim=1).float())
    torch.testing.assert_close(probe.running_var, values.var(dim=1, correction=0).float())


def test_a_batch_of_one_value_has_variance_zero() -> None:
    probe = StatisticProbe(1)
    probe(torch.tensor([[5.0]]))
    assert probe.running_var.item() == pytest.approx(0.9)


def test_in_evaluation_mode_statistics_do_not_move() -> None:
    probe = StatisticProbe(3).eval()
    probe(normal(4, 3))
    assert probe.running_mean.tolist() == [0, 0, 0]
    assert probe.running_var.tolist() == [1, 1, 1]


def test_the_probe_passes_gradients_and_keeps_none() -> None:
    probe, x = StatisticProbe(3), normal(4, 3).requires_grad_()
    probe(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(4, 3))
    assert not probe.running_mean.requires_grad
    assert not list(probe.parameters())


def test_observe_collects_by_name_what_passes_each_probe_differentiably() -> None:
    model = seeded("labnet", 1, 8, 10).eval()
    x = normal(5, 1, 8, 8).requires_grad_()
    with observe(model) as seen:
        model(x)
    assert list(seen) == ["probe1", "probe2"]
    mean, var = seen["probe1"]
    passed = model.conv1(x)
    torch.testing.assert_close(mean, passed.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(var, passed.var(dim=(0, 2, 3), correction=0))
    assert mean.shape == (16,)
    assert seen["probe2"][0].shape == (32,)
    (gradient,) = torch.autograd.grad(seen["probe2"][1].sum(), x)
    assert gradient.abs().sum() > 0
    assert model.probe1.running_mean.tolist() == [0] * 16


def test_observe_stops_with_its_block_also_after_an_error() -> None:
    model = seeded("labnet", 1, 8, 10)
    with pytest.raises(RuntimeError, match="stop"), observe(model) as seen:
        raise RuntimeError("stop")
    model(normal(2, 1, 8, 8))
    assert seen == {}


# -------------------------------------------------------------------------------------------------- architectures


def test_resnet18_has_the_parameters_of_its_layers() -> None:
    """Stem; stages of two blocks of two 3x3 convolutions; 1x1 shortcuts where the width changes; bias-free head."""
    stem = 3 * 64 * 9
    stage1 = 4 * 64 * 64 * 9
    wider = sum(
        (before * width + 3 * width * width) * 9 + before * width
        for before, width in ((64, 128), (128, 256), (256, 512))
    )
    model = resnet18(3, 32, 10)
    assert count(model) == stem + stage1 + wider + 512 * 10 == 11_164_352
    assert count(resnet18(3, 32, 100)) == 11_164_352 + 90 * 512
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    assert sum(isinstance(module, StatisticProbe) for module in model.modules()) == 20
    assert not any(isinstance(module, nn.BatchNorm2d | nn.MaxPool2d) for module in model.modules())


def test_resnet18_starts_as_pytorch_starts_its_layers_one_after_the_other() -> None:
    """Not as torchvision does, and no other number is drawn: the first model of a seed is always the same."""
    model = seeded("resnet18", 3, 32, 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                shape = (module.in_channels, module.out_channels, module.kernel_size[0])
                assert torch.equal(module.weight, nn.Conv2d(*shape, bias=False).weight), name
        assert torch.equal(model.fc.weight, nn.Linear(512, 10, bias=False).weight)


def test_resnet18_halves_the_image_three_times() -> None:
    model = resnet18(3, 32, 10).eval()
    with torch.no_grad():
        stem = model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32)))
        assert stem.shape == (1, 64, 32, 32)
        assert model.layer4(model.layer3(model.layer2(model.layer1(stem)))).shape == (1, 512, 4, 4)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_basic_block_adds_its_input_before_the_last_relu() -> None:
    block = resnet18(3, 32, 10).layer1[0].eval()
    x = normal(2, 64, 4, 4)
    with torch.no_grad():
        inner = F.relu(F.conv2d(x, block.conv1.weight, padding=1))
        outer = F.relu(F.conv2d(inner, block.conv2.weight, padding=1) + x)
        torch.testing.assert_close(block(x), outer)


def test_convnet_is_1600_200_100_62_behind_three_convolutions() -> None:
    model = ConvNet(1, 28, 62)
    convolutions = (1 * 64 * 9 + 64) + 2 * (64 * 64 * 9 + 64)
    assert model.hidden1.in_features == 1600
    assert count(model) == convolutions + 1600 * 200 + 200 + 200 * 100 + 100 + 100 * 62 + 62
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 62)
    assert sum(isinstance(module, StatisticProbe) for module in model.modules()) == 3


def test_labnet_has_the_parameters_of_its_layers() -> None:
    model = LabNet(1, 8, 10)
    assert count(model) == (9 * 16 + 16) + (16 * 32 * 9 + 32) + (32 * 4 * 64 + 64) + (64 * 10 + 10)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_pooling_before_relu_is_relu_before_pooling() -> None:
    """The convnets pool first, which is the same and cheaper. Written as the paper has it, for comparison."""
    model, x = seeded("convnet", 1, 28, 62).eval(), normal(2, 1, 28, 28)
    with torch.no_grad():
        y = F.relu(model.conv1(x))
        y = F.max_pool2d(F.relu(model.conv2(y)), 2)
        y = F.max_pool2d(F.relu(model.conv3(y)), 2)
        y = F.relu(model.hidden2(F.relu(model.hidden1(y.flatten(1)))))
        torch.testing.assert_close(model(x), model.head(y))


@pytest.mark.parametrize(
    ("name", "largest_refused", "least"),
    [("labnet", 3, "at least 4"), ("convnet", 11, "at least 12"), ("resnet18", 7, "at least 8")],
)
def test_too_small_images_are_refused(name: str, largest_refused: int, least: str) -> None:
    message = f"model = '{name}' does not take images of side {largest_refused}: .*{least}"
    with pytest.raises(ConfigError, match=message):
        build_model(name, 1, largest_refused, 10)
    model = build_model(name, 1, largest_refused + 1, 10)
    assert model(torch.zeros(2, 1, largest_refused + 1, largest_refused + 1)).shape == (2, 10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_of_a_sample_do_not_depend_on_its_batch(name: str) -> None:
    model, x = seeded(name, 1, 16, 10), normal(4, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.train()(x)[:1], model.eval()(x[:1]), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- checking a user's model


class Around(nn.Module):
    """A fitting model with something `done` around it."""

    def __init__(self, done: Callable[[Around, Tensor], object], **parts: nn.Module) -> None:
        super().__init__()
        self.done, self.body = done, fitting(StatisticProbe(8))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> object:
        return self.done(self, x)


def fitting(*middle: nn.Module, last: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *middle, nn.Linear(8, last))


def tied() -> nn.Module:
    layer = nn.Linear(8, 8)
    return fitting(layer, StatisticProbe(8), layer)


UNFIT = {
    "inputs": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), r"does not take images of shape \(1, 8, 8\): "),
    "classes": (lambda: fitting(last=9), r"returns shape \(2, 9\) for 2 images.* \(2, 10\).* one logit per class"),
    "dimensions": (lambda: nn.Conv2d(1, 10, 3), r"returns shape \(2, 10, 6, 6\) for 2 images"),
    "tuple": (lambda: Around(lambda m, x: (m.body(x), x)), "returns a tuple"),
    "squeezed": (lambda: Around(lambda m, x: m.body(x).squeeze()), r"returns shape \(10,\) for 1 images"),
    "batch of two": (lambda: Around(lambda m, x: m.body(x.reshape(2, -1))), "does not take images"),
    "arguments": (lambda: Around(lambda m, x, mask: x), "does not take images .* missing 1 required"),
    "view": (lambda: Around(lambda m, x: m.conv(x).view(len(x), -1), conv=nn.Conv2d(1, 10, 8, 7)), None),
    "strides": (lambda: Around(lambda m, x: m.conv(x).view(len(x), -1), conv=nn.Conv2d(1, 2, 3)), "view size is not"),
    "classes, not logits": (lambda: Around(lambda m, x: m.body(x).long()), "returns torch.int64, not torch.float32"),
    "float64 out": (lambda: Around(lambda m, x: m.body(x).double()), "returns torch.float64"),
    "float64": (lambda: fitting().double(), "'1.weight' in torch.float64, not torch.float32.* model.float"),
    "float64 buffer": (lambda: fitting(StatisticProbe(8).double()), "'2.running_mean' in torch.float64"),
    "half": (lambda: fitting().half(), "in torch.float16"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "no shape for '1.weight' yet"),
    "meta": (lambda: fitting(nn.Linear(8, 8, device="meta")), "no values for '2.weight'"),
    "frozen": (lambda: fitting().requires_grad_(False), "no parameters to train"),
    "detached": (lambda: Around(lambda m, x: m.body(x).detach()), "outputs without a gradient"),
    "input changed": (lambda: nn.Sequential(nn.ReLU(inplace=True), fitting()), "changes its input in place"),
    "random": (lambda: Around(lambda m, x: F.dropout(m.body(x))), "answers at random in evaluation mode"),
    "wide probe": (lambda: fitting(StatisticProbe(9)), r"StatisticProbe\(9\) as '2'.* \(2, 8\).*: StatisticProbe\(8\)"),
    "probe that would be broadcast": (
        lambda: fitting(nn.Unflatten(1, (1, 8)), StatisticProbe(8), nn.Flatten()),
        r"Probe\(1\)",
    ),
    "no copy": (lambda: Around(lambda m, x: m.body(x), lock=threading.Lock()), "cannot be copied"),
    "value": (lambda: Around(lambda m, x: m.body(x) * x.mean().item()), r"several clients at once.*\.item\(\)"),
    "branch": (lambda: Around(lambda m, x: m.body(x) if x.sum() > 0 else 2 * m.body(x)), "several clients at once"),
    "rounded input": (lambda: Around(lambda m, x: m.body((x > 0.5).float())), "no gradient to its input"),
    "BatchNorm": (lambda: fitting(nn.BatchNorm1d(8)), None),
    "dropout": (lambda: fitting(nn.Dropout(0.5)), None),
    "a shared layer": (tied, None),
    "an unused layer": (lambda: Around(lambda m, x: m.body(x), unused=nn.Linear(2, 2)), None),
    "partly frozen": (lambda: fitting(nn.Linear(8, 8).requires_grad_(False)), None),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_that_a_run_could_not_use_is_refused(case: str) -> None:
    make, message = UNFIT[case]
    with pytest.raises(ConfigError, match=f"model .*{message}") if message else nullcontext():
        check_model(make(), (1, 8, 8), 10, synthesises=True)


def test_what_is_refused_depends_on_what_the_run_does() -> None:
    """Without synthesis nobody needs a gradient at the input; BatchNorm fails on a batch of one sample."""
    rounded, _ = UNFIT["rounded input"]
    check_model(rounded(), (1, 8, 8), 10)
    with pytest.raises(ConfigError, match="cannot be trained on a batch of 1 images: Expected more than 1 value"):
        check_model(fitting(nn.BatchNorm1d(8)), (1, 8, 8), 10, smallest_batch=1)


@pytest.mark.parametrize("training", [True, False])
def test_checking_leaves_the_model_as_it_was(training: bool) -> None:
    model = seeded("labnet", 1, 8, 10).train(training)
    check_model(model, (1, 8, 8), 10)
    assert model.training is training
    assert model.probe1.running_var.tolist() == [1] * 16


def test_checking_draws_no_random_numbers_of_the_users() -> None:
    model, before = fitting(nn.Dropout(0.5)), torch.get_rng_state()
    check_model(model, (1, 8, 8), 10)
    assert torch.equal(before, torch.get_rng_state())


# ----------------------------------------------------------------------------------------------- one flat vector


class Scaled(nn.Module):
    """A user's network with a parameter that has no dimensions, as learned temperatures have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = nn.Linear(64, 10), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.body(x.flatten(1))


def batch_norm() -> nn.Module:
    """A user's network without probes."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


MODELS = {
    "labnet": lambda: build_model("labnet", 1, 8, 10),
    "batch norm": batch_norm,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    "scalar": Scaled,
}


def made(kind: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[kind]()


@pytest.mark.parametrize("kind", MODELS)
def test_pack_and_views_are_inverse(kind: str) -> None:
    model = made(kind)
    layout = StateLayout(model)
    state = layout.pack(model)
    assert state.dtype == torch.float32
    assert state.shape == (layout.size,)
    views = layout.views(state)
    tensors = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if b.is_floating_point()}
    assert list(views) == list(tensors)
    for name, tensor in tensors.items():
        assert views[name].shape == tensor.shape
        assert torch.equal(views[name], tensor)


def test_parameters_come_first_then_statistics() -> None:
    model = made("labnet")
    layout, parameters = StateLayout(model), count(model)
    state = layout.pack(model)
    assert layout.num_parameters == parameters
    assert layout.size == parameters + 2 * (16 + 32)
    assert torch.equal(layout.parameters(state), torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert state[parameters:].tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32 + [1.0] * 32
    stacked = state.expand(3, 2, -1)
    assert layout.parameters(stacked).shape == (3, 2, parameters)


def test_views_share_memory_with_the_state_and_packing_copies() -> None:
    model = made("labnet")
    layout = StateLayout(model)
    state = layout.pack(model)
    layout.views(state)["head.bias"].fill_(7)
    assert (state == 7).sum() == 10
    assert not (model.head.bias == 7).any()
    layout.parameters(state).zero_()
    assert state[layout.num_parameters :].sum() == 48
    assert not state[: layout.num_parameters].any()


def test_views_of_stacked_states_keep_the_leading_dimensions() -> None:
    layout = StateLayout(made("labnet"))
    states = normal(2, 3, layout.size)
    views = layout.views(states)
    assert views["conv1.weight"].shape == (2, 3, 16, 1, 3, 3)
    assert torch.equal(views["probe2.running_var"][1, 2], layout.views(states[1, 2])["probe2.running_var"])


def test_views_may_take_parameters_and_statistics_apart() -> None:
    layout = StateLayout(made("labnet"))
    state = normal(layout.size)
    parameters, buffers = layout.parameters(state).clone().requires_grad_(), layout.buffers(state)
    whole, apart = layout.views(state), layout.parameter_views(parameters) | buffers
    assert list(whole) == list(apart)
    assert all(torch.equal(whole[name], apart[name]) for name in whole)
    apart["head.bias"].sum().backward()
    assert parameters.grad.sum() == 10
    apart["probe1.running_mean"].fill_(5)
    assert not (layout.views(state)["probe1.running_mean"] == 5).any()  # copies: the state itself stays


def test_resetting_statistics_touches_nothing_else() -> None:
    layout = StateLayout(made("labnet"))
    for state in (normal(layout.size), normal(3, layout.size)):
        kept = state.clone()
        reset = layout.reset_statistics_(state)
        assert reset is state
        assert torch.equal(layout.parameters(reset), layout.parameters(kept))
        views = layout.views(reset)
        assert not views["probe1.running_mean"].any()
        assert (views["probe2.running_var"] == 1).all()


def test_the_layout_keeps_a_copy_of_its_own() -> None:
    model = made("labnet").train()
    layout = StateLayout(model)
    state = layout.pack(model)
    x = normal(4, 1, 8, 8)
    before = layout.call(layout.views(state), x)
    with torch.no_grad():
        model.head.weight.zero_()
    layout.call(layout.views(state.clone()), x, training=True)
    assert torch.equal(layout.call(layout.views(state), x), before)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_calling_with_a_state_is_calling_the_model(kind: str) -> None:
    """In both modes; in training mode the statistics of the state move as those of the model do."""
    model, x = made(kind), normal(6, 1, 8, 8)
    layout = StateLayout(made(kind, seed=1))  # the template's own values must not matter
    state = layout.pack(model)
    with torch.no_grad():
        for training in (False, True, False):
            model.train(training)
            logits = layout.call(layout.views(state), x, training=training)
            torch.testing.assert_close(logits, model(x))
            torch.testing.assert_close(state, layout.pack(model))
    assert logits.shape == (6, 10)


def test_statistics_move_in_training_mode_unless_told_not_to() -> None:
    model, x = made("labnet"), normal(6, 1, 8, 8)
    layout = StateLayout(model)
    state = layout.pack(model)
    for settings, moves in (
        ({}, False),
        ({"training": True, "track": False}, False),
        ({"training": True}, True),
        ({"training": False}, False),
        ({"training": True}, True),
    ):
        before = state.clone()
        with torch.no_grad():
            layout.call(layout.views(state), x, **settings)
        assert torch.equal(before, state) is not moves
        assert torch.equal(layout.parameters(before), layout.parameters(state))


def test_gradients_reach_the_flat_parameters() -> None:
    model, x = made("batch norm"), normal(6, 1, 8, 8)
    layout = StateLayout(model)
    state = layout.pack(model)
    parameters, buffers = layout.parameters(state).clone().requires_grad_(), layout.buffers(state)
    layout.call(layout.parameter_views(parameters) | buffers, x, training=True).square().sum().backward()
    model.train()(x).square().sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(parameters.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    # In training mode BatchNorm has a test of its own, below.
    ("kind", "training"),
    [(kind, training) for kind in MODELS for training in (False, True) if not (training and kind == "batch norm")],
)
def test_stacked_states_give_what_each_gives_alone(kind: str, training: bool) -> None:
    layout = StateLayout(made(kind))
    states = torch.stack([layout.pack(made(kind, seed=seed)) for seed in range(3)])
    alone, x = states.clone(), normal(3, 6, 1, 8, 8)

    def call(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
        return layout.call(tensors, images, training=training)

    with torch.no_grad():
        together = vmap(call)(layout.views(states), x)
        one_by_one = torch.stack([call(layout.views(state), images) for state, images in zip(alone, x, strict=True)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["labnet", "batch norm"])
def test_statistics_of_jobs_trained_together_are_those_of_jobs_trained_alone(kind: str) -> None:
    layout = StateLayout(made(kind))
    config = DataConfig(name="digits", samples_per_client=40)
    data = load_federated(config, 3, torch.device("cpu"))
    trainer = LocalTrainer(layout, data, Preparation(config, torch.device("cpu")), TrainingConfig(steps=4, lr=1e-3), 0)
    jobs = [Job(client, client, layout.pack(made(kind, seed=client))) for client in range(3)]
    together, alone = trainer.train(jobs), [trainer.train([job])[0] for job in jobs]
    for one, other, job in zip(together, alone, jobs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert not torch.isclose(one, job.start)[layout.num_parameters :].any()


def test_names_of_the_architectures_are_those_of_the_configuration() -> None:
    allowed = re.findall(r"'(\w+)'", str(RunConfig.model_fields["model"].annotation))
    assert sorted(allowed) == sorted([*ARCHITECTURES, *TEXT_MODELS])
