"""The tables and figures behind docs/RESULTS.md."""
