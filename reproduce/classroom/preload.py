"""Imported once by the process from which those that judge are copied: what every notebook needs, and takes seconds."""

import contextlib

import reproduce.classroom.judge  # noqa: F401

with contextlib.suppress(ImportError):
    import torch  # noqa: F401

    import fedrevive_notebooks.lessons.quick_tour
    import fedrevive_notebooks.lessons.staleness  # noqa: F401
