"""Training, server, revival and whole runs: hand-worked numbers, limits that must agree exactly, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import compared, run_until, small
from torch import nn

from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.run import DistillationConfig, ServerConfig, StalenessConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.models.convnets import LabNet
from fedrevive_core.models.device import AGREEMENT, Executor
from fedrevive_core.models.probes import StatisticProbe
from fedrevive_core.models.state import StateLayout
from fedrevive_core.revival.distillation import Distiller
from fedrevive_core.revival.losses import kl_divergence
from fedrevive_core.revival.teachers import ClassProportions, Teacher, TeacherBuffer, teacher_weights
from fedrevive_core.server import METRICS, Server, Upload
from fedrevive_core.simulation import checkpoint
from fedrevive_core.simulation.build import pick_device
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.staleness import beta
from fedrevive_core.training import Job, batch_sizes
from fedrevive_core.transforms import Preparation
from reproduce.benchmark.gpu.checks import ends, offloaded_states_are_pinned, recordings_repeat
from reproduce.benchmark.gpu.material import preset_names

CPU = torch.device("cpu")


def quiet(config, **options):
    return run(config, progress=False, **options)


# --- hand-worked -----------------------------------------------------------------------------------------------------


def server_of_three_numbers(buffer_size: int, **server) -> Server:
    """A linear model of 3 parameters, all 0: states are what one writes."""
    layout = StateLayout(nn.Linear(3, 1, bias=False))
    federation = FederationConfig(
        num_clients=4, concurrency=4, buffer_size=buffer_size, schedule="default", max_versions=1
    )
    return Server(
        torch.zeros(3), layout, ServerConfig(**server), StalenessConfig(rule="constant", constant=0.0), federation
    )


def test_aggregation_of_three_numbers():
    """w = 0; updates (3, 0, 0) and (0, 6, -3); eta = 0.5; B = 2: w = 0.5 * (1.5, 3, -1.5)."""
    server = server_of_three_numbers(2, lr=0.5)
    base = torch.ones(3)
    server.receive(Upload(0, 0, base, base + torch.tensor([3.0, 0, 0])))
    assert server.version == 0
    server.receive(Upload(1, 0, base, base + torch.tensor([0, 6.0, -3.0])))
    assert server.version == 1
    assert server.state.tolist() == [0.75, 1.5, -0.75]


def test_fedasync_mixes_models():
    """a = 0.25, w = 0, w_client = (4, 8, 0), whatever was downloaded: (1 - a) w + a w_client = (1, 2, 0)."""
    server = server_of_three_numbers(1, lr=0.25, update_from="current")
    server.receive(Upload(0, 7, downloaded=torch.full((3,), 100.0), returned=torch.tensor([4.0, 8.0, 0.0])))
    assert server.state.tolist() == [1.0, 2.0, 0.0]


def test_down_weighting_scales_the_update():
    server = server_of_three_numbers(1, lr=1.0)
    server.staleness = StalenessConfig(rule="linear", slope=0.25)  # beta(3) = 0.75
    receipt = server.receive(Upload(0, 3, torch.zeros(3), torch.tensor([4.0, 0, 0])))
    assert receipt.beta == 0.75
    assert server.state.tolist() == [1.0, 0.0, 0.0]


def test_kl_of_two_classes():
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(teacher, student).item() == pytest.approx(expected, rel=1e-6)


def test_kl_has_a_finite_gradient_where_a_probability_underflows():
    teacher = torch.tensor([[500.0, 0.0]], requires_grad=True)  # exp(-500) is 0 in float32
    student = torch.zeros(1, 2, requires_grad=True)
    for gradient in torch.autograd.grad(kl_divergence(teacher, student).sum(), [teacher, student]):
        assert gradient.isfinite().all()


def test_teacher_weights():
    """Class 0: 0.2 and 0.6 -> 1/4, 3/4. Class 1: 0.8 and 0.4 -> 2/3, 1/3."""
    weights = teacher_weights(np.array([[0.2, 0.8], [0.6, 0.4]]))
    np.testing.assert_allclose(weights, [[0.25, 2 / 3], [0.75, 1 / 3]])


def test_teacher_weights_where_no_teacher_has_the_class():
    assert teacher_weights(np.array([[1.0, 0.0], [1.0, 0.0]]))[:, 1].tolist() == [0.0, 0.0]


def test_batch_sizes_of_350_samples():
    sizes = batch_sizes(350, 25, 32)
    assert sizes == ([32] * 10 + [30]) * 2 + [32] * 3


# --- teachers and class proportions ----------------------------------------------------------------------------------


def test_teacher_buffer_is_newest_first_and_bounded():
    buffer = TeacherBuffer(2)
    for client in (5, 6, 7):
        buffer.add(Teacher(client, torch.zeros(1)))
    assert [teacher.client for teacher in buffer] == [7, 6]


def test_the_teachers_are_the_last_arrivals_newest_first():
    simulation = Simulation(small("fedrevive", revival__num_teachers=3))
    for number in range(6):
        simulation.process(number)
        clients = simulation.timeline.client[simulation.timeline.arrivals[: number + 1]]
        assert [teacher.client for teacher in simulation.reviver.buffer] == clients[::-1][:3].tolist()


class Constant(nn.Module):
    """Logits that do not depend on the input: its proportions are softmax(logits / T_probe)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_proxy_is_the_mean_of_the_first_two_uploads_and_then_frozen():
    layout = StateLayout(Constant([0.0, 0.0]))
    config = small("fedrevive").revival
    proportions = ClassProportions(
        layout, lambda rng, n: rng.standard_normal((n, 1, 8, 8), dtype=np.float32), config, seed=0
    )
    temperature = config.probe_temperature
    uploads = [torch.tensor([0.0, temperature * math.log(3.0)]), torch.tensor([0.0, 0.0]), torch.tensor([9.0, 0.0])]
    seen = []
    for arrival, state in enumerate(uploads):
        proportions.observe(arrival, Teacher(4, state))
        seen.append(proportions.of(4))
    np.testing.assert_allclose(seen[0], [0.25, 0.75], atol=1e-7)
    np.testing.assert_allclose(seen[1], [0.375, 0.625], atol=1e-7)
    np.testing.assert_array_equal(seen[2], seen[1])


