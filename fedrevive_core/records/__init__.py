"""What a run leaves, on disk and in memory. No PyTorch."""

from __future__ import annotations

from fedrevive_core.records.difference import first_difference
from fedrevive_core.records.hash_chain import broken_link, link, state_sha256
from fedrevive_core.records.header import Altered, Provenance, read_header
from fedrevive_core.records.provenance import installed, provenance, requirements
from fedrevive_core.records.record import Record, load_tables
from fedrevive_core.records.safe_load import check_file, read_json, read_table
from fedrevive_core.records.statistics import TARGETS, confidence_interval, summarise, summarise_arrivals
from fedrevive_core.records.synthesis_trace import Switches, Trace

__all__ = [
    "TARGETS",
    "Altered",
    "Provenance",
    "Record",
    "Switches",
    "Trace",
    "broken_link",
    "check_file",
    "confidence_interval",
    "first_difference",
    "installed",
    "link",
    "load_tables",
    "provenance",
    "read_header",
    "read_json",
    "read_table",
    "requirements",
    "state_sha256",
    "summarise",
    "summarise_arrivals",
]
