"""`python -m reproduce`."""

from reproduce.cli.door import main

main()
