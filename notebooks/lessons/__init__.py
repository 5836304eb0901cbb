"""What only the notebooks need: figures, and exercises with checks that name the mistake.

Python finds it because a notebook runs in its directory, in JupyterLab and under papermill.
"""
