"""The command line of the project: `python -m reproduce --help`."""
