"""Our messages as Flower's, and back. A message is one array of bytes, which Flower sends in pieces."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, RecordDict

NAME, KIND = "message", "fedrevive.message"


def to_record(message: bytes) -> RecordDict:
    """The content of a Flower message."""
    return RecordDict({NAME: ArrayRecord({NAME: Array("uint8", (len(message),), KIND, message)})})


def from_record(content: RecordDict, limit: int) -> bytes:
    """The bytes in the content of a Flower message. Raises ValueError if there are none, or more than `limit`."""
    record = content.get(NAME)
    array = record.get(NAME) if isinstance(record, ArrayRecord) else None
    if array is None or array.stype != KIND:
        raise ValueError("it sent a message of another program")
    if len(array.data) > limit:
        raise ValueError(f"it sent a message of {len(array.data):,} bytes, and at most {limit:,} are read")
    return array.data
