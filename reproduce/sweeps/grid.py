"""Values of a grid: which are the same, how they are written, and which run belongs to which point.

In tables of runs, a grid field is a column of its values if all are numbers or all are text; else of what `text` makes
of them, because null, lists and mixed kinds could not be compared, sorted or stored.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrevive_core.config import choices, flatten, parse_value, unflatten
from fedrevive_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

EXACT = 2**53  # whole numbers up to here stay what they are in a column that also has fractions
SCALAR = (str, int, float, type(None))  # a bool is an int


def identity(value: Any) -> str:
    """Equal for values that mean the same: 1 and 1.0 do; 1, true and "1" do not."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(identity, value))}]"
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def text(value: Any) -> str:
    """`value` as it is written in `--set` and `--only`: null, true, 0.1, [1, 2], a word; "1" if it is no number."""
    if isinstance(value, str) and parse_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def check_values(field: str, values: Sequence[Any]) -> None:
    """Raise ValueError if a value of the grid `field` cannot be told from another, or is not one a table can show."""
    if not values:
        raise ValueError(f"grid.{field} is empty: give at least one value, or leave the field out")
    seen: dict[str, Any] = {}
    for value in values:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, SCALAR) for part in parts):
            raise ValueError(
                f"grid.{field} has the value {value!r}: must be a number, text, true, false, null or a list of these; "
                "give settings of several fields as arms"
            )
        first = seen.setdefault(identity(value), value)
        if first is not value:
            raise ValueError(f"grid.{field} has {text(first)} and {text(value)}, which are the same: give one of them")


def holds(where: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Does the point of the grid have all the values of `where`?"""
    return all(field in point and identity(point[field]) == identity(value) for field, value in where.items())


def check_where(what: str, where: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> None:
    """Raise ValueError if `where` (field: value) asks for what the grid does not have."""
    for field, value in where.items():
        if field not in grid:
            raise ValueError(f"{what} field '{field}', which is not in the grid: {choices(field, grid)}")
        if identity(value) not in map(identity, grid[field]):
            raise ValueError(f"{what} {field} = {text(value)}, which is not in the grid")


def check_apart(what: str, settings: Mapping[str, Any], grid: Iterable[str]) -> None:
    """Raise ValueError if `settings` of an arm or a scale set what the grid varies: one of them would be ignored."""
    if "seed" in {**unflatten(settings), **dict.fromkeys(grid)}:
        raise ValueError(f"{what} sets or varies seed: list seeds in the scale instead")
    for name, field in itertools.product(flatten(settings), grid):
        if f"{name}.".startswith(f"{field}.") or f"{field}.".startswith(f"{name}."):
            raise ValueError(f"{what} sets {name}, and the grid varies {field}: leave one of them out")


def entries(values: Sequence[Any]) -> list[Any]:
    """What stands for each of the `values` of a grid field in a column of a table."""
    numbers = all(type(value) in (int, float) and abs(value) <= EXACT for value in values)
    whole, words = (all(type(value) is kind for value in values) for kind in (int, str))
    return list(values) if numbers or whole or words else [text(value) for value in values]


def columns(grid: Mapping[str, Sequence[Any]], cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per cell of a sweep (field: value) with a column per field of the grid.

    Raises ConfigError for a value that is not in the grid.
    """
    import pandas as pd

    table: dict[str, list[Any]] = {}
    for field, values in grid.items():
        known = dict(zip(map(identity, values), entries(values), strict=True))
        given = [identity(cell[field]) for cell in cells]
        unknown = next((value for value in given if value not in known), None)
        if unknown is not None:
            raise ConfigError(f"sweep.json has a run with {field} = {unknown}: {choices(unknown, known)}")
        table[field] = [known[value] for value in given]
    return pd.DataFrame(table)


def points(runs: pd.DataFrame, grid: Mapping[str, Sequence[Any]]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Every point of the grid (field: value) with its runs, in the grid's order; `runs` has `columns`."""
    if not grid:
        return [({}, runs)]
    groups = dict(list(runs.groupby(list(grid), sort=False)))
    chosen = zip(itertools.product(*grid.values()), itertools.product(*map(entries, grid.values())), strict=True)
    return [(dict(zip(grid, values, strict=True)), groups.get(key, runs[:0])) for values, key in chosen]


def selected(wanted: str, values: Sequence[Any]) -> list[bool]:
    """Which of the `values` the word `wanted` names, read as a value of `--set`, or else as text."""
    known = list(map(identity, values))
    value = identity(parse_value(wanted))
    return [other == (value if value in known else identity(wanted)) for other in known]
