"""What pyproject.toml cannot say: the folders `notebooks` and `docs` are installed under names that nobody else has."""

from setuptools import find_namespace_packages, setup

FOLDERS = {
    "fedrevive_core": "fedrevive_core",
    "fedrevive_docs": "docs",
    "fedrevive_notebooks": "notebooks",
    "reproduce": "reproduce",
}

setup(
    # Folders that hold only data are packages, too.
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in [name, *(f"{name}.{inner}" for inner in find_namespace_packages(folder))]
        if "__pycache__" not in package
    ],
    package_dir=FOLDERS,
)
