"""Small builders that several test files share."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer

from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.presets import build
from fedrevive_core.config.run import RunConfig
from fedrevive_core.data import load_federated
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.build import build_client
from fedrevive_core.simulation.simulation import Simulation
from fedrevive_core.training import Job
from reproduce.live.messages import Event, from_bytes, to_bytes


def constant(duration: float) -> dict[str, Any]:
    """A delay that never varies."""
    return {"kind": "constant", "means": [duration], "odds": [1.0]}


def steady(training: float, download: float = 0.0, upload: float = 0.0) -> dict[str, Any]:
    """A schedule in which every job of every client lasts equally long."""
    return {"training": constant(training), "download": constant(download), "upload": constant(upload)}


def federation(num_clients: int, concurrency: int, **settings: Any) -> FederationConfig:
    """A federation on the default schedule; `settings` as in FederationConfig."""
    values = {"num_clients": num_clients, "concurrency": concurrency, "schedule": "default", **settings}
    return FederationConfig.model_validate(values)


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter; a failure shows what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# A run of every part of the pipeline in a fraction of a second, whatever the method.
SMALL: dict[str, Any] = {
    "federation.num_clients": 14,
    "federation.concurrency": 8,
    "federation.max_sim_time": None,
    "federation.max_versions": 16,
    "training.steps": 3,
    "revival.warmup": 3,
    "synthesis.every": 2,
    "synthesis.noise_dim": 8,
    "synthesis.width": 4,
    "distillation.steps": 2,
    "distillation.batch_size": 8,
    "num_threads": 1,
}


def commands_of(app: typer.Typer) -> dict[str, Any]:
    """The parsers of all commands by name, those of groups by both words, such as 'classroom release'."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        parts = getattr(command, "commands", None)
        found |= {name: command} if parts is None else {f"{name} {part}": parser for part, parser in parts.items()}
    return found


def small(method: str, **overrides: Any) -> RunConfig:
    """SMALL on lab-digits, with `overrides` such as server__lr=0.1."""
    return build("lab-digits", method, overrides=SMALL | {k.replace("__", "."): v for k, v in overrides.items()})


def compared(record: Record) -> tuple:
    """All of a record that must not depend on interruptions."""
    evaluations = record.evaluations.assign(class_accuracy=record.evaluations["class_accuracy"].map(tuple))
    samples = {name: array.tobytes() for name, array in record.samples.items()}
    return record.summary, evaluations.to_dict("list"), record.arrivals.to_json(double_precision=15), samples


def run_until(simulation: Simulation, stop: int) -> Simulation:
    for _ in simulation.steps():
        if simulation.num_processed == stop:
            return simulation
    raise AssertionError(f"the run is over before {stop} arrivals")


def resident() -> int:
    """Bytes of memory that this process holds at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Here:
    """In place of the processes of a live run: clients in this one, which answer in an order drawn at random.

    upload: what client c makes of the bytes of its result for job n. gone: (client, answers before it is gone).
    """

    def __init__(
        self,
        config: RunConfig,
        seed: int = 0,
        upload: Callable[[int, int, bytes], bytes | None] | None = None,
        gone: tuple[tuple[int, int], ...] = (),
    ) -> None:
        data = load_federated(config.data, config.federation.num_clients, torch.device("cpu"))
        self.trainer = build_client(config, data)[2]
        self.rng, self.upload, self.gone = np.random.default_rng(seed), upload, dict(gone)
        self.jobs: dict[int, tuple[int, bytes]] = {}
        self.waiting = [Event(client, "joined") for client in range(config.federation.num_clients)]
        self.given_up: list[int] = []
        self.answers = self.most_at_work = 0

    def send(self, client: int, job: int, state: bytes) -> None:
        assert client not in self.jobs
        self.jobs[client] = (job, state)
        self.most_at_work = max(self.most_at_work, len(self.jobs))

    def wait(self, seconds: float) -> list[Event]:
        if self.waiting:
            events, self.waiting = self.waiting, []
            return events
        client = int(self.rng.choice(sorted(self.jobs)))
        job, state = self.jobs.pop(client)
        self.answers += 1
        if self.gone.get(client, math.inf) <= self.answers:
            del self.gone[client]
            self.waiting = [Event(client, "joined")]
            return [Event(client, "gone", why="its process has ended")]
        start = torch.from_numpy(from_bytes(state))
        answer: bytes | None = to_bytes(self.trainer.train([Job(job, client, start)])[0].numpy())
        answer = answer if self.upload is None else self.upload(client, job, answer)
        return [] if answer is None else [Event(client, "result", answer)]

    def drop(self, client: int, why: str) -> None:
        self.jobs.pop(client, None)
        self.waiting += [Event(client, "gone", why=why), Event(client, "joined")]

    def close(self) -> None:
        pass


# The same for texts, on the docstrings that `tiny_texts` puts in their place.
SMALL_TEXT: dict[str, Any] = {
    **{name: value for name, value in SMALL.items() if name not in ("synthesis.noise_dim", "synthesis.width")},
    "data.samples_per_client": 12,
    "data.max_tokens": 8,
    "training.batch_size": 8,
    "synthesis.tokens": 8,
    "synthesis.min_tokens": 4,
    "synthesis.batch_size": 8,
}


def small_text(method: str, **overrides: Any) -> RunConfig:
    """SMALL_TEXT on lab-text, with `overrides` such as server__lr=0.1."""
    return build("lab-text", method, overrides=SMALL_TEXT | {k.replace("__", "."): v for k, v in overrides.items()})


def tiny_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the docstrings: 120 texts of three classes, of ten words each class has of its own."""
    from fedrevive_core.data import federated as data
    from fedrevive_core.data.samples import LabelledTexts, TextData

    rng = np.random.default_rng(0)
    words = [[f"{name}{'abcdefghij'[n]}" for n in range(10)] for name in ("axis", "frame", "tensor")]
    texts = [" ".join(rng.choice(words[n % 3], size=6)) for n in range(120)]
    made = TextData(LabelledTexts(texts, np.arange(120) % 3), None, ("axis", "frame", "tensor"))
    monkeypatch.setattr(data, "load_docstrings", lambda: made)


