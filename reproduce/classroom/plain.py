"""Plain data between a student's process and ours, as JSON: numbers, texts, lists, arrays, tensors, nothing else.

What arrives is never unpickled: it is built from numbers here, so it can carry no code and compares as numbers do.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np

BYTES, LETTERS, DEPTH = 8_000_000, 20_000, 6  # of a message; of a text in it; of lists in lists


class NotPlain(Exception):
    """A value is no plain data; the message names its type."""


def dumps(value: Any) -> bytes:
    """`value` as bytes. Raises NotPlain."""
    raw = json.dumps(_encoded(value, 0)).encode()
    if len(raw) > BYTES // 2:
        raise NotPlain(f"{type(value).__name__} of {len(raw):,} bytes")
    return raw


def loads(raw: bytes) -> Any:
    """The value of `raw`, which may be of anyone. Raises NotPlain for what `dumps` does not write."""
    try:
        return _decoded(json.loads(raw), 0)
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise NotPlain(f"a damaged message ({type(error).__name__})") from None


def _encoded(value: Any, depth: int) -> Any:
    torch = sys.modules.get("torch")
    if value is None or value is ...:
        return None
    if type(value) is bool or (type(value) is int and abs(value) < 2**63) or type(value) is float:
        return value
    if isinstance(value, str) and len(value) <= LETTERS:
        return str.__str__(value).encode(errors="replace").decode()
    if type(value) in (list, tuple) and depth < DEPTH:
        return {type(value).__name__: [_encoded(one, depth + 1) for one in value]}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"scalar": value.dtype.str, "data": _text(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        array = np.asarray(value)
        return {"array": array.dtype.str, "shape": list(array.shape), "data": _text(array)}
    if torch and isinstance(value, torch.Tensor):
        if value.dtype in (torch.bfloat16,) or value.is_complex() or value.layout is not torch.strided:
            raise NotPlain(f"tensor of {value.dtype}")
        return {"tensor": _encoded(value.detach().cpu().numpy(), depth)}
    if type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "to_numpy"):
        return _encoded(np.asarray(value.to_numpy()), depth + 1)
    raise NotPlain(type(value).__name__[:80])


def _text(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _decoded(value: Any, depth: int) -> Any:
    if depth > 2 * DEPTH:
        raise ValueError("too deep")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:LETTERS]
    if isinstance(value, dict):
        for kind in (list, tuple):
            if kind.__name__ in value:
                return kind(_decoded(one, depth + 1) for one in value[kind.__name__])
        if "tensor" in value:
            import torch

            return torch.from_numpy(np.array(_decoded(value["tensor"], depth + 1)))
        return _array(value)
    raise TypeError(type(value).__name__)


def _array(value: dict[str, Any]) -> Any:
    dtype = np.dtype(str(value.get("scalar") or value["array"]))
    if dtype.kind not in "biuf":
        raise ValueError("no numbers")
    flat = np.frombuffer(base64.b64decode(value["data"], validate=True), dtype)
    return flat[0] if "scalar" in value else flat.reshape([int(size) for size in value["shape"]]).copy()
