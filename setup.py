"""What pyproject.toml cannot say: `notebooks` is installed as the package `fedrevive_notebooks`."""

from setuptools import find_packages, setup

COURSE = "fedrevive_notebooks"  # a name that nobody else's package has; a folder of notebooks may well be `notebooks`

setup(
    packages=[
        *find_packages(include=["fedrevive_core*", "reproduce*"]),
        COURSE,
        *(f"{COURSE}.{name}" for name in find_packages("notebooks")),
    ],
    package_dir={COURSE: "notebooks"},
)
