"""Texts: 20 Newsgroups from its published files, and what all sets of texts share."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from sklearn.datasets import _twenty_newsgroups as newsgroups
from sklearn.datasets import load_files

from fedrevive_core.data.cache import data_directory
from fedrevive_core.data.samples import LabelledTexts, TextData
from fedrevive_core.errors import ConfigError

NUM_NEWSGROUPS = 20
PARTS = ("20news-bydate-train", "20news-bydate-test")


def load_newsgroups(*, download: bool = True) -> TextData:
    """20 Newsgroups by date, headers, footers and quotes removed as scikit-learn does it.

    Read from the folders `20news-bydate-train` and `-test` of the published archive, in `DATA/20news-bydate/`. Not
    through `fetch_20newsgroups` itself: its cache is a pickle, which runs whatever a foreign file says. The archive is
    fetched from scikit-learn's address and checked by its SHA-256. Posts that are empty without header and quotes stay.
    Raises ConfigError saying where it looked and how to get the data.
    """
    root = data_directory() / "20news-bydate"
    if not all((root / part).is_dir() for part in PARTS):
        if not download:
            raise ConfigError(_absent(root, "not asked to"))
        _download(root)
    (train, names), (test, test_names) = (_read(root / part) for part in PARTS)
    if len(names) != NUM_NEWSGROUPS or test_names != names:
        raise ConfigError(f"{root} holds {len(names)} and {len(test_names)} groups, not the same {NUM_NEWSGROUPS}")
    return TextData(train, test, tuple(names))


def _read(folder: Path) -> tuple[LabelledTexts, list[str]]:
    found = load_files(folder, encoding="latin1", shuffle=False)
    strip = (
        newsgroups.strip_newsgroup_header,
        newsgroups.strip_newsgroup_footer,
        newsgroups.strip_newsgroup_quoting,
    )
    texts = list(found.data)
    for change in strip:
        texts = [change(text) for text in texts]
    return LabelledTexts(texts, found.target.astype(np.int64)), list(found.target_names)


def _download(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".20news-", dir=root.parent))
    try:
        archive = work / newsgroups.ARCHIVE.filename
        with urllib.request.urlopen(newsgroups.ARCHIVE.url, timeout=60) as source, archive.open("wb") as target:
            shutil.copyfileobj(source, target)
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != newsgroups.ARCHIVE.checksum:
            raise ConfigError(f"the archive from {newsgroups.ARCHIVE.url} has SHA-256 {found}, not the published one")
        with tarfile.open(archive) as packed:
            packed.extractall(work / "data", filter="data")
        (work / "data").replace(root)
    except (OSError, tarfile.TarError) as error:
        raise ConfigError(_absent(root, str(error))) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _absent(root: Path, reason: str) -> str:
    return (
        f"data.name = 'newsgroups': {PARTS[0]} and {PARTS[1]} were not found in {root} and could not be downloaded "
        f"({reason}). Connect to the network and run again, or unpack the archive of {newsgroups.ARCHIVE.url} with "
        f"`tar -xzf 20news-bydate.tar.gz -C {root}`, or use texts that need no download: --preset lab-text"
    )