# --- limits ----------------------------------------------------------------------------------------------------------


def test_synchronous_round_is_the_mean_of_jobs_trained_alone():
    """O = B = K: version 1 = version 0 + eta * mean of the updates of K jobs, each trained by itself."""
    config = small("fedavg", federation__max_versions=1, server__lr=0.7)
    simulation = Simulation(config)
    start = simulation.server.state.clone()
    clients = simulation.timeline.client[:8]
    alone = [simulation.trainer.train([Job(number, int(c), start)])[0] for number, c in enumerate(clients)]
    record = simulation.run(progress=False)
    assert record.arrivals["staleness"].tolist() == [0] * 8
    expected = start + 0.7 * (torch.stack(alone) - start).mean(dim=0)
    parameters = simulation.layout.parameters
    torch.testing.assert_close(parameters(simulation.server.state), parameters(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("executor", ["single", "stacked", "stacked-4", "captured", "captured-4"])
def test_training_together_is_training_alone(executor):
    simulation = Simulation(small("fedbuff", data__augmentation={"crop_padding": 2, "flip": True, "rotation": 10.0}))
    simulation.trainer.executor = Executor.parse(executor)
    start = simulation.server.state
    before = start.clone()
    jobs = [Job(number, number % 14, start + 0.01 * number) for number in range(6)]
    together = simulation.trainer.train(jobs)
    again = simulation.trainer.train(jobs)  # what is recorded is checked the first time, and used from then on
    alone = [simulation.trainer.train([job])[0] for job in reversed(jobs)][::-1]
    torch.testing.assert_close(torch.stack(again), torch.stack(alone), rtol=0, atol=2e-5)
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), rtol=0, atol=2e-5)
    assert torch.equal(start, before)
    assert not torch.equal(together[0], together[1])


