"""The basis of the configuration: immutable sections, readable validation errors, nested and dotted names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrevive_core.errors import ConfigError

# Counts are bounded, because they cost memory or time; a seed may be any signed 64-bit integer that is not negative.
PositiveInt = Annotated[int, Field(ge=1, le=10**9, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
DEPTH = 10  # parts of a dotted name, at most


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Validate nested `values`. Raises ConfigError naming each bad field, its value and what is allowed."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(sentences(cls, error)) from None


def parse_value(text: str) -> Any:
    """A value as it is written on the command line: JSON, or else a plain word.

    Raises ConfigError if it is too long or nested too deeply, or an object has a key twice.
    """
    if len(text) > 10_000 or text.count("[") + text.count("{") > 100:
        raise ConfigError(f"'{text[:40]}...' is too long or nested too deeply: at most 10,000 letters and 100 brackets")
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except ConfigError:
        raise
    except ValueError:  # not JSON, or a number of thousands of digits
        return text


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    if repeated is not None:
        raise ConfigError(f"'{repeated}' is given twice in one object: give it once")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def choices(given: str, allowed: Any) -> str:
    """'did you mean X? allowed: ...' for an unknown name."""
    names = [str(name) for name in allowed]
    close = difflib.get_close_matches(str(given), names, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + "allowed: " + ", ".join(names)


def leaf_fields(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The description of every setting in `section`, by dotted name."""
    leaves: dict[str, str] = {}
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            leaves |= leaf_fields(inner, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = field.description or ""
    return leaves


def sentences(model: type[BaseModel], error: ValidationError) -> str:
    """All problems in `error`, raised by `model`, as 'field = value: what is allowed', separated by semicolons."""
    text = "; ".join(_sentence(model, item) for item in error.errors())
    # The given values may contain line breaks and control characters.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _sentence(model: type[BaseModel], item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{location} is unknown: {choices(item['loc'][-1], _section_at(model, item['loc'][:-1]).model_fields)}"
    if item["type"] == "missing":
        return f"{location} is missing"
    if item["type"] == "value_error":
        return f"{location}: {message}" if location else message
    return f"{location} = {item['input']!r}: {message[0].lower()}{message[1:]}"


def _section_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """The section that an error is about: fields, keys of dictionaries and places in tuples lead to it."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_sections_in(model.model_fields[part].annotation), model)
    return model


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)


def merge(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries key by key; later values win, and none is modified."""
    merged: dict[str, Any] = {}
    for part in settings:
        for key, value in part.items():
            if isinstance(value, Mapping):
                before = merged.get(key)
                value = merge(before, value) if isinstance(before, Mapping) else merge(value)
            merged[key] = value
    return merged


def flatten(nested: Mapping[str, Any], separator: str = ".", max_level: int | None = None) -> dict[str, Any]:
    """Nested dictionaries as one with joined names: {"a": {"b": [1]}} -> {"a.b": (1,)}.

    Dictionaries deeper than `max_level` stay values (unset: none does). Lists become tuples, which can be compared and
    grouped by.
    """
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and max_level != 0:
            below = flatten(value, separator, None if max_level is None else max_level - 1)
            flat |= {f"{name}{separator}{inner}": leaf for inner, leaf in below.items()}
        else:
            flat[name] = tuple(value) if isinstance(value, list) else value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as nested dictionaries: {"a.b": 1} -> {"a": {"b": 1}}.

    Raises ConfigError if two names set the same thing, as "a" and "a.b" do, or a name has too many parts.
    """
    nested: dict[str, Any] = {}
    set_by: dict[str, str] = {}  # the name that was given, by every name that it sets
    above: dict[str, str] = {}  # the same, by every section that it sets something in
    for name, value in flat.items():
        if name.count(".") >= DEPTH:
            raise ConfigError(f"{name} is unknown: no setting has more than {DEPTH} parts")
        for leaf in flatten({name: value}):
            sections = [leaf[:place] for place, letter in enumerate(leaf) if letter == "."]
            others = [set_by[part] for part in (*sections, leaf) if part in set_by]
            others += [above[leaf]] if leaf in above else []
            if others:
                raise ConfigError(f"{others[0]} and {name} set the same thing: give one of them")
            set_by[leaf] = name
            above |= dict.fromkeys(sections, name)
        for part in reversed(name.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested
