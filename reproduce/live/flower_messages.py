"""Our messages as Flower's, and back. A message is one array of bytes, which Flower sends in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from reproduce.live.nodes import SERVER, Reply

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


class FlowerGrid:
    """Flower's grid as ours; see `Grid`."""

    def __init__(self, grid: Any) -> None:
        self.grid = grid

    def nodes(self) -> set[int]:
        """See `Grid`."""
        return set(self.grid.get_node_ids())

    def push(self, node: int, message: bytes, seconds: float) -> str:
        """See `Grid`."""
        ids = list(self.grid.push_messages([Message(to_record(message), node, "train", ttl=seconds)]))
        return ids[0] or "" if ids else ""

    def pull(self, ids: Sequence[str], limit: int) -> list[Reply]:
        """See `Grid`."""
        return [_reply(message, limit) for message in self.grid.pull_messages(list(ids))]


def _reply(message: Message, limit: int) -> Reply:
    answers, sender = message.metadata.reply_to_message_id, message.metadata.src_node_id
    node = SERVER if sender == SUPERLINK_NODE_ID else sender
    if message.has_error():
        return Reply(answers, node, error=f"Flower says: {message.error.reason or message.error.code}")
    try:
        return Reply(answers, node, from_record(message.content, limit))
    except ValueError as error:
        return Reply(answers, node, error=str(error))