def test_jobs_of_one_client_see_different_batches():
    trainer, start = (simulation := Simulation(small("fedbuff"))).trainer, simulation.server.state
    first, again, other = trainer.train([Job(0, 5, start), Job(0, 5, start), Job(1, 5, start)])
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-4)


def test_a_client_clips_its_update_and_adds_noise():
    """Parameters and statistics end at the length; noise is the job's own, whatever it is trained with."""
    private = {"training__clip_norm": 0.5, "training__noise": 0.1}
    plain, clipped, noisy = (
        Simulation(small("fedbuff", **changes)).trainer for changes in ({}, {"training__clip_norm": 0.5}, private)
    )
    start, count = Simulation(small("fedbuff")).server.state, plain.layout.num_parameters
    jobs = [Job(number, number, start) for number in range(3)]
    before = [state - start for state in plain.train(jobs)]
    sent = [state - start for state in clipped.train(jobs)]
    for update, short in zip(before, sent, strict=True):
        for part in (slice(None, count), slice(count, None)):
            length = float(torch.linalg.vector_norm(update[part]))
            torch.testing.assert_close(short[part], update[part] * min(1, 0.5 / length), atol=1e-6, rtol=1e-4)
    assert float(torch.linalg.vector_norm(before[0][:count])) > 0.5
    together = torch.stack(noisy.train(jobs)) - start
    alone = torch.stack([noisy.train([job])[0] for job in jobs]) - start
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    noise = (together - torch.stack(sent))[:, :count]
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)  # 0.1 * 0.5
    assert float(torch.corrcoef(noise)[0, 1].abs()) < 0.05
    variances = [values for name, values in plain.layout.views(together + start).items() if name.endswith("var")]
    assert all((values >= 0).all() for values in variances)


def test_a_long_limit_changes_nothing_but_rounding():
    trainer = Simulation(small("fedbuff", training__clip_norm=1e6)).trainer
    start = Simulation(small("fedbuff")).server.state
    plain = Simulation(small("fedbuff")).trainer.train([Job(0, 0, start)])[0]
    torch.testing.assert_close(trainer.train([Job(0, 0, start)])[0], plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["afl-dw", "fedrevive", "dd-fedrevive"])
def test_beta_zero_is_the_plain_asynchronous_baseline_bit_for_bit(method):
    same = {"server__lr": 0.1, "federation__buffer_size": 1}
    baseline = quiet(small("fedbuff", **same))
    other = quiet(small(method, staleness__rule="constant", staleness__constant=0.0, **same))
    assert other.summary["state_sha256"] == baseline.summary["state_sha256"]


def test_revival_leaves_the_arrivals_untouched():
    columns = ["job", "client", "sim_time", "version", "staleness"]
    tables = [quiet(small(method)).arrivals[columns] for method in ("afl-dw", "fedrevive")]
    assert tables[0].equals(tables[1])


