"""What the server learns about clients, and what clipping and noise do to it and to accuracy: measured on lab-digits.

A unit is one seed under one protection: a run of FedRevive, which is attacked (see attacks.py), and one of AFL-DW on
the same timeline, for its accuracy. Every seed splits the data in its own way. OUT/units keeps what a unit found.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrevive_core.config import RunConfig, build
from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file, check_free, lock, writing
from fedrevive_core.records import code_hash
from fedrevive_core.records.safe_load import read_json
from fedrevive_core.simulation import Progress, Simulation, num_threads
from reproduce.runs.attacks import Target, UpdateAttack, area, balanced, found_at, held, nearest

PRESET, REVIVED, METHODS = "lab-digits", "fedrevive", ("fedrevive", "afl-dw")
SETTINGS: dict[str, Any] = {"federation.max_sim_time": None, "federation.max_versions": 300}
# The length is near the median of an update; the noise makes an update about 1.5 and 6 times as long.
PROTECTIONS: dict[str, dict[str, float]] = {
    "nothing": {},
    "clipping": {"training.clip_norm": 2.0},
    "clipping, noise 0.01": {"training.clip_norm": 2.0, "training.noise": 0.01},
    "clipping, noise 0.05": {"training.clip_norm": 2.0, "training.noise": 0.05},
}
NUM_TARGETS = 12  # jobs that are attacked in a run
FALSE_ALARMS = 0.05


def measure(out: Path, seeds: Sequence[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Measure every unit that `out` does not hold yet; what was found, by protection, with a value for each seed.

    Raises ConfigError, before any work, for a setting that cannot work and for an `out` that holds something else; and
    for a unit in `out` that is damaged.
    """
    if not (out / "units").is_dir():
        check_free(out)
    chosen = SETTINGS | dict(settings)
    for method, protection in itertools.product(METHODS, PROTECTIONS.values()):
        configured(method, seeds[0], chosen | protection)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PROTECTIONS}
    with lock(out), Progress("privacy", len(seeds) * len(PROTECTIONS), unit="units") as bar:
        for number, (seed, name) in enumerate(itertools.product(seeds, PROTECTIONS), 1):
            bar.advance(number - 1, said := f"seed {seed}, {name}")
            found[name].append(_kept(out, seed, chosen | PROTECTIONS[name]))
            bar.advance(number, said)
    return {
        "preset": PRESET,
        "settings": chosen,
        "seeds": list(seeds),
        "protections": {
            name: {"settings": PROTECTIONS[name], **_values(units), **pool_attack(units)}
            for name, units in found.items()
        },
    }


def configured(method: str, seed: int, settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of one run; every seed has its own split."""
    return build(PRESET, method, seed=seed, overrides={"data.split_seed": seed, **settings})


def _kept(out: Path, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The unit from `out`, or measured now and kept there. Its name holds all that determines it."""
    attacks = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("[ap]*.py"))]
    determining = json.dumps([seed, settings, code_hash(), attacks], sort_keys=True)
    path = out / "units" / f"s{seed}-{hashlib.sha256(determining.encode()).hexdigest()[:12]}.json"
    if path.exists():
        try:
            return read_json(path)
        except (ValueError, OSError) as error:
            raise ConfigError(f"'{path}' cannot be read ({error}): remove it, and it is measured again") from None
    unit = measure_unit(seed, settings)
    with writing(path), atomic_file(path) as work:
        work.write_text(json.dumps(unit) + "\n", encoding="utf-8")
    return unit


