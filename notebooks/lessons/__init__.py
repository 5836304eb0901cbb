"""What the notebooks need and the package does not: exercises with checks that name the mistake.

Found because a notebook runs in its own directory, in JupyterLab and under papermill alike.
"""
