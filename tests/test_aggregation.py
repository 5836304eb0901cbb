"""New versions by hand: two clients, two parameters, numbers that can be checked on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import small
from torch import Tensor, nn

from fedrevive_core import aggregation
from fedrevive_core.aggregation import Aggregator, Entry
from fedrevive_core.config.run import ServerConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.models.state import StateLayout
from fedrevive_core.simulation.simulation import Simulation

CPU = torch.device("cpu")


def aggregator(num_clients: int = 4, **settings: Any) -> Aggregator:
    layout = StateLayout(nn.Linear(2, 1, bias=False))
    return Aggregator(layout, ServerConfig(**{"lr": 0.5, **settings}), num_clients, CPU)


def entry(client: int, *update: float, staleness: int = 0, counts: bool = True) -> Entry:
    return Entry(client, staleness, torch.tensor(update, dtype=torch.float32), counts)


def versions(made_by: Aggregator, *buffers: list[Entry]) -> list[list[float]]:
    """The state after each buffer, from (0, 0) on."""
    state, seen = torch.zeros(2), []
    for buffer in buffers:
        state = made_by.new_version(state, buffer)
        seen.append([round(value, 6) for value in state.tolist()])
    return seen


def test_plain_mean() -> None:
    assert versions(aggregator(), [entry(0, 2, 0), entry(1, 0, 4)]) == [[0.5, 1.0]]


def test_ca2fl() -> None:
    """N = 4, eta = 0.5. h starts at zero.

    1. mean(h) = 0, differences (4, 0) and (0, 8): direction (2, 4), state (1, 2). h_0 = (4, 0), h_1 = (0, 8).
    2. mean(h) = (1, 2); client 0 sends (2, 0): difference (-2, 0); client 2 sends (0, 2): difference (0, 2), mean of
       both (-1, 1): direction (0, 3), state (1, 3.5).
    """
    made = versions(aggregator(memory="calibrate"), [entry(0, 4, 0), entry(1, 0, 8)], [entry(0, 2, 0), entry(2, 0, 2)])
    assert made == [[1.0, 2.0], [1.0, 3.5]]


def test_ca2fl_with_equal_updates_is_fedbuff_once_all_clients_are_known() -> None:
    """If every client always sends u, calibration changes nothing: mean(h) + mean(u - h) = u."""
    made = versions(aggregator(num_clients=2, memory="calibrate"), *[[entry(0, 2, 4), entry(1, 2, 4)]] * 3)
    assert made == [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]


def test_mifa() -> None:
    """eta = 0.5. 1. client 0: mean of (4, 0) alone, state (2, 0). 2. client 1: mean of (4, 0), (0, 8), state (3, 2).

    3. client 0 again, now (0, 0): mean of (0, 0), (0, 8), state (3, 4).
    """
    made = versions(aggregator(memory="average"), [entry(0, 4, 0)], [entry(1, 0, 8)], [entry(0, 0, 0)])
    assert made == [[2.0, 0.0], [3.0, 2.0], [3.0, 4.0]]


def test_aced() -> None:
    """MIFA's numbers with a horizon of one version. 3. client 0's job began two versions ago and is forgotten.

    1. Client 0: (4, 0), state (2, 0). 2. Client 1, started at version 0: mean of (4, 0), (0, 8), state (3, 2).
    3. Client 2: clients 0 and 1 are gone, (2, 2) alone, state (4, 3). 4. Client 3 is stale by two and does not count
    itself; (2, 2) still does, state (5, 4).
    """
    buffers = [entry(0, 4, 0)], [entry(1, 0, 8, staleness=1)], [entry(2, 2, 2)], [entry(3, 8, 8, staleness=2)]
    made_by = aggregator(memory="average", memory_horizon=1)
    assert versions(made_by, *buffers) == [[2.0, 0.0], [3.0, 2.0], [4.0, 3.0], [5.0, 4.0]]
    assert made_by.latest.keys() == made_by.ages.keys() == {2}
    again = aggregator(memory="average", memory_horizon=1)
    again.load_state_dict(made_by.state_dict())
    assert versions(again, [entry(3, 8, 8, staleness=2)]) == versions(made_by, [entry(3, 8, 8, staleness=2)])
    with pytest.raises(ConfigError, match=r"memory_horizon is only for memory = 'average'"):
        small("fedbuff", server__memory_horizon=1)


@pytest.mark.parametrize("memory", ["calibrate", "average"])
def test_a_rejected_upload_leaves_the_memory_as_it_is(memory: str) -> None:
    made_by = aggregator(memory=memory)
    versions(made_by, [entry(0, 4, 0)], [entry(0, 0, 0, counts=False), entry(1, 0, 0, counts=False)])
    assert made_by.latest.keys() == {0}
    assert made_by.latest[0].tolist() == made_by.total.tolist() == [4, 0]


def test_momentum() -> None:
    """m = 0.5 m + mean: (2, 0), then (1 + 0, 2); eta = 0.5."""
    made = versions(aggregator(optimiser="momentum", momentum=0.5), [entry(0, 2, 0)], [entry(1, 0, 2)])
    assert made == [[1.0, 0.0], [1.5, 1.0]]


MOMENTS = {"momentum": 0.5, "second_momentum": 0.75, "eps": 1.0}


def test_adam() -> None:
    """m = (m + d) / 2, v = (3 v + d^2) / 4, step 0.5 m / (sqrt(v) + 1).

    1. d = (4, 0): m = (2, 0), v = (4, 0), step (1/3, 0). 2. d = 0: m = (1, 0), v = (3, 0), step 0.5 / 2.732051.
    """
    made = versions(aggregator(optimiser="adam", **MOMENTS), [entry(0, 4, 0)], [entry(1, 0, 0)])
    assert made == [[0.333333, 0.0], [0.516346, 0.0]]


def test_amsgrad_keeps_the_largest_second_moment() -> None:
    """As above, but the second step divides by sqrt(max(4, 3)) + 1 = 3: 0.5 / 3."""
    made = versions(aggregator(optimiser="amsgrad", **MOMENTS), [entry(0, 4, 0)], [entry(1, 0, 0)])
    assert made == [[0.333333, 0.0], [0.5, 0.0]]


def test_fadas_lowers_the_rate_for_the_stalest_update_in_the_buffer() -> None:
    """tau_c = 3, eta = 0.5: staleness 3 costs nothing; 8 makes it 1/8; with eta = 0.1 below 1/8 nothing changes."""
    for lr, staleness, expected in ((0.5, 3, 0.5), (0.5, 8, 0.125), (0.1, 8, 0.1)):
        made_by = aggregator(lr=lr, delay_threshold=3)
        assert versions(made_by, [entry(0, 1, 0), entry(1, 1, 0, staleness=staleness)]) == [[expected, 0.0]]


def test_nothing_passed_in_is_modified_and_other_tensors_of_a_state_are_averaged() -> None:
    """BatchNorm's statistics are part of a state but no parameters: they move by lr * mean whatever the optimiser."""
    layout = StateLayout(nn.BatchNorm1d(1))
    made_by = Aggregator(layout, ServerConfig(lr=0.5, optimiser="adam", memory="calibrate"), 2, CPU)
    state, update = torch.zeros(layout.size), torch.ones(layout.size)
    version = made_by.new_version(state, [Entry(0, 0, update)])
    assert version[layout.num_parameters :].tolist() == [0.5, 0.5]
    assert not state.any()
    assert update.eq(1).all()


