"""The ground of the configuration: immutable sections, and validation errors as readable sentences."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrevive_core.errors import ConfigError

# Bounded, because what is counted takes memory or time; seeds may be as large as a signed 64-bit integer.
PositiveInt = Annotated[int, Field(ge=1, le=10**9, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Switch = Annotated[bool, Field(strict=True)]


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


def choices(given: str, allowed: Any) -> str:
    """'did you mean X? allowed: ...' for an unknown name."""
    names = [str(name) for name in allowed]
    close = difflib.get_close_matches(str(given), names, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + "allowed: " + ", ".join(names)


def leaf_fields(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Description of every setting below `section`, by dotted name."""
    leaves: dict[str, str] = {}
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            leaves |= leaf_fields(inner, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = field.description or ""
    return leaves


def sentences(model: type[BaseModel], error: ValidationError) -> str:
    """Every problem in `error`, from validating `model`, as 'field = value: what is allowed', joined by semicolons."""
    text = "; ".join(_sentence(model, item) for item in error.errors())
    # What was given may hold line breaks and control characters.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _sentence(model: type[BaseModel], item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        section = "".join(f"{part}." for part in item["loc"][:-1])
        below = [name.removeprefix(section) for name in leaf_fields(model) if name.startswith(section)]
        return f"{location} is unknown: {choices(item['loc'][-1], dict.fromkeys(name.split('.')[0] for name in below))}"
    if item["type"] == "missing":
        return f"{location} is missing"
    if item["type"] == "value_error":
        return f"{location}: {message}" if location else message
    return f"{location} = {item['input']!r}: {message[0].lower()}{message[1:]}"


def merge(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries merged key by key, later ones winning; none is modified."""
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
    """Values by dotted name as nested dictionaries: {"a.b": 1} -> {"a": {"b": 1}}. Later names win."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested
