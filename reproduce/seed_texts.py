"""Seed texts for synthesis, written by a language model: `fedrevive seed-texts --help`.

The authors let a small language model write 2,000 texts for every class; `synthesis.seeds=FILE.jsonl` starts from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedrevive_core.config import PRESETS, TEXT_DATA, build, choices
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file, check_file, writing
from reproduce.console import hint

PROMPT = "The following is a short text about {}.\n\n"
NAMES = {"sci": "science", "rec": "recreation", "comp": "computers", "soc": "society", "misc": "", "alt": ""}
TEXT_PRESETS = [name for name, preset in PRESETS.items() if preset.base["data"]["name"] in TEXT_DATA]


def spoken(class_name: str) -> str:
    """A class name as words: 'sci.med' -> 'science med'."""
    parts = class_name.replace("_", " ").replace("-", " ").split(".")
    return " ".join(NAMES.get(part, part) for part in parts).strip()


def class_names(preset: str) -> list[str]:
    """Names of the classes in the data set of `preset`. Raises ConfigError for one without texts."""
    import torch

    from fedrevive_core.data import load_federated

    if preset not in TEXT_PRESETS:
        raise ConfigError(f"preset = '{preset}' is unknown or has no texts: {choices(preset, TEXT_PRESETS)}")
    config = build(preset, "fedrevive", overrides={"data.tokenizer": "words", "model": "labtext"})
    return list(load_federated(config.data, config.federation.num_clients, torch.device("cpu")).class_names)


def check_new(out: Path) -> None:
    """Raise ConfigError, before any work, if `out` exists or cannot be written."""
    if out.exists():
        raise ConfigError(f"--out {out} exists: choose another file, or remove this one first")
    check_file(out)


def write_seeds(model: str, class_names: list[str], per_class: int, out: Path, *, seed: int = 0) -> None:
    """Let the causal language model `model` (name or folder, `transformers`) write `per_class` texts of each class.

    `out` gets a line of JSON per text. Raises ConfigError if the model is not available.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        writer = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {model} is not available: {str(error).splitlines()[0]}") from None
    lines = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name in class_names:
            prompt = tokenizer(PROMPT.format(spoken(name)), return_tensors="pt")
            prompt_length = prompt["input_ids"].shape[1]
            written = 0
            while written < per_class:
                tokens = writer.generate(
                    **prompt, do_sample=True, max_new_tokens=128, num_return_sequences=min(16, per_class - written),
                    pad_token_id=tokenizer.eos_token_id or 0,
                )  # fmt: skip
                texts = tokenizer.batch_decode(tokens[:, prompt_length:], skip_special_tokens=True)
                texts = [text.strip() for text in texts if text.strip()]
                if not texts:
                    raise ConfigError(f"--model {model} writes nothing about '{spoken(name)}': choose another")
                lines += [json.dumps({"text": text, "label": name}) for text in texts]
                written += len(texts)
    with writing(out), atomic_file(out) as work:
        work.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from reproduce.cli.app import main

    hint("`fedrevive seed-texts` replaces `python -m reproduce.seed_texts`, which works in this release only")
    sys.argv.insert(1, "seed-texts")
    main()
