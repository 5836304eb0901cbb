"""Seed texts for synthesis, written by a language model that you have: `python -m reproduce.seed_texts --help`.

The authors let a small language model write 2,000 texts for every class; `synthesis.seeds=FILE.jsonl` begins with them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import torch
import typer

from fedrevive_core.errors import ConfigError

PROMPT = "The following is a short text about {}.\n\n"
NAMES = {"sci": "science", "rec": "recreation", "comp": "computers", "soc": "society", "misc": "", "alt": ""}


def spoken(class_name: str) -> str:
    """A class name as words: 'sci.med' -> 'science med'."""
    parts = class_name.replace("_", " ").replace("-", " ").split(".")
    return " ".join(NAMES.get(part, part) for part in parts).strip()


def write_seeds(model: str, class_names: list[str], per_class: int, out: Path, *, seed: int = 0) -> None:
    """Let the causal language model `model` (name or folder, `transformers`) write `out`, a line per text.

    Raises ConfigError if the model is not to be had or `out` exists.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if out.exists():
        raise ConfigError(f"--out {out} exists: choose another file, or remove this one first")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        writer = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {model} is not to be had: {str(error).splitlines()[0]}") from None
    lines = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name in class_names:
            prompt = tokenizer(PROMPT.format(spoken(name)), return_tensors="pt")
            begun = prompt["input_ids"].shape[1]
            written = 0
            while written < per_class:
                made = writer.generate(
                    **prompt, do_sample=True, max_new_tokens=128, num_return_sequences=min(16, per_class - written),
                    pad_token_id=tokenizer.eos_token_id or 0,
                )  # fmt: skip
                texts = [text.strip() for text in tokenizer.batch_decode(made[:, begun:], skip_special_tokens=True)]
                if not any(texts):
                    raise ConfigError(f"--model {model} writes nothing about '{spoken(name)}': choose another")
                lines += [json.dumps({"text": text, "label": name}) for text in texts if text]
                written += sum(map(bool, texts))
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.part")
    work.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(work, out)


def main(
    model: Annotated[str, typer.Option(help="Causal language model: a name on the Hub, or a folder.")],
    out: Annotated[Path, typer.Option(help="New .jsonl file.")],
    preset: Annotated[str, typer.Option(help="Data set whose classes are wanted.")] = "newsgroups",
    per_class: Annotated[int, typer.Option(min=1, help="Texts of each class.")] = 2000,
) -> None:
    """Write seed texts. Example: `python -m reproduce.seed_texts --model FOLDER --out seeds.jsonl`."""
    from fedrevive_core.config import build
    from fedrevive_core.data import load_federated

    config = build(preset, "fedrevive", overrides={"data.tokenizer": "words", "model": "labtext"})
    names = load_federated(config.data, config.federation.num_clients, torch.device("cpu")).class_names
    write_seeds(model, list(names), per_class, out)


if __name__ == "__main__":
    try:
        typer.run(main)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
