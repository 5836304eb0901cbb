"""A federation whose clients are real: recorded while it happens, and replayed afterwards to the same bits."""