def measure_unit(seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One seed under one protection; numbers by name, and of the pool the distances from which it is attacked."""
    revived = Simulation(configured(REVIVED, seed, settings))
    with num_threads(revived.config.num_threads):
        updates = attack_updates(revived)
        labels = label_inference(revived)
        pool = pool_distances(revived)
    records = {REVIVED: revived.record()}
    for method in METHODS[1:]:
        records[method] = Simulation(configured(method, seed, settings)).run(progress=False)
    accuracy = {
        f"accuracy {method}, {when}": float(record.summary[key])
        for method, record in records.items()
        for when, key in (("end", "final_accuracy"), ("run", "mean_accuracy"))
    }
    return {"values": accuracy | labels | updates, "pool": pool}


def attack_updates(simulation: Simulation) -> dict[str, float]:
    """Do the run of a fresh `simulation`, and attack some of its uploads as they arrive; areas and shares found."""
    attack, data = UpdateAttack(simulation), simulation.data
    labels, unseen = data.clients.labels.cpu().numpy(), np.flatnonzero(~held(data))
    scores: dict[str, list[np.ndarray]] = {}
    for number, target in targets(simulation):
        rng = np.random.default_rng([simulation.config.seed, number])
        pairs = balanced(data.shards[target.client], unseen, labels, rng)
        for name, found in attack.scores(target, pairs, number).items():
            scores.setdefault(name, []).append(found)
    values = {f"updates, {name}": float(np.mean([area(*one) for one in found])) for name, found in scores.items()}
    members, others = np.concatenate(scores["shadows"], axis=1)
    return values | {"updates, found": found_at(members, others, FALSE_ALARMS)}


def targets(simulation: Simulation) -> Iterator[tuple[int, Target]]:
    """Do the whole run; before some arrivals, evenly spread, their number and what the server gets."""
    timeline = simulation.timeline
    last = len(timeline.arrivals) - 1
    attacked = set(np.linspace(last / NUM_TARGETS, last, NUM_TARGETS).astype(int).tolist())
    simulation.evaluate()
    for number, job in enumerate(timeline.arrivals.tolist()):
        before = simulation.version
        if number in timeline.training_groups:
            simulation.train_group(number)
        if number in attacked:
            downloaded = simulation.snapshots.fetch(int(timeline.base_version[job]))
            yield number, Target(int(timeline.client[job]), downloaded, simulation.returned.fetch(job))
        simulation.receive(number)
        simulation.evaluate_if_due(before)


def label_inference(simulation: Simulation) -> dict[str, float]:
    """How far class proportions that the server believes are from the true ones, mean over clients.

    'tv' is total variation (0 to 1), 'kl' the divergence of the belief from the truth (nats). The server's belief after
    one upload of a client, and after two, if there are such clients; beside it equal shares, and the mean over clients.
    """
    assert simulation.reviver is not None
    known, truth = simulation.reviver.proportions.estimates, simulation.data.class_proportions
    twice = [client for client, both in known.items() if len(both) > 1]
    true = truth[list(known)]  # (clients, C)
    beliefs = {
        "one upload": (true, np.stack([first for first, *_ in known.values()])),
        "equal shares": (true, np.full_like(true, 1 / true.shape[1])),
        "all clients": (true, np.broadcast_to(truth.mean(axis=0), true.shape)),
    }
    if twice:
        beliefs["two uploads"] = truth[twice], np.stack([np.mean(known[client], axis=0) for client in twice])
    distances = {"tv": total_variation, "kl": divergence}
    return {
        f"labels {kind}, {name}": float(distance(*pair).mean())
        for name, pair in beliefs.items()
        for kind, distance in distances.items()
    }


def total_variation(true: np.ndarray, belief: np.ndarray) -> np.ndarray:
    """Half the sum of absolute differences of distributions (n, C): the share that is believed wrongly."""
    return np.abs(true - belief).sum(axis=1) / 2


def divergence(true: np.ndarray, belief: np.ndarray) -> np.ndarray:
    """KL(true || belief) (n,) of distributions (n, C), in nats; a belief of nothing counts as 1e-12."""
    ratio = np.where(true > 0, true, 1) / np.where(true > 0, np.maximum(belief, 1e-12), 1)
    return (true * np.log(ratio)).sum(axis=1)


def pool_distances(simulation: Simulation) -> dict[str, list[Any]]:
    """For every image: its distance to the nearest of the pool, its class, whether a client holds it."""
    assert simulation.reviver is not None
    pool, images = simulation.reviver.pool, simulation.data.clients
    distance = nearest(images.inputs, pool.newest(len(pool))[0])
    return {
        "distance": distance.round(6).tolist(),
        "label": images.labels.tolist(),
        "held": held(simulation.data).tolist(),
    }


def pool_attack(units: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Areas of two attacks on each unit's pool: nearness, and nearness beyond what pools of other splits show.

    The pools of the other units, whose clients hold other images, are the shadows; with one unit there are none.
    """
    distance = np.array([unit["pool"]["distance"] for unit in units])
    found: dict[str, list[float]] = {"pool, nearness": [], "pool, shadows": []}
    for number, unit in enumerate(units):
        is_held, labels = np.array(unit["pool"]["held"]), np.array(unit["pool"]["label"])
        pairs = balanced(np.flatnonzero(is_held), np.flatnonzero(~is_held), labels, np.random.default_rng(number))
        found["pool, nearness"].append(area(*-distance[number][pairs]))
        if len(units) > 1:
            usual = np.delete(distance, number, axis=0).mean(axis=0)
            found["pool, shadows"].append(area(*(usual - distance[number])[pairs]))
    return {name: values for name, values in found.items() if values}


def _values(units: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    return {
        name: [unit["values"][name] for unit in units]
        for name in units[0]["values"]
        if all(name in unit["values"] for unit in units)
    }
