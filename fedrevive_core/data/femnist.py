"""FEMNIST: handwritten characters by writer, one writer one client (arXiv 1812.01097).

Read through the `datasets` library from the published `flwrlabs/femnist` (columns `image`, `writer_id`, `hsf_id`,
`character`): from its parquet files in `DATA/femnist/`, if they exist, otherwise from the network. In both cases the
pixels are kept in `DATA/femnist.npz`, sorted by writer, and later runs read only that file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedrevive_core.data.cache import data_directory, read_arrays, reason, write_arrays
from fedrevive_core.data.samples import ImageData, Images
from fedrevive_core.errors import ConfigError

SOURCE = "flwrlabs/femnist"
SIDE = 28
# The published order of classes: digits, capitals, small letters.
CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
ARRAYS = ("images", "labels", "owners", "writers")


def load_femnist(num_writers: int, rng: np.random.Generator, *, download: bool = True) -> ImageData:
    """All samples of `num_writers` writers drawn by `rng`; `owners` numbers the writers from 0.

    Raises ConfigError if the data is absent or damaged, or has fewer writers.
    """
    path = data_directory() / "femnist.npz"
    if not path.exists():
        _make_cache(path, download=download)
    arrays = read_arrays(path, ARRAYS)
    images, labels, owners, writers = (arrays[name] for name in ARRAYS)
    lengths = {len(images), len(labels), len(owners)}
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or len(lengths) > 1:
        raise ConfigError(f"{path} does not hold FEMNIST: delete it, and the next run will make it again")
    if num_writers > len(writers):
        raise ConfigError(
            f"federation.num_clients = {num_writers} must be at most the {len(writers)} writers in {path}"
        )
    chosen = np.sort(rng.choice(len(writers), num_writers, replace=False))
    kept = np.isin(owners, chosen)
    pixels = torch.from_numpy(images[kept]).unsqueeze(1).float().div_(255)
    part = Images(pixels, torch.from_numpy(labels[kept].astype(np.int64)))
    return ImageData(part, None, CLASSES, owners=np.searchsorted(chosen, owners[kept]), writers=tuple(writers[chosen]))


def _make_cache(path: Path, *, download: bool) -> None:
    files = sorted(map(str, (path.parent / "femnist").glob("**/*.parquet")))
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "data.name = 'femnist' needs the package datasets, once: pip install -e '.[femnist]'"
        ) from None
    try:
        with tempfile.TemporaryDirectory() as work:  # for the library's copy of local files, which nobody needs
            if files:
                rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=work)
            elif download:
                rows = datasets.load_dataset(SOURCE, split="train")
            else:
                raise OSError("download is off")
            arrays = _arrays(rows, datasets)
    except ConfigError:
        raise
    # The library and the network below it raise many kinds of errors; each means that the data is not available.
    except Exception as error:
        if files:
            raise ConfigError(f"{path.parent / 'femnist'} cannot be read as parquet: {reason(error)}") from None
        raise ConfigError(
            f"data.name = 'femnist': neither {path} nor parquet files of {SOURCE} in {path.parent / 'femnist'} were "
            f"found, and it could not be downloaded ({reason(error)}). Connect to the network and run again, or run "
            f"`hf download {SOURCE} --repo-type dataset --local-dir {path.parent / 'femnist'}` on a "
            "connected machine, or use synthetic writers, which need no download: --preset lab-styles"
        ) from None
    write_arrays(path, arrays)


def _arrays(rows: Any, datasets: Any) -> dict[str, np.ndarray]:
    """ARRAYS of the published columns, sorted by writer. Raises ConfigError if a value is not allowed."""
    missing = {"image", "writer_id", "character"} - set(rows.column_names)
    if missing:
        raise ConfigError(f"FEMNIST lacks the columns {', '.join(sorted(missing))}: it has {rows.column_names}")
    characters = np.array(rows["character"])
    names = getattr(rows.features["character"], "names", None)
    if names is not None:
        characters = np.array(names)[characters]
    elif characters.dtype.kind in "iu":
        if characters.min() < 0 or characters.max() >= len(CLASSES):
            raise ConfigError(f"FEMNIST has the label {characters.max()}, outside its {len(CLASSES)} classes")
        characters = np.array(CLASSES)[characters]
    unknown = sorted(set(characters.tolist()) - set(CLASSES))
    if unknown:
        raise ConfigError(f"FEMNIST has the label '{unknown[0]}', outside its {len(CLASSES)} classes")
    writers, owners = np.unique(np.array(rows["writer_id"]), return_inverse=True)
    order = np.argsort(owners, kind="stable")
    pixels = np.empty((len(order), SIDE, SIDE), dtype=np.uint8)
    for number, row in enumerate(rows.cast_column("image", datasets.Image())):
        picture = np.asarray(row["image"].convert("L"))
        if picture.shape != (SIDE, SIDE):
            raise ConfigError(f"FEMNIST image {number} has shape {picture.shape}, not ({SIDE}, {SIDE})")
        pixels[number] = picture
    classes = {character: label for label, character in enumerate(CLASSES)}
    labels = np.array([classes[character] for character in characters], dtype=np.uint8)
    return {"images": pixels[order], "labels": labels[order], "owners": owners[order], "writers": writers.astype(str)}
