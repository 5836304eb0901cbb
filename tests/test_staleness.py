"""The weight beta(tau) that each rule takes from a stale update, worked by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from helpers import federation
from hypothesis import given
from hypothesis import strategies as st

from fedrevive_core.config.run import StalenessConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.staleness import MEASURING, RULES, Measured, beta

K100 = federation(1000, 100, max_versions=1)


def weights(taus: list[float], buffer_size: int = 1, **rule: object) -> list[float]:
    config = K100.model_copy(update={"buffer_size": buffer_size})
    return [beta(tau, StalenessConfig(**rule), config) for tau in taus]


def test_cosine_rises_from_nothing_to_all_at_twice_s_max_and_stays() -> None:
    """(1 - cos(pi tau / 150)) / 2; the cosine itself would turn back at 150 and give 0 at 300."""
    assert weights([0, 75, 150, 151, 225, 300, 10_000], rule="cosine") == pytest.approx([0, 0.5, 1, 1, 1, 1, 1])
    assert weights([37.5, 50, 100], rule="cosine") == pytest.approx([(1 - math.sqrt(0.5)) / 2, 0.25, 0.75])
    assert weights([0, 10, 20, 30], rule="cosine", s_max=10) == pytest.approx([0, 0.5, 1, 1])


def test_constant_does_not_look_at_tau() -> None:
    assert weights([0, 1, 1000], rule="constant") == [0.5, 0.5, 0.5]
    assert weights([0, 1000], rule="constant", constant=0.0) == [0, 0]
    assert weights([0, 1000], rule="constant", constant=1.0) == [1, 1]


def test_linear_is_clipped_at_one() -> None:
    assert weights([0, 1, 100, 200, 201, 5000], rule="linear") == pytest.approx([0, 0.005, 0.5, 1, 1, 1])
    assert weights([3], rule="linear", slope=0.25) == [0.75]


def test_exponential_approaches_one() -> None:
    assert weights([0, 200, 400], rule="exponential") == pytest.approx([0, 1 - 1 / math.e, 1 - 1 / math.e**2])
    assert weights([math.log(2) / 0.1], rule="exponential", rate=0.1) == pytest.approx([0.5])


def test_stepwise_steps_at_the_quarters_of_f_k_over_b() -> None:
    """f K / B = 1.5 x 100 / 1 = 150: steps at 37.5, 75, 112.5 and 150, each inclusive."""
    taus = [0, 37, 38, 74, 75, 112, 113, 149, 150, 187, 188, 1000]
    assert weights(taus, rule="stepwise") == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1, 1, 1]
    # With B = 2 versions come half as often: steps at 18.75, 37.5, 56.25 and 75.
    assert weights([18, 19, 37, 38, 56, 57, 74, 75], 2, rule="stepwise") == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1]
    # f = 0.4: steps at 10, 20, 30 and 40.
    assert weights([9, 10, 20, 30, 40], rule="stepwise", span=0.4) == [0, 0.25, 0.5, 0.75, 1]


def test_polynomial_is_one_minus_the_factor_of_fedasync() -> None:
    """s(tau) = (1 + tau)^-p."""
    assert weights([0, 3, 8, 99], rule="polynomial") == pytest.approx([0, 0.5, 2 / 3, 0.9])
    assert weights([1, 3], rule="polynomial", power=1) == pytest.approx([0.5, 0.75])


def test_hinge_is_one_minus_the_factor_of_fedasync() -> None:
    """s(tau) = 1 up to b = 4, then 1 / (10 (tau - 4) + 1)."""
    assert weights([0, 3, 4, 5, 14], rule="hinge") == pytest.approx([0, 0, 0, 1 - 1 / 11, 1 - 1 / 101])
    assert weights([1, 2, 4], rule="hinge", hinge_start=1, hinge_slope=1) == pytest.approx([0, 0.5, 0.75])


def test_every_rule_that_can_be_configured_exists() -> None:
    assert {*RULES, *MEASURING} == set(get_args(StalenessConfig.model_fields["rule"].annotation))


@pytest.mark.parametrize("rule", MEASURING)
def test_rules_that_measure(rule: str) -> None:
    """x / (x + half): 0 where x is 0 or unknown, 1 where it has no end, as for an update without length."""
    config = StalenessConfig(rule=rule, half=2.0)
    values = (0.0, math.nan, 2.0, 6.0, math.inf)
    made = [beta(0, config, K100, Measured(**{rule: value})) for value in values]
    assert made == [0, 0, 0.5, 0.75, 1]
    with pytest.raises(ConfigError, match=rf"'{rule}' measures each arrival .* there is no beta\(tau\)"):
        beta(0, config, K100)


parameter = st.floats(0.001, 1000)


@given(
    rule=st.sampled_from(sorted(RULES)),
    taus=st.tuples(st.integers(0, 100_000), st.integers(0, 100_000)),
    number=parameter,
    constant=st.floats(0, 1),
    buffer_size=st.integers(1, 300),
)
def test_every_rule_stays_in_bounds_and_never_falls(
    rule: str, taus: tuple[int, int], number: float, constant: float, buffer_size: int
) -> None:
    names = ("s_max", "slope", "rate", "span", "power", "hinge_slope", "hinge_start")
    settings = {"rule": rule, "constant": constant, **dict.fromkeys(names, number)}
    fresher, staler = weights(sorted(taus), buffer_size, **settings)
    assert 0 <= fresher <= staler + 1e-12
    assert staler <= 1
