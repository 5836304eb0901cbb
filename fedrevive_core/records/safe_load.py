"""Files that someone else may have made: before one is loaded, what it would take is read off and bounded.

None of the formats can carry code (JSON, parquet, npz without objects, safetensors), but a small file can ask for any
amount of memory. So a file is read only if it has the form that we write, names and types included, and if neither it
nor what it says that it holds takes more than a limit. Everything else is a ValueError (or an OSError), whatever the
library that reads the format would have raised.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

LIMIT = 2**31  # bytes of one file of a record, on disk and loaded; the largest of the paper's takes 45 million
JSON_LIMIT = 2**24  # Python's objects take some 20 times as much as their text
INDEX_LIMIT = 2**20  # bytes of the list of contents at the end of an npz or parquet file; ours take some kilobytes
CELL = 16  # bytes of one value of a table, at most, but for texts


def check_file(path: Path, limit: int = LIMIT) -> None:
    """Raise ValueError if `path` is a link or takes more than `limit` bytes, OSError if it is no file."""
    if path.is_symlink():  # it may lead to any file of the reader
        raise ValueError(f"{path.name} is a link, and is not followed: copy the file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.name}")
    _bounded(path.name, path.stat().st_size, limit)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Give every error of a library that reads `path` one kind: there are dozens, and no list of them is complete."""
    try:
        yield
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(why if path.name in why else f"{path.name}: {why[:500]}") from error


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if it is too large, nested too deeply, or something else."""
    check_file(path, limit)
    with _reading(path):
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_object)
        if "\\u" in text:  # half of a pair of surrogates can be neither printed nor written
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def _bounded(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{name} takes {size:,} bytes, and at most {limit:,} are read")


def read_arrays(path: Path, kinds: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """The arrays of an npz file, whose names, kinds of dtype and numbers of dimensions are among `kinds`."""
    check_file(path)
    with _reading(path):
        _check_index(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _bounded(path.name, sum(member.file_size for member in members), LIMIT)
            for member in members:
                _check_array(archive, member, path.name, kinds)
        with np.load(path, allow_pickle=False) as loaded:
            return dict(loaded)


def _check_index(path: Path) -> None:
    """The list of members is the last thing in an archive; its size stands 10 bytes before the end."""
    with path.open("rb") as file:
        file.seek(-min(42, path.stat().st_size), 2)
        end = file.read()
    if end[-22:-18] != b"PK\x05\x06" or end[:4] == b"PK\x06\x07":
        raise ValueError(f"{path.name} is no archive as NumPy writes it")
    _bounded(f"the index of {path.name}", int.from_bytes(end[-10:-6], "little"), INDEX_LIMIT)


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, kinds: Mapping[str, Any]) -> None:
    """NumPy allocates what an array's header says, so that has to be what the archive holds."""
    if member.filename.removesuffix(".npy") not in kinds:
        raise ValueError(f"{name}: {member.filename[:40]!r} is none of {', '.join(kinds)}")
    kind, dimensions = kinds[member.filename.removesuffix(".npy")]
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # later ones may have a header of 4 GB
            raise ValueError(f"{name}: {member.filename} has another format than 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are never loaded")
        if dtype.kind != kind or len(shape) != dimensions or dtype.itemsize == 0:
            raise ValueError(f"{name}: {member.filename} has dtype {dtype} and {len(shape)} dimensions")
        if file.tell() + prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{name}: the size of {member.filename} is not that of its array")


def read_table(path: Path, kinds: Mapping[str, str], optional: Collection[str] = ()) -> pa.Table:
    """A parquet file, whose columns in `kinds` are 'int', 'float', 'bool', 'text' or 'floats', a list of numbers.

    All of `kinds` but the `optional` ones must be there, and only in floats may values be missing. Other columns may
    have any of these kinds.
    """
    from pyarrow import parquet

    check_file(path)
    with _reading(path):
        with path.open("rb") as content:
            content.seek(-min(8, path.stat().st_size), 2)
            end = content.read()
        if end[4:] != b"PAR1":
            raise ValueError(f"{path.name} is no parquet file")
        _bounded(f"the index of {path.name}", int.from_bytes(end[:4], "little"), INDEX_LIMIT)
        with parquet.ParquetFile(path) as file:
            _check_columns(path.name, file.schema_arrow, kinds, optional)
            _check_sizes(path, file)
            table = file.read(use_threads=False)
        table.validate(full=True)
        for name in table.column_names:
            if kinds.get(name, "float") != "float" and table[name].null_count:
                raise ValueError(f"{path.name}: {name} lacks values")
        return table if table.schema.metadata is None else table.replace_schema_metadata(None)


def _check_columns(name: str, schema: pa.Schema, kinds: Mapping[str, str], optional: Collection[str]) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{name}: a column stands there twice")
    for column in kinds:
        if column not in schema.names and column not in optional:
            raise ValueError(f"{name}: there is no column {column}")
    for field in schema:
        kind = _kind(field.type)
        wanted = kinds.get(field.name, kind)
        if not kind or (kind != wanted and not (wanted == "float" and kind == "int")):
            raise ValueError(f"{name}: {field.name[:40]!r} is {field.type}, not {wanted or 'a type that we write'}")


def _kind(type_: pa.DataType) -> str:
    """The kind of a column; '' for what we never write."""
    from pyarrow import types

    if types.is_list(type_):
        return "floats" if types.is_float64(type_.value_type) else ""
    kinds = {
        "int": types.is_signed_integer, "bool": types.is_boolean, "empty": types.is_null,
        "float": lambda t: types.is_float64(t) or types.is_float32(t),
        "text": lambda t: types.is_string(t) or types.is_large_string(t),
    }  # fmt: skip
    return next((kind for kind, is_it in kinds.items() if is_it(type_)), "")


def _check_sizes(path: Path, file: Any) -> None:
    """The file says how large it becomes; and with its compression, a byte cannot become more than 30."""
    from pyarrow import compute, parquet

    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    if any(column.compression not in ("SNAPPY", "UNCOMPRESSED") for column in columns):
        raise ValueError(f"{path.name} is compressed in another way than snappy")
    _bounded(path.name, sum(column.total_uncompressed_size for column in columns), LIMIT)
    _bounded(path.name, CELL * sum(column.num_values for column in columns), LIMIT)
    _bounded(path.name, CELL * file.metadata.num_rows * max(file.metadata.num_columns, 1), LIMIT)
    # A text that is stored once may stand in every row.
    texts = [field.name for field in file.schema_arrow if _kind(field.type) == "text"]
    if not texts:
        return
    with parquet.ParquetFile(path, read_dictionary=texts) as encoded:
        for column in encoded.read(columns=texts, use_threads=False).columns:
            for chunk in column.chunks:
                longest = compute.max(compute.binary_length(chunk.dictionary)).as_py() or 0
                _bounded(path.name, longest * len(column), LIMIT)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, all float32: they take as many bytes in memory as on disk."""
    from safetensors.numpy import load_file

    check_file(path)
    with _reading(path):
        tensors = load_file(path)
    if any(tensor.dtype != np.float32 for tensor in tensors.values()):
        raise ValueError(f"{path.name} holds something else than float32")
    return tensors
