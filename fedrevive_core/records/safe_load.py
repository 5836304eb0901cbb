"""Files that someone else may have made: before one is loaded, what it would take is read off and bounded.

None of the formats can carry code (JSON, parquet, npz without objects, safetensors), but a small file can ask for any
amount of memory. A file is refused with a ValueError if it, or what it says that it holds, takes more than a limit.
"""

from __future__ import annotations

import json
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 2**31  # bytes of one file of a record, on disk and loaded; the largest of the paper's takes 45 million
JSON_LIMIT = 2**24  # Python's objects take some 20 times as much as their text
CELL = 16  # bytes of one value of a table, at most, but for texts


def check_file(path: Path, limit: int = LIMIT) -> None:
    """Raise ValueError if `path` is no plain file or takes more than `limit` bytes, on disk or loaded."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.name}")
    _bounded(path.name, path.stat().st_size, limit)
    if path.suffix == ".npz":
        _check_arrays(path, limit)
    elif path.suffix == ".parquet":
        _check_table(path, limit)


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if it is too large, nested too deeply, or something else."""
    check_file(path, limit)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def _bounded(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{name} takes {size:,} bytes, and at most {limit:,} are read")


def _check_arrays(path: Path, limit: int) -> None:
    """NumPy allocates what an array's header says, so that has to be what the archive holds."""
    with zipfile.ZipFile(path) as archive:
        _bounded(path.name, sum(member.file_size for member in archive.infolist()), limit)
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if dtype.hasobject:
                    raise ValueError(f"{path.name} holds Python objects, which are never loaded")
                if file.tell() + prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"{path.name}: the size of {member.filename} is not that of its array")


def _check_table(path: Path, limit: int) -> None:
    import pyarrow as pa
    from pyarrow import compute, parquet

    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            columns = [group.column(number) for group in groups for number in range(group.num_columns)]
            texts = [
                field.name
                for field in file.schema_arrow
                if pa.types.is_large_string(field.type) or pa.types.is_string(field.type)
            ]
            _bounded(path.name, sum(column.total_uncompressed_size for column in columns), limit)
            _bounded(path.name, CELL * sum(column.num_values for column in columns), limit)
            _bounded(path.name, CELL * file.metadata.num_rows * max(file.metadata.num_columns, 1), limit)
        # A text that is stored once may stand in every row.
        for column in parquet.read_table(path, columns=texts, read_dictionary=texts).columns:
            for chunk in column.chunks:
                longest = compute.max(compute.binary_length(chunk.dictionary)).as_py() or 0
                _bounded(path.name, longest * len(column), limit)
    except pa.ArrowException as error:
        raise ValueError(f"{path.name}: {error}") from None