def test_a_memory_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "_free_bytes", lambda device: 63)
    with pytest.raises(
        ConfigError, match=r"'average' keeps an update of every client: 4 x 2 parameters .* more than 50%"
    ):
        aggregator(memory="average")
    aggregator(optimiser="adam")
    monkeypatch.setattr(aggregation, "_free_bytes", lambda device: 64)
    aggregator(memory="average")


def test_mixing_models_excludes_memory_and_moments() -> None:
    with pytest.raises(ConfigError, match=r"update_from = 'current' mixes models"):
        small("fedasync-poly", server__optimiser="adam")


def run(simulation: Simulation) -> Tensor:
    for number in range(len(simulation.timeline.arrivals)):
        simulation.process(number)
    return simulation.server.state


@pytest.mark.parametrize(
    "settings",
    [
        {"server__optimiser": "momentum", "server__momentum": 0.0},
        {
            "server__memory": "average",
            "federation__num_clients": 8,
            "federation__refill_size": 8,
            "federation__buffer_size": 8,
        },
    ],
    ids=["momentum 0", "all clients in every version"],
)
def test_limits_that_are_fedbuff(settings: dict[str, Any]) -> None:
    plain = {name: value for name, value in settings.items() if name.startswith("federation")}
    torch.set_num_threads(1)
    expected = run(Simulation(small("fedbuff", **plain)))
    apart = run(Simulation(small("fedbuff", **settings))) - expected
    assert apart.norm() < 1e-6 * expected.norm()  # rounding, summed in another order


def with_auxiliary(**settings: Any) -> Aggregator:
    """K / B = 2, so an update of staleness 3 is late, and one of 2 is not; eta = 0.5."""
    layout = StateLayout(nn.Linear(2, 1, bias=False))
    return Aggregator(layout, ServerConfig(**{"lr": 0.5, "auxiliary": 0.25, **settings}), 4, CPU, usual=2.0)


def test_feast_on_msg() -> None:
    """w = a = 0. 1. late (8, 0): a = (4, 0), w stays, so 0.25 a = (1, 0). 2. in time (0, 4): a = (4, 2), w + (0, 2) =
    (1, 2), and 0.75 of it + 0.25 a = (1.75, 2). 3. both (0, 0) and late (4, 0): a = (5, 2), w unmoved: (2.5625, 2).
    """
    made = versions(
        with_auxiliary(),
        [entry(0, 8, 0, staleness=3)],
        [entry(1, 0, 4, staleness=2)],
        [entry(2, 0, 0), entry(3, 4, 0, staleness=9)],
    )
    assert made == [[1.0, 0.0], [1.75, 2.0], [2.5625, 2.0]]


def test_an_auxiliary_model_without_stragglers_is_the_plain_mean() -> None:
    """And with a share of 1 the model is the auxiliary one, which takes every update whole."""
    buffers = [[entry(0, 8, 0, staleness=3)], [entry(1, 0, 4, staleness=5), entry(2, 2, 2)], [entry(0, 4, 0)]]
    plain = versions(aggregator(), *buffers)
    assert versions(with_auxiliary(straggler=9.0), *buffers) == plain
    assert versions(with_auxiliary(auxiliary=1.0), *buffers) == plain
    assert versions(with_auxiliary(), *buffers) != plain


@pytest.mark.parametrize(
    "other", [{"memory": "average"}, {"optimiser": "adam"}, {"delay_threshold": 1}, {"update_from": "current"}]
)
def test_an_auxiliary_model_stands_alone(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"auxiliary = 0\.02: it does not go with memory, optimiser"):
        small("feast-msg", **{f"server__{name}": value for name, value in other.items()})
