"""Exceptions of our own, as processes hand them to each other."""

from __future__ import annotations

import inspect
import pickle
from signal import SIGTERM

import pytest

from fedrevive_core import errors
from fedrevive_core.records import header
from fedrevive_core.simulation import checkpoint

OWN = {
    cls
    for module in (errors, header, checkpoint)
    for _, cls in inspect.getmembers(module, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__.startswith("fedrevive_core")
}


@pytest.mark.parametrize("cls", sorted(OWN, key=lambda cls: cls.__name__))
def test_an_exception_arrives_as_it_was_sent(cls):
    error = cls(SIGTERM, "runs/x.partial") if cls is errors.Interrupted else cls("a sentence")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is cls
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))
