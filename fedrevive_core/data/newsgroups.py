"""20 Newsgroups from its published files."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np

from fedrevive_core.data.cache import data_directory, reason
from fedrevive_core.data.samples import LabelledTexts, TextData
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import publish, work_directory

NUM_NEWSGROUPS = 20
PARTS = ("20news-bydate-train", "20news-bydate-test")
# The archive that scikit-learn downloads, with its checksum.
ARCHIVE_URL = "https://ndownloader.figshare.com/files/5975967"
ARCHIVE_SHA256 = "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"
# Lines that scikit-learn takes for a quotation or its introduction.
QUOTE = re.compile(r"(writes in|writes:|wrote:|says:|said:|^In article|^Quoted from|^\||^>)")


def load_newsgroups(*, download: bool = True) -> TextData:
    """20 Newsgroups by date, headers, footers and quotes removed as scikit-learn does it.

    Read from the folders `20news-bydate-train` and `-test` of the published archive, in `DATA/20news-bydate/`. Not
    through `fetch_20newsgroups` itself: its cache is a pickle, and a foreign pickle can run any code. The archive is
    downloaded from scikit-learn's address and checked by its SHA-256. Posts that are empty without header and quotes
    stay.
    Raises ConfigError saying where it looked and how to get the data.
    """
    root = data_directory() / "20news-bydate"
    if not all((root / part).is_dir() for part in PARTS):
        _fetch(root, download=download)
    (train, names), (test, test_names) = (_read(root / part) for part in PARTS)
    if len(names) != NUM_NEWSGROUPS or test_names != names:
        raise ConfigError(f"{root} holds {len(names)} and {len(test_names)} groups, not the same {NUM_NEWSGROUPS}")
    return TextData(train, test, tuple(names))


def _read(folder: Path) -> tuple[LabelledTexts, list[str]]:
    from sklearn.datasets import load_files  # here, because importing scikit-learn takes seconds

    posts = load_files(folder, encoding="latin1", shuffle=False)
    return LabelledTexts(list(map(body, posts.data)), posts.target.astype(np.int64)), list(posts.target_names)


def body(post: str) -> str:
    """`post` without header, footer and quotations, by the rules of scikit-learn's `fetch_20newsgroups`.

    The header ends at the first empty line. The footer begins at the last line that is empty or of hyphens only.
    """
    text = post.partition("\n\n")[2]
    lines = text.strip().split("\n")
    ends = [number for number, line in enumerate(lines) if not line.strip().strip("-")]
    if ends and ends[-1] > 0:
        text = "\n".join(lines[: ends[-1]])
    return "\n".join(line for line in text.split("\n") if not QUOTE.search(line))


def _fetch(root: Path, *, download: bool) -> None:
    import pooch  # here, because only a download needs it

    try:
        if not download:
            raise OSError("download is off")
        with work_directory(root.parent) as work:
            unpack = pooch.Untar(extract_dir="data")
            pooch.retrieve(ARCHIVE_URL, f"sha256:{ARCHIVE_SHA256}", "20news-bydate.tar.gz", work, processor=unpack)
            publish(work / "data", root)
    except (OSError, ValueError, tarfile.TarError) as error:  # ValueError: not the published checksum
        raise ConfigError(
            f"data.name = 'newsgroups': {PARTS[0]} and {PARTS[1]} were not found in {root} and could not be downloaded "
            f"({reason(error)}). Connect to the network and run again, or unpack the archive of {ARCHIVE_URL} with "
            f"`tar -xzf 20news-bydate.tar.gz -C {root}`, or use texts that need no download: --preset lab-text"
        ) from None
