"""What if: a run goes on from one of its checkpoints under other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrevive_core.config import RunConfig, build

METHOD_SECTIONS = ("server", "staleness", "revival", "synthesis", "distillation")


def changed(config: RunConfig, method: str | None, settings: Mapping[str, Any]) -> RunConfig:
    """`config` with `settings`, and as another `method` if one is named.

    What the run had changed in its preset stays changed, except for what makes the method.
    """
    usual = _settings(build(config.preset, config.method, seed=config.seed))
    kept = {name: value for name, value in _settings(config).items() if value != usual[name]}
    if method is not None:
        kept = {name: value for name, value in kept.items() if name.split(".")[0] not in METHOD_SECTIONS}
    return build(config.preset, method or config.method, seed=config.seed, overrides={**kept, **settings})


def _settings(config: RunConfig) -> dict[str, Any]:
    """Values by name, as in 'seed' and 'server.lr'."""
    found: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        found |= (
            {f"{name}.{field}": inner for field, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return found
