"""What made a run, as far as its bits depend on it: the core's source, versions, number of threads, kind of device."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrevive_core.records.provenance import provenance

CORE = Path(__file__).parents[1]
# What shows results, or turns names into a configuration, does not determine them.
BESIDE = ("plots/*", "widgets/*", "config/preset*", "config/methods.py", "*/synthesis_trace.py")
DETERMINING = ("torch", "numpy")  # packages on whose version bits may depend

OTHER_CODE = (
    "take the same ones, begin again in another directory, or add --allow-other-code (in Python: "
    "allow_other_code=True): the bits may then be others, and the record lists what made each part"
)


@functools.cache
def code_hash() -> str:
    """SHA-256 of the core's source code, without what is BESIDE a run."""
    digest = hashlib.sha256()
    for path in sorted(CORE.rglob("*.py")):
        if any(path.relative_to(CORE).match(pattern) for pattern in BESIDE):
            continue
        digest.update(f"{path.relative_to(CORE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def software() -> dict[str, Any]:
    """The hash of the code, and the versions on which bits may depend."""
    return {"code": code_hash(), "versions": {name: importlib.metadata.version(name) for name in DETERMINING}}


def made_by(device: str, num_threads: int) -> dict[str, Any]:
    """`provenance`, and the hash of the code."""
    return {"code": code_hash(), **_provenance(device, num_threads)}


_provenance = functools.cache(provenance)  # a checkpoint names it too, and it does not change while a process lives


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what that may change bits two results of `made_by`, or of `software`, differ, in words.

    On a GPU the same bits are not promised, so its kind and the number of threads do not count there.
    """
    one, other = _determining(then), _determining(now)
    if "code" not in then:
        return [f"code unknown then, {other['code']} here"]
    return [f"{name} {one.get(name, 'unknown')} then, {value} here" for name, value in other.items()
            if one.get(name) != value]  # fmt: skip


def _determining(made: Mapping[str, Any]) -> dict[str, str]:
    versions = made.get("versions") or {}
    found = {"code": str(made.get("code"))[:12], **{name: str(versions.get(name, "unknown")) for name in DETERMINING}}
    if "device" in made:
        found["device"] = "cpu" if made["device"] == "cpu" else "cuda"
        if found["device"] == "cpu":
            found["number of threads"] = str(made.get("num_threads"))
    return found
