"""What a curious server can find out: attacks on what clients send and on the pool, all with knowledge a server has.

Membership inference asks whether a sample was trained on. Members and others always have the same number of samples of
each class, or the attack would find classes. A score is higher for members; see `area`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from fedrevive_core.data import FederatedData
from fedrevive_core.simulation import Simulation
from fedrevive_core.training import Job, LocalTrainer


@dataclass(frozen=True)
class Target:
    """A job as the server sees it: its `client`, the state `downloaded` and the state `returned` (size,)."""

    client: int
    downloaded: Tensor
    returned: Tensor


def held(data: FederatedData) -> np.ndarray:
    """Whether some client holds each sample: bool (n,)."""
    return np.isin(np.arange(len(data.clients.labels)), np.concatenate(data.shards))


def balanced(members: np.ndarray, others: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers (2, n) of samples drawn from `members` (first row) and `others`, equally many of each class."""
    parts = []
    for label in np.unique(labels[members]):
        of_class = [rng.permutation(part[labels[part] == label]) for part in (members, others)]
        count = min(map(len, of_class))
        parts.append(np.stack([part[:count] for part in of_class]))
    return np.concatenate(parts, axis=1)


def area(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve: how often a member has the higher score; 0.5 is a guess, 1 is certain."""
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([1, 0], [len(members), len(others)])
    return float(roc_auc_score(truth, np.concatenate([members, others])))


def found_at(members: np.ndarray, others: np.ndarray, false_alarms: float) -> float:
    """Share of members that are found if at most that share of others is called a member."""
    return float((members > np.quantile(others, 1 - false_alarms, method="higher")).mean())


class UpdateAttack:
    """Tells from one job which samples its client trained on: three attacks, from the plainest to the strongest.

    `certainty`: how much surer of the sample's label the job made the model. `gradient`: the sample's part when the
    update is written as a sum of all candidates' gradients (ridge regression, every parameter scaled as Adam scales
    it). `shadows`: both, compared with what they are in `num_shadows` jobs of the attacker's own, each trained on a
    random one of every pair of candidates (see `calibrated`; after arXiv 2112.03570). Shadow jobs start where the
    client started, and train, clip and add noise as clients do.
    """

    RIDGE = 0.1  # of the mean squared length of a gradient

    def __init__(self, simulation: Simulation, num_shadows: int = 24) -> None:
        self.layout, self.data = simulation.layout, simulation.data
        self.prepare, self.num_shadows = simulation.modality.prepare, num_shadows
        self.config, self.seed = simulation.config.training, simulation.config.seed
        self.executor = simulation.trainer.executor

    def scores(self, target: Target, pairs: np.ndarray, number: int) -> dict[str, np.ndarray]:
        """Scores (2, n) by attack of the candidates `pairs` (2, n), each pair of one class.

        number: of the target; it names the random stream of the shadows.
        """
        rng = np.random.default_rng([self.seed, number])
        half = np.repeat([0, 1], self.num_shadows // 2)
        picked = np.stack([rng.permuted(half) for _ in pairs[0]], axis=1)  # (shadows, n), a row of each pair
        shards = [pairs[rows, np.arange(len(rows))] for rows in picked]
        data, seed = replace(self.data, shards=shards), int(rng.integers(2**31))
        trainer = LocalTrainer(self.layout, data, self.prepare, self.config, seed, self.executor)
        shadows = trainer.train([Job(index, index, target.downloaded) for index in range(len(shards))])
        numbers = torch.from_numpy(pairs.ravel()).to(target.downloaded.device)
        inputs, labels = self.prepare(self.data.clients.inputs[numbers]), self.data.clients.labels[numbers]
        states = torch.stack([target.returned, *shadows])
        before = self._certainty(target.downloaded, inputs, labels)
        gains = torch.stack([self._certainty(state, inputs, labels) for state in states]) - before  # (jobs, 2n)
        parts = self._parts(target.downloaded, states, inputs, labels)
        seen = torch.stack([gains, parts], dim=-1).cpu().numpy()
        trained = np.stack([picked == row for row in (0, 1)], axis=1).reshape(len(picked), -1)  # (shadows, 2n)
        found = {
            "certainty": seen[0, :, 0],
            "gradient": seen[0, :, 1],
            "shadows": calibrated(seen[0], seen[1:], trained),
        }
        return {name: values.reshape(pairs.shape) for name, values in found.items()}

    @torch.no_grad()
    def _certainty(self, state: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """log(p / (1 - p)) (n,) for the probability p of the label."""
        logits = self.layout.call(self.layout.views(state), inputs).double()
        own = logits.gather(1, labels[:, None])[:, 0]
        return own - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)

    def _parts(self, start: Tensor, states: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """(jobs, n): the part of each sample in the updates of jobs from `start` (size,) to `states` (jobs, size)."""
        statistics = self.layout.buffers(start)

        def loss(parameters: Tensor, sample: Tensor, label: Tensor) -> Tensor:
            tensors = self.layout.parameter_views(parameters) | statistics
            return F.cross_entropy(self.layout.call(tensors, sample[None]), label[None])

        each: Any = vmap(grad(loss), in_dims=(None, 0, 0))
        gradients = each(self.layout.parameters(start), inputs, labels)  # (n, parameters)
        scaled = gradients / (gradients.square().mean(dim=0).sqrt() + 1e-6)
        alike = (scaled @ scaled.T).double()
        alike.diagonal().add_(self.RIDGE * alike.diagonal().mean())
        towards = -(scaled @ self.layout.parameters(states - start).T).double()
        return torch.linalg.solve(alike, towards).T


def calibrated(seen: np.ndarray, shadows: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """How far what is `seen` (n, d) lies towards what jobs show that trained on the sample: (n,), 0 in the middle.

    shadows: (s, n, d), what shadow jobs show; trained: bool (s, n), which of them trained on the sample. Every value is
    measured from the middle of its two means, in its own standard deviations; the d values of a sample are then
    weighed by a linear discriminant that is the same for all.
    """
    weights = np.stack([trained, ~trained]) / np.stack([trained, ~trained]).sum(axis=1, keepdims=True)
    inside, outside = (weights[..., None] * shadows).sum(axis=1)  # (n, d)
    rest = shadows - np.where(trained[..., None], inside, outside)
    deviation = np.maximum(rest.std(axis=0), 1e-12)
    apart = ((inside - outside) / deviation).mean(axis=0)  # (d,)
    within = np.cov((rest / deviation).reshape(-1, len(apart)).T).reshape(len(apart), -1) + 1e-9 * np.eye(len(apart))
    return ((seen - (inside + outside) / 2) / deviation) @ np.linalg.solve(within, apart)


def nearest(images: Tensor, pool: Tensor) -> np.ndarray:
    """Distance (n,) of each of `images` (n, ...) to the nearest of `pool` (m, ...): root mean square of grey levels."""
    distance = torch.cdist(images.flatten(1), pool.flatten(1)).amin(dim=1) / images[0].numel() ** 0.5
    return distance.double().cpu().numpy()
