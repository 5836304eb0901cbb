"""A message as bytes. Nothing of ours is imported here, because a process that only passes it on needs no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

WORDS_LIMIT = 2**16  # bytes of the JSON of a message


def pack(words: Mapping[str, Any], state: bytes = b"") -> bytes:
    """A message of some `words` and a state."""
    return json.dumps(words).encode() + b"\n" + state


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The words and the state of a message. Raises ValueError for what is none."""
    line, _, state = message.partition(b"\n")
    if len(line) > WORDS_LIMIT:
        raise ValueError(f"the words of a message take {len(line):,} bytes, and at most {WORDS_LIMIT:,} are read")
    try:
        words = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("a message is no JSON") from None
    if not isinstance(words, dict):
        raise ValueError("a message is no JSON object")
    return words, state
