"""The command line: one module for each subject, put together in app.py."""
