"""What 07_text says of its figures."""

from __future__ import annotations

import numpy as np

from claims import Claims

RUN = 0.3  # rate of the embeddings in the run itself


def first_words(n) -> list[set[str]]:
    """The beginnings of two words of the newest texts, for each version that was kept."""
    samples = n.records[1].samples
    return [
        {" ".join(str(text).split()[:2]) for text, label in zip(texts, labels, strict=True) if label >= 0}
        for texts, labels in zip(samples["texts"], samples["labels"], strict=True)
    ]


CLAIMS: Claims = {
    "All classes together are balanced.": lambda n: (
        len(set(np.bincount(n.simulation.data.test.labels.numpy()).tolist())) == 1
    ),
    "Both are still far below counting words": lambda n: (
        n.words_alone - max(record.summary["final_accuracy"] for record in n.records) > 0.1
    ),
    "All texts of one version begin with the same two words": lambda n: all(len(seen) <= 1 for seen in first_words(n)),
    "So texts can convince teachers although every word is still the seed's.": lambda n: (
        n.reading.loc[RUN, "embeddings"] > n.reading.loc[0.0, "embeddings"] + 0.2
        and n.reading.loc[RUN, "changed"] < 0.01
    ),
    "Only a rate far above the run's carries positions to other words.": lambda n: (
        n.reading.loc[n.reading.index <= RUN, "changed"].max() < 0.01 and n.reading.loc[1.0, "changed"] > 0.05
    ),
    '`"tokens"` rises there': lambda n: n.reading.loc[1.0, "tokens"] > n.reading.loc[0.0, "tokens"] + 0.05,
    "teachers are far from undecided about random words": lambda n: n.reading.loc[0.0, "embeddings"] > 2 * n.chance,
}
