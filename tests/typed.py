"""What a type checker sees of the public names: `make lint` fails if it is not their real types."""

from __future__ import annotations

from typing import assert_type

from fedrevive_core import (
    METHODS,
    ConfigError,
    Method,
    Record,
    RunConfig,
    Simulation,
    Timeline,
    build,
    run,
    simulate_timeline,
)

config = build("lab-digits", "fedrevive")
assert_type(config, RunConfig)
assert_type(run(config), Record)
assert_type(Simulation(config).timeline, Timeline)
assert_type(simulate_timeline(config.federation, 0), Timeline)
assert_type(METHODS["fedbuff"], Method)
assert_type(ConfigError("what is wrong"), ConfigError)
build(1, "fedrevive")  # type: ignore[arg-type]  # unused, and so an error, if the checker saw no types
