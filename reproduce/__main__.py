"""`python -m reproduce`."""

from reproduce.cli.app import main

main()
