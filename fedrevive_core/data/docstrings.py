"""Docstrings: texts that need no download. Public docstrings of installed packages; the package is the class.

The sources are parsed, never imported. The texts are kept in `DATA/docstrings-HASH.npz`, where HASH depends on the
packages' versions and this module's rules: other versions give another data set, with another fingerprint.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedrevive_core.data.cache import data_directory, read_arrays, write_arrays
from fedrevive_core.data.samples import LabelledTexts, TextData
from fedrevive_core.errors import ConfigError

# Import name and distribution. All come with the project.
PACKAGES = {
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
}
# Names that reveal the package, as whole words; what a package is about (arrays, axes, tensors) stays.
GIVE_AWAY = {
    "matplotlib", "mpl", "pyplot", "plt", "mpltoolkits",
    "numpy", "np", "numpydoc",
    "pandas", "pd",
    "scipy", "sp", "spmatrix",
    "scikit", "sklearn", "learn", "scikits",
    "torch", "pytorch", "aten", "torchscript", "functorch", "inductor", "dynamo", "cuda", "nn",
}  # fmt: skip
MOST_PER_CLASS = 1000
WORDS = (6, 60)  # fewest, because shorter texts say little; most, what follows is left out
RULES = 1  # raise it when a rule here changes the texts

_HEADER = re.compile(r"^\s*(-{3,}|={3,}|args?:|arguments?:|parameters?:|returns?:|examples?:|note:|shape:|\.\. )", re.I)
_MARKUP = re.compile(r":[a-z:+-]+:`[^`]*`|``[^`]*``|`[^`]*`|https?://\S+|\S*[_.]\w\S*")
_WORD = re.compile(r"[a-z]+")


def load_docstrings() -> TextData:
    """Texts and their packages, from the cache if these versions are in it. Raises ConfigError if it is damaged."""
    versions = {package: importlib.metadata.version(name) for package, name in PACKAGES.items()}
    rules = [RULES, MOST_PER_CLASS, WORDS, sorted(GIVE_AWAY), versions]
    path = data_directory() / f"docstrings-{hashlib.sha256(json.dumps(rules).encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        classes = [_balanced(package) for package in PACKAGES]
        labels = np.repeat(np.arange(len(classes)), [len(texts) for texts in classes])
        # One text as bytes, because an array of strings of fixed width would be many times larger.
        joined = np.frombuffer("\n".join(text for texts in classes for text in texts).encode(), np.uint8)
        write_arrays(path, {"texts": joined, "labels": labels})
    arrays = read_arrays(path, ("texts", "labels"))
    texts = arrays["texts"].tobytes().decode().split("\n")
    if len(texts) != len(arrays["labels"]):
        raise ConfigError(f"{path} is damaged: delete it, and the next run will make it again")
    return TextData(LabelledTexts(texts, arrays["labels"].astype(np.int64)), None, tuple(PACKAGES))


def _balanced(package: str) -> list[str]:
    """At most MOST_PER_CLASS texts of `package`, those with the smallest hash, so that no order biases the sample."""
    texts = sorted(set(_texts(package)), key=lambda text: hashlib.sha256(text.encode()).digest())
    return texts[:MOST_PER_CLASS]


def _texts(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    for root in map(Path, (spec.submodule_search_locations or []) if spec else []):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if any(part in ("tests", "testing", "_vendor", "externals") or part.startswith("test") for part in parts):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escape sequences in these packages
                tree = ast.parse(path.read_bytes())
            yield from filter(None, map(clean, _documented(tree)))


def _documented(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Docstrings of public classes, functions and methods."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)
            if isinstance(node, ast.ClassDef):
                yield from _documented(node)


def clean(docstring: str) -> str:
    """The prose before the first section, in lower case, without markup, code and GIVE_AWAY names; '' if too short.

    >>> clean("Return `x` of a NumPy array, sorted along the last axis.\\n\\nParameters\\n----------")
    'return of a array sorted along the last axis'
    """
    prose: list[str] = []
    for line in docstring.splitlines():
        if _HEADER.match(line):
            if prose and line.strip()[0] in "-=":
                prose.pop()  # the heading that is underlined
            break
        if not line.lstrip().startswith((">>>", "...")):
            prose.append(line)
    words = [word for word in _WORD.findall(_MARKUP.sub(" ", " ".join(prose).lower())) if word not in GIVE_AWAY]
    return " ".join(words[: WORDS[1]]) if len(words) >= WORDS[0] else ""
