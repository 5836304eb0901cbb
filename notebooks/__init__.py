"""The course: notebooks, the recorded runs that they show, and in `lessons` what only their cells need.

Installed as `fedrevive_notebooks`, so that a copy of a notebook runs from any folder.
"""
