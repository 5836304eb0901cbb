"""What 04_distillation says of its figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from claims import Claims
from fedrevive_notebooks.lessons import distillation as lesson


def gain(table: Any) -> Any:
    """The mean gain over students of each title, in the order of the table."""
    return table.groupby("title", sort=False)["gain"].mean()


def least_and_most(n: Any) -> tuple[float, float]:
    """The accuracy after distillation on synthetic images of the classes that the teachers know least, and most."""
    least, most = (n.after["synthetic"][classes].mean() for classes in lesson.by_coverage(n.scene))
    return least, most


def right_without_the_class(n: Any) -> float:
    """How often a teacher names the class of an image although its client has nothing of it."""
    labels = n.simulation.data.test.labels[:100].numpy()
    right = lesson.answers(n.simulation, n.scene).argmax(axis=2) == labels
    return float(right[n.scene.true_shares[:, labels] == 0].mean())


CLAIMS: Claims = {
    "A teacher that never saw the class answers all the same, and seldom right.": lambda n: (
        right_without_the_class(n) < 0.25
    ),
    "The student ends good at what its teachers know together, and worse at what they hardly know.": lambda n: (
        np.subtract(*least_and_most(n)) < -0.2
    ),
    "A single one-sided teacher pulls the student to its classes, and accuracy falls.": lambda n: (
        gain(n.teachers_table).iloc[0] < -0.05
    ),
    "More teachers do better": lambda n: (np.diff(gain(n.teachers_table)) > 0).all(),
    "The number of steps matters much less here": lambda n: (
        np.ptp(gain(n.steps_table)) < np.ptp(gain(n.teachers_table)) / 2
    ),
    "noise comes close to the synthetic images": lambda n: (
        abs(np.subtract(*gain(n.table)[["noise", "synthetic"]])) < 0.05
    ),
    "Real images show what is possible": lambda n: gain(n.table).idxmax() == "real, held back",
}
