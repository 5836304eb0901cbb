"""The command line of the project: `python -m reproduce --help`."""

import fedrevive_core  # noqa: F401 - it also finds the modules of `reproduce` that have moved