def tiny_encoder(path: Path, kind: str) -> str:
    """A folder with an encoder of three small layers: config, safetensors with random weights, tokenizer.json."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if kind == "bert" else ["<pad>", "</s>", "<unk>", "<extra>"]
    words = [*special, "same", "alpha", "beta", *(f"word{n}" for n in range(33))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=special[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": special[0], "unk_token": special[1]} | ({"cls_token": special[2]} if kind == "bert" else {})
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "bert":
            config = transformers.BertConfig(
                vocab_size=len(words), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
            )
            transformers.BertModel(config).save_pretrained(path)
        else:
            config = transformers.T5Config(
                vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2
            )
            transformers.T5EncoderModel(config).save_pretrained(path)
    return str(path)


FEW = {"federation.num_clients": 12, "federation.concurrency": 6}
NO_SAMPLES = {
    "version": np.zeros(0, dtype=np.int64),
    "images": np.zeros((0, 4, 1, 8, 8), dtype=np.uint8),
    "labels": np.zeros((0, 4), dtype=np.int64),
}


def record_of(
    method: str = "fedrevive",
    seed: int = 0,
    accuracy: tuple[float, ...] = (0.1, 0.5, 0.8),
    sim_time: tuple[float, ...] = (0.0, 1.0, 2.0),
    staleness: tuple[int, ...] = (0, 1, 2, 9),
    samples: dict[str, np.ndarray] | None = None,
    config: RunConfig | None = None,
) -> Record:
    """A record made by hand; its run ends at simulated time 3."""
    evaluations = pd.DataFrame({"sim_time": sim_time, "accuracy": accuracy})
    evaluations["version"] = evaluations["num_arrivals"] = np.arange(len(sim_time)) * 10
    return Record(
        config=config or build("lab-digits", method, seed=seed, overrides=FEW),
        summary={"final_accuracy": accuracy[-1], "sim_time": 3.0},
        provenance={},
        evaluations=evaluations,
        arrivals=pd.DataFrame({"staleness": staleness}),
        timings=pd.DataFrame({"part": [], "seconds": [], "calls": []}),
        samples=samples or NO_SAMPLES,
        model={},
    )


def leave_what_uv_leaves(*command: str | Path) -> None:
    """In place of uv: what the next command needs is there afterwards."""
    words = [str(word) for word in command]
    if words[:2] == ["uv", "build"]:
        for ending in ("-py3-none-any.whl", ".tar.gz"):
            folder = Path(words[words.index("--out-dir") + 1])
            folder.mkdir(exist_ok=True)
            Path(folder, f"fedrevive-0.1.0{ending}").write_bytes(b"built")
    elif words[:3] == ["uv", "pip", "compile"]:
        wheel = "/somewhere/fedrevive-0.1.0-py3-none-any.whl[notebooks]"
        Path(words[3]).write_text(f"numpy==2.4.6\n{wheel}\ntorch==2.9\n")
