"""Single runs from the command line: output directories, comparisons, branches, verification."""
