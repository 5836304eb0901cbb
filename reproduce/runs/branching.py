"""What if: a run goes on from one of its checkpoints under other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrevive_core.config import RunConfig, build, flatten

METHOD_SECTIONS = ("server", "staleness", "revival", "synthesis", "distillation")


def changed(config: RunConfig, method: str | None, settings: Mapping[str, Any]) -> RunConfig:
    """`config` with `settings`, and as another `method` if one is named.

    What the run had changed in its preset stays changed, except for what makes the method.
    """
    # One level, so that a schedule stays whole.
    usual = flatten(build(config.preset, config.method, seed=config.seed).to_dict(), max_level=1)
    kept = {name: value for name, value in flatten(config.to_dict(), max_level=1).items() if value != usual[name]}
    if method is not None:
        kept = {name: value for name, value in kept.items() if name.split(".")[0] not in METHOD_SECTIONS}
    return build(config.preset, method or config.method, seed=config.seed, overrides={**kept, **settings})
