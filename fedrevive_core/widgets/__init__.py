"""Interactive figures for notebooks. The only part of the core that imports ipywidgets.

Each explorer is one call whose last line in a cell shows it. Moving a control draws anew from what is computed already;
training starts only behind a button. Everything can be reached and moved with the keyboard.
"""
