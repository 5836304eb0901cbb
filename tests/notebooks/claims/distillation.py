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


def sure_of_unknown(n: Any) -> float:
    """How often a teacher is surer of an image whose class its client never saw than the mean of those who saw it."""
    sure = lesson.answers(n.simulation, n.scene).max(axis=2)
    share = n.scene.true_shares[:, n.simulation.data.test.labels[:100].numpy()]
    return float((sure[share == 0] > sure[share > 0].mean()).mean())


CLAIMS: Claims = {
    "A teacher that never saw the class is often just as sure": lambda n: sure_of_unknown(n) > 0.2,
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