def test_equal_teachers_are_one_teacher():
    simulation = Simulation(small("fedrevive"))
    layout, state = simulation.layout, simulation.server.state
    teacher = state + 0.05
    samples = torch.rand(1, 2, 8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distiller = Distiller(
        layout, simulation.modality.prepare, DistillationConfig(steps=2, batch_size=8, lr=1e-3), CPU, guard=True
    )
    one = distiller.distil(state, [teacher], samples, torch.zeros(1, 2, 8, 4))
    three = distiller.distil(state, [teacher] * 3, samples.expand(3, -1, -1, -1, -1, -1), torch.zeros(3, 2, 8, 4))
    torch.testing.assert_close(three.losses, one.losses)
    torch.testing.assert_close(three.update, one.update, rtol=0, atol=1e-6)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    simulation = Simulation(small("fedrevive"))
    state = simulation.server.state
    distiller = Distiller(
        simulation.layout, simulation.modality.prepare, DistillationConfig(steps=1, weight_decay=0.0), CPU, guard=True
    )
    made = distiller.distil(state, [state], torch.rand(1, 1, 8, 1, 8, 8), torch.zeros(1, 1, 8, 4))
    assert made.losses.item() == pytest.approx(0, abs=1e-7)


def test_same_seed_same_bits_other_seed_other_bits():
    first, again = quiet(small("fedrevive")), quiet(small("fedrevive"))
    assert first.summary["state_sha256"] == again.summary["state_sha256"]
    assert first.arrivals.equals(again.arrivals)
    assert first.evaluations.drop(columns="class_accuracy").equals(again.evaluations.drop(columns="class_accuracy"))
    assert quiet(small("fedrevive", seed=1)).summary["state_sha256"] != first.summary["state_sha256"]


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = quiet(small("fedrevive"))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert quiet(small("fedrevive")).summary["state_sha256"] == first.summary["state_sha256"]


# --- what the server keeps out ---------------------------------------------------------------------------------------


def test_a_non_finite_upload_counts_but_changes_nothing():
    simulation = Simulation(small("fedrevive"))
    server = simulation.server
    before = server.state.clone()
    broken = server.state.clone()
    broken[3] = torch.nan
    receipt = server.receive(Upload(0, 5, server.state, broken))
    assert receipt.rejected == "client update not finite"
    assert len(simulation.reviver.buffer) == 0
    assert server.version == 1
    assert torch.equal(simulation.layout.parameters(server.state), simulation.layout.parameters(before))


def test_a_non_finite_distilled_update_is_dropped_and_counted():
    simulation = Simulation(small("fedrevive", revival__warmup=None))
    server, reviver = simulation.server, simulation.reviver
    reviver.pool.add(torch.full((4, 1, 8, 8), torch.nan), np.arange(4))
    reviver.distiller.guard.enabled = False
    update = torch.full_like(server.state, 1e-3)
    before = server.state.clone()
    receipt = server.receive(Upload(0, 75, server.state, server.state + update))
    assert receipt.rejected == "distilled update not finite"
    expected = before + simulation.config.server.lr * update
    parameters = simulation.layout.parameters
    torch.testing.assert_close(parameters(server.state), parameters(expected))


@pytest.mark.parametrize("scale", [1e12, 1e25])
def test_synthesis_survives_exploding_teachers(scale):
    """Terms that overflow are left out; nothing non-finite enters generator, pool or model."""
    simulation = Simulation(small("fedrevive", revival__warmup=None, synthesis__every=1))
    server = simulation.server
    for client in range(4):
        wild = server.state * scale
        wild[-simulation.layout.size + simulation.layout.num_parameters :] = 1.0
        server.receive(Upload(client, 75, wild - 1.0, wild))
        assert server.state.isfinite().all()
    assert simulation.reviver.pool.samples.isfinite().all()
    assert all(p.isfinite().all() for p in simulation.reviver.synthesizer.generator.parameters())
    assert all(teacher.state.isfinite().all() for teacher in simulation.reviver.buffer)


def test_inputs_of_an_arrival_are_not_modified():
    simulation = Simulation(small("fedrevive", revival__warmup=None, synthesis__every=1))
    server = simulation.server
    downloaded, returned = server.state.clone(), server.state + 0.01
    copies = downloaded.clone(), returned.clone()
    state, kept = server.state, server.state.clone()
    for _ in range(3):
        assert server.receive(Upload(0, 75, downloaded, returned)).pool_size > 0
    assert torch.equal(downloaded, copies[0])
    assert torch.equal(returned, copies[1])
    assert torch.equal(state, kept)
    assert all(torch.equal(teacher.state, copies[1]) for teacher in simulation.reviver.buffer)


def test_before_distillation_the_update_is_whole_or_blended_with_zero():
    """Version 0 <= warmup. beta(75) = 0.5: 'client' keeps the update, 'zero' halves it."""
    norms = {}
    for choice in ("client", "zero"):
        simulation = Simulation(small("fedrevive", revival__before_distillation=choice))
        server = simulation.server
        before = server.state
        server.receive(Upload(0, 75, before, before + 0.01))
        norms[choice] = float(simulation.layout.parameters(server.state - before).norm())
    assert norms["zero"] == pytest.approx(norms["client"] / 2, rel=1e-4)


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records():
    at_once = {"dd-fedrevive": {"revival__warmup": None}}  # as in its composition; SMALL sets another
    return {method: quiet(small(method, federation__max_versions=6, **at_once.get(method, {}))) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_records_the_same_tables(records, method):
    record, reference = records[method], records["fedbuff"]
    for name in ("evaluations", "arrivals", "timings"):
        assert list(getattr(record, name).columns) == list(getattr(reference, name).columns)
    assert record.summary.keys() == reference.summary.keys()
    assert record.summary["num_versions"] == 6
    assert record.evaluations["version"].iloc[-1] == 6
    assert record.evaluations["accuracy"].between(0, 1).all()
    assert set(METRICS) <= set(record.arrivals.columns)
    assert (record.arrivals["client_norm"] > 0).all()


def test_revived_arrivals_are_told_apart(records):
    arrivals = records["fedrevive"].arrivals
    revived = arrivals[arrivals["revived"]]
    assert len(revived) > 0
    assert (revived["version"] > 3).all()
    assert revived[["distilled_norm", "cosine", "distillation_loss"]].notna().all().all()
    assert arrivals.loc[~arrivals["revived"], "distilled_norm"].isna().all()
    assert records["dd-fedrevive"].arrivals["revived"].all()


@pytest.mark.parametrize("method", ["afl-dw", "fedrevive", "fedasync-poly"])
def test_beta_is_that_of_the_staleness_in_the_same_row(records, method):
    record = records[method]
    expected = [beta(tau, record.config.staleness, record.config.federation) for tau in record.arrivals["staleness"]]
    assert record.arrivals["beta"].tolist() == expected
    assert max(expected) > 0


def test_samples_over_time_are_kept(records):
    samples = records["fedrevive"].samples
    assert samples["images"].dtype == np.uint8
    assert samples["images"].shape[1:] == (32, 1, 8, 8)
    assert samples["version"][-1] == 6
    assert samples["labels"].max() <= 9


def test_snapshots_are_freed():
    simulation = Simulation(small("fedbuff", federation__max_versions=30))
    for number in range(len(simulation.timeline.arrivals)):
        simulation.process(number)
        assert len(simulation.snapshots) <= 8 + 1
    assert len(simulation.snapshots) == 0
    assert not simulation.returned


def test_target_accuracy_stops_a_run():
    record = quiet(small("fedbuff", evaluation__target_accuracy=0.01, evaluation__every=2))
    assert record.summary["num_versions"] == 2
    assert record.summary["sim_time"] == record.evaluations["sim_time"].iloc[-1]


def test_validation_split_is_another_measurement():
    test, validation = quiet(small("fedbuff")), quiet(small("fedbuff", evaluation__split="validation"))
    assert test.summary["state_sha256"] == validation.summary["state_sha256"]
    assert test.summary["last_accuracy"] != validation.summary["last_accuracy"]


def test_learning_happens():
    """From chance (0.1) to well above it in 100 versions of the easy, IID case."""
    record = quiet(
        small("fedbuff", data__split="iid", federation__max_versions=100, training__steps=15, server__lr=0.2)
    )
    assert record.evaluations["accuracy"].iloc[0] < 0.3
    assert record.summary["last_accuracy"] > 0.7


# --- a user's own model ----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """No probes at all, and a BatchNorm that has an integer buffer."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, num_classes)
        )

    def forward(self, x):
        return self.net(x)


def test_a_model_without_probes_has_no_feature_loss():
    record = quiet(small("fedrevive"), model=Plain())
    assert record.summary["model"] == "Plain"
    assert record.arrivals["feature_loss"].dropna().eq(0).all()
    assert record.arrivals["label_loss"].dropna().gt(0).all()
    assert record.arrivals["revived"].any()


def test_probes_of_an_own_model_are_found_by_type():
    class Own(Plain):
        def __init__(self):
            super().__init__()
            self.net.insert(2, StatisticProbe(20))

    record = quiet(small("fedrevive"), model=Own())
    assert record.arrivals["feature_loss"].dropna().gt(0).all()


def test_a_model_with_the_wrong_number_of_outputs_is_refused():
    with pytest.raises(ConfigError, match=r"model returns shape \(2, 7\) for 2 images, not \(2, 10\)"):
        run(small("fedbuff"), model=Plain(num_classes=7))


def test_the_users_model_is_not_modified():
    model = Plain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quiet(small("fedbuff", federation__max_versions=2), model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- bad input -------------------------------------------------------------------------------------------------------


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device = 'cuda' but PyTorch sees no CUDA GPU"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"


def test_images_too_small_for_the_model():
    with pytest.raises(
        ConfigError, match="model = 'convnet' does not take images of side 8: the side must be at least 12"
    ):
        run(small("fedbuff", model="convnet"))


def test_mean_of_the_wrong_length():
    with pytest.raises(ConfigError, match=r"data\.mean = .* must hold 1 value or 1"):
        run(small("fedbuff", data__mean=[0.1, 0.2, 0.3]))


@pytest.mark.usefixtures("one_thread")
def test_offloaded_states_change_nothing(tmp_path):
    """The same bits, in one go and resumed, whether states wait on the device or in copies on the host."""
    plain, offloaded = small("fedrevive"), small("fedrevive", offload=True)
    expected = compared(run(plain, progress=False))
    assert compared(run(offloaded, progress=False)) == expected

    simulation = run_until(Simulation(offloaded), 8)
    for waiting in (simulation.snapshots, simulation.returned):
        assert len(waiting) > 0
        assert {state.device.type for state in waiting.values()} == {"cpu"}
    version = simulation.server.version
    assert simulation.snapshots[version].data_ptr() != simulation.server.state.data_ptr()
    assert torch.equal(simulation.snapshots[version], simulation.server.state)
    checkpoint.write(simulation, tmp_path)
    again, branch = Simulation(offloaded), simulation.branched(plain)
    assert checkpoint.restore(again, tmp_path)
    assert compared(again.run(progress=False))[1] == expected[1]
    branch.run(progress=False)
    assert torch.equal(branch.server.state, again.server.state)


def test_mixing_models_cannot_be_revived():
    with pytest.raises(ConfigError, match="update_from = 'current' mixes models"):
        small("fedrevive", server__update_from="current")


# --- GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("executor", ["auto", "single", "stacked-4", "streams-2", "captured", "captured-4"])
@pytest.mark.parametrize("preset", preset_names())
def test_gpu_follows_the_cpu(preset, executor):
    """Same draws on both devices; states drift apart by rounding alone over a few versions."""
    (start, there), (_, here) = ends(preset, "fedrevive", "cpu"), ends(preset, "fedrevive", "cuda", executor)
    assert torch.linalg.vector_norm(here - there) <= AGREEMENT * torch.linalg.vector_norm(there - start)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_recorded_steps_repeat():
    assert recordings_repeat(torch.device("cuda"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_offloaded_states_are_pinned():
    assert offloaded_states_are_pinned(torch.device("cuda"))


def test_labnet_is_what_the_presets_say():
    assert sum(p.numel() for p in LabNet(1, 8, 10).parameters()) == 16 * 10 + 32 * (16 * 9 + 1) + 64 * 129 + 650
    assert Preparation(small("fedbuff").data, CPU).active is False
