"""YAML of which JSON could be made: text, numbers, true, false, null, lists, and mappings whose keys are text.

YAML itself reads `no` as false, `010` as 8, `1:30` as 90, 2024-01-01 as a date and `1e-3` as text; of two equal keys it
takes the last; and a file of a kilobyte can ask for gigabytes. Here these are errors, but `1e-3`, which is a number.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fedrevive_core.errors import ConfigError

LIMIT = 2**20  # bytes of a file
MOST_VALUES = 50_000
DEEPEST = 20
INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
WORDS = {"true": True, "false": False, "null": None, "~": None}
PLAIN = "write a plain number, true, false or null, or put it in quotes"


def read(path: Path) -> Any:
    """The value in the file at `path`. Raises ConfigError if it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"'{path}' is not a file")
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise ConfigError(f"'{path}' is larger than {LIMIT:,} bytes, the most that is read")
        return load(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"'{path}', {error}") from None


def load(text: str) -> Any:
    """The value in `text`. Raises ValueError that names the line, yaml.YAMLError if it is no YAML."""
    return _Reader(text).document()


def dump(value: Any) -> str:
    """`value` as YAML that `load` reads as the same."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True)


class _Writer(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.Node:
        """In quotes if `load` would not take it for text."""
        try:
            plain = value == load(value)
        except (ValueError, yaml.YAMLError):
            plain = False
        return self.represent_scalar(_TEXT, value, style=None if plain else '"')


_Writer.add_representer(str, _Writer.text)


class _Reader:
    """Makes values of the events of PyYAML's parser, which needs no recursion and makes no objects by itself."""

    def __init__(self, text: str) -> None:
        self.resolver = yaml.SafeLoader("")  # says what YAML takes a plain word for
        self.events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.anchors: dict[str, tuple[Any, int, int]] = {}  # value, how many values it holds, how deep it is
        self.count = self.deepest = 0

    def document(self) -> Any:
        kinds = (yaml.StreamStartEvent, yaml.DocumentStartEvent)
        start = next(event for event in self.events if not isinstance(event, kinds))
        if isinstance(start, yaml.StreamEndEvent):
            raise ValueError("it is empty")
        value = self.value(start, 0)
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise ValueError(f"{_line(event)}: a second document begins; a file holds one")
        return value

    def value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise ValueError(f"{_line(event)}: *{event.anchor} is not defined before")
            value, size, height = self.anchors[event.anchor]
            self.add(event, size, depth + height)
            return copy.deepcopy(value)
        if event.tag is not None:
            raise ValueError(f"{_line(event)}: tags such as {event.tag} are not allowed")
        count, deepest, self.deepest = self.count, self.deepest, depth
        self.add(event, 1, depth)
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self.value(item, depth + 1) for item in self.until(yaml.SequenceEndEvent)]
        else:
            value = self.mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.count - count, self.deepest - depth
        self.deepest = max(self.deepest, deepest)
        return value

    def add(self, event: Any, size: int, depth: int) -> None:
        self.count, self.deepest = self.count + size, max(self.deepest, depth)
        if depth > DEEPEST:
            raise ValueError(f"{_line(event)}: nested more than {DEEPEST} deep")
        if self.count > MOST_VALUES:
            raise ValueError(f"{_line(event)}: more than {MOST_VALUES:,} values, counting each use of an anchor")

    def until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def mapping(self, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for event in self.until(yaml.MappingEndEvent):
            key = self.key(event)
            if key in lines:
                raise ValueError(f"{_line(event)}: '{key}' is given twice, first in line {lines[key]}")
            lines[key] = event.start_mark.line + 1
            value = self.value(next(self.events), depth + 1)
            if key == "<<" and not event.style:
                parts = value if isinstance(value, list) else [value]
                if not all(isinstance(part, dict) for part in parts):
                    raise ValueError(f"{_line(event)}: << must be followed by mappings")
                for part in reversed(parts):  # the first wins, as YAML says
                    merged |= part
            else:
                own[key] = value
        return merged | own

    def key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise ValueError(f"{_line(event)}: a key must be text")
        key = "<<" if event.value == "<<" else self.scalar(event)
        if not isinstance(key, str):
            raise ValueError(f"{_line(event)}: the key {event.value} must be text: put it in quotes")
        return key

    def scalar(self, event: Any) -> Any:
        given = event.value
        if not given.isascii() and any("\ud800" <= letter <= "\udfff" for letter in given):
            raise ValueError(f"{_line(event)}: half a character (a lone surrogate) is no text")
        if event.style:  # in quotes, or a block of text
            return given
        if given in WORDS:
            return WORDS[given]
        if INTEGER.fullmatch(given) and len(given) <= 100:
            return int(given)
        if NUMBER.fullmatch(given) and not given.lstrip("+-").isdecimal() and math.isfinite(float(given)):
            return float(given)
        if not given:
            raise ValueError(f"{_line(event)}: a value is missing; write null if none is meant")
        if NUMBER.fullmatch(given) or self.resolver.resolve(yaml.ScalarNode, given, (True, False)) != _TEXT:
            raise ValueError(f"{_line(event)}: {given[:40]} may be read in several ways: {PLAIN}")
        return given


_TEXT = "tag:yaml.org,2002:str"


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
